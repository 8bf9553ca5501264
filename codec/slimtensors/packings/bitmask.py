"""Sparse weights as compressed-tensors wrote them before its version 0.15: what is not zero, and a mask of bits.

A row's bits fill bytes from the lowest bit on; the values are in the order of the set bits. `sparse-24-bitmask` is the
same, with values as a matrix of half the columns.
"""

from __future__ import annotations

import numpy as np

from slimtensors.packings.arithmetic import floats
from slimtensors.packings.listing import Listing
from slimtensors.packings.weight import Floats, PackedWeight, Parts, Pieces, UnfitError

__all__ = ["found"]


def found(listing: Listing) -> list[PackedWeight]:
    """All weights of a file that are stored so."""
    made = []
    for name in listing:
        prefix, dot, last = name.rpartition(".")
        if dot and last == "bitmask" and listing.is_a(name, "U8", 2) and f"{prefix}.compressed" in listing:
            # 2 of 4 are named after the layer.
            weight = prefix if prefix.rpartition(".")[2] == "weight" else f"{prefix}.weight"
            parts = {"mask": name, "values": f"{prefix}.compressed", "shape": f"{prefix}.shape"}
            optional = {"row_offsets": f"{prefix}.row_offsets", "scale": f"{weight}_scale"}
            parts |= {part: each for part, each in optional.items() if each in listing}
            made.append(listing.weight(weight, "compressed-tensors (bitmask)", parts, _sparse))
    return made


def _sparse(parts: Parts) -> Pieces:
    mask, given = parts["mask"], parts["shape"]
    if "scale" in parts:
        raise UnfitError("values that have scales beside a mask are not known")
    if given.size != 2 or given.dtype.kind not in "iu":
        raise UnfitError("its shape is not two integers")
    rows, columns = (int(n) for n in given.reshape(-1))
    if mask.shape != (rows, -(-columns // 8)) or rows < 1 or columns < 1:
        raise UnfitError(f"a mask of {list(mask.shape)} bytes for a matrix of {[rows, columns]}")
    if columns % 8 and (mask[:, -1] >> (columns % 8)).any():
        raise UnfitError("bits beyond the mask's columns are set")
    values = floats(parts["values"].reshape(-1), "values")
    ends = np.cumsum([int(np.unpackbits(row).sum()) for row in mask])
    if ends[-1] != values.size:
        raise UnfitError(f"{values.size} values for {ends[-1]} bits that are set")

    def numbers(low: int, high: int) -> Floats:
        out = np.zeros((high - low, columns), np.float32)
        bits = np.unpackbits(mask[low:high], axis=1, bitorder="little", count=columns)
        out[bits != 0] = values[ends[low - 1] if low else 0 : ends[high - 1]]
        return out

    return Pieces((rows, columns), rows, columns, numbers)
