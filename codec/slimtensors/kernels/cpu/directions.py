"""The directions along which rows are longest, and what is left of numbers less a product: F32, in one order.

A matrix over its scales is float32 by rows. Directions are columns of [m, 32], as many as a vector has lanes, so that
each sum keeps its lane; of fewer the rest is zero. Every product and every sum is rounded by itself.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.kernels._jit import inlined, kernel
from slimtensors.kernels.cpu.blocks import LANES
from slimtensors.kernels.cpu.mean import ZERO
from slimtensors.kernels.simd.lanes import Lanes, select, to_u32
from slimtensors.kernels.simd.memory import load, store
from slimtensors.kernels.simd.numbers import plus, plus_each, times, times_each
from slimtensors.kernels.status import BAD_ARGUMENT, OK

Array = npt.NDArray[Any]

ROWS = 64  # of a piece, which two sums read one after the other from the cache
SIGN, MAGNITUDE = 0x80000000, 0x7FFFFFFF
SHIFTED = 0x4B000000  # with 23 bits below, the F32 number 2^23 + them
UNSHIFT = np.float32(-((1 << 23) + (1 << 15)))


@inlined
def number_lanes(units: Lanes, form: tuple[int, int, int], scale: Any) -> Lanes:
    """Units in 32 bits as F32 numbers. form: the sign's bit, how far magnitudes are from those of F32, and the first
    that is not finite, which counts as 0; scale: what makes up for the exponent's bias.
    """
    sign, shift, limit = form
    magnitude = units & (1 << sign) - 1
    magnitude = select(magnitude < limit, magnitude, units & 0)
    number: Lanes = times(magnitude << shift, scale) | units >> sign << 31
    return number


@inlined
def scaled_lanes(units: Lanes, form: tuple[int, int, int], bias: Any, row: Any, column: Lanes, far: int) -> Lanes:
    """Units in 32 bits, as `number_lanes` takes them, times a row's and their columns' numbers; what lies beyond `far`
    counts as that.
    """
    number = times_each(times(number_lanes(units, form, bias), row), column)
    magnitude = number & MAGNITUDE
    found: Lanes = select(magnitude < far, magnitude, (magnitude & 0) + far) | number & SIGN
    return found


@kernel
def over_scales(
    units: Array, form: tuple[int, int, int], bias: Any, rows: Array, columns: Array, far: int, out: Array
) -> int:
    """out[i, j] = number(units[i, j]) * rows[i] * columns[j]; what lies beyond `far` counts as that.

    units      uint8, 16 or 32 [n * m], m at least 32
    form, bias as number_lanes takes them
    rows       float32[n]
    columns    uint32[m]: bits of F32
    far        bits of an F32
    out        uint32[n * m]: bits of F32
    """
    n, m = rows.size, columns.size
    if m < LANES or units.size != n * m or out.size != n * m or not 0 <= form[0] < 32 or not 0 <= form[1] < 32:
        return BAD_ARGUMENT
    for i in range(n):
        row = rows[i]
        for j in range(0, m, LANES):
            # The last vector begins early, so that it ends with the row.
            j = min(j, m - LANES)
            some = to_u32(load(units, i * m + j))
            store(out, i * m + j, scaled_lanes(some, form, bias, row, load(columns, j), far))
    return OK


@inlined
def four_products(matrix: Array, m: int, at: int, right: Array, out: Array, here: int) -> None:
    """Of four rows."""
    s0 = load(right, 0) & 0
    s1, s2, s3 = s0, s0, s0
    first, second, third, fourth = matrix[at:], matrix[at + m :], matrix[at + 2 * m :], matrix[at + 3 * m :]
    for j in range(m):
        line = load(right, LANES * j)
        s0, s1 = plus_each(s0, times(line, first[j])), plus_each(s1, times(line, second[j]))
        s2, s3 = plus_each(s2, times(line, third[j])), plus_each(s3, times(line, fourth[j]))
    store(out, here, s0)
    store(out, here + LANES, s1)
    store(out, here + 2 * LANES, s2)
    store(out, here + 3 * LANES, s3)


@inlined
def one_product(matrix: Array, m: int, at: int, right: Array, out: Array, here: int) -> None:
    """Of one row."""
    s = load(right, 0) & 0
    row = matrix[at:]
    for j in range(m):
        s = plus_each(s, times(load(right, LANES * j), row[j]))
    store(out, here, s)


@inlined
def products_of(matrix: Array, m: int, low: int, high: int, right: Array, out: Array) -> None:
    """Those of rows [low, high), from out[0] on."""
    fours = (high - low) // 4 * 4
    for i in range(0, fours, 4):
        four_products(matrix, m, (low + i) * m, right, out, LANES * i)
    for i in range(fours, high - low):
        one_product(matrix, m, (low + i) * m, right, out, LANES * i)


@kernel
def products(matrix: Array, right: Array, out: Array) -> int:
    """out[i, p] = sum over j of matrix[i, j] * right[j, p]

    matrix float32[n * m], right uint32[m * 32] and out uint32[n * 32]: bits of F32
    """
    if right.size < LANES or right.size % LANES != 0 or out.size % LANES != 0:
        return BAD_ARGUMENT
    n, m = out.size // LANES, right.size // LANES
    if matrix.size != n * m:
        return BAD_ARGUMENT
    products_of(matrix, m, 0, n, right, out)
    return OK


@kernel
def turn(matrix: Array, right: Array, work: Array, out: Array) -> int:
    """out[j, p] = sum over i of matrix[i, j] * (sum over k of matrix[i, k] * right[k, p])

    matrix float32[n * m], right and out uint32[m * 32], work uint32[64 * 32]
    """
    if right.size < LANES or right.size % LANES != 0 or out.size != right.size or work.size != ROWS * LANES:
        return BAD_ARGUMENT
    m = right.size // LANES
    n = matrix.size // m
    if matrix.size != n * m:
        return BAD_ARGUMENT
    for j in range(out.size):
        out[j] = 0
    fours = m // 4 * 4
    for low in range(0, n, ROWS):
        here = min(ROWS, n - low)
        products_of(matrix, m, low, low + here, right, work)
        for j in range(0, fours, 4):
            at = LANES * j
            s0, s1 = load(out, at), load(out, at + LANES)
            s2, s3 = load(out, at + 2 * LANES), load(out, at + 3 * LANES)
            column = matrix[low * m + j :]
            for i in range(here):
                line = load(work, LANES * i)
                s0, s1 = plus_each(s0, times(line, column[i * m])), plus_each(s1, times(line, column[i * m + 1]))
                s2, s3 = plus_each(s2, times(line, column[i * m + 2])), plus_each(s3, times(line, column[i * m + 3]))
            store(out, at, s0)
            store(out, at + LANES, s1)
            store(out, at + 2 * LANES, s2)
            store(out, at + 3 * LANES, s3)
        for j in range(fours, m):
            s = load(out, LANES * j)
            column = matrix[low * m + j :]
            for i in range(here):
                s = plus_each(s, times(load(work, LANES * i), column[i * m]))
            store(out, LANES * j, s)
    return OK


@kernel
def add_squares(matrix: Array, sums: Array) -> int:
    """sums[j] += sum over i of matrix[i, j]^2

    matrix float32[n * m], sums float64[m]
    """
    m = sums.size
    if m < 1 or matrix.size % m != 0:
        return BAD_ARGUMENT
    for i in range(matrix.size // m):
        row = matrix[i * m : i * m + m]
        for j in range(m):
            number = np.float64(row[j])
            sums[j] += number * number
    return OK


@kernel
def straighten(columns: Array, numbers: Array, factors: Array) -> int:
    """Gram and Schmidt's method, from the left: each column is taken out of all that follow it, at once. One that
    vanishes becomes zero.

    columns uint32[m * 32]: bits of F32; numbers: the same memory as float32; factors float32[32]: work space
    """
    if columns.size % LANES != 0 or numbers.size != columns.size or factors.size != LANES or columns.size == 0:
        return BAD_ARGUMENT
    m = columns.size // LANES
    lines = factors.view(np.uint32)
    fours = m // 4 * 4
    for p in range(LANES):
        own = numbers[p:]
        s0 = load(columns, 0) & 0
        s1, s2, s3 = s0, s0, s0
        for j in range(0, fours, 4):
            at = LANES * j
            s0 = plus_each(s0, times(load(columns, at), own[at]))
            s1 = plus_each(s1, times(load(columns, at + LANES), own[at + LANES]))
            s2 = plus_each(s2, times(load(columns, at + 2 * LANES), own[at + 2 * LANES]))
            s3 = plus_each(s3, times(load(columns, at + 3 * LANES), own[at + 3 * LANES]))
        for j in range(fours, m):
            s0 = plus_each(s0, times(load(columns, LANES * j), own[LANES * j]))
        store(lines, 0, plus_each(plus_each(s0, s1), plus_each(s2, s3)))
        length = math.sqrt(np.float64(factors[p]))
        scale = np.float32(1 / length if length > 0 else 0)
        # a_q -= (a_p scale) (a_p scale . a_q) for those that follow; those before are done
        for q in range(LANES):
            factors[q] = -factors[q] * scale if q > p else np.float32(0)
        moves = load(lines, 0)
        for j in range(m):
            unit = own[LANES * j] * scale
            store(columns, LANES * j, plus_each(load(columns, LANES * j), times(moves, unit)))
            own[LANES * j] = unit
    return OK


@inlined
def whole_numbers(s: Lanes) -> Lanes:
    """Lanes of 16 bits, in two's complement, as F32 numbers."""
    return plus(to_u32(s ^ 1 << 15) | SHIFTED, UNSHIFT)


@kernel
def leave_rests(
    units: Array,
    form: tuple[int, int, int],
    bias: Any,
    rows: Array,
    columns: Array,
    factors: Array,
    first: int,
    scaled: Array,
    out: Array,
) -> int:
    """out[i, j] = number(units[i, j]) - rows[i] * columns[j] * s, with s in two's complement:

        s = sum over t of (factors[t, first + i] - 128) * scaled[t, j]      modulo 2^16

    units, form, bias, rows, columns, out as in over_scales
    factors  uint8[rank * (R + m)], R at least first + n
    scaled   uint16[rank * m], as codecs.mean.scaled_columns makes it
    """
    n, m = rows.size, columns.size
    if m < LANES or units.size != n * m or out.size != n * m or not 0 <= form[0] < 32 or not 0 <= form[1] < 32:
        return BAD_ARGUMENT
    rank = scaled.size // m
    if rank < 1 or scaled.size != rank * m or factors.size % rank != 0:
        return BAD_ARGUMENT
    both = factors.size // rank
    if first < 0 or first + n + m > both:
        return BAD_ARGUMENT
    left, where = np.zeros(rank, np.uint16), np.zeros(rank, np.int64)
    for i in range(n):
        row, used = -rows[i], 0
        for t in range(rank):  # those that are 0 cost nothing
            factor = int(factors[t * both + first + i]) - ZERO
            left[used], where[used] = factor & 0xFFFF, t * m
            used += 1 if factor != 0 else 0
        for j in range(0, m, 4 * LANES):
            # The last vectors begin early, so that they end with the row.
            j0, j1 = min(j, m - LANES), min(j + LANES, m - LANES)
            j2, j3 = min(j + 2 * LANES, m - LANES), min(j + 3 * LANES, m - LANES)
            s0 = load(scaled, 0) & 0
            s1, s2, s3 = s0, s0, s0
            for t in range(used):
                factor, line = left[t], where[t]
                s0, s1 = s0 + load(scaled, line + j0) * factor, s1 + load(scaled, line + j1) * factor
                s2, s3 = s2 + load(scaled, line + j2) * factor, s3 + load(scaled, line + j3) * factor
            sums, places = (s0, s1, s2, s3), (j0, j1, j2, j3)
            for member in range(4):
                at = places[member]
                mean = times_each(times(whole_numbers(sums[member]), row), load(columns, at))
                number = number_lanes(to_u32(load(units, i * m + at)), form, bias)
                store(out, i * m + at, plus_each(number, mean))
    return OK
