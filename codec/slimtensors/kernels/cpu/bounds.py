"""Weights as what is near to them within a bound: multiples of a step, or numbers of a rising list. Arithmetic of F64.

    x      float32[n], finite
    found  int64[2]

All return OK, or BAD_ARGUMENT if lengths disagree; the two that count return how many, or -1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.kernels._jit import kernel
from slimtensors.kernels.status import BAD_ARGUMENT, OK

__all__ = ["MIDDLE", "magnitudes", "multiples", "nearest", "too_far"]

Array = npt.NDArray[Any]

MIDDLE = 1 << 15  # the code of 0
PIECE = 1 << 12  # numbers, after which there is a look at whether any was too far
# Added to a number below 2^51 and taken away again, it leaves the nearest whole one, halves to even.
ROUNDER = 1.5 * 2.0**52


@kernel
def magnitudes(bits: Array, found: Array) -> int:
    """The largest magnitude and the least above 0, as bits, or twice 0; bits: uint32[n], of x."""
    if found.size != 2:
        return BAD_ARGUMENT
    most, least = np.int64(0), np.int64(0xFFFFFFFF)
    for i in range(bits.size):
        magnitude = np.int64(bits[i]) & 0x7FFFFFFF
        most = max(most, magnitude)
        least = min(least, (magnitude - 1) & 0xFFFFFFFF)  # 0 comes last
    found[0], found[1] = most, least + 1 if most > 0 else 0
    return OK


@kernel
def multiples(x: Array, step: float, codes: Array, found: Array) -> int:
    """codes[i] = 2^15 + x[i] / step, rounded, halves to even; found: the smallest and the largest multiple.

    step: float64, of which no x is 2^15 - 1/2 times or more; codes uint16[n].
    """
    if codes.size != x.size or found.size != 2:
        return BAD_ARGUMENT
    low, high = np.int32(MIDDLE), np.int32(-MIDDLE)
    for i in range(x.size):
        whole = np.int32((np.float64(x[i]) / step + ROUNDER) - ROUNDER)
        low, high = min(low, whole), max(high, whole)
        codes[i] = whole + MIDDLE
    found[0], found[1] = low, high
    return OK


@kernel
def too_far(x: Array, y: Array, bound: float) -> int:
    """How many of float32 y are further than the bound from their x."""
    if y.size != x.size:
        return -1
    wrong = 0
    for i in range(x.size):
        wrong += 0 if abs(np.float64(x[i]) - np.float64(y[i])) <= bound else 1
    return wrong


@kernel
def nearest(
    bits: Array,
    shift: int,
    firsts: Array,
    limits: Array,
    most: int,
    numbers: Array,
    units: Array,
    bound: float,
    out: Array,
) -> int:
    """The nearest of rising numbers to each magnitude, with its sign; 0 of 0. How many are further away than `bound`
    times the magnitude, in the first piece that has any; `out` is not filled further.

    bits     uint32[n], of x
    firsts   int64[buckets]   with the magnitude's bits, shifted by `shift`, less firsts[0]: how many limits are below
                              all numbers of that bucket; a number of firsts[1:]
    limits   uint32[entries]  bits of the largest float32 that is no nearer to the next number; the last above all
    most     of limits in a bucket
    numbers  float64[entries]; units: as units of out's dtype
    out      uint16 or 32 [n]
    """
    entries, buckets = limits.size, firsts.size - 1
    if out.size != bits.size or numbers.size != entries or units.size != entries or entries < 1 or buckets < 1:
        return -1
    if not 0 <= shift < 32:
        return -1
    wrong, to_sign = 0, 32 - 8 * out.itemsize
    for begin in range(0, bits.size, PIECE):
        for i in range(begin, min(begin + PIECE, bits.size)):
            magnitude = np.int64(bits[i]) & 0x7FFFFFFF
            bucket = min(max((magnitude >> shift) - firsts[0], 0), buckets - 1)
            at = min(max(firsts[1 + bucket], 0), entries - 1)
            for _ in range(most):
                at = min(at + (np.int64(limits[at]) < magnitude), entries - 1)  # no jump, that nothing could foresee
            number = np.float64(np.uint32(magnitude).view(np.float32))
            kept = (abs(number - numbers[at]) <= bound * number) | (magnitude == 0)
            wrong += 1 - kept
            sign = (np.int64(bits[i]) & 0x80000000) >> to_sign
            out[i] = np.int64(units[at]) | sign if magnitude > 0 else 0
        if wrong > 0:
            return wrong
    return wrong
