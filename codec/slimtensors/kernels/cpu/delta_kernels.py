"""Differences of 16 bits from a base, in one pass: contexts made of the base, fields of mode bypass decoded, the
differences that they stand for added (coder.md, sections 6 and 7; expressions.md, section 8).

States lie in halves of 16 bits (decode.py), of which shifts by bypass bits are single instructions with AVX-512. Tables
are of 11 bits, so

    x = frequency * floor(x / 2^11) + bias

and with f = 32 * frequency, of a state's halves high and low,

    x = f * high + floor(f * (low - low mod 2^11) / 2^16) + bias

The ten bits that are left say what the symbol stands for, field = m * 2^k + v with v of k bits (`recode`): k below the
frequency, m above the bias.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from slimtensors.kernels._jit import inlined, kernel, shared
from slimtensors.kernels.cpu.blocks import LANES, are_blocks, first_step
from slimtensors.kernels.cpu.bypass import bypass_bits
from slimtensors.kernels.cpu.decode import States, ended_well, load_states, refill
from slimtensors.kernels.cpu.delta import in_order, out_of_order, signed
from slimtensors.kernels.cpu.table import SYMBOL_SHIFT, SYMBOLS
from slimtensors.kernels.simd.lanes import Lanes, count, increment, mul_high, select, shifted_low, to_u16
from slimtensors.kernels.simd.memory import load, look_up_from, store
from slimtensors.kernels.simd.permute import permute
from slimtensors.kernels.status import BAD_ARGUMENT, BAD_STREAM, OK

Array = npt.NDArray[Any]

PRECISION = 11
SLOTS = 1 << PRECISION
MOST_TABLES = 32  # of a class of rows: slots have numbers of 16 bits, and a register says which table a context has
WINDOW = MOST_TABLES * SLOTS
FREQUENCY = 0xFFE0  # of an entry's high half, 32 * frequency; k below it
M_SHIFT, BIAS = 12, SLOTS - 1  # of its low half


@shared
def recode(table: Array) -> None:
    """Entries as table.py has them, of symbols of mode bypass: uint32[2048], in place."""
    for at in range(0, SLOTS, LANES):
        entry = load(table, at)
        s = entry >> SYMBOL_SHIFT & SYMBOLS - 1
        m = select(s >= 16, s & 7 | 8, s)
        store(table, at, entry & (FREQUENCY << 16 | BIAS) | bypass_bits(s) << 16 | m << M_SHIFT)


@inlined
def decode_difference(
    table: Array, begin: int, numbers: Lanes, first: int, most: int, shift: int, unit: Lanes, words: Array, last: int,
    x: States, at: int, seen: Lanes,
) -> tuple[Lanes, States, int, Lanes]:  # fmt: skip
    """Read one field from each lane, with the table that the base unit says: (fields, states, next word, seen)."""
    # context = clamp(rotate_left(unit, 1) >> shift - first, 0, most)
    value = unit << 1 >> shift
    value = select(value < first, unit & 0, value - first)
    value = select(value < most, value, (unit & 0) + most)
    high, low = x
    entry_high, entry_low = look_up_from(table, begin, permute(numbers, value) | low & SLOTS - 1)
    f = entry_high & FREQUENCY
    rest = mul_high(f, low & 0xFFFF - (SLOTS - 1)) + (entry_low & BIAS)
    low = f * high + rest
    high = increment(mul_high(f, high), low < rest)
    (high, low), at = refill(words, last, (high, low), at)
    # v = x mod 2^k; x = floor(x / 2^k); then the refill
    k = entry_high & 15
    below = shifted_low(high, low, k)
    # the field is m * 2^k + v = m * 2^k + low - below * 2^k, modulo 2^16
    field = low + ((entry_low >> M_SHIFT) - below << k)
    x, at = refill(words, last, (high >> k, below), at)
    return field, x, at, select(entry_high < seen, entry_high, seen)


@inlined
def put(out: Array, at: int, origin: Array, field: Lanes) -> None:
    """The units whose differences from `origin` are these."""
    store(out, at, out_of_order(in_order(load(origin, at), 16) + signed(field), 16))


@inlined
def tables_of(table: Array, begins: Array, numbers: Array, line: int) -> tuple[int, Lanes]:
    """Where the tables of a class of rows begin, and for each context which of them it has."""
    line = min(line, begins.size - 1)
    return min(max(begins[line], 0), table.size - WINDOW), load(numbers, LANES * line)


@kernel
def decode_u16(
    table: Array,
    begins: Array,
    numbers: Array,
    lines: Array,
    shift: int,
    first: int,
    tables: int,
    base: Array,
    origin: Array,
    states: Array,
    words: Array,
    starts: Array,
    out: Array,
) -> int:
    """Decode a chunk's body of floats of 16 bits.

    table    uint32[2048 * 32 ...]   tables as `recode` leaves them; zeros where one is absent
    begins   int64[classes]          of a class of rows, where its tables begin
    numbers  uint16[32 * classes]    of a class, for each context: 2048 * the number of its table, counted from there
    lines    uint8[n / 32]           of each step, the class of its row
    shift, first, tables             as base_contexts takes them: 1 <= shift < 16, 1 <= tables <= 32
    base     uint16[n]               what contexts are made of
    origin   uint16[n]               what differences are from: the base, or that moved
    out      uint16[n]               n is a multiple of 128

    The other arguments, and the status, as in decode_kernels.py; BAD_STREAM also where an entry is 0, as those of a
    table that is absent are.
    """
    blocks = starts.size - 1
    last = words.size - LANES
    if not are_blocks(out.size, blocks) or last < 0 or states.size != blocks * LANES:
        return BAD_ARGUMENT
    if base.size != out.size or origin.size != out.size or lines.size * LANES != out.size:
        return BAD_ARGUMENT
    if table.size < WINDOW or begins.size < 1 or numbers.size != LANES * begins.size:
        return BAD_ARGUMENT
    if not 1 <= shift < 16 or not 0 <= first < 1 << 16 or not 1 <= tables <= MOST_TABLES:
        return BAD_ARGUMENT
    most = tables - 1
    sound = True
    seen = to_u16(load(states, 0)) | 0xFFFF
    for block in range(0, blocks, 2):
        members = min(2, blocks - block)
        b0, b1 = block, min(block + 1, blocks - 1)
        t0, t1 = first_step(out.size, blocks, b0), first_step(out.size, blocks, b1)
        x0, at0 = load_states(states, b0), min(max(starts[b0], 0), last)
        x1, at1 = load_states(states, b1), min(max(starts[b1], 0), last)
        steps = out.size // 128 // blocks * 4 if members == 2 else 0
        for t in range(steps):
            i0, n0 = tables_of(table, begins, numbers, int(lines[t0 + t]))
            i1, n1 = tables_of(table, begins, numbers, int(lines[t1 + t]))
            u0, u1 = load(base, LANES * (t0 + t)), load(base, LANES * (t1 + t))
            z0, x0, at0, seen = decode_difference(table, i0, n0, first, most, shift, u0, words, last, x0, at0, seen)
            z1, x1, at1, seen = decode_difference(table, i1, n1, first, most, shift, u1, words, last, x1, at1, seen)
            put(out, LANES * (t0 + t), origin, z0)
            put(out, LANES * (t1 + t), origin, z1)
        firsts, states_now, ats = (t0, t1), (x0, x1), (at0, at1)
        for member in range(members):
            x, at = states_now[member], ats[member]
            for t in range(firsts[member] + steps, first_step(out.size, blocks, block + member + 1)):
                i, n = tables_of(table, begins, numbers, int(lines[t]))
                u = load(base, LANES * t)
                z, x, at, seen = decode_difference(table, i, n, first, most, shift, u, words, last, x, at, seen)
                put(out, LANES * t, origin, z)
            sound &= ended_well(starts, block + member, x, at)
    return OK if sound and count(seen == 0) == 0 else BAD_STREAM
