"""What a matrix product of small integers says of floats: a higher class, and their signs (coder.md, section 7).

The product is expected of a unit over its scale, s. It is summed modulo 2^16, so that 32 units take one vector.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.kernels._jit import inlined, kernel
from slimtensors.kernels.cpu.blocks import LANES
from slimtensors.kernels.simd.lanes import Lanes, leading_zeros, select, to_u8, to_u16, to_u32
from slimtensors.kernels.simd.memory import load, store
from slimtensors.kernels.simd.permute import permute_two
from slimtensors.kernels.status import BAD_ARGUMENT, OK

Array = npt.NDArray[Any]

ZERO = 128  # the factor 0, as it is stored
BIAS = 256  # of what a steer holds: more than any class
MOST_OCTAVE_BITS = 4


@kernel
def scale_columns(factors: Array, groups: Array, rows: int, columns: int, out: Array) -> int:
    """out[t, j] = (factors[t, rows + j] - 128) * 2^g, where g is the group that factor t is in.

    factors uint8[rank * (rows + columns)], groups int64: how many factors each has, out uint16[rank * columns]
    """
    rank = 0
    for g in range(groups.size):
        if groups[g] < 0:
            return BAD_ARGUMENT
        rank += groups[g]
    if rows < 1 or columns < 1 or factors.size != rank * (rows + columns) or out.size != rank * columns:
        return BAD_ARGUMENT
    t = 0
    for g in range(groups.size):
        for _ in range(groups[g]):
            for j in range(columns):
                out[t * columns + j] = (int(factors[t * (rows + columns) + rows + j]) - ZERO << g) & 0xFFFF
            t += 1
    return OK


@inlined
def steered(s: Lanes, k: Lanes, lifts: tuple[Lanes, Lanes]) -> tuple[Lanes, Lanes]:
    """(contexts, steers) of products and classes in 16 bits. lifts: by the logarithm, by how much a class is lifted."""
    negative = s >> 15
    wide = to_u32(select(negative != 0, (s & 0) - s, s))
    # l = 4 e + floor(4 |s| / 2^e) - 4 with e = floor(log2 |s|): with |s| moved up to bit 31, the two bits below count
    zeros = leading_zeros(wide)
    logarithm = to_u16((31 - zeros << 2) + (wide << (zeros & 31) >> 29 & 3))
    empty = s == 0
    logarithm = select(empty, s, logarithm)
    lifted = select(empty, k, k + permute_two(lifts[0], lifts[1], logarithm))
    return to_u8(lifted), select(empty, s, (logarithm + BIAS - k) << 1 | negative)


@kernel
def steer_units(
    rows: Array, columns: Array, factors: Array, scaled: Array, steps: Array, first: int, contexts: Array, steers: Array
) -> int:
    """The classes of units `first` on, lifted by their means, and what says which signs to expect.

        s = sum over t of (factors[t, row] - 128) * scaled[t, column]      modulo 2^16
        contexts[i] = k + the number of steps up to l(s), for k = rows[row] + columns[column]; k if s is 0
        steers[i] = 2 (l(s) + 256 - k) + (1 if s < 0); 0 if s is 0

    rows, columns  uint8
    factors        uint8[rank * (rows + columns)]
    scaled         uint16[rank * columns], as scale_columns makes it
    steps          int64, up to 16
    contexts       uint8[n]
    steers         uint16[n]
    """
    width, both = columns.size, rows.size + columns.size
    if width < 1 or first < 0 or first + contexts.size > rows.size * width or steers.size != contexts.size:
        return BAD_ARGUMENT
    if scaled.size % width != 0 or factors.size != scaled.size // width * both or steps.size > 16:
        return BAD_ARGUMENT
    if contexts.size == 0:
        return OK
    rank, at = scaled.size // width, 0
    classes, sums = np.zeros(LANES, np.uint16), np.zeros(LANES, np.uint16)
    some, more = np.zeros(LANES, np.uint8), np.zeros(LANES, np.uint16)
    # Most factors of a row are 0 and cost nothing: those that are not, and where their columns are.
    left, where = np.zeros(rank, np.uint16), np.zeros(rank, np.int64)
    lifted = np.zeros(2 * LANES, np.uint16)  # logarithms are at most 60
    for i in range(steps.size):
        for logarithm in range(2 * LANES):
            lifted[logarithm] += np.uint16(logarithm >= steps[i])
    lifts = load(lifted, 0), load(lifted, LANES)
    for row in range(first // width, (first + contexts.size - 1) // width + 1):
        # Only the first row may begin in its middle.
        column = max(first - row * width, 0)
        here = min(width - column, contexts.size - at)
        used = 0
        for t in range(rank):
            factor = int(factors[t * both + row]) - ZERO
            left[used], where[used] = factor & 0xFFFF, t * width
            used += 1 if factor != 0 else 0
        if here >= LANES:
            whole = here // (4 * LANES) * 4 * LANES
            for i in range(0, whole, 4 * LANES):
                at_column = column + i
                s0 = to_u16(load(columns, at_column)) & 0
                s1, s2, s3 = s0, s0, s0
                for t in range(used):
                    factor, from_here = left[t], where[t] + at_column
                    s0 = s0 + load(scaled, from_here) * factor
                    s1 = s1 + load(scaled, from_here + LANES) * factor
                    s2 = s2 + load(scaled, from_here + 2 * LANES) * factor
                    s3 = s3 + load(scaled, from_here + 3 * LANES) * factor
                sums4 = (s0, s1, s2, s3)
                for member in range(4):
                    here_at = i + member * LANES
                    k = to_u16(load(columns, column + here_at)) + rows[row]
                    context, steer = steered(sums4[member], k, lifts)
                    store(contexts, at + here_at, context)
                    store(steers, at + here_at, steer)
            for i in range(whole, here, LANES):
                # The last vector begins early, so that it ends with the row.
                i = min(i, here - LANES)
                s = to_u16(load(columns, column + i)) & 0
                for t in range(used):
                    s = s + load(scaled, where[t] + column + i) * left[t]
                k = to_u16(load(columns, column + i)) + rows[row]
                context, steer = steered(s, k, lifts)
                store(contexts, at + i, context)
                store(steers, at + i, steer)
        else:
            for i in range(here):
                total = 0
                for t in range(used):
                    total += int(left[t]) * int(scaled[where[t] + column + i])
                sums[i] = total & 0xFFFF
                classes[i] = int(rows[row]) + int(columns[column + i])
            context, steer = steered(load(sums, 0), load(classes, 0), lifts)
            store(some, 0, context)
            store(more, 0, steer)
            for i in range(here):
                contexts[at + i], steers[at + i] = some[i], more[i]
        at += here
    return OK


@inlined
def sign_context(field: Lanes, steer: Lanes, octave_bits: int, first: int, tables: int) -> Lanes:
    """floor((floor(4 * field / octave) + l + 256 - k - first) / 2), at least 0 and below `tables`.

    field and steer in 32 bits; or in 16, if the field is below 2^13.
    """
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
