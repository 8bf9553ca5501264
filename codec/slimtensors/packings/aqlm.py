"""AQLM: groups of weights as sums of one vector of each codebook, times a scale for the group's rows.

    group = (sum of codebooks[i][codes[i]], in F32, rounded to the codebooks' dtype) scale, in the dtype of both

Codes are signed integers of which the lowest bits count. A group is a small matrix, [out_group_size, in_group_size].
Bits are those of a CPU: there PyTorch sums rows of a table by FBGEMM, which rounds ties of BF16 away from zero.
"""

from __future__ import annotations

import numpy as np

from slimtensors.packings.arithmetic import dtype_name, floats, rounding
from slimtensors.packings.listing import Listing
from slimtensors.packings.weight import Floats, PackedWeight, Parts, Pieces, UnfitError

__all__ = ["found"]

MOST_GROUP = 256  # weights to a code of each codebook; a small file asks for no more memory than that


def found(listing: Listing) -> list[PackedWeight]:
    """All weights of a file that AQLM packed."""
    made = []
    for name in listing:
        layer, dot, last = name.rpartition(".")
        if dot and last == "codebooks" and len(listing.shape(name)) == 4:
            parts = {"codebooks": name, "codes": f"{layer}.codes", "scales": f"{layer}.scales"}
            made.append(listing.weight(f"{layer}.weight", "AQLM", parts, _sums))
    return made


def _sums(parts: Parts) -> Pieces:
    codes, books = parts["codes"], floats(parts["codebooks"], "codebooks")
    kind = dtype_name(parts["codebooks"])
    own = rounding(kind, "codebooks")
    product = own if dtype_name(parts["scales"]) == kind else rounding("F32")
    rounded = _ties_away if kind == "BF16" else own
    count, size, high, wide = books.shape
    if size & (size - 1) or high * wide > MOST_GROUP:
        raise UnfitError(
            f"codebooks of shape {list(books.shape)}; a power of two of groups of at most {MOST_GROUP} are expected"
        )
    if codes.ndim != 3 or codes.dtype.kind != "i" or codes.shape[2] != count:
        raise UnfitError(f"codes are {codes.dtype} of shape {list(codes.shape)} for {count} codebooks")
    groups, across = codes.shape[:2]
    scales = floats(parts["scales"], "scales")
    # A kernel for CPUs swaps a layer's groups in its first pass; only `scales` tells, where that was saved.
    if scales.shape != (groups, 1, 1, 1):
        raise UnfitError(f"scales of shape {list(scales.shape)} for {groups} x {across} groups of {high} x {wide}")

    def numbers(low: int, top: int) -> Floats:
        at = codes[low:top].astype(np.int64) & (size - 1)
        total = np.zeros((*at.shape[:2], high, wide), np.float32)
        for book in range(count):  # in this order
            total += books[book][at[..., book]]
        found = product(rounded(total) * scales[low:top])
        return np.ascontiguousarray(found.swapaxes(1, 2)).reshape(top - low, -1)

    return Pieces((groups * high, across * wide), groups, high * across * wide, numbers)


def _ties_away(numbers: Floats) -> Floats:
    bits = numbers.view(np.uint32) + np.uint32(0x8000) & np.uint32(0xFFFF0000)
    found: Floats = bits.view(np.float32)
    return found
