"""Levels of a uniform grid, and a trellis of 8 states over them (format_spec/expressions.md, section 7.5).

    codes    uint8 or 16 [n], n a multiple of 32
    zero     the code of level 0; with 8 states of levels 0 and 1
    x        float32[n]: elements over their step

The parity of a lane's next level follows from its codes so far: p' = code + p(one before) + p(two before) mod 2, the
8-state code of G. Ungerboeck ("Channel coding with multilevel/phase signals", 1982) as Marcellin and Fischer used it
for sources (1990).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.kernels._jit import inlined, kernel
from slimtensors.kernels.cpu.blocks import LANES
from slimtensors.kernels.cpu.lookup import Convert, product_bf16, product_f16, product_f32, to_bf16, to_f16
from slimtensors.kernels.simd.lanes import Lanes, to_u16, to_u32
from slimtensors.kernels.simd.memory import load, store
from slimtensors.kernels.simd.numbers import plus, times, times_bf16, times_each
from slimtensors.kernels.status import BAD_ARGUMENT, BAD_STREAM, OK

__all__ = [
    "LANES", "codes_of", "levels_bf16", "levels_f16", "levels_f32", "narrow_bf16", "nearest", "scaled_bf16",
    "scaled_f16", "scaled_f32", "search",
]  # fmt: skip

Array = npt.NDArray[Any]

STATES = 8
FAR = np.float32(1e30)  # the cost of states that no path has reached
WHOLE = np.float32(2**23)


@inlined
def levels(convert: Convert, codes: Array, zero: int, states: int, step: float, out: Array) -> int:
    """out[i] = level * step, rounded."""
    if codes.size != out.size or codes.size % LANES != 0 or not 0 <= zero < 1 << 16 or states not in (1, STATES):
        return BAD_ARGUMENT
    if codes.size == 0:
        return OK
    twice = 0 if states == 1 else 1
    # 2^23 + a whole number, by its bits, is exact, and so is the difference from 2^23 + zero.
    below = -(WHOLE + np.float32(zero << twice))
    now = to_u32(load(codes, 0)) & 0
    before, earlier = now, now
    for at in range(0, codes.size, LANES):
        code = to_u32(load(codes, at))
        number = plus((code << twice) + now | 0x4B000000, below)
        store(out, at, convert(number, np.float32(step), out))
        following = (code ^ before ^ earlier) & twice
        earlier, before, now = before, now, following
    return OK


@kernel
def levels_f32(codes: Array, zero: int, states: int, step: float, out: Array) -> int:
    return levels(product_f32, codes, zero, states, step, out)


@kernel
def levels_bf16(codes: Array, zero: int, states: int, step: float, out: Array) -> int:
    return levels(product_bf16, codes, zero, states, step, out)


@kernel
def levels_f16(codes: Array, zero: int, states: int, step: float, out: Array) -> int:
    return levels(product_f16, codes, zero, states, step, out)


@kernel
def narrow_bf16(codes: Array, zero: int, states: int, step: float, out: Array) -> int:
    """As levels_bf16, of uint8 codes and a zero below 256: levels then fit lanes of 16 bits."""
    if codes.size != out.size or codes.size % LANES != 0 or not 0 <= zero < 1 << 8 or states not in (1, STATES):
        return BAD_ARGUMENT
    if codes.size == 0:
        return OK
    twice = 0 if states == 1 else 1
    now = to_u16(load(codes, 0)) & 0
    before, earlier = now, now
    for at in range(0, codes.size, LANES):
        code = to_u16(load(codes, at))
        store(out, at, times_bf16((code - zero << twice) + now, np.float32(step)))
        following = (code ^ before ^ earlier) & twice
        earlier, before, now = before, now, following
    return OK


# ---- a step of its own for each element


@inlined
def unit_f32(x: Lanes) -> Lanes:
    return x


@inlined
def scaled(
    convert: Callable[[Lanes], Lanes],
    codes: Array,
    zero: int,
    states: int,
    step: float,
    rows: Array,
    columns: Array,
    first: int,
    room: Array,
    out: Array,
) -> int:
    """out[i] = level * ((step * row) * column), each product rounded to F32, the last one then to the unit.

    rows     float32[...]  of the codes' rows
    columns  uint32[...]   bits of float32, one for each unit of a row
    first    the first code's place in its row
    room     uint32[32]    for the kernel's use
    """
    if codes.size != out.size or codes.size % LANES != 0 or not 0 <= zero < 1 << 16 or states not in (1, STATES):
        return BAD_ARGUMENT
    if not 0 <= first < columns.size or rows.size * columns.size < first + codes.size or room.size != LANES:
        return BAD_ARGUMENT
    if codes.size == 0:
        return OK
    twice = 0 if states == 1 else 1
    below = -(WHOLE + np.float32(zero << twice))  # as in `levels`
    now = to_u32(load(codes, 0)) & 0
    before, earlier = now, now
    row, column = 0, first
    for at in range(0, codes.size, LANES):
        if column + LANES <= columns.size:
            steps = times(load(columns, column), np.float32(step) * rows[row])
            column += LANES
            if column == columns.size:
                row, column = row + 1, 0
        else:
            for lane in range(LANES):
                number = np.uint32(columns[column]).view(np.float32) * (np.float32(step) * rows[row])
                room[lane] = np.float32(number).view(np.uint32)
                column += 1
                if column == columns.size:
                    row, column = row + 1, 0
            steps = load(room, 0)
        code = to_u32(load(codes, at))
        level = plus((code << twice) + now | 0x4B000000, below)
        store(out, at, convert(times_each(level, steps)))
        following = (code ^ before ^ earlier) & twice
        earlier, before, now = before, now, following
    return OK


@kernel
def scaled_f32(
    codes: Array, zero: int, states: int, step: float, rows: Array, columns: Array, first: int, room: Array, out: Array
) -> int:
    return scaled(unit_f32, codes, zero, states, step, rows, columns, first, room, out)


@kernel
def scaled_bf16(
    codes: Array, zero: int, states: int, step: float, rows: Array, columns: Array, first: int, room: Array, out: Array
) -> int:
    return scaled(to_bf16, codes, zero, states, step, rows, columns, first, room, out)


@kernel
def scaled_f16(
    codes: Array, zero: int, states: int, step: float, rows: Array, columns: Array, first: int, room: Array, out: Array
) -> int:
    return scaled(to_f16, codes, zero, states, step, rows, columns, first, room, out)


@kernel
def nearest(x: Array, zero: int, most: int, codes: Array) -> int:
    """Codes of the nearest levels, halves to even, cut to 0 ... most; one state. codes uint16."""
    if codes.size != x.size or not 0 <= zero <= most < 1 << 16:
        return BAD_ARGUMENT
    low, high = np.float32(-zero), np.float32(most - zero)
    for i in range(x.size):
        codes[i] = np.int32(min(max(np.rint(x[i]), low), high)) + zero
    return OK


@kernel
def codes_of(x: Array, zero: int, most: int, codes: Array) -> int:
    """Codes, with 8 states, of what are levels already; BAD_STREAM if a level has not the parity that it must have."""
    if codes.size != x.size or codes.size % LANES != 0 or not 0 <= zero <= most < 1 << 16:
        return BAD_ARGUMENT
    parity = np.zeros((3, LANES), np.int32)
    wrong = 0
    for at in range(0, x.size, LANES):
        for lane in range(LANES):
            level = np.int32(min(max(np.rint(x[at + lane]), np.float32(-(1 << 20))), np.float32(1 << 20)))
            code = (level >> 1) + zero
            following = (code ^ parity[1, lane] ^ parity[2, lane]) & 1
            wrong |= (level & 1) ^ parity[0, lane] | (code < 0) | (code > most)
            parity[2, lane], parity[1, lane], parity[0, lane] = parity[1, lane], parity[0, lane], following
            codes[at + lane] = code
    return OK if wrong == 0 else BAD_STREAM


@kernel
def search(x: Array, slack: Array, zero: int, most: int, chosen: Array, codes: Array) -> int:
    """Codes, with 8 states, of the path with the least sum of squared distances; how far the nearest end of x +- slack
    is from a level counts. Method: A. J. Viterbi's (1967), lane by lane.

    slack float32[n], or [0] for none. chosen uint8[n], for the kernel's use. codes uint16[n].
    """
    if codes.size != x.size or codes.size % LANES != 0 or chosen.size != x.size or not 0 <= zero <= most < 1 << 16:
        return BAD_ARGUMENT
    if slack.size not in (0, x.size):
        return BAD_ARGUMENT
    low, high = np.float32(-2 * zero), np.float32(2 * (most - zero))
    cost, following = np.full((STATES, LANES), FAR, np.float32), np.empty((STATES, LANES), np.float32)
    away, least = np.empty((4, LANES), np.float32), np.empty(LANES, np.float32)
    cost[0] = np.float32(0)
    for at in range(0, x.size, LANES):
        for subset in range(4):
            for lane in range(LANES):
                d = abs(x[at + lane] - level_of(x[at + lane], subset, low, high))
                if slack.size != 0:
                    d = max(d - slack[at + lane], np.float32(0))
                away[subset, lane] = d * d
        for lane in range(LANES):
            chosen[at + lane] = 0
            least[lane] = FAR
        for state in range(STATES):
            # Its last bit was the branch; the one before it begins with 0, or with 1.
            one, other = state >> 1, (state >> 1) + 4
            first, second = subset_of(one, state & 1), subset_of(other, state & 1)
            for lane in range(LANES):
                a, b = cost[one, lane] + away[first, lane], cost[other, lane] + away[second, lane]
                chosen[at + lane] |= np.uint8((1 if b < a else 0) << state)
                best = b if b < a else a
                following[state, lane] = best
                least[lane] = min(least[lane], best)
        for state in range(STATES):
            for lane in range(LANES):
                cost[state, lane] = following[state, lane] - least[lane]
    for lane in range(LANES):
        state = 0
        for other in range(1, STATES):
            state = other if cost[other, lane] < cost[state, lane] else state
        for at in range(x.size - LANES + lane, -1, -LANES):
            before = (state >> 1) + 4 * (chosen[at] >> state & 1)
            level = level_of(x[at], subset_of(before, state & 1), low, high)
            code = (np.int32(level) - (before & 1) >> 1) + zero
            codes[at] = min(max(code, 0), most)  # of fewer than four codes not all states have a level
            state = before
    return OK


@inlined
def subset_of(state: int, branch: int) -> int:
    """Levels mod 4 on a branch. The state's bits are the parities of this level, the one before, and the one before
    that; the branch is the next parity.
    """
    code = branch ^ state >> 1 & 1 ^ state >> 2 & 1
    return 2 * code + (state & 1)


@inlined
def level_of(number: Any, subset: int, low: Any, high: Any) -> Any:
    """The nearest level of a subset, between the levels that codes have."""
    four = np.float32(4)
    inside = min(max(number, low), high + np.float32(1))
    # 4 * floor((x - subset) / 4 + 1/2) + subset, and one up or down where that is outside
    level = four * np.floor((inside - np.float32(subset)) * np.float32(0.25) + np.float32(0.5)) + np.float32(subset)
    level = level + four if level < low else level
    return level - four if level > high + np.float32(1) else level
