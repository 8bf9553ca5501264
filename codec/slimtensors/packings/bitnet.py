"""BitNet (b1.58): ternary weights as transformers stores them, four to a byte, with one scale for the matrix.

    number = (code - 1) / weight_scale,  of `bitlinear`;  number = (code - 1) weight_scale,  of `autobitlinear`

each in the scale's dtype. The lowest two bits of all bytes are the first quarter of the rows. Which of the two it is,
only the model's config tells (transformers.integrations.bitnet: a layer divides or multiplies its outputs).
"""

from __future__ import annotations

from functools import partial

import numpy as np

from slimtensors.packings.arithmetic import dtype_name, floats, rounding
from slimtensors.packings.listing import Listing
from slimtensors.packings.weight import Floats, PackedWeight, Parts, Pieces, UnfitError

__all__ = ["found"]

EACH = 4  # codes in a byte
CLASSES = ("bitlinear", "autobitlinear")


def found(listing: Listing) -> list[PackedWeight]:
    """All weights of a file that are stored so."""
    method = listing.config.get("quant_method")
    if method not in (None, "bitnet"):
        return []
    layers = listing.config.get("linear_class", CLASSES[0]) if method else None
    if method and layers == CLASSES[1] and listing.config.get("quantization_mode") == "online":
        layers = "online"  # rounds floats in each forward pass
    made = []
    for name in listing:
        scale = f"{name}_scale"
        if name.rpartition(".")[2] == "weight" and listing.is_a(name, "U8", 2) and (method or _single(listing, scale)):
            parts = {"codes": name, "scale": scale}
            made.append(listing.weight(name, "BitNet", parts, partial(_ternary, layers=layers)))
    return made


def _single(listing: Listing, name: str) -> bool:
    """Whether there is such a scale, of a matrix as a whole."""
    return listing.dtype(name) in ("F32", "F16", "BF16") and listing.shape(name) in ((), (1,))


def _ternary(parts: Parts, layers: object) -> Pieces:
    packed, scale = parts["codes"], floats(parts["scale"].reshape(-1), "weight_scale")
    own = rounding(dtype_name(parts["scale"]), "weight_scale")
    if scale.size != 1:
        raise UnfitError(f"weight_scale has {scale.size} numbers, not one")
    if layers not in CLASSES:
        raise UnfitError(
            "whether its scale divides or multiplies is not known; config.json beside the file says it "
            f"(quantization_config: quant_method bitnet, linear_class {' or '.join(CLASSES)}, not online)"
        )
    step, columns = packed.shape

    def numbers(low: int, high: int) -> Floats:
        at = np.arange(low, high)
        codes = packed[at % step] >> (2 * (at // step)).astype(np.uint8)[:, None] & np.uint8(3)
        centred = codes.astype(np.float32) - np.float32(1)
        return own(centred * scale if layers == CLASSES[1] else centred / scale)

    return Pieces((EACH * step, columns), EACH * step, columns, numbers)
