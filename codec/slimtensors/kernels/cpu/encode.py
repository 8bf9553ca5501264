"""rANS encoding, four blocks at a time: the inverse of decode.py, from the last step of a block to its first.

The words of a block come out from last to first, so they are written downwards from the end of the block's region. A
region has one word for each symbol, which is enough: a step writes at most 32 words, so before each step there are 32
words left below.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from slimtensors.kernels._jit import inlined, kernel
from slimtensors.kernels.cpu.blocks import GROUP, LANES, STATE_MIN, STEPS, are_blocks, first_step
from slimtensors.kernels.cpu.table import ABSENT, FIELD_BITS, LEAST_PRECISION, LOW, MOST_PRECISION, SYMBOLS
from slimtensors.kernels.simd.division import divide
from slimtensors.kernels.simd.lanes import Lanes, count, select, to_u32
from slimtensors.kernels.simd.memory import gather, load, store
from slimtensors.kernels.simd.streams import give
from slimtensors.kernels.status import BAD_ARGUMENT, OK

Array = npt.NDArray[Any]

SLAB = 32  # steps whose table entries are looked up ahead
ENTRIES = 4 * SLAB * LANES  # uint32 of work space that `encode_symbols` asks for: 16 KiB


@inlined
def encode_step(entry: Lanes, precision: int, words: Array, x: Lanes, end: int) -> tuple[Lanes, int]:
    """Write one symbol to each lane: (states, index of the last word written)."""
    # while x >= frequency[s] * 2^(32 - P):  write the low word, x = floor(x / 2^16); once is enough
    frequency = entry >> FIELD_BITS & LOW
    full = x >= frequency << (32 - precision)
    give(words, end, full, x)
    x = select(full, x >> 16, x)
    # x = 2^P * floor(x / frequency[s]) + start[s] + x mod frequency[s]
    quotient, remainder = divide(x, frequency)
    return (quotient << precision) + remainder + (entry & LOW), end - count(full)


@inlined
def has_frequencies(table: Array) -> bool:
    """Whether an encoder's table divides by no zero."""
    lowest = LOW
    for symbol in range(SYMBOLS):
        lowest = min(lowest, table[symbol] >> FIELD_BITS & LOW)
    return lowest > 0


@kernel
def encode_symbols(
    symbols: Array, table: Array, precision: int, entries: Array, words: Array, states: Array, counts: Array
) -> int:
    """Encode a chunk's body.

    symbols  uint8[n]             n is a multiple of 128
    table    uint32[256]          from build_encoder_table, with the same precision
    entries  uint32[ENTRIES]      work space
    words    uint16[n]            block b's words end where its elements end: they are words[end - counts[b] : end]
                                  for end = 128 * floor((b + 1) * G / B); what lies between is unspecified
    states   uint32[blocks * 32]  each block's states, for the decoder to begin with
    counts   int64[blocks]        how many words each block has

    Returns OK, or BAD_ARGUMENT if lengths disagree or a symbol without frequency occurs.
    """
    blocks = counts.size
    if not are_blocks(symbols.size, blocks) or states.size != blocks * LANES or words.size != symbols.size:
        return BAD_ARGUMENT
    if not LEAST_PRECISION <= precision <= MOST_PRECISION or table.size != SYMBOLS or entries.size != ENTRIES:
        return BAD_ARGUMENT
    if not has_frequencies(table):
        return BAD_ARGUMENT

    for i in range(states.size):
        states[i] = STATE_MIN
    seen = load(states, 0) >> 31  # all zero
    common = symbols.size // GROUP // blocks * STEPS  # steps that every block has

    # The last group of the blocks that have one more, and all of the one or two blocks that are left over.
    for block in range(blocks):
        alone = blocks - block // 4 * 4 <= 2
        x, end = load(states, block * LANES), first_step(symbols.size, blocks, block + 1) * LANES
        begin = first_step(symbols.size, blocks, block) + (0 if alone else common)
        for t in range(end // LANES - 1, begin - 1, -1):
            entry = gather(table, to_u32(load(symbols, t * LANES)))
            seen = seen | entry
            x, end = encode_step(entry, precision, words, x, end)
        store(states, block * LANES, x)
        counts[block] = end  # for now

    for block in range(0, blocks - 2, 4):
        # Beyond the end of the chunk, its last block is encoded again, to the same place.
        b0, b1, b2, b3 = block, block + 1, block + 2, min(block + 3, blocks - 1)
        t0, t1 = first_step(symbols.size, blocks, b0), first_step(symbols.size, blocks, b1)
        t2, t3 = first_step(symbols.size, blocks, b2), first_step(symbols.size, blocks, b3)
        x0, end0 = load(states, b0 * LANES), counts[b0]
        x1, end1 = load(states, b1 * LANES), counts[b1]
        x2, end2 = load(states, b2 * LANES), counts[b2]
        x3, end3 = load(states, b3 * LANES), counts[b3]
        for slab in range((common - 1) // SLAB * SLAB, -1, -SLAB):
            steps = min(SLAB, common - slab)
            # All look-ups of the slab first: mixed with stores to `words`, they would wait for those (Zen 5).
            for t in range(steps):
                e0 = gather(table, to_u32(load(symbols, (t0 + slab + t) * LANES)))
                e1 = gather(table, to_u32(load(symbols, (t1 + slab + t) * LANES)))
                e2 = gather(table, to_u32(load(symbols, (t2 + slab + t) * LANES)))
                e3 = gather(table, to_u32(load(symbols, (t3 + slab + t) * LANES)))
                seen = seen | e0 | e1 | e2 | e3
                store(entries, 4 * LANES * t, e0)
                store(entries, 4 * LANES * t + LANES, e1)
                store(entries, 4 * LANES * t + 2 * LANES, e2)
                store(entries, 4 * LANES * t + 3 * LANES, e3)
            for t in range(steps - 1, -1, -1):
                x0, end0 = encode_step(load(entries, 4 * LANES * t), precision, words, x0, end0)
                x1, end1 = encode_step(load(entries, 4 * LANES * t + LANES), precision, words, x1, end1)
                x2, end2 = encode_step(load(entries, 4 * LANES * t + 2 * LANES), precision, words, x2, end2)
                x3, end3 = encode_step(load(entries, 4 * LANES * t + 3 * LANES), precision, words, x3, end3)
        store(states, b0 * LANES, x0)
        store(states, b1 * LANES, x1)
        store(states, b2 * LANES, x2)
        store(states, b3 * LANES, x3)
        counts[b0], counts[b1], counts[b2], counts[b3] = end0, end1, end2, end3

    for block in range(blocks):
        counts[block] = first_step(symbols.size, blocks, block + 1) * LANES - counts[block]
    return OK if count(seen >= ABSENT) == 0 else BAD_ARGUMENT
