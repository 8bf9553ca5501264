"""What a matrix product of small integers says of floats: a higher class, and their signs (coder.md, section 7).

The product is expected of a unit over its scale, s. It is summed modulo 2^16, so that 32 units take one vector.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.kernels._jit import inlined, kernel, shared
from slimtensors.kernels.cpu.blocks import LANES
from slimtensors.kernels.simd.lanes import Lanes, count, first_lanes, lane_numbers, select, to_u8, to_u16, to_u32
from slimtensors.kernels.simd.memory import load, store
from slimtensors.kernels.simd.numbers import top_bits
from slimtensors.kernels.simd.permute import permute_two
from slimtensors.kernels.simd.streams import give
from slimtensors.kernels.status import BAD_ARGUMENT, OK

Array = npt.NDArray[Any]

ZERO = 128  # the factor 0, as it is stored
BIAS = 256  # of what a steer holds: more than any class
MOST_OCTAVE_BITS = 4
F32_BIAS = 127  # of an F32 number's exponent
LOGARITHMS = 2 * LANES  # of products, from 0 on: more than there are
RUN, SPARE = 2048, 4 * LANES  # units that are told of at once, and room for what goes beyond the last


def line_of(columns: int) -> int:
    """Of a line of prepared columns, the length: vectors may begin at any of them, up to four at once."""
    return (columns + 5 * LANES - 2) // LANES * LANES


def numbers_of(rank: int) -> int:
    """Of a row's factors, side by side: whole vectors."""
    return (rank + LANES - 1) // LANES * LANES


line_length, row_length = inlined(line_of), inlined(numbers_of)


@inlined
def steered(s: Lanes, k: Lanes, lifts: tuple[Lanes, Lanes], offset: int, nothing: Lanes) -> tuple[Lanes, Lanes]:
    """(contexts, steers) of products and classes in 16 bits."""
    # l = 4 e + floor(4 |s| / 2^e) - 4 with e = floor(log2 |s|): exponent and two bits of mantissa, less the bias
    top = top_bits(s)
    empty = s == 0
    steer = ((top & 0x3FF) - k << 1) + (offset - 8 * F32_BIAS & 0xFFFF) + (top >> 10)
    lift = permute_two(lifts[0], lifts[1], top)
    return to_u8(select(empty, k, k + lift)), select(empty, nothing, steer)


@shared
def steer_run(
    rows: Array, of_rows: Array, of_columns: Array, width: int, lifted: Array, offset: int, nothing: int, left: Array,
    which: Array, first: int, n: int, contexts: Array, steers: Array, at: int,
) -> None:  # fmt: skip
    """What steer_units gives of units first to first + n - 1, from place `at` on, and noise in up to 127 places more.

        steers[i] = 2 (l(s) - k) + offset + (1 if s < 0); nothing if s is 0

    left, which: uint16[row_length(rank) + 32], room. The caller has checked the rest.
    """
    number, line = of_rows.size // rows.size, line_length(width)
    rank = of_columns.size // line - 1
    lifts = load(lifted, 0), load(lifted, LANES)
    numbers, none = lane_numbers(), lifts[0] & 0 | nothing
    last, end = number + LANES, at + n
    row, column = first // width, first % width
    while at < end:
        here = min(width - column, end - at)
        # Most factors of a row are 0 and cost nothing: those that are not, and which they are.
        begin = last
        for t in range(0, number, LANES):
            factors = to_u16(load(of_rows, row * number + t)) - ZERO
            some = (factors != 0) & first_lanes(rank - t)
            give(left, begin, some, factors)
            give(which, begin, some, numbers + t)
            begin -= count(some)
        of_row, classes = int(rows[row]), of_columns.size - line + column
        for i in range(0, here, 4 * LANES):
            # What goes beyond the row is put over by the next one.
            s0, s1, s2, s3 = none & 0, none & 0, none & 0, none & 0
            for t in range(begin, last):
                factor, there = left[t], int(which[t]) * line + column + i
                s0 = s0 + load(of_columns, there) * factor
                s1 = s1 + load(of_columns, there + LANES) * factor
                s2 = s2 + load(of_columns, there + 2 * LANES) * factor
                s3 = s3 + load(of_columns, there + 3 * LANES) * factor
            sums = s0, s1, s2, s3
            for member in range(4):
                place = i + member * LANES
                k = load(of_columns, classes + place) + of_row
                context, steer = steered(sums[member], k, lifts, offset, none)
                store(contexts, at + place, context)
                store(steers, at + place, steer)
        at += here
        row, column = row + 1, 0


@inlined
def can_steer(rows: Array, of_rows: Array, of_columns: Array, width: int, lifted: Array, first: int, n: int) -> bool:
    """Whether these are what steer_run needs for n units."""
    if width < 1 or first < 0 or n < 0 or first + n > rows.size * width or of_columns.size % line_length(width) != 0:
        return False
    rank = of_columns.size // line_length(width) - 1
    return rank >= 1 and of_rows.size == rows.size * row_length(rank) and lifted.size == LOGARITHMS


@kernel
def steer_units(
    rows: Array, of_rows: Array, of_columns: Array, width: int, lifted: Array, first: int, contexts: Array,
    steers: Array,
) -> int:  # fmt: skip
    """The classes of units `first` on, lifted by their means, and what says which signs to expect.

        s = sum over t of (of_rows[row, t] - 128) * of_columns[t, column]      modulo 2^16
        contexts[i] = k + the number of steps up to l(s), for k = rows[row] + columns[column]; k if s is 0
        steers[i] = 2 (l(s) + 256 - k) + (1 if s < 0); 0 if s is 0

    rows        uint8[R], their classes
    of_rows     uint8[R * row_length(rank)]: the factors of each row, 128 after them
    of_columns  uint16[(rank + 1) * line_length(width)]: of each factor, those of the columns less 128, times what its
                group counts; then the classes of the columns; 0 after each
    lifted      uint16[64]: by how much a class is lifted where the highest bits of the product, as top_bits gives them,
                are these modulo 64
    contexts    uint8[n]
    steers      uint16[n]
    """
    if not can_steer(rows, of_rows, of_columns, width, lifted, first, contexts.size) or steers.size != contexts.size:
        return BAD_ARGUMENT
    number = of_rows.size // rows.size + LANES
    left, which = np.zeros(number, np.uint16), np.zeros(number, np.uint16)
    some, more = np.zeros(RUN + SPARE, np.uint8), np.zeros(RUN + SPARE, np.uint16)
    for begin in range(0, contexts.size, RUN):
        n = min(RUN, contexts.size - begin)
        steer_run(
            rows, of_rows, of_columns, width, lifted, 2 * BIAS, 0, left, which, first + begin, n, some, more, 0
        )
        whole = n // LANES * LANES
        for i in range(0, whole, LANES):
            store(contexts, begin + i, load(some, i))
            store(steers, begin + i, load(more, i))
        for i in range(whole, n):
            contexts[begin + i], steers[begin + i] = some[i], more[i]
    return OK


@inlined
def sign_context(field: Lanes, steer: Lanes, octave_bits: int, first: int, tables: int) -> Lanes:
    """floor((floor(4 * field / octave) + l + 256 - k - first) / 2), at least 0 and below `tables`; all in 32 bits."""
    likely = (field << 2 >> octave_bits) + (steer >> 1)
    above = select((likely >= first) & (steer >= 2), likely - first, steer & 0) >> 1
    return select(above < tables, above, (steer & 0) + (tables - 1))


@kernel
def sign_contexts(
    fields: Array, steers: Array, octave_bits: int, first: int, tables: int, out: Array, flips: Array
) -> int:
    """The contexts of signs, and whether the mean is negative.

    fields uint8 or uint16 [n], n a multiple of 32, steers uint16[n], out and flips uint8[n]
    """
    if out.size % LANES != 0 or fields.size != out.size or steers.size != out.size or flips.size != out.size:
        return BAD_ARGUMENT
    if not 0 <= octave_bits <= MOST_OCTAVE_BITS or not 0 <= first < 1 << 16 or not 1 <= tables <= 256:
        return BAD_ARGUMENT
    for at in range(0, out.size, LANES):
        steer = to_u32(load(steers, at))
        store(out, at, to_u8(sign_context(to_u32(load(fields, at)), steer, octave_bits, first, tables)))
        store(flips, at, to_u8(steer & 1))
    return OK


@kernel
def join_signs(
    signs: Array, fields: Array, steers: Array, octave_bits: int, first: int, tables: int, out: Array
) -> int:
    """out = 2 * context + the sign as it is coded: the other one where the mean is negative.

    signs uint8[n], 0 or 1; fields, steers, octave_bits, first as for sign_contexts; tables at most 128; out uint8[n]
    """
    if out.size % LANES != 0 or fields.size != out.size or steers.size != out.size or signs.size != out.size:
        return BAD_ARGUMENT
    if not 0 <= octave_bits <= MOST_OCTAVE_BITS or not 0 <= first < 1 << 16 or not 1 <= tables <= 128:
        return BAD_ARGUMENT
    for at in range(0, out.size, LANES):
        steer = to_u32(load(steers, at))
        context = sign_context(to_u32(load(fields, at)), steer, octave_bits, first, tables)
        store(out, at, to_u8(context << 1 | steer & 1) ^ load(signs, at))
    return OK
