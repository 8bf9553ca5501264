"""Codes of weights in the formats that others define; F32 throughout, one rounding for each operation.

    weights  float32[n]
    scales   float32[n / length]   one for each run of `length` weights; or one over it, as the format has it
    codes    uint8[n]

All return OK, or BAD_ARGUMENT if lengths disagree. What is not finite gets any code.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.kernels._jit import inlined, kernel
from slimtensors.kernels.cpu.blocks import LANES
from slimtensors.kernels.status import BAD_ARGUMENT, OK

__all__ = [
    "LANES", "nearest", "peaks", "round_away", "round_down", "round_even", "round_floats", "round_shifted",
]  # fmt: skip

Array = npt.NDArray[Any]


@inlined
def agree(weights: Array, scales: Array, length: int, codes: Array) -> bool:
    return length >= 1 and scales.size * length == weights.size and codes.size == weights.size


@inlined
def clipped(number: Any, low: int, high: int) -> int:
    """A float, which is whole, as an integer from low to high; what is not a number as low."""
    least, most = np.float32(low), np.float32(high)
    return int(np.int32(most if number > most else (number if number > least else least)))


@kernel
def peaks(weights: Array, length: int, out: Array) -> int:
    """Of each run the number of the largest magnitude, the first of several."""
    if length < 1 or out.size * length != weights.size:
        return BAD_ARGUMENT
    for run in range(out.size):
        most = weights[run * length]
        for i in range(run * length + 1, (run + 1) * length):
            most = weights[i] if abs(weights[i]) > abs(most) else most
        out[run] = most
    return OK


@kernel
def round_away(weights: Array, inverses: Array, length: int, zero: int, codes: Array) -> int:
    """codes[i] = zero + weights[i] * inverses[run], rounded, halves away from 0; from 0 to 2 * zero."""
    if not agree(weights, inverses, length, codes):
        return BAD_ARGUMENT
    for run in range(inverses.size):
        factor = np.float32(inverses[run])
        for i in range(run * length, (run + 1) * length):
            x = np.float32(weights[i]) * factor
            magnitude = abs(x)
            floor = np.floor(magnitude)
            whole = floor + np.floor(np.float32(2) * (magnitude - floor))
            codes[i] = zero + clipped(whole if x > 0 else -whole, -zero, zero)
    return OK


@kernel
def round_down(weights: Array, inverses: Array, length: int, above: float, most: int, codes: Array) -> int:
    """codes[i] = weights[i] * inverses[run] + above, rounded towards 0; from 0 to `most`."""
    if not agree(weights, inverses, length, codes):
        return BAD_ARGUMENT
    for run in range(inverses.size):
        factor = np.float32(inverses[run])
        for i in range(run * length, (run + 1) * length):
            codes[i] = clipped(np.float32(weights[i]) * factor + np.float32(above), 0, most)
    return OK


@kernel
def round_even(weights: Array, scales: Array, length: int, low: int, high: int, codes: Array) -> int:
    """codes[i] = weights[i] / scales[run], 0 if that is 0, rounded, halves to even, from low to high; less low."""
    if not agree(weights, scales, length, codes):
        return BAD_ARGUMENT
    for run in range(scales.size):
        scale = np.float32(scales[run])
        divisor = scale if scale != 0 else np.float32(np.inf)
        for i in range(run * length, (run + 1) * length):
            codes[i] = clipped(np.rint(np.float32(weights[i]) / divisor), low, high) - low
    return OK


@kernel
def nearest(weights: Array, inverses: Array, length: int, middles: Array, codes: Array) -> int:
    """codes[i] = how many of the rising float32 `middles` are below weights[i] * inverses[run], which is at most 1."""
    if not agree(weights, inverses, length, codes):
        return BAD_ARGUMENT
    for run in range(inverses.size):
        factor = np.float32(inverses[run])
        begin, end = run * length, (run + 1) * length
        for i in range(begin, end):
            codes[i] = 0
        for k in range(middles.size):
            middle = np.float32(middles[k])
            for i in range(begin, end):
                codes[i] += np.float32(weights[i]) * factor > middle
    return OK


@kernel
def round_floats(
    weights: Array, scales: Array, length: int, mantissa: int, bias: int, most: int, largest: float, codes: Array
) -> int:
    """weights[i] / scales[run], rounded to a float of so many bits of mantissa, halves to even; too large ones become
    `largest`, which is number `most` of the magnitudes, 0 number 0.

    codes[i] = 2 * number - 1, or 2 * number of a negative one; 0 of 0.
    """
    if not agree(weights, scales, length, codes) or not 0 <= mantissa < 8 or not 0 <= bias < 128 or not 0 < most < 128:
        return BAD_ARGUMENT
    for run in range(scales.size):
        scale = np.float32(scales[run])
        divisor = scale if scale != 0 else np.float32(np.inf)
        for i in range(run * length, (run + 1) * length):
            x = np.float32(weights[i]) / divisor
            magnitude = abs(x) if abs(x) <= np.float32(largest) else np.float32(largest)  # what is not a number too
            bits = np.int64(np.float32(magnitude).view(np.uint32))
            # exponents above that of subnormal numbers; at most 128 + bias
            above = max((bits >> 23) - 128 + bias, 0)
            # steps of 2^(above + 1 - bias - mantissa)
            factor = np.uint32((127 + mantissa - above - 1 + bias) << 23).view(np.float32)
            number = (above << mantissa) + np.int64(np.rint(magnitude * factor))
            number = min(max(number, 0), most)
            codes[i] = max(2 * number - 1 + (x < 0), 0) if number > 0 else 0
    return OK


@kernel
def round_shifted(weights: Array, scales: Array, offsets: Array, length: int, most: int, codes: Array) -> int:
    """codes[i] = (weights[i] - offsets[run]) / scales[run], 0 if that is 0, rounded, halves to even, 0 to `most`."""
    if not agree(weights, scales, length, codes) or offsets.size != scales.size:
        return BAD_ARGUMENT
    for run in range(scales.size):
        scale, offset = np.float32(scales[run]), np.float32(offsets[run])
        divisor = scale if scale != 0 else np.float32(np.inf)
        for i in range(run * length, (run + 1) * length):
            codes[i] = clipped(np.rint((np.float32(weights[i]) - offset) / divisor), 0, most)
    return OK
