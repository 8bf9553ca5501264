"""Base units moved by a matrix product (expressions.md, section 8.1).

Sums are of integers, modulo 2^32 or 2^64, and the three operations on F32 that follow are each rounded once, so that
every machine gets the same bits. The product with a power of two is exact: whether it is contracted does not matter.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.kernels._jit import inlined, kernel
from slimtensors.kernels.cpu.blocks import LANES
from slimtensors.kernels.simd.lanes import as_in, select, to_u32
from slimtensors.kernels.simd.memory import load, store
from slimtensors.kernels.simd.numbers import number_of, plus_each, times
from slimtensors.kernels.simd.products import add_pairs
from slimtensors.kernels.status import BAD_ARGUMENT, OK

Array = npt.NDArray[Any]

WIDE = 1024  # columns at a time: their sums, and a few rows of factors, stay in the first cache


@inlined
def line_of(columns: int) -> int:
    """Columns with those that fill up whole vectors, wherever in a row the first of them begins."""
    return (columns + LANES - 1) // LANES * LANES + LANES


@kernel
def move_base(
    base: Array,
    left: Array,
    right: Array,
    columns: int,
    first: int,
    scale: Any,
    pairs: Array,
    sums: Array,
    work: Array,
    out: Array,
) -> int:
    """out[i] = F32(base[i]) + F32(sum over k of left[row, k] * right[k, column]) * scale, in the dtype of `out`

    Infinities and NaNs of the base stay as they are.

    base   uint16[n] of BF16 or uint32[n] of F32: the tensor's units from `first` on
    left   int16 or int32 [rows * rank]
    right  the same [rank * columns]
    scale  float32, a power of two
    pairs  uint32[ceil(rank / 2) * (columns up to whole vectors, and one more)]: work space; any for int32
    sums   int32[WIDE], or int64[WIDE] for int32; work space
    work   uint32[WIDE]: work space
    out    as base; or uint16[n] of BF16, of a base of F32 without NaNs
    """
    if columns <= 0 or right.size % columns != 0 or right.size == 0 or sums.size != WIDE or work.size != WIDE:
        return BAD_ARGUMENT
    rank = right.size // columns
    rows = left.size // rank
    if left.size != rows * rank or out.size != base.size or first < 0 or first + out.size > rows * columns:
        return BAD_ARGUMENT
    narrow = left.itemsize == 2
    if narrow:
        if pairs.size != (rank + 1) // 2 * line_of(columns):
            return BAD_ARGUMENT
        pair_up(right, columns, pairs)
    at = 0
    while at < out.size:
        row, low = (first + at) // columns, (first + at) % columns
        width = min(WIDE, columns - low, out.size - at)
        # Views that all begin at 0: an index that is plainly not negative lets their loops be vectorised.
        factors, units, moved = left[row * rank : row * rank + rank], base[at : at + width], out[at : at + width]
        if narrow and width >= LANES:
            move_vectors(factors, pairs, columns, low, scale, units, moved)
        else:
            sum_products(factors, right, columns, low, sums[:width])
            add_sums(units, sums[:width], scale, work[:width], moved)
        at += width
    return OK


@inlined
def pair_up(right: Array, columns: int, pairs: Array) -> None:
    """pairs[k, j] = right[2 k, j] + 2^16 * right[2 k + 1, j], with zeros beyond the last row and column."""
    line = line_of(columns)
    for k in range(pairs.size // line):
        here = pairs[k * line : (k + 1) * line]
        here[columns:] = 0
        above = right[2 * k * columns : (2 * k + 1) * columns]
        below = right[(2 * k + 1) * columns : (2 * k + 2) * columns]
        for j in range(columns):
            here[j] = np.uint32(above[j]) & np.uint32(0xFFFF)
        for j in range(below.size):
            here[j] |= np.uint32(below[j]) << np.uint32(16)


@inlined
def move_vectors(factors: Array, pairs: Array, columns: int, low: int, scale: Any, base: Array, out: Array) -> None:
    """32 units of a row at a time: sums in registers, and added there as add_sums adds them."""
    half, rounded, line = base.itemsize == 2, out.itemsize == 2, line_of(columns)
    exponent = 0x7F80 if half else 0x7F800000
    for j in range(0, out.size, LANES):
        j = min(j, out.size - LANES)  # the last vector begins early, so that it ends with the row
        unit = to_u32(load(base, j))
        total = unit >> 31 >> 1  # all zero
        for k in range(factors.size // 2):
            two = (np.int64(factors[2 * k]) & 0xFFFF) | (np.int64(factors[2 * k + 1]) & 0xFFFF) << 16
            total = add_pairs(total, two, load(pairs, k * line + low + j))
        if factors.size % 2:
            last = np.int64(factors[factors.size - 1]) & 0xFFFF
            total = add_pairs(total, last, load(pairs, factors.size // 2 * line + low + j))
        bits = plus_each(unit << 16 if half else unit, times(number_of(total), scale))
        if rounded:
            # to the nearest upper half, ties to even; where the base is finite, this is no NaN
            bits = bits + 0x7FFF + (bits >> 16 & 1) >> 16
        kept = unit >> 16 if rounded and not half else unit
        store(out, j, as_in(out, select((unit & exponent) != exponent, bits, kept)))


@inlined
def sum_products(factors: Array, right: Array, columns: int, low: int, sums: Array) -> None:
    """sums[j] = sum over k of factors[k] * right[k, low + j]; two k at a time save half of the loads and stores"""
    for j in range(sums.size):
        sums[j] = 0
    for k in range(factors.size // 2):
        f, g = np.int64(factors[2 * k]), np.int64(factors[2 * k + 1])
        above = right[2 * k * columns + low : 2 * k * columns + low + sums.size]
        below = right[(2 * k + 1) * columns + low : (2 * k + 1) * columns + low + sums.size]
        for j in range(sums.size):
            sums[j] = cut(sums[j] + f * above[j] + g * below[j], sums.itemsize)
    if factors.size % 2:
        f = np.int64(factors[factors.size - 1])
        last = right[right.size - columns + low : right.size - columns + low + sums.size]
        for j in range(sums.size):
            sums[j] = cut(sums[j] + f * last[j], sums.itemsize)


@inlined
def cut(number: int, itemsize: int) -> int:
    """Modulo 2^32, with a sign, for 4 bytes. Compiled it is no instruction; NumPy refuses numbers that do not fit."""
    return ((number + (1 << 31)) & 0xFFFFFFFF) - (1 << 31) if itemsize == 4 else number


@inlined
def add_sums(base: Array, sums: Array, scale: Any, work: Array, out: Array) -> None:
    """The sums, as F32 and scaled, added to the base."""
    half = base.itemsize == 2  # an F32's upper half
    rounded = out.itemsize == 2
    numbers = work.view(np.float32)
    for j in range(work.size):
        work[j] = np.uint32(base[j]) << np.uint32(16) if half else base[j]
    for j in range(work.size):
        numbers[j] = numbers[j] + np.float32(sums[j]) * scale
    for j in range(work.size):
        bits = work[j]
        if rounded:
            # to the nearest upper half, ties to even; where the base is finite, this is no NaN
            bits = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
        exponent = np.uint32(0x7F80 if half else 0x7F800000)
        kept = np.uint32(base[j]) >> np.uint32(16) if rounded and not half else base[j]
        out[j] = bits if np.uint32(base[j]) & exponent != exponent else kept
