"""rANS decoding, four blocks at a time (coder.md, section 4).

A lane's state x in [2^16, 2^32) carries the symbols still to come. Its low bits are a slot, and a symbol s owns
frequency[s] of the 2^P slots. Reading s takes -log2(frequency / 2^P) bits out of x; when x falls below 2^16 it is
refilled with one 16-bit word. The 32 lanes of a block share one run of words.

Why four blocks: a step waits for the states and the word index of the step before, and one block alone leaves the
processor idle.

A state's halves lie in two vectors of 16-bit lanes. A word is then a whole lane, `x < 2^16` a test for zero, and the
product of a frequency and a state three multiplications that any processor has. In 32-bit lanes all took a quarter to a
third longer.

What differs is passed in: `find(pieces, t, table, tree, low)` finds the entries of step t in the table (`tree` is what
search.py needs for that, else ()), `join(pieces, t, window, entry)` makes elements of them. They are inlined into the
loop; a call would move 32 lanes through memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy.typing as npt

from slimtensors.kernels._jit import inlined
from slimtensors.kernels.cpu.blocks import LANES, STATE_MIN, are_blocks, first_step
from slimtensors.kernels.cpu.table import SLOTS
from slimtensors.kernels.simd.lanes import Lanes, count, high_u16, increment, mul_high, select, to_u16
from slimtensors.kernels.simd.memory import load, look_up, store
from slimtensors.kernels.simd.streams import take
from slimtensors.kernels.status import BAD_ARGUMENT, BAD_STREAM, OK

Array = npt.NDArray[Any]
Entry = tuple[Lanes, Lanes]  # the high and the low 16 bits of entries of the table
MOST_TABLES = 16  # slots of more would not fit lanes of 16 bits
States = tuple[Lanes, Lanes]  # the high and the low 16 bits of 32 states


@inlined
def refill(words: Array, last: int, x: States, at: int) -> tuple[States, int]:
    """The states after the lanes below 2^16 took a word each, and the index of the next word."""
    high, low = x
    # if x < 2^16:  x = 2^16 * x + word
    hungry = high == 0
    # A damaged stream may ask for more words than there are; it then reads the last ones again.
    return (select(hungry, low, high), take(words, min(at, last), hungry, low)), at + count(hungry)


@inlined
def one_table(_pieces: tuple[Array, ...], _t: int, table: Array, _tree: tuple[Lanes, ...], low: Lanes) -> Entry:
    # slot = x mod 2^12
    return look_up(table, low & 0xFFF)


@inlined
def class_tables(pieces: tuple[Array, ...], t: int, table: Array, _tree: tuple[Lanes, ...], low: Lanes) -> Entry:
    """Of up to 16 tables, one after another, the one that the context says; the last piece holds the contexts."""
    return look_up(table, (to_u16(load(pieces[-1], LANES * t)) << 12 | low & 0xFFF) & table.size - 1)


@inlined
def decode_step(
    find: Callable[..., Entry],
    pieces: tuple[Array, ...],
    t: int,
    table: Array,
    tree: tuple[Lanes, ...],
    words: Array,
    last: int,
    x: States,
    at: int,
) -> tuple[Entry, States, int]:
    """Read one symbol from each lane: (entries, states, index of the next word)."""
    high, low = x
    entry_high, entry_low = find(pieces, t, table, tree, low)
    # x = frequency * floor(x / 2^12) + bias.  With f = 16 * frequency, and high and low of the state's halves, this is
    #     f * high + floor(f * (low - low mod 2^12) / 2^16) + bias
    # The last two together are below 2^16.
    f = entry_high & 0xFFF0
    rest = mul_high(f, low & 0xF000) + (entry_low & 0xFFF)
    low = f * high + rest
    high = increment(mul_high(f, high), low < rest)
    x, at = refill(words, last, (high, low), at)
    return (entry_high, entry_low), x, at


@inlined
def load_states(states: Array, block: int) -> States:
    x = load(states, block * LANES)
    return high_u16(x), to_u16(x)


@inlined
def ended_well(starts: Array, block: int, x: States, at: int) -> bool:
    """A sound stream leaves every lane at the encoder's initial state, and all of the block's words read."""
    high, low = x
    return count(high != STATE_MIN >> 16) + count(low != STATE_MIN & 0xFFFF) == 0 and at == starts[block + 1]


@inlined
def decode_blocks(
    find: Callable[..., Entry],
    join: Callable[..., Lanes],
    table: Array,
    tree: tuple[Lanes, ...],
    window: tuple[int, ...],
    states: Array,
    words: Array,
    starts: Array,
    pieces: tuple[Array, ...],
    out: Array,
) -> int:
    """The body of the decoding kernels; `pieces` have the lengths that `out` asks for, and `window` begins with the
    base.
    """
    blocks = starts.size - 1
    last = words.size - LANES
    if not are_blocks(out.size, blocks) or last < 0 or states.size != blocks * LANES:
        return BAD_ARGUMENT
    if not SLOTS <= table.size <= MOST_TABLES * SLOTS or table.size & table.size - 1 != 0:
        return BAD_ARGUMENT
    if not 0 <= window[0] < 1 << 16:
        return BAD_ARGUMENT

    sound = True
    for block in range(0, blocks, 4):
        members = min(4, blocks - block)
        # Beyond the end of the chunk, its last block is decoded again, to the same place.
        b0, b1, b2, b3 = block, min(block + 1, blocks - 1), min(block + 2, blocks - 1), min(block + 3, blocks - 1)
        t0, t1 = first_step(out.size, blocks, b0), first_step(out.size, blocks, b1)
        t2, t3 = first_step(out.size, blocks, b2), first_step(out.size, blocks, b3)
        x0, at0 = load_states(states, b0), min(max(starts[b0], 0), last)
        x1, at1 = load_states(states, b1), min(max(starts[b1], 0), last)
        x2, at2 = load_states(states, b2), min(max(starts[b2], 0), last)
        x3, at3 = load_states(states, b3), min(max(starts[b3], 0), last)

        # Blocks differ by one group; here they advance together. For one or two blocks that would be a waste.
        steps = out.size // 128 // blocks * 4 if members > 2 else 0
        for t in range(steps):
            s0, x0, at0 = decode_step(find, pieces, t0 + t, table, tree, words, last, x0, at0)
            s1, x1, at1 = decode_step(find, pieces, t1 + t, table, tree, words, last, x1, at1)
            s2, x2, at2 = decode_step(find, pieces, t2 + t, table, tree, words, last, x2, at2)
            s3, x3, at3 = decode_step(find, pieces, t3 + t, table, tree, words, last, x3, at3)
            store(out, LANES * (t0 + t), join(pieces, t0 + t, window, s0))
            store(out, LANES * (t1 + t), join(pieces, t1 + t, window, s1))
            store(out, LANES * (t2 + t), join(pieces, t2 + t, window, s2))
            store(out, LANES * (t3 + t), join(pieces, t3 + t, window, s3))

        # What is left of each: one group or none, or the whole of it.
        firsts, states_now, ats = (t0, t1, t2, t3), (x0, x1, x2, x3), (at0, at1, at2, at3)
        for member in range(members):
            x, at = states_now[member], ats[member]
            for t in range(firsts[member] + steps, first_step(out.size, blocks, block + member + 1)):
                s, x, at = decode_step(find, pieces, t, table, tree, words, last, x, at)
                store(out, LANES * t, join(pieces, t, window, s))
            sound &= ended_well(starts, block + member, x, at)
    return OK if sound else BAD_STREAM
