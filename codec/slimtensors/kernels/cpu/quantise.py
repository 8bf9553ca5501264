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
    "search_scales",
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


RUN, VECTOR = 32, 8
STEPS, FIRST, APART, MOST = 21, np.float32(-1.0), np.float32(0.1), np.float32(15)


@inlined
def sum_of(numbers: Array, begin: int, room: Array) -> Any:
    """Of 32 numbers, in eight lanes first."""
    for k in range(VECTOR):
        at = begin + k
        room[k] = numbers[at] + numbers[at + VECTOR] + numbers[at + 2 * VECTOR] + numbers[at + 3 * VECTOR]
    return ((room[0] + room[4]) + (room[2] + room[6])) + ((room[1] + room[5]) + (room[3] + room[7]))


@kernel
def search_scales(weights: Array, room: Array, scales: Array, minima: Array) -> int:
    """Of each 32 weights a scale and a minimum, neither negative, so that scale * code - minimum is near to them.

    Codes are from 0 to 15. Errors count by how large a weight is, beside the root of the mean of squares. The range of
    the weights, and 21 scales near to what it asks for, are tried; for the codes that a scale gives, the best scale and
    minimum follow from equations. Method: llama.cpp's make_qkx2_quants.

    room float32[128], for the kernel's use.
    """
    if scales.size * RUN != weights.size or minima.size != scales.size or room.size != 4 * RUN:
        return BAD_ARGUMENT
    importance, codes, terms, lanes = room[:RUN], room[RUN : 2 * RUN], room[2 * RUN : 3 * RUN], room[3 * RUN :]
    for run in range(scales.size):
        x = weights[run * RUN : (run + 1) * RUN]
        low, high = np.float32(0), x[0]
        for i in range(RUN):
            low, high = min(low, x[i]), max(high, x[i])
            terms[i] = x[i] * x[i]
        mean = np.sqrt(sum_of(terms, 0, lanes) / np.float32(RUN))
        scales[run], minima[run] = np.float32(0), -low
        if not high > low:
            continue
        for i in range(RUN):
            importance[i] = mean + abs(x[i])
            terms[i] = importance[i] * x[i]
        w, wx = sum_of(importance, 0, lanes), sum_of(terms, 0, lanes)
        best = np.float32(np.inf)
        for step in range(-1, STEPS):
            # the range itself first
            asked = MOST if step < 0 else FIRST + APART * np.float32(step) + MOST
            factor = asked / (high - low)
            for i in range(RUN):
                codes[i] = min(max(np.rint(factor * (x[i] - low)), np.float32(0)), MOST)
                terms[i] = importance[i] * codes[i]
            wl = sum_of(terms, 0, lanes)
            for i in range(RUN):
                terms[i] = importance[i] * codes[i] * codes[i]
            wll = sum_of(terms, 0, lanes)
            for i in range(RUN):
                terms[i] = importance[i] * codes[i] * x[i]
            wlx = sum_of(terms, 0, lanes)
            scale, least = np.float32(1) / factor, low
            if step >= 0:
                determinant = w * wll - wl * wl
                if not determinant > 0:
                    continue
                scale, least = (w * wlx - wx * wl) / determinant, (wll * wx - wl * wlx) / determinant
                if least > 0:
                    scale, least = wlx / wll, np.float32(0)
            for i in range(RUN):
                d = scale * codes[i] + least - x[i]
                terms[i] = importance[i] * d * d
            error = sum_of(terms, 0, lanes)
            if error < best:
                best = error
                scales[run], minima[run] = scale, -least
    return OK
