"""Decode a chunk's body whose coded planes have a mean (coder.md, section 7.1), signs and all.

A run of units at a time, so that what is told of them stays in the first-level cache: what the mean says of them, then
all but their signs, then the signs. Arguments as in class_kernels.py, but for

    window   (base, octave)
    choose   (octave's bits, first, tables)  of the signs' contexts
    zeros    uint16[32]                      of each of these, the frequency of symbol 0 in 4096; 0: absent
    stream   (states, words, starts)         of the plane on top
    signs    the same of the signs, in as many blocks
    escapes  (positions uint32[e], fields uint16[e])  of the plane on top
    steering (rows, of_rows, of_columns, lifted)      as steer_units takes them
    place    (the first unit's number, columns)

BAD_STREAM also for a table of signs that is absent, or an escape where the field is not 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.kernels._jit import inlined, kernel, shared
from slimtensors.kernels.cpu import join
from slimtensors.kernels.cpu.blocks import LANES, are_blocks, first_step
from slimtensors.kernels.cpu.class_kernels import MOST_OCTAVE
from slimtensors.kernels.cpu.decode import (
    MOST_TABLES,
    States,
    class_tables,
    decode_step,
    ended_well,
    load_states,
    refill,
)
from slimtensors.kernels.cpu.mean import BIAS, MOST_OCTAVE_BITS, RUN, SPARE, can_steer, steer_run
from slimtensors.kernels.cpu.table import SLOTS
from slimtensors.kernels.simd.lanes import Lanes, as_in, count, increment, mul_high, select, to_u16
from slimtensors.kernels.simd.memory import load, store
from slimtensors.kernels.simd.permute import permute
from slimtensors.kernels.status import BAD_ARGUMENT, BAD_STREAM, OK

Array = npt.NDArray[Any]
Window = tuple[int, int]
Choose = tuple[int, int, int]
Stream = tuple[Array, Array, Array]
Escapes = tuple[Array, Array]
Steering = tuple[Array, Array, Array, Array]
Place = tuple[int, int]

MOST_SIGN_TABLES = 32
WHOLE = 4096  # slots
NEGATIVE = 1 << 15
NOTHING = 0xC000  # a steer below all others, in two's complement; they are from -16382 on
MOST_EXPECTED = 1 << 13  # for fields of up to 10 bits: with more, all contexts are 0
STEPS, SPAN = RUN // LANES, (RUN + SPARE) // LANES  # of a run, and from one block's run to the next one's

unsigned_u8_7, unsigned_u16_7_8 = join.unsigned_u8_7, join.unsigned_u16_7_8
unsigned_u16_5_10, unsigned_u32_8_8_5_10 = join.unsigned_u16_5_10, join.unsigned_u32_8_8_5_10


@kernel
def decode_u8_7(
    table: Array, window: Window, choose: Choose, zeros: Array, stream: Stream, signs: Stream, escapes: Escapes,
    steering: Steering, place: Place, out: Array,
) -> int:  # fmt: skip
    """FP8 [1 sign, 7 coded]."""
    return decode_runs(
        unsigned_u8_7, 0, table, window, choose, zeros, stream, signs, escapes, steering, place, (), out
    )


@kernel
def decode_u16_7_8(
    table: Array, window: Window, choose: Choose, zeros: Array, stream: Stream, signs: Stream, escapes: Escapes,
    steering: Steering, place: Place, nibbles: Array, crumbs: Array, bits: Array, out: Array,
) -> int:  # fmt: skip
    """FP16 [1 sign, 7 raw, 8 coded]."""
    if nibbles.size != out.size // 2 or crumbs.size != out.size // 4 or bits.size != LANES * ((out.size + 255) // 256):
        return BAD_ARGUMENT
    pieces = (nibbles, crumbs, bits)
    return decode_runs(
        unsigned_u16_7_8, 7, table, window, choose, zeros, stream, signs, escapes, steering, place, pieces, out
    )


@kernel
def decode_u16_5_10(
    table: Array, window: Window, choose: Choose, zeros: Array, stream: Stream, signs: Stream, escapes: Escapes,
    steering: Steering, place: Place, nibbles: Array, bits: Array, out: Array,
) -> int:  # fmt: skip
    """BF16 [1 sign, 5 raw, 10 coded]."""
    if nibbles.size != out.size // 2 or bits.size != LANES * ((out.size + 255) // 256):
        return BAD_ARGUMENT
    pieces = (nibbles, bits)
    return decode_runs(
        unsigned_u16_5_10, 5, table, window, choose, zeros, stream, signs, escapes, steering, place, pieces, out
    )


@kernel
def decode_u32_8_8_5_10(
    table: Array, window: Window, choose: Choose, zeros: Array, stream: Stream, signs: Stream, escapes: Escapes,
    steering: Steering, place: Place, low: Array, mid: Array, nibbles: Array, bits: Array, out: Array,
) -> int:  # fmt: skip
    """FP32 [1 sign, 8, 8, 5 raw, 10 coded]."""
    if low.size != out.size or mid.size != out.size or nibbles.size != out.size // 2:
        return BAD_ARGUMENT
    if bits.size != LANES * ((out.size + 255) // 256):
        return BAD_ARGUMENT
    pieces = (low, mid, nibbles, bits)
    return decode_runs(
        unsigned_u32_8_8_5_10, 21, table, window, choose, zeros, stream, signs, escapes, steering, place, pieces, out
    )


# ---- escapes and signs


@shared
def put_escapes(out: Array, shift: int, begin: int, end: int, escapes: Escapes, following: Array, member: int) -> bool:
    """Put escapes from number following[member] on into units begin to end - 1, and move on; whether all were 0."""
    positions, fields = escapes
    i, sound = following[member], True
    while i < positions.size and np.int64(positions[i]) < begin:
        i += 1
    while i < positions.size and np.int64(positions[i]) < end:
        at = max(np.int64(positions[i]), begin)  # they rise, but for damage
        sound &= np.int64(out[at]) >> shift == 0
        out[at] = np.int64(out[at]) | np.int64(fields[i]) << shift
        i += 1
    following[member] = i
    return bool(sound)


@inlined
def decode_sign_step(
    zeros: Lanes, choose: tuple[int, int, int], steer: Lanes, t: int, words: Array, last: int, x: States, at: int,
    out: Array,
) -> tuple[Lanes, States, int]:  # fmt: skip
    """Put a sign into each lane's element: (frequencies of symbol 0, states, index of the next word)."""
    right, left, tables = choose
    units = load(out, LANES * t)
    # floor((floor(4 * field / octave) + l + 256 - k - first) / 2), at least 0 and below `tables`. Twice what is halved
    # is a sum in two's complement, whose lowest bit, the sign expected, does not count.
    likely = steer + (to_u16(units >> right) << left)
    above = select(likely < NEGATIVE, likely, steer & 0) >> 2
    context = select(above < tables, above, (steer & 0) + (tables - 1))
    frequency = permute(zeros, context)
    high, low = x
    slot = low & 0xFFF
    one = slot >= frequency
    # x = frequency * floor(x / 2^12) + slot - start, as in decode.decode_step
    f = select(one, WHOLE - frequency, frequency) << 4
    rest = mul_high(f, low & 0xF000) + select(one, slot - frequency, slot)
    low = f * high + rest
    high = increment(mul_high(f, high), low < rest)
    x, at = refill(words, last, (high, low), at)
    sign = select(one, steer & 0 | 1, steer & 0) ^ steer & 1
    store(out, LANES * t, units | as_in(out, sign) << out.itemsize * 8 - 1)
    return frequency, x, at


# ---- runs


@inlined
def decode_runs(
    join: Callable[..., Lanes], shift: int, table: Array, window: Window, choose: Choose, zeros: Array, stream: Stream,
    signs: Stream, escapes: Escapes, steering: Steering, place: Place, pieces: tuple[Array, ...], out: Array,
) -> int:  # fmt: skip
    """The body of the kernels; `pieces` have the lengths that `out` asks for. shift: below the field."""
    states, words, starts = stream
    sign_states, sign_words, sign_starts = signs
    rows, of_rows, of_columns, lifted = steering
    begin, width = place
    blocks = starts.size - 1
    last, last_sign = words.size - LANES, sign_words.size - LANES
    if not are_blocks(out.size, blocks) or last < 0 or last_sign < 0 or states.size != blocks * LANES:
        return BAD_ARGUMENT
    if sign_starts.size != starts.size or sign_states.size != states.size or escapes[0].size != escapes[1].size:
        return BAD_ARGUMENT
    if not SLOTS <= table.size <= MOST_TABLES * SLOTS or table.size & table.size - 1 != 0:
        return BAD_ARGUMENT
    if not 0 <= window[0] < 1 << 16 or not 0 <= window[1] <= MOST_OCTAVE or zeros.size != MOST_SIGN_TABLES:
        return BAD_ARGUMENT
    if not 0 <= choose[0] <= MOST_OCTAVE_BITS or not 0 <= choose[1] < 1 << 16 or not 1 <= choose[2] <= zeros.size:
        return BAD_ARGUMENT
    if not can_steer(rows, of_rows, of_columns, width, lifted, begin, out.size):
        return BAD_ARGUMENT

    number = of_rows.size // rows.size + LANES
    left, which = np.zeros(number, np.uint16), np.zeros(number, np.uint16)
    octave_bits, expected, tables = choose
    # Where a field is followed by so many bits, floor(4 * field / octave) is a shift to the right, if not to the left.
    choice = shift + max(octave_bits - 2, 0), 1 + max(2 - octave_bits, 0), tables
    offset = 2 * (BIAS - min(expected, MOST_EXPECTED))
    contexts, steers = np.zeros(4 * SPAN * LANES, np.uint8), np.zeros(4 * SPAN * LANES, np.uint16)
    here = (contexts,)
    following, zero = np.zeros(4, np.int64), np.int64(0)  # for a literal Numba would compile steer_run once more
    of_zero = load(zeros, 0)
    lacking = of_zero & 0
    sound = True
    for block in range(0, blocks, 4):
        members = min(4, blocks - block)
        # As in decode.decode_blocks, but nothing is decoded twice: signs are put where none are.
        b0, b1, b2, b3 = block, min(block + 1, blocks - 1), min(block + 2, blocks - 1), min(block + 3, blocks - 1)
        t0, t1 = first_step(out.size, blocks, b0), first_step(out.size, blocks, b1)
        t2, t3 = first_step(out.size, blocks, b2), first_step(out.size, blocks, b3)
        x0, at0 = load_states(states, b0), min(max(starts[b0], 0), last)
        x1, at1 = load_states(states, b1), min(max(starts[b1], 0), last)
        x2, at2 = load_states(states, b2), min(max(starts[b2], 0), last)
        x3, at3 = load_states(states, b3), min(max(starts[b3], 0), last)
        y0, to0 = load_states(sign_states, b0), min(max(sign_starts[b0], 0), last_sign)
        y1, to1 = load_states(sign_states, b1), min(max(sign_starts[b1], 0), last_sign)
        y2, to2 = load_states(sign_states, b2), min(max(sign_starts[b2], 0), last_sign)
        y3, to3 = load_states(sign_states, b3), min(max(sign_starts[b3], 0), last_sign)
        firsts = (t0, t1, t2, t3)
        steps = out.size // 128 // blocks * 4 if members == 4 else 0
        for done in range(0, steps, STEPS):
            n = min(STEPS, steps - done)
            for member in range(4):
                steer_run(
                    rows, of_rows, of_columns, width, lifted, offset, NOTHING, left, which,
                    begin + LANES * (firsts[member] + done), LANES * n, contexts, steers, LANES * SPAN * member,
                )  # fmt: skip
            u0, u1, u2, u3 = t0 + done, t1 + done, t2 + done, t3 + done
            for t in range(n):
                s0, x0, at0 = decode_step(class_tables, here, t, table, (), words, last, x0, at0)
                s1, x1, at1 = decode_step(class_tables, here, SPAN + t, table, (), words, last, x1, at1)
                s2, x2, at2 = decode_step(class_tables, here, 2 * SPAN + t, table, (), words, last, x2, at2)
                s3, x3, at3 = decode_step(class_tables, here, 3 * SPAN + t, table, (), words, last, x3, at3)
                k0, k1 = to_u16(load(contexts, LANES * t)), to_u16(load(contexts, LANES * (SPAN + t)))
                store(out, LANES * (u0 + t), join(pieces, u0 + t, window, k0, s0))
                store(out, LANES * (u1 + t), join(pieces, u1 + t, window, k1, s1))
                k2 = to_u16(load(contexts, LANES * (2 * SPAN + t)))
                store(out, LANES * (u2 + t), join(pieces, u2 + t, window, k2, s2))
                k3 = to_u16(load(contexts, LANES * (3 * SPAN + t)))
                store(out, LANES * (u3 + t), join(pieces, u3 + t, window, k3, s3))
            for member in range(4):
                u = firsts[member] + done
                sound &= put_escapes(out, shift, LANES * u, LANES * (u + n), escapes, following, member)
            for t in range(n):
                g0, g1 = load(steers, LANES * t), load(steers, LANES * (SPAN + t))
                f0, y0, to0 = decode_sign_step(of_zero, choice, g0, u0 + t, sign_words, last_sign, y0, to0, out)
                f1, y1, to1 = decode_sign_step(of_zero, choice, g1, u1 + t, sign_words, last_sign, y1, to1, out)
                g2, g3 = load(steers, LANES * (2 * SPAN + t)), load(steers, LANES * (3 * SPAN + t))
                f2, y2, to2 = decode_sign_step(of_zero, choice, g2, u2 + t, sign_words, last_sign, y2, to2, out)
                f3, y3, to3 = decode_sign_step(of_zero, choice, g3, u3 + t, sign_words, last_sign, y3, to3, out)
                absent = (f0 == 0) | (f1 == 0) | (f2 == 0) | (f3 == 0)
                lacking = select(absent, lacking & 0 | 1, lacking)

        # What is left of each: one group or none, or the whole of it.
        top, below = (x0, x1, x2, x3), (y0, y1, y2, y3)
        tops, belows = (at0, at1, at2, at3), (to0, to1, to2, to3)
        for member in range(members):
            x, at, y, to = top[member], tops[member], below[member], belows[member]
            end = first_step(out.size, blocks, block + member + 1)
            for u in range(firsts[member] + steps, end, STEPS):
                n = min(STEPS, end - u)
                steer_run(
                    rows, of_rows, of_columns, width, lifted, offset, NOTHING, left, which, begin + LANES * u,
                    LANES * n, contexts, steers, zero,
                )  # fmt: skip
                for t in range(n):
                    s, x, at = decode_step(class_tables, here, t, table, (), words, last, x, at)
                    k = to_u16(load(contexts, LANES * t))
                    store(out, LANES * (u + t), join(pieces, u + t, window, k, s))
                sound &= put_escapes(out, shift, LANES * u, LANES * (u + n), escapes, following, member)
                for t in range(n):
                    g = load(steers, LANES * t)
                    f, y, to = decode_sign_step(of_zero, choice, g, u + t, sign_words, last_sign, y, to, out)
                    lacking = select(f == 0, lacking & 0 | 1, lacking)
            sound &= ended_well(starts, block + member, x, at) and ended_well(sign_starts, block + member, y, to)
    return OK if sound and count(lacking != 0) == 0 else BAD_STREAM
