"""The directions along which rows are longest, by products of whole numbers: the same in any order, and four to a lane.

A matrix over its scales is bytes from 1 to 127, with 64 for 0, in two orders: by rows, each filled up to whole words
of four columns, and by fours of rows, one word for each column. Directions, and rows along them, are bytes in two's
complement, four to a word, 32 words for each four.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.kernels._jit import inlined, kernel
from slimtensors.kernels.cpu.blocks import LANES
from slimtensors.kernels.cpu.directions import scaled_lanes
from slimtensors.kernels.simd.lanes import Lanes, to_u8, to_u32
from slimtensors.kernels.simd.memory import load, store
from slimtensors.kernels.simd.numbers import plus
from slimtensors.kernels.simd.products import add_products
from slimtensors.kernels.status import BAD_ARGUMENT, OK

Array = npt.NDArray[Any]

FOUR = 4  # numbers of a word
ZERO, MOST = 64, 63  # the number 0 of a matrix, and the largest
ZEROS = 0x40404040
ROUNDING = np.float32((1 << 23) + ZERO)  # added to a small number, it leaves the whole number in the lowest bits
LARGEST = 127  # of directions
FACTOR_ZERO = 128  # the factor 0, as it is stored
PART = 1 << 20  # numbers whose squares are summed in 32 bits
BLOCK = 64  # fours of rows, whose words stay in the cache


@kernel
def whole_over_scales(
    units: Array, form: tuple[int, int, int], bias: Any, rows: Array, columns: Array, most: int, out: Array
) -> int:
    """out[i, j] = 64 + the whole number next to number(units[i, j]) * rows[i] * columns[j], 63 at most either way.

    units      uint8, 16 or 32 [n * m], m at least 32
    form, bias as number_lanes takes them
    rows       float32[n]
    columns    uint32[m]: bits of F32
    most       bits of the F32 number 63
    out        uint8[4 * ceil(n / 4), 4 * ceil(m / 4)], in one dimension; what is beyond the units is filled with 64
    """
    n, m = rows.size, columns.size
    wide, high = -(-m // FOUR) * FOUR, -(-n // FOUR) * FOUR
    if m < LANES or units.size != n * m or out.size != high * wide or not 0 <= form[0] < 32 or not 0 <= form[1] < 32:
        return BAD_ARGUMENT
    for i in range(n):
        row = rows[i]
        for j in range(0, m, LANES):
            # The last vector begins early, so that it ends with the row.
            j = min(j, m - LANES)
            number = scaled_lanes(to_u32(load(units, i * m + j)), form, bias, row, load(columns, j), most)
            store(out, i * wide + j, to_u8(plus(number, ROUNDING) & 2 * ZERO - 1))
        for j in range(m, wide):
            out[i * wide + j] = ZERO
    for i in range(n * wide, high * wide):
        out[i] = ZERO
    return OK


@kernel
def by_fours(matrix: Array, columns: int, out: Array) -> int:
    """out[q, j] = the bytes of column j in rows 4 q to 4 q + 3.

    matrix uint8[4 k, 4 * ceil(columns / 4)], columns at least 32; out uint32[k * columns]
    """
    wide = -(-columns // FOUR) * FOUR
    if columns < LANES or out.size % columns != 0 or matrix.size != out.size // columns * FOUR * wide:
        return BAD_ARGUMENT
    for q in range(out.size // columns):
        at = FOUR * q * wide
        for j in range(0, columns, LANES):
            j = min(j, columns - LANES)
            word = to_u32(load(matrix, at + j)) | to_u32(load(matrix, at + wide + j)) << 8
            word = word | to_u32(load(matrix, at + 2 * wide + j)) << 16 | to_u32(load(matrix, at + 3 * wide + j)) << 24
            store(out, q * columns + j, word)
    return OK


@kernel
def sum_squares(matrix: Array) -> int:
    """The sum of (number - 64)^2. matrix: uint8[n]"""
    total, line = 0, np.zeros(LANES, np.uint32)
    whole = matrix.size // LANES * LANES
    for i in range(whole, matrix.size):
        rest = int(matrix[i]) - ZERO
        total += rest * rest
    for begin in range(0, whole, PART):
        some = load(line, 0) & 0  # each lane below 2^28
        for at in range(begin, min(begin + PART, whole), LANES):
            number = to_u32(load(matrix, at)) - ZERO
            some = some + number * number
        store(line, 0, some)
        for lane in range(LANES):
            total += int(line[lane])
    return total


@kernel
def largest(numbers: Array, most: Array) -> int:
    """most[p] = the largest magnitude of column p. numbers int32 or float32 [n * 32]; most float32[32]"""
    n = numbers.size // LANES
    if numbers.size != n * LANES or most.size != LANES:
        return BAD_ARGUMENT
    for p in range(LANES):
        most[p] = 0
    for i in range(n):
        line = numbers[LANES * i : LANES * i + LANES]
        for p in range(LANES):
            most[p] = max(most[p], abs(np.float32(line[p])))
    return OK


@kernel
def to_bytes(numbers: Array, scales: Array, out: Array) -> int:
    """The whole numbers next to numbers[i, p] * scales[p], modulo 2^8; these products are to be at most 127.

    numbers  int32 or float32 [n * 32]
    scales   float32[32]
    out      uint32[ceil(n / 4) * 32]   byte b of word [q, p] is row 4 q + b of column p; what is beyond n is 0
    """
    n = numbers.size // LANES
    if numbers.size != n * LANES or scales.size != LANES or out.size != -(-n // FOUR) * LANES:
        return BAD_ARGUMENT
    for i in range(out.size):
        out[i] = 0
    for i in range(n):
        line, words = numbers[LANES * i : LANES * i + LANES], out[i // FOUR * LANES : i // FOUR * LANES + LANES]
        shift = np.uint32(8 * (i % FOUR))
        for p in range(LANES):
            whole = np.int32(np.float32(line[p]) * scales[p] + np.float32(LARGEST + 1.5)) - np.int32(LARGEST + 1)
            words[p] |= np.uint32(whole & 0xFF) << shift
    return OK


@inlined
def start_of(right: Array) -> Lanes:
    """What sums begin with, since 64 stands for 0."""
    s = load(right, 0) & 0
    for q in range(right.size // LANES):
        s = add_products(s, ZEROS, load(right, LANES * q))
    return (s & 0) - s


@kernel
def products(matrix: Array, right: Array, out: Array) -> int:
    """out[i, p] = sum over j of (matrix[i, j] - 64) * right[j, p], modulo 2^32

    matrix uint32[n * w]: by rows; right uint32[w * 32]; out uint32[n * 32]: two's complement
    """
    w, n = right.size // LANES, out.size // LANES
    if w < 1 or right.size != w * LANES or out.size != n * LANES or matrix.size != n * w:
        return BAD_ARGUMENT
    start = start_of(right)
    fours = n // 4 * 4
    for i in range(0, fours, 4):
        s0, s1, s2, s3 = start, start, start, start
        at = i * w
        first, second, third, fourth = matrix[at:], matrix[at + w :], matrix[at + 2 * w :], matrix[at + 3 * w :]
        for q in range(w):
            line = load(right, LANES * q)
            s0, s1 = add_products(s0, first[q], line), add_products(s1, second[q], line)
            s2, s3 = add_products(s2, third[q], line), add_products(s3, fourth[q], line)
        store(out, LANES * i, s0)
        store(out, LANES * i + LANES, s1)
        store(out, LANES * i + 2 * LANES, s2)
        store(out, LANES * i + 3 * LANES, s3)
    for i in range(fours, n):
        s = start
        row = matrix[i * w :]
        for q in range(w):
            s = add_products(s, row[q], load(right, LANES * q))
        store(out, LANES * i, s)
    return OK


@kernel
def turn(matrix: Array, along: Array, out: Array) -> int:
    """out[j, p] = sum over i of (matrix[i, j] - 64) * along[i, p], modulo 2^32

    matrix uint32[k * m]: by fours of rows; along uint32[k * 32]; out uint32[m * 32]: two's complement
    """
    k, m = along.size // LANES, out.size // LANES
    if k < 1 or along.size != k * LANES or out.size != m * LANES or matrix.size != k * m:
        return BAD_ARGUMENT
    start = start_of(along)
    for j in range(m):
        store(out, LANES * j, start)
    fours = m // 4 * 4
    for low in range(0, k, BLOCK):
        here = min(BLOCK, k - low)
        lines = along[low * LANES :]
        for j in range(0, fours, 4):
            at = LANES * j
            s0, s1 = load(out, at), load(out, at + LANES)
            s2, s3 = load(out, at + 2 * LANES), load(out, at + 3 * LANES)
            column = matrix[low * m + j :]
            for q in range(here):
                line = load(lines, LANES * q)
                s0, s1 = add_products(s0, column[q * m], line), add_products(s1, column[q * m + 1], line)
                s2, s3 = add_products(s2, column[q * m + 2], line), add_products(s3, column[q * m + 3], line)
            store(out, at, s0)
            store(out, at + LANES, s1)
            store(out, at + 2 * LANES, s2)
            store(out, at + 3 * LANES, s3)
        for j in range(fours, m):
            s = load(out, LANES * j)
            column = matrix[low * m + j :]
            for q in range(here):
                s = add_products(s, column[q * m], load(lines, LANES * q))
            store(out, LANES * j, s)
    return OK


@kernel
def round_rows(along: Array, scales: Array, up: Any, most: int, out: Array) -> int:
    """out[t, i] = 128 + the whole number next to along[i, t] * scales[t]: away from 0 where 1 - up or more of a whole
    is left over, at most `most` either way.

    along   int32[n * 32]
    scales  float32[rank]
    up      float32
    out     uint8[rank, n]  a view into lines that may be longer
    """
    n, rank = along.size // LANES, scales.size
    if along.size != n * LANES or rank > LANES or not 0 <= most < FACTOR_ZERO or out.shape != (rank, n):
        return BAD_ARGUMENT
    far = np.float32(most)
    for i in range(n):
        for t in range(rank):
            number = np.float32(along[LANES * i + t]) * scales[t]
            whole = min(abs(number) + up, far)
            steps = int(whole) if whole == whole else 0
            out[t, i] = FACTOR_ZERO + steps if number > 0 else FACTOR_ZERO - steps
    return OK
