"""rANS encoding of few symbols: their frequencies are found in registers, and states are held in halves of 16 bits.

For processors whose look-ups in memory are slow. The same words and states as encode.py's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.kernels._jit import inlined, kernel
from slimtensors.kernels.cpu.blocks import GROUP, LANES, STEPS, are_blocks, first_step
from slimtensors.kernels.cpu.table import SLOTS, SYMBOLS
from slimtensors.kernels.simd.division import code_halves
from slimtensors.kernels.simd.lanes import Lanes, count, high_u16, pair, select, to_u16
from slimtensors.kernels.simd.memory import load, store
from slimtensors.kernels.simd.permute import permute_two
from slimtensors.kernels.simd.streams import give
from slimtensors.kernels.status import BAD_ARGUMENT, OK

Array = npt.NDArray[Any]
Table = tuple[Lanes, ...]

FEW = 128  # symbols
PLACES = 2 * FEW  # uint16 of work space
ABSENT = 1 << 15  # marks a symbol without frequency


@inlined
def find(t0: Lanes, t1: Lanes, t2: Lanes, t3: Lanes, symbol: Lanes) -> Lanes:
    """What four vectors hold for a symbol."""
    return select(symbol < FEW // 2, permute_two(t0, t1, symbol), permute_two(t2, t3, symbol))


@inlined
def step(
    table: Table, symbols: Array, t: int, words: Array, high: Lanes, low: Lanes, end: int, seen: Lanes
) -> tuple[Lanes, Lanes, int, Lanes]:
    """Write one symbol to each lane: (states, index of the last word written, all starts)."""
    symbol = to_u16(load(symbols, t * LANES))
    start = find(table[0], table[1], table[2], table[3], symbol)
    frequency = find(table[4], table[5], table[6], table[7], symbol)
    # while x >= frequency[s] * 2^20:  write the low word, x = floor(x / 2^16); once is enough
    full = high >= frequency << 4
    give(words, end, full, low)
    low = select(full, high, low)
    high = select(full, high & 0, high)
    high, low = code_halves(high, low, frequency, start & SLOTS - 1)
    return high, low, end - count(full), seen | start


@inlined
def put_state(states: Array, block: int, high: Lanes, low: Lanes) -> None:
    store(states, block * LANES, pair(high, low))


@kernel
def encode_few(symbols: Array, frequencies: Array, places: Array, words: Array, states: Array, counts: Array) -> int:
    """Encode a chunk's body at precision 12.

    symbols      uint8[n]          n is a multiple of 128; taken modulo 128
    frequencies  uint16[256]       sum to 4096, each less than that; only the first 128 are not zero
    places       uint16[PLACES]    work space
    words, states, counts          as for encode.encode_symbols

    Returns OK, or BAD_ARGUMENT if lengths disagree, frequencies are others, or a symbol without frequency occurs.
    """
    blocks = counts.size
    if not are_blocks(symbols.size, blocks) or states.size != blocks * LANES or words.size != symbols.size:
        return BAD_ARGUMENT
    if frequencies.size != SYMBOLS or places.size != PLACES:
        return BAD_ARGUMENT
    start = 0
    for symbol in range(SYMBOLS):
        frequency = int(frequencies[symbol])
        if frequency > (SLOTS - start if symbol < FEW else 0) or frequency == SLOTS:
            return BAD_ARGUMENT
        if symbol < FEW:
            places[symbol] = np.uint16(start if frequency > 0 else ABSENT)
            places[FEW + symbol] = np.uint16(max(frequency, 1))
        start += frequency
    if start != SLOTS:
        return BAD_ARGUMENT

    table = (
        load(places, 0), load(places, 32), load(places, 64), load(places, 96),
        load(places, 128), load(places, 160), load(places, 192), load(places, 224),
    )  # fmt: skip
    zero = table[0] & 0
    seen = zero
    common = symbols.size // GROUP // blocks * STEPS  # steps that every block has

    # The last group of the blocks that have one more, and all of the one or two blocks that are left over.
    for block in range(blocks):
        alone = blocks - block // 4 * 4 <= 2
        high, low, end = zero + 1, zero, first_step(symbols.size, blocks, block + 1) * LANES
        begin = first_step(symbols.size, blocks, block) + (0 if alone else common)
        for t in range(end // LANES - 1, begin - 1, -1):
            high, low, end, seen = step(table, symbols, t, words, high, low, end, seen)
        put_state(states, block, high, low)
        counts[block] = end  # for now

    for block in range(0, blocks - 2, 4):
        # Beyond the end of the chunk, its last block is encoded again, to the same place.
        b0, b1, b2, b3 = block, block + 1, block + 2, min(block + 3, blocks - 1)
        t0, t1 = first_step(symbols.size, blocks, b0), first_step(symbols.size, blocks, b1)
        t2, t3 = first_step(symbols.size, blocks, b2), first_step(symbols.size, blocks, b3)
        x0, x1 = load(states, b0 * LANES), load(states, b1 * LANES)
        x2, x3 = load(states, b2 * LANES), load(states, b3 * LANES)
        h0, h1, h2, h3 = high_u16(x0), high_u16(x1), high_u16(x2), high_u16(x3)
        l0, l1, l2, l3 = to_u16(x0), to_u16(x1), to_u16(x2), to_u16(x3)
        end0, end1, end2, end3 = counts[b0], counts[b1], counts[b2], counts[b3]
        for t in range(common - 1, -1, -1):
            h0, l0, end0, seen = step(table, symbols, t0 + t, words, h0, l0, end0, seen)
            h1, l1, end1, seen = step(table, symbols, t1 + t, words, h1, l1, end1, seen)
            h2, l2, end2, seen = step(table, symbols, t2 + t, words, h2, l2, end2, seen)
            h3, l3, end3, seen = step(table, symbols, t3 + t, words, h3, l3, end3, seen)
        put_state(states, b0, h0, l0)
        put_state(states, b1, h1, l1)
        put_state(states, b2, h2, l2)
        put_state(states, b3, h3, l3)
        counts[b0], counts[b1], counts[b2], counts[b3] = end0, end1, end2, end3

    for block in range(blocks):
        counts[block] = first_step(symbols.size, blocks, block + 1) * LANES - counts[block]
    return OK if count(seen >= ABSENT) == 0 else BAD_ARGUMENT
