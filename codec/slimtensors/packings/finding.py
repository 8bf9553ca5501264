"""Which tensors of a file are quantised weights, of whichever library."""

from __future__ import annotations

from slimtensors.errors import UsageError
from slimtensors.packings import aqlm, bitmask, bitnet, bitsandbytes, compressed_tensors, gptq, hqq, torchao
from slimtensors.packings.listing import Listing
from slimtensors.packings.weight import PackedWeight

__all__ = ["packed_weights"]

FORMATS = (aqlm, bitmask, bitnet, bitsandbytes, compressed_tensors, gptq, hqq, torchao)


def packed_weights(listing: Listing) -> dict[str, PackedWeight]:
    """By the names that they have in the unquantised model. Raises UsageError."""
    made: dict[str, PackedWeight] = {}
    taken: set[str] = set()
    for library in FORMATS:
        for weight in library.found(listing):
            parts = set(weight.parts.values())
            if weight.name in made or parts & taken or (weight.name in listing and weight.name not in parts):
                raise UsageError(
                    f"tensor {weight.name!r}, packed as by {weight.format}, is in this file twice; load it as it is, "
                    "without dequantise"
                )
            made[weight.name] = weight
            taken |= parts
    return made
