"""Decode a chunk's body whose coded planes have a mean (coder.md, section 7.1): all but the signs, then the signs.

The first four kernels are as those in class_kernels.py, without the plane of signs: its bit of each element is 0.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from slimtensors.kernels._jit import inlined, kernel
from slimtensors.kernels.cpu import join
from slimtensors.kernels.cpu.blocks import LANES, are_blocks, first_step
from slimtensors.kernels.cpu.class_kernels import fit
from slimtensors.kernels.cpu.decode import States, class_tables, decode_blocks, ended_well, load_states, refill
from slimtensors.kernels.cpu.mean import MOST_OCTAVE_BITS, sign_context
from slimtensors.kernels.simd.lanes import Lanes, as_in, count, increment, mul_high, select, to_u16
from slimtensors.kernels.simd.memory import load, store
from slimtensors.kernels.simd.permute import permute
from slimtensors.kernels.status import BAD_ARGUMENT, BAD_STREAM, OK

Array = npt.NDArray[Any]

MOST_SIGN_TABLES = 32
WHOLE = 4096  # slots

unsigned_u8_7, unsigned_u16_7_8 = join.unsigned_u8_7, join.unsigned_u16_7_8
unsigned_u16_5_10, unsigned_u32_8_8_5_10 = join.unsigned_u16_5_10, join.unsigned_u32_8_8_5_10


@kernel
def decode_u8_7(
    table: Array, base: int, octave: int, states: Array, words: Array, starts: Array, contexts: Array, out: Array
) -> int:
    """FP8 [1 sign, 7 coded]."""
    if not fit(octave, contexts, out):
        return BAD_ARGUMENT
    return decode_blocks(
        class_tables, unsigned_u8_7, table, (), (base, octave), states, words, starts, (contexts,), out
    )


@kernel
def decode_u16_7_8(
    table: Array,
    base: int,
    octave: int,
    states: Array,
    words: Array,
    starts: Array,
    nibbles: Array,
    crumbs: Array,
    bits: Array,
    contexts: Array,
    out: Array,
) -> int:
    """FP16 [1 sign, 7 raw, 8 coded]."""
    if not fit(octave, contexts, out) or nibbles.size != out.size // 2 or crumbs.size != out.size // 4:
        return BAD_ARGUMENT
    if bits.size != LANES * ((out.size + 255) // 256):
        return BAD_ARGUMENT
    pieces = (nibbles, crumbs, bits, contexts)
    return decode_blocks(class_tables, unsigned_u16_7_8, table, (), (base, octave), states, words, starts, pieces, out)


@kernel
def decode_u16_5_10(
    table: Array,
    base: int,
    octave: int,
    states: Array,
    words: Array,
    starts: Array,
    nibbles: Array,
    bits: Array,
    contexts: Array,
    out: Array,
) -> int:
    """BF16 [1 sign, 5 raw, 10 coded]."""
    if not fit(octave, contexts, out) or nibbles.size != out.size // 2:
        return BAD_ARGUMENT
    if bits.size != LANES * ((out.size + 255) // 256):
        return BAD_ARGUMENT
    pieces = (nibbles, bits, contexts)
    return decode_blocks(class_tables, unsigned_u16_5_10, table, (), (base, octave), states, words, starts, pieces, out)


@kernel
def decode_u32_8_8_5_10(
    table: Array,
    base: int,
    octave: int,
    states: Array,
    words: Array,
    starts: Array,
    low: Array,
    mid: Array,
    nibbles: Array,
    bits: Array,
    contexts: Array,
    out: Array,
) -> int:
    """FP32 [1 sign, 8, 8, 5 raw, 10 coded]."""
    if low.size != out.size or mid.size != out.size or nibbles.size != out.size // 2:
        return BAD_ARGUMENT
    if not fit(octave, contexts, out) or bits.size != LANES * ((out.size + 255) // 256):
        return BAD_ARGUMENT
    pieces = (low, mid, nibbles, bits, contexts)
    return decode_blocks(
        class_tables, unsigned_u32_8_8_5_10, table, (), (base, octave), states, words, starts, pieces, out
    )


# ---- signs


@inlined
def decode_sign_step(
    zeros: Lanes, choose: tuple[int, int, int, int], steers: Array, t: int, words: Array, last: int, x: States, at: int,
    out: Array,
) -> tuple[Lanes, States, int]:  # fmt: skip
    """Put a sign into each lane's element: (frequencies of symbol 0, states, index of the next word)."""
    shift, octave_bits, first, tables = choose
    units, steer = load(out, LANES * t), load(steers, LANES * t)
    context = sign_context(to_u16(units >> shift), steer, octave_bits, first, tables)
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


@kernel
def decode_signs(
    zeros: Array,
    shift: int,
    octave_bits: int,
    first: int,
    tables: int,
    steers: Array,
    states: Array,
    words: Array,
    starts: Array,
    out: Array,
) -> int:
    """Put the signs above elements whose highest bit is 0.

    zeros   uint16[32]               of each context, the frequency of symbol 0 in 4096 (precision 12); 0: absent
    shift                            below the elements' field; what is above is below 2^14
    steers  uint16[n]                as steer_units makes them
    out     uint8, uint16, uint32 [n]

    The other arguments, and the status, as in decode_kernels.py; BAD_STREAM also for a table that is absent.
    """
    blocks = starts.size - 1
    last = words.size - LANES
    if not are_blocks(out.size, blocks) or last < 0 or states.size != blocks * LANES or steers.size != out.size:
        return BAD_ARGUMENT
    if zeros.size != MOST_SIGN_TABLES or not 1 <= tables <= MOST_SIGN_TABLES or not 0 <= first < 1 << 16:
        return BAD_ARGUMENT
    if not 0 <= octave_bits <= MOST_OCTAVE_BITS or not out.itemsize * 8 - 15 <= shift < out.itemsize * 8 or shift < 0:
        return BAD_ARGUMENT
    choose = (shift, octave_bits, first, tables)
    of_zero = load(zeros, 0)
    sound = True
    lacking = load(steers, 0) & 0
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
        steps = out.size // 128 // blocks * 4 if members == 4 else 0
        for t in range(steps):
            f0, x0, at0 = decode_sign_step(of_zero, choose, steers, t0 + t, words, last, x0, at0, out)
            f1, x1, at1 = decode_sign_step(of_zero, choose, steers, t1 + t, words, last, x1, at1, out)
            f2, x2, at2 = decode_sign_step(of_zero, choose, steers, t2 + t, words, last, x2, at2, out)
            f3, x3, at3 = decode_sign_step(of_zero, choose, steers, t3 + t, words, last, x3, at3, out)
            absent = (f0 == 0) | (f1 == 0) | (f2 == 0) | (f3 == 0)
            lacking = select(absent, lacking & 0 | 1, lacking)
        firsts, states_now, ats = (t0, t1, t2, t3), (x0, x1, x2, x3), (at0, at1, at2, at3)
        for member in range(members):
            x, at = states_now[member], ats[member]
            for t in range(firsts[member] + steps, first_step(out.size, blocks, block + member + 1)):
                f, x, at = decode_sign_step(of_zero, choose, steers, t, words, last, x, at, out)
                lacking = select(f == 0, lacking & 0 | 1, lacking)
            sound &= ended_well(starts, block + member, x, at)
    return OK if sound and count(lacking != 0) == 0 else BAD_STREAM
