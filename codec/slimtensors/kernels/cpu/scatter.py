"""Values decoded, and put in their places by a mask while they are in the cache (expressions.md, section 3.2).

A pass of its own over what is decoded would wait for memory: most of a chunk is what it writes.

    bits     uint32[m]     bit k of bits[i] says whether element 32 * i + k has a value; the others are 0
    values   uint[n + 32]  work space for the values; n is the number of bits set, up to a whole group. The last 32
             mean nothing
    cursors  int64[CURSORS * (blocks + 1)]  work space
    positions uint32[E], fields uint16[E]   escapes: values[position] |= field << shift
    out      uint[32 * m]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.kernels._jit import inlined, shared
from slimtensors.kernels.cpu.blocks import GROUP, LANES, STEPS, are_blocks, first_step
from slimtensors.kernels.cpu.decode import Entry, States, decode_step, ended_well, load_states
from slimtensors.kernels.cpu.table import SLOTS
from slimtensors.kernels.simd.lanes import Lanes, count
from slimtensors.kernels.simd.memory import expect, store
from slimtensors.kernels.simd.sparse import mask_of, spread
from slimtensors.kernels.status import BAD_ARGUMENT, BAD_STREAM, OK

Array = npt.NDArray[Any]

# Of a block: the first word of the mask whose values all lie in it or after it; the next word to be put in place, and
# its first value.
FIRST, WORD, VALUE, CURSORS = 0, 1, 2, 3
SLAB = 32  # words of the mask that are counted at once
AHEAD = 128  # words: where they are put is fetched so long before they are, 8 KiB in 16 bits


@shared
def skip(bits: Array, word: int, value: int, wanted: int) -> tuple[int, int]:
    """From a word, and the values before it: the last word that has no more than `wanted` before it, and how many."""
    step = 0
    while word + SLAB <= bits.size and value <= wanted:
        step = 0
        for i in range(SLAB):
            step += count(mask_of(bits, word + i))
        word, value = word + SLAB, value + step
    if value > wanted:
        word, value = word - SLAB, value - step
    step = 0
    while word < bits.size and value <= wanted:
        step = count(mask_of(bits, word))
        word, value = word + 1, value + step
    return (word - 1, value - step) if value > wanted else (word, value)


@shared
def find_blocks(bits: Array, n: int, blocks: int, cursors: Array) -> bool:
    """Set the cursors; whether the mask has as many values as n says."""
    word, value = 0, 0
    cursors[FIRST], cursors[WORD], cursors[VALUE] = 0, 0, 0
    for block in range(1, blocks):
        begin = LANES * first_step(n, blocks, block)
        word, value = skip(bits, word, value, begin)
        if value < begin and word < bits.size:
            word, value = word + 1, value + count(mask_of(bits, word))
        at = CURSORS * block
        cursors[at + FIRST], cursors[at + WORD], cursors[at + VALUE] = word, word, value
    cursors[CURSORS * blocks + FIRST] = bits.size
    word, value = skip(bits, word, value, n)
    return n - GROUP < value and word == bits.size


@inlined
def put_until(block: int, end: int, bits: Array, cursors: Array, values: Array, out: Array) -> None:
    """Put those words of a block in place whose values all lie before `end`, from where it was left."""
    at = CURSORS * block
    first, value, last = cursors[at + WORD], cursors[at + VALUE], cursors[at + CURSORS + FIRST]
    word, step = first, 0
    # The last one may lack values: it is put in place again, later. A second way out of the loop would cost more:
    # references to the arrays would be counted.
    while word < last and value <= end:
        mask = mask_of(bits, word)
        expect(out, LANES * (word + AHEAD))
        store(out, LANES * word, spread(values, value, mask))
        step = count(mask)
        word, value = word + 1, value + step
    late = 1 if word > first and value > end else 0
    cursors[at + WORD], cursors[at + VALUE] = word - late, value - late * step


@shared
def finish(
    shift: int, width: int, positions: Array, fields: Array, n: int, blocks: int, bits: Array, cursors: Array,
    values: Array, out: Array,
) -> bool:  # fmt: skip
    """Put what is left in place, and escapes where the field is 0; whether it is, and no value follows the last one."""
    for block in range(blocks):
        put_until(block, n, bits, cursors, values, out)
    seen, word, value, before = 0, 0, 0, -1
    for at in range(cursors[CURSORS * (blocks - 1) + VALUE], n):
        seen |= np.int64(values[at])
    for i in range(positions.size):
        position = np.int64(positions[i])
        if not before < position < n:
            return False
        word, value = skip(bits, word, value, position)
        unit, before = np.int64(values[position]), position
        seen |= unit >> shift & (1 << width) - 1
        values[position] = unit | np.int64(fields[i]) << shift
        if word < bits.size:
            store(out, LANES * word, spread(values, value, mask_of(bits, word)))
    return bool(seen == 0)


@inlined
def advance(
    find: Callable[..., Entry],
    join: Callable[..., Lanes],
    pieces: tuple[Array, ...],
    t: int,
    table: Array,
    tree: tuple[Lanes, ...],
    window: tuple[int, ...],
    words: Array,
    last: int,
    x: States,
    at: int,
    values: Array,
) -> tuple[States, int]:
    """A step of one block: the values, and decode_step's states and next word."""
    s, x, at = decode_step(find, pieces, t, table, tree, words, last, x, at)
    store(values, LANES * t, join(pieces, t, window, s))
    return x, at


@inlined
def decode_scattered(
    find: Callable[..., Entry],
    join: Callable[..., Lanes],
    shift: int,
    width: int,
    table: Array,
    tree: tuple[Lanes, ...],
    window: tuple[int, ...],
    states: Array,
    words: Array,
    starts: Array,
    pieces: tuple[Array, ...],
    positions: Array,
    fields: Array,
    bits: Array,
    cursors: Array,
    values: Array,
    out: Array,
) -> int:
    """The body of the kernels; as decode_blocks. shift, width: where the coded field lies in a value."""
    blocks, n, last = starts.size - 1, values.size - LANES, words.size - LANES
    if not are_blocks(n, blocks) or last < 0 or states.size != blocks * LANES or table.size != SLOTS:
        return BAD_ARGUMENT
    if not 0 <= window[0] < 1 << 16 or out.size != LANES * bits.size or cursors.size < CURSORS * (blocks + 1):
        return BAD_ARGUMENT
    if positions.size != fields.size:
        return BAD_ARGUMENT
    if not find_blocks(bits, n, blocks, cursors):
        return BAD_STREAM

    sound = True
    for block in range(0, blocks, 4):
        members = min(4, blocks - block)
        b0, b1, b2, b3 = block, min(block + 1, blocks - 1), min(block + 2, blocks - 1), min(block + 3, blocks - 1)
        t0, t1 = first_step(n, blocks, b0), first_step(n, blocks, b1)
        t2, t3 = first_step(n, blocks, b2), first_step(n, blocks, b3)
        x0, at0 = load_states(states, b0), min(max(starts[b0], 0), last)
        x1, at1 = load_states(states, b1), min(max(starts[b1], 0), last)
        x2, at2 = load_states(states, b2), min(max(starts[b2], 0), last)
        x3, at3 = load_states(states, b3), min(max(starts[b3], 0), last)

        # After each four steps, values of one block are put in place: all blocks at once would keep the stores waiting.
        # Those of its last four steps are not, since they are on their way to the cache.
        steps = n // GROUP // blocks * STEPS if members > 2 else 0
        if members == 4:
            for t in range(steps):
                x0, at0 = advance(find, join, pieces, t0 + t, table, tree, window, words, last, x0, at0, values)
                x1, at1 = advance(find, join, pieces, t1 + t, table, tree, window, words, last, x1, at1, values)
                x2, at2 = advance(find, join, pieces, t2 + t, table, tree, window, words, last, x2, at2, values)
                x3, at3 = advance(find, join, pieces, t3 + t, table, tree, window, words, last, x3, at3, values)
                if t & 3 == 3:
                    turn = block + (t >> 2 & 3)
                    put_until(turn, LANES * (first_step(n, blocks, turn) + t - 3), bits, cursors, values, out)
        elif members == 3:
            for t in range(steps):
                x0, at0 = advance(find, join, pieces, t0 + t, table, tree, window, words, last, x0, at0, values)
                x1, at1 = advance(find, join, pieces, t1 + t, table, tree, window, words, last, x1, at1, values)
                x2, at2 = advance(find, join, pieces, t2 + t, table, tree, window, words, last, x2, at2, values)
                if t & 3 == 3:
                    turn = block + (t >> 2) % 3
                    put_until(turn, LANES * (first_step(n, blocks, turn) + t - 3), bits, cursors, values, out)

        firsts, states_now, ats = (t0, t1, t2, t3), (x0, x1, x2, x3), (at0, at1, at2, at3)
        for member in range(members):
            x, at = states_now[member], ats[member]
            for t in range(firsts[member] + steps, first_step(n, blocks, block + member + 1)):
                x, at = advance(find, join, pieces, t, table, tree, window, words, last, x, at, values)
            sound &= ended_well(starts, block + member, x, at)
    done = finish(shift, width, positions, fields, n, blocks, bits, cursors, values, out)
    return OK if done and sound else BAD_STREAM
