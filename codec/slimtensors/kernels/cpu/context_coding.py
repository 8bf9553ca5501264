"""rANS with a table for each context, both ways (coder.md, section 7).

The tables lie one after another and make one: the context is put above the slot. Their number is rounded up to a power
of two, so that a mask keeps every look-up inside.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy.typing as npt

from slimtensors.kernels._jit import inlined, kernel
from slimtensors.kernels.cpu.blocks import LANES, STATE_MIN, are_blocks, first_step
from slimtensors.kernels.cpu.bypass import bypass_bits, encode_bypass_step
from slimtensors.kernels.cpu.decode import ended_well
from slimtensors.kernels.cpu.encode import encode_step
from slimtensors.kernels.cpu.table import (
    ABSENT,
    FIELD_BITS,
    FREQUENCY_SHIFT,
    LEAST_PRECISION,
    LOW,
    MOST_PRECISION,
    SYMBOL_SHIFT,
    SYMBOLS,
)
from slimtensors.kernels.simd.lanes import Lanes, as_in, count, high_u16, select, to_u16, to_u32
from slimtensors.kernels.simd.memory import gather, load, store
from slimtensors.kernels.simd.streams import take
from slimtensors.kernels.status import BAD_ARGUMENT, BAD_STREAM, OK

Array = npt.NDArray[Any]
Window = tuple[int, int, int]  # base, octave, width


@inlined
def refill_whole(words: Array, last: int, x: Lanes, at: int) -> tuple[Lanes, int]:
    """`refill` for states in 32 bits."""
    # if x < 2^16:  x = 2^16 * x + word
    hungry = x < STATE_MIN
    word = to_u32(take(words, min(at, last), hungry, to_u16(x) & 0))
    return select(hungry, x << 16, x) | word, at + count(hungry)


@inlined
def decode_context_step(
    table: Array, precision: int, words: Array, last: int, context: Lanes, x: Lanes, at: int
) -> tuple[Lanes, Lanes, int]:
    """Read one symbol from each lane, of its context's table: (symbols in 32 bits, states, index of the next word)."""
    # slot = x mod 2^P
    entry = gather(table, (context << precision | x & (1 << precision) - 1) & table.size - 1)
    # x = frequency * floor(x / 2^P) + bias; the entry holds 2^(12 - P) * frequency
    x = (entry >> FREQUENCY_SHIFT + MOST_PRECISION - precision) * (x >> precision) + (entry & LOW)
    x, at = refill_whole(words, last, x, at)
    return entry >> SYMBOL_SHIFT & SYMBOLS - 1, x, at


@inlined
def read_window(
    window: Window, s: Lanes, context: Lanes, _words: Array, _last: int, x: Lanes, at: int
) -> tuple[Lanes, Lanes, int]:
    """The fields of symbols that count from a base, an octave higher for each four classes, round about the plane."""
    # the field is v = base + s + octave * floor(k / 4), less 2^w - 1 if it is 2^w or more; symbol 0 is field 0
    v = s + window[0] + (context >> 2) * window[1]
    v = select(v >> window[2] != 0, v - ((1 << window[2]) - 1), v)
    return select(s != 0, v, s), x, at


@inlined
def read_bypass(
    _window: Window, s: Lanes, _context: Lanes, words: Array, last: int, x: Lanes, at: int
) -> tuple[Lanes, Lanes, int]:
    """The fields of bit lengths, and of bits that went through the states."""
    k = bypass_bits(s)
    # v = x mod 2^k; x = floor(x / 2^k); then the refill
    rest = x >> k
    # the field is (8 + s mod 8) * 2^k + v = x + (8 + s mod 8 - rest) * 2^k
    field = select(s < 8, s, x + ((s & 7 | 8) - rest << k))
    x, at = refill_whole(words, last, rest, at)
    return field, x, at


@inlined
def decode_blocks(
    read: Callable[..., tuple[Lanes, Lanes, int]],
    window: Window,
    table: Array,
    precision: int,
    width: int,
    contexts: Array,
    states: Array,
    words: Array,
    starts: Array,
    out: Array,
) -> int:
    """The body of the two decoders, two blocks at a time."""
    blocks = starts.size - 1
    last = words.size - LANES
    if not are_blocks(out.size, blocks) or last < 0 or states.size != blocks * LANES or contexts.size != out.size:
        return BAD_ARGUMENT
    if not LEAST_PRECISION <= precision <= MOST_PRECISION or not 1 <= width <= out.itemsize * 8:
        return BAD_ARGUMENT
    if table.size < 1 << precision or table.size & table.size - 1 != 0:
        return BAD_ARGUMENT
    sound = True
    seen = load(states, 0) >> 31 >> 1  # all zero
    for block in range(0, blocks, 2):
        members = min(2, blocks - block)
        b0, b1 = block, min(block + 1, blocks - 1)
        t0, t1 = first_step(out.size, blocks, b0), first_step(out.size, blocks, b1)
        x0, at0 = load(states, b0 * LANES), min(max(starts[b0], 0), last)
        x1, at1 = load(states, b1 * LANES), min(max(starts[b1], 0), last)
        steps = out.size // 128 // blocks * 4 if members == 2 else 0
        for t in range(steps):
            c = to_u32(load(contexts, LANES * (t0 + t)))
            s, x0, at0 = decode_context_step(table, precision, words, last, c, x0, at0)
            f, x0, at0 = read(window, s, c, words, last, x0, at0)
            seen = seen | f
            store(out, LANES * (t0 + t), as_in(out, f))
            c = to_u32(load(contexts, LANES * (t1 + t)))
            s, x1, at1 = decode_context_step(table, precision, words, last, c, x1, at1)
            f, x1, at1 = read(window, s, c, words, last, x1, at1)
            seen = seen | f
            store(out, LANES * (t1 + t), as_in(out, f))
        firsts, states_now, ats = (t0, t1), (x0, x1), (at0, at1)
        for member in range(members):
            x, at = states_now[member], ats[member]
            for t in range(firsts[member] + steps, first_step(out.size, blocks, block + member + 1)):
                c = to_u32(load(contexts, LANES * t))
                s, x, at = decode_context_step(table, precision, words, last, c, x, at)
                f, x, at = read(window, s, c, words, last, x, at)
                seen = seen | f
                store(out, LANES * t, as_in(out, f))
            sound &= ended_well(starts, block + member, (high_u16(x), to_u16(x)), at)
    # A field that is too wide leaves a bit here.
    return OK if sound and count(seen >> width != 0) == 0 else BAD_STREAM


@kernel
def decode_context_fields(
    table: Array,
    base: int,
    octave: int,
    width: int,
    contexts: Array,
    states: Array,
    words: Array,
    starts: Array,
    out: Array,
) -> int:
    """Decode a plane of mode `coded`.

    table     uint32[4096 * tables]  as build_table fills each; tables is a power of two
    contexts  uint8[n]               the table is the context modulo `tables`
    out       uint8 or uint16 [n]    n is a multiple of 128

    The other arguments, and the status, as in decode_kernels.py; BAD_STREAM also for a field of more than `width` bits.
    """
    if not 0 <= base < 1 << 16 or not 0 <= octave <= 16:
        return BAD_ARGUMENT
    if not 1 <= width <= 16:
        return BAD_ARGUMENT
    window = base, octave, width
    return decode_blocks(read_window, window, table, MOST_PRECISION, width, contexts, states, words, starts, out)


@kernel
def decode_context_bypass(
    table: Array, precision: int, width: int, contexts: Array, states: Array, words: Array, starts: Array, out: Array
) -> int:
    """Decode a plane of mode `bypass`; out uint16[n].

    table  uint32[2^precision * tables]  of each, the first 2^precision entries of what build_table fills: tables of 11
           bits, which have half as many, are in the caches more often
    """
    return decode_blocks(read_bypass, (0, 0, 0), table, precision, width, contexts, states, words, starts, out)


@kernel
def has_frequencies(table: Array) -> bool:
    """Whether an encoder's tables divide by no zero."""
    lowest = LOW
    for i in range(table.size):
        lowest = min(lowest, table[i] >> FIELD_BITS & LOW)
    return lowest > 0


@inlined
def encode_blocks(
    bypass: bool,
    fields: Array,
    joined: Array,
    table: Array,
    precision: int,
    words_each: int,
    words: Array,
    states: Array,
    counts: Array,
) -> int:
    """The body of the two encoders."""
    blocks = counts.size
    if not are_blocks(joined.size, blocks) or states.size != blocks * LANES or words.size != words_each * joined.size:
        return BAD_ARGUMENT
    if not LEAST_PRECISION <= precision <= MOST_PRECISION or fields.size != joined.size:
        return BAD_ARGUMENT
    if table.size < SYMBOLS or table.size & table.size - 1 != 0 or not has_frequencies(table):
        return BAD_ARGUMENT
    for i in range(states.size):
        states[i] = STATE_MIN
    seen = load(states, 0) >> 31  # all zero
    for block in range(blocks):
        x = load(states, block * LANES)
        top = words_each * LANES * first_step(joined.size, blocks, block + 1)
        end = top
        for t in range(top // (words_each * LANES) - 1, first_step(joined.size, blocks, block) - 1, -1):
            entry = gather(table, to_u32(load(joined, LANES * t)) & table.size - 1)
            seen = seen | entry
            if bypass:
                x, end = encode_bypass_step(to_u32(load(fields, LANES * t)), entry, precision, words, x, end)
            else:
                x, end = encode_step(entry, precision, words, x, end)
        store(states, block * LANES, x)
        counts[block] = top - end
    return OK if count(seen >= ABSENT) == 0 else BAD_ARGUMENT


@kernel
def encode_context_symbols(
    joined: Array, table: Array, precision: int, words: Array, states: Array, counts: Array
) -> int:
    """Encode a plane of mode `coded`; words as in encode_symbols.

    joined  uint16[n]             256 * table + symbol
    table   uint32[256 * tables]  as build_encoder_table fills each; tables is a power of two
    """
    return encode_blocks(False, joined, joined, table, precision, 1, words, states, counts)


@kernel
def encode_context_bypass(
    fields: Array, joined: Array, table: Array, precision: int, words: Array, states: Array, counts: Array
) -> int:
    """Encode a plane of mode `bypass`: fields uint16[n], words as in encode_bypass."""
    return encode_blocks(True, fields, joined, table, precision, 2, words, states, counts)
