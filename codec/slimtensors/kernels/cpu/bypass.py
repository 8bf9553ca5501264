"""Fields whose low bits go through the states as they are (coder.md, section 6)."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from slimtensors.kernels._jit import inlined, kernel
from slimtensors.kernels.cpu.blocks import LANES, STATE_MIN, are_blocks, first_step
from slimtensors.kernels.cpu.decode import States, decode_step, ended_well, load_states, one_table, refill
from slimtensors.kernels.cpu.encode import encode_step, has_frequencies
from slimtensors.kernels.cpu.join import symbol_at
from slimtensors.kernels.cpu.table import ABSENT, LEAST_PRECISION, MOST_PRECISION, SLOTS, SYMBOLS
from slimtensors.kernels.simd.lanes import Lanes, count, high_u16, leading_zeros, select, to_u16, to_u32
from slimtensors.kernels.simd.memory import gather, load, store
from slimtensors.kernels.simd.streams import give
from slimtensors.kernels.status import BAD_ARGUMENT, BAD_STREAM, OK

Array = npt.NDArray[Any]


@inlined
def bypass_bits(symbols: Lanes) -> Lanes:
    """How many bypass bits follow each symbol."""
    # k = floor(s / 8) - 1 for s >= 16, else 0
    return select(symbols >= 16, (symbols >> 3) - 1, symbols & 0)


@inlined
def bypass_symbols(field: Lanes) -> tuple[Lanes, Lanes]:
    """(symbols, how many bypass bits follow each) of fields in 32 bits."""
    # k = bit length - 4 for fields of more than 4 bits, else 0
    k = 28 - leading_zeros(field | 8)
    # s = 8 * (k + 1) + three bits below the highest, or the field itself
    return select(field < 8, field, (k + 1 << 3) + (field >> k & 7)), k


@inlined
def decode_bypass_step(table: Array, words: Array, last: int, x: States, at: int) -> tuple[Lanes, States, int]:
    """Read one field from each lane: (fields, states, index of the next word)."""
    entry, x, at = decode_step(one_table, (), 0, table, (), words, last, x, at)
    s = to_u32(symbol_at(0, entry))
    k = bypass_bits(s)
    # v = x mod 2^k; x = floor(x / 2^k); then the refill
    whole = to_u32(x[0]) << 16 | to_u32(x[1])
    rest = whole >> k
    v = whole - (rest << k)
    x, at = refill(words, last, (high_u16(rest), to_u16(rest)), at)
    # the field is (8 + s mod 8) * 2^k + v
    return select(s < 8, s, ((s & 7 | 8) << k) + v), x, at


@kernel
def decode_bypass(table: Array, states: Array, words: Array, starts: Array, out: Array) -> int:
    """Decode a plane of mode `bypass`; arguments and status as in decode_kernels.py, out uint16[n]."""
    blocks = starts.size - 1
    last = words.size - LANES
    if not are_blocks(out.size, blocks) or last < 0 or states.size != blocks * LANES:
        return BAD_ARGUMENT
    if table.size != SLOTS:
        return BAD_ARGUMENT
    sound = True
    for block in range(0, blocks, 2):
        members = min(2, blocks - block)
        b0, b1 = block, min(block + 1, blocks - 1)
        t0, t1 = first_step(out.size, blocks, b0), first_step(out.size, blocks, b1)
        x0, at0 = load_states(states, b0), min(max(starts[b0], 0), last)
        x1, at1 = load_states(states, b1), min(max(starts[b1], 0), last)
        steps = first_step(out.size, blocks, 1) if members == 2 else 0  # the first block is never the longer one
        for t in range(steps):
            f0, x0, at0 = decode_bypass_step(table, words, last, x0, at0)
            f1, x1, at1 = decode_bypass_step(table, words, last, x1, at1)
            store(out, LANES * (t0 + t), to_u16(f0))
            store(out, LANES * (t1 + t), to_u16(f1))
        firsts, states_now, ats = (t0, t1), (x0, x1), (at0, at1)
        for member in range(members):
            x, at = states_now[member], ats[member]
            for t in range(firsts[member] + steps, first_step(out.size, blocks, block + member + 1)):
                f, x, at = decode_bypass_step(table, words, last, x, at)
                store(out, LANES * t, to_u16(f))
            sound &= ended_well(starts, block + member, x, at)
    return OK if sound else BAD_STREAM


@inlined
def encode_bypass_step(
    field: Lanes, entry: Lanes, precision: int, words: Array, x: Lanes, end: int
) -> tuple[Lanes, int]:
    """Write one field to each lane, the reading order backwards: first the bypass bits, then the symbol."""
    _symbol, k = bypass_symbols(field)
    v = field - (field >> k << k)
    # if x >= 2^(32 - k):  write the low word, x = floor(x / 2^16)
    full = (x >> 16 >> 16 - k) != 0
    give(words, end, full, x)
    end -= count(full)
    # x = x * 2^k + v
    x = (select(full, x >> 16, x) << k) + v
    return encode_step(entry, precision, words, x, end)


@kernel
def encode_bypass(fields: Array, table: Array, precision: int, words: Array, states: Array, counts: Array) -> int:
    """Encode a plane of mode `bypass`; as encode_symbols, with room for two words for each field.

    fields  uint16[n]
    words   uint16[2 * n]  block b's words are words[end - counts[b] : end] for end = 256 * floor((b + 1) * G / B)
    """
    blocks = counts.size
    if not are_blocks(fields.size, blocks) or states.size != blocks * LANES or words.size != 2 * fields.size:
        return BAD_ARGUMENT
    if not LEAST_PRECISION <= precision <= MOST_PRECISION or table.size != SYMBOLS or not has_frequencies(table):
        return BAD_ARGUMENT
    for i in range(states.size):
        states[i] = STATE_MIN
    seen = load(states, 0) >> 31  # all zero
    for block in range(blocks):
        x = load(states, block * LANES)
        top = 2 * LANES * first_step(fields.size, blocks, block + 1)
        end = top
        for t in range(top // (2 * LANES) - 1, first_step(fields.size, blocks, block) - 1, -1):
            field = to_u32(load(fields, LANES * t))
            symbols, _k = bypass_symbols(field)
            entry = gather(table, symbols & 0xFF)
            seen = seen | entry
            x, end = encode_bypass_step(field, entry, precision, words, x, end)
        store(states, block * LANES, x)
        counts[block] = top - end
    return OK if count(seen >= ABSENT) == 0 else BAD_ARGUMENT
