"""A chunk of the usual kind is put together: the inverse of opening.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.kernels._jit import inlined, kernel
from slimtensors.kernels.cpu.blocks import GROUP, LANES
from slimtensors.kernels.cpu.frequencies import MOST_TABLE_BYTES, write_table
from slimtensors.kernels.cpu.table import MOST_PRECISION

Array = npt.NDArray[Any]

PLANES, CONSTANT, RAW, CODED = 2, 0, 1, 2  # a chunk's kind, and the modes of planes (container.md, section 6)
UNIT = 16  # bytes of a head or descriptor, and what parts are aligned to
CHUNK_ALIGNMENT = 64
READ_AHEAD = 64
EXPANSION = 1024  # decoded bytes to a stored one, at most


@inlined
def up(length: int, alignment: int) -> int:
    return (length + alignment - 1) // alignment * alignment


@inlined
def put(halves: Array, at: int, value: int) -> None:
    """A number of 32 bits at byte `at`, which is even."""
    halves[at // 2] = np.uint16(value & 0xFFFF)
    halves[at // 2 + 1] = np.uint16(value >> 16)


@kernel
def close_chunk(
    out: Array, halves: Array, lengths: Array, units: int, decoded_bytes: int, base: int, frequencies: Array,
    positions: Array, fields: Array, states: Array, counts: Array, words: Array, tail: Array,
) -> int:  # fmt: skip
    """Put what is missing around raw planes that lie in their places.

    out          uint8[2 m]      where the raw planes are; halves uint16[m] is the same memory
    lengths      int64[planes]   of the raw planes, multiples of 16: the first begins after the descriptors; 0 where a
                                 plane is constant 0
    units, decoded_bytes         of the whole chunk
    base, frequencies            uint16[256], of the coded plane
    positions, fields            uint32[E], uint16[E], its escapes
    states, counts, words        as encode.encode_symbols leaves them
    tail         uint8[t]        units that fill no group

    Returns the chunk's length; 0 if `out` is too short for it, or the arguments disagree.
    """
    blocks, groups, escapes = counts.size, words.size // GROUP, positions.size
    if out.size != 2 * halves.size or fields.size != escapes or states.size != blocks * LANES or blocks < 1:
        return 0
    front = UNIT * (lengths.size + 2)
    payload = front
    for plane in range(lengths.size):
        if not 0 <= lengths[plane] < out.size or lengths[plane] % UNIT:
            return 0
        payload += lengths[plane]
    all_words = np.int64(0)
    for block in range(blocks):
        begin, end = block * groups // blocks * GROUP, (block + 1) * groups // blocks * GROUP
        if not 0 <= counts[block] <= end - begin:
            return 0
        all_words += counts[block]
    if payload + MOST_TABLE_BYTES > out.size:
        return 0
    table_end = payload + write_table(frequencies, out[payload : payload + MOST_TABLE_BYTES])
    positions_at = up(table_end, UNIT)
    fields_at = up(positions_at + 4 * escapes, UNIT)
    counts_at = up(fields_at + 2 * escapes, UNIT)
    states_at = up(counts_at + 4 * blocks, UNIT)
    words_at = states_at + 4 * states.size
    coded_end = words_at + 2 * all_words
    tail_at = up(coded_end, UNIT) if tail.size > 0 else coded_end
    end = tail_at + tail.size + READ_AHEAD
    end = up(max(end, (decoded_bytes + EXPANSION - 1) // EXPANSION), CHUNK_ALIGNMENT)
    if table_end < payload or end > out.size:
        return 0

    out[:front] = 0
    out[0], out[1] = PLANES, lengths.size + 1
    put(halves, 4, units)
    for plane in range(lengths.size):
        out[UNIT * (plane + 1)] = RAW if lengths[plane] > 0 else CONSTANT
        put(halves, UNIT * (plane + 1) + 4, lengths[plane])
    at = front - UNIT
    out[at], out[at + 1] = CODED, MOST_PRECISION
    halves[at // 2 + 1] = np.uint16(base)
    put(halves, at + 4, coded_end - payload)
    put(halves, at + 8, blocks)
    put(halves, at + 12, escapes)

    out[table_end:states_at] = 0
    for i in range(escapes):
        put(halves, positions_at + 4 * i, np.int64(positions[i]))
        halves[fields_at // 2 + i] = fields[i]
    for block in range(blocks):
        put(halves, counts_at + 4 * block, counts[block])
    for i in range(states.size):
        put(halves, states_at + 4 * i, np.int64(states[i]))
    at = words_at // 2
    for block in range(blocks):
        last = (block + 1) * groups // blocks * GROUP
        halves[at : at + counts[block]] = words[last - counts[block] : last]
        at += counts[block]
    out[coded_end:tail_at] = 0
    out[tail_at : tail_at + tail.size] = tail
    out[tail_at + tail.size : end] = 0
    return end
