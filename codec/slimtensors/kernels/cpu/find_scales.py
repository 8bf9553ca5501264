"""Scales found again: for each run of floats the F32 scale with which all are numbers of a palette times it, rounded.

Rounding leaves each float an interval of products, [low, high]. Divided by the palette's number it is one of scales;
the scales that all floats of a run allow are the intersection (detect/lattice.py). Only an encoder calls this.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.kernels._jit import inlined, kernel
from slimtensors.kernels.cpu.floats import bits_of, infinity, rounded, value_of
from slimtensors.kernels.status import BAD_ARGUMENT, OK

Array = npt.NDArray[Any]

ROUNDS = 6  # of narrowing
FEW = 64  # floats of a run that are tried before all are
SLACK = 1e-12  # for what divisions round


@inlined
def place(numbers: Array, whole: bool, x: Any) -> int:
    """How many of the rising numbers are below x. whole: they are 1, 2, 3, ..."""
    if whole:
        if not x <= numbers.size:
            return numbers.size
        below: int = max(np.int64(np.ceil(x)) - 1, 0)
        return below
    at, left = 0, numbers.size
    while left > 0:
        half = (left + 1) >> 1
        at += half if numbers[at + half - 1] < x else 0
        left -= half
    return at


@inlined
def is_whole(numbers: Array) -> bool:
    found = True
    for i in range(numbers.size):
        found &= numbers[i] == i + 1
    return found


@kernel
def narrow(
    units: Array, half: bool, begin: int, count: int, positive: Array, negative: Array, whole: bool,
    lows: float, highs: float, left: Array,
) -> tuple[float, float]:  # fmt: skip
    """The scales within [lows, highs] that give all of `count` floats a number; (1, 0) where there are none.

    A float for which only one number is left has its say once: later rounds could only repeat it. `left` lists those
    for which several are.
    """
    size = units.itemsize
    mask = (1 << 8 * size - 1) - 1
    waiting = count
    for turn in range(ROUNDS):
        new_low, new_high = lows, highs
        still = 0
        for i in range(waiting):
            at = i if turn == 0 else left[i]
            unit = np.int64(units[begin + at])
            magnitude = unit & mask
            if magnitude == 0:
                continue
            exact = value_of(magnitude, size, half)
            low = (exact + value_of(magnitude - 1, size, half)) / 2
            high = (exact + value_of(magnitude + 1, size, half)) / 2
            numbers = negative if unit > mask else positive
            index = place(numbers, whole, low / highs * (1 - SLACK))
            to = high / lows
            if index >= numbers.size or numbers[index] > to * (1 + SLACK):
                return 1.0, 0.0
            if index + 1 >= numbers.size or numbers[index + 1] > to:
                new_low, new_high = max(new_low, low / numbers[index]), min(new_high, high / numbers[index])
            else:
                left[still] = at
                still += 1
        if new_low > new_high:
            return 1.0, 0.0
        if new_low == lows and new_high == highs:
            break
        lows, highs, waiting = new_low, new_high, still
    return lows, highs


@inlined
def simplest(lows: float, highs: float, shrink: int) -> int:
    """Of the F32 numbers in an interval, as units, the one that ends in the most zeros.

    shrink: 0 takes the interval as it is, 1 without its outer eighths, 2 only its middle.
    """
    cut = (highs - lows) * (0.0 if shrink == 0 else 0.125 if shrink == 1 else 0.5)
    first, last = np.float32(lows + cut), np.float32(highs - cut)
    a, b = bits_of(first), bits_of(last)
    if shrink == 0:
        a += np.float64(first) < lows
        b -= np.float64(last) > highs
    a = min(a, b)
    out = b
    for zeros in range(1, 24):
        short = b >> zeros << zeros
        if short >= a:
            out = short
    return out


@kernel
def gives(
    units: Array, half: bool, begin: int, count: int, positive: Array, negative: Array, whole: bool, scale: int
) -> bool:
    """Whether all of `count` floats are numbers times the scale, an F32 unit, rounded."""
    size = units.itemsize
    mask = (1 << 8 * size - 1) - 1
    if scale == 0:
        return False
    factor = np.uint32(scale).view(np.float32)
    wide = np.float64(factor)
    for i in range(count):
        unit = np.int64(units[begin + i])
        magnitude = unit & mask
        if magnitude == 0:
            continue
        low = (value_of(magnitude, size, half) + value_of(magnitude - 1, size, half)) / 2
        numbers = negative if unit > mask else positive
        if numbers.size == 0:
            return False
        at = min(place(numbers, whole, low / wide * (1 - 1e-6)), numbers.size - 1)
        if rounded(np.float32(numbers[at]) * factor, size, half) != magnitude:
            at = min(at + 1, numbers.size - 1)
            if rounded(np.float32(numbers[at]) * factor, size, half) != magnitude:
                return False
    return True


@kernel
def find_scales(
    units: Array, half: bool, length: int, positive: Array, negative: Array, tops: Array, left: Array,
    scales: Array, used: Array,
) -> int:  # fmt: skip
    """Of each run its scale, and the number that the largest magnitude then is: the first of `tops` that will do.

    units               uint16 or uint32 [runs * length]: BF16, F16 where `half` is set, F32
    positive, negative  float64: the palette's magnitudes of either sign, rising, without 0
    tops                float64: in the order tried
    left                int64[length]: room
    scales              uint32[runs]: F32 units; 0 where there is none
    used                float64[runs]: -1 where there is none, 0 where all of a run are zeros

    Returns OK, or BAD_ARGUMENT if the lengths disagree.
    """
    size = units.itemsize
    if length < 1 or left.size < length or scales.size != used.size or scales.size * length != units.size:
        return BAD_ARGUMENT
    mask, most = (1 << 8 * size - 1) - 1, infinity(size, half) - 2
    whole = is_whole(positive) and is_whole(negative)
    for run in range(scales.size):
        begin = run * length
        largest, where = 0, 0
        for i in range(length):
            magnitude = np.int64(units[begin + i]) & mask
            if magnitude > largest:
                largest, where = magnitude, i
        scales[run], used[run] = 0, 0.0 if largest == 0 else -1.0
        if largest == 0 or largest > most:  # infinities, NaNs and the largest number have no scale
            continue
        exact = value_of(largest, size, half)
        low = (exact + value_of(largest - 1, size, half)) / 2
        high = (exact + value_of(largest + 1, size, half)) / 2
        numbers = negative if np.int64(units[begin + where]) > mask else positive
        for t in range(tops.size):
            top = tops[t]
            at = place(numbers, whole, top)
            if at >= numbers.size or numbers[at] != top:
                continue
            lows, highs = narrow(
                units, half, begin, min(length, FEW), positive, negative, whole, low / top, high / top, left
            )
            if lows <= highs and length > FEW:
                lows, highs = narrow(units, half, begin, length, positive, negative, whole, lows, highs, left)
            if not lows <= highs:
                continue
            for shrink in range(3):
                scale = simplest(lows, highs, shrink)
                if used[run] < 0 and gives(units, half, begin, length, positive, negative, whole, scale):
                    scales[run], used[run] = scale, top
            if used[run] > 0:
                break
    return OK
