"""How often each field occurs, and where the fields are that a window does not hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.kernels._jit import inlined, kernel
from slimtensors.kernels.cpu.blocks import LANES
from slimtensors.kernels.simd.lanes import Lanes, count, to_u16
from slimtensors.kernels.simd.memory import load, store
from slimtensors.kernels.status import BAD_ARGUMENT, OK

Array = npt.NDArray[Any]

STAGING = 1024  # uint16 of work space that the histograms ask for
# Symbols joined with contexts use the first few of each 256 places, which lie 1 KiB apart: few sets of the cache would
# hold them all, and lose them. So bits 8 to 11 are added to bits 4 to 7, without carry, while they are counted.
SPREAD = 0xF0
TABLES = 4  # neighbours are counted in different tables: an increment waits for the one before it in the same place


@inlined
def fields_at(src: Array, at: int, rotate: int, shift: int, width: int) -> Lanes:
    """The fields (16 bits) of src[at : at + 32]: rotated left, shifted right, cut to `width` bits."""
    bits = src.itemsize * 8
    value = load(src, at)
    # for rotate = 0 both halves are the value itself
    value = value << rotate | value >> (bits - rotate) % bits
    return to_u16(value >> shift) & (1 << width) - 1


@kernel
def field_histogram(
    src: Array, rotate: int, shift: int, width: int, every: int, staging: Array, counts: Array
) -> int:
    """Count the fields of `width` bits that lie at bit `shift` of each element rotated left by `rotate`.

    src      uint8, 16, 32 or 64 [n]  n is a multiple of 32
    staging  uint16[STAGING]          work space
    counts   uint32[4 * 2^width]      the counts come to lie in counts[: 2^width]; the rest is work space

    every: 1 to count all elements, k to count 1024 out of every k * 1024. width is at most 16, rotate less than an
    element's bits. Returns OK or BAD_ARGUMENT.
    """
    bits = src.itemsize * 8
    if not 1 <= width <= 16 or shift < 0 or shift + width > bits or not 0 <= rotate < bits:
        return BAD_ARGUMENT
    size = 1 << width
    if not 1 <= every < 1 << 16 or src.size % LANES != 0 or staging.size != STAGING or counts.size != TABLES * size:
        return BAD_ARGUMENT
    for i in range(counts.size):
        counts[i] = 0
    for begin in range(0, src.size, STAGING * every):
        length = min(STAGING, src.size - begin)
        for at in range(0, length, LANES):
            fields = fields_at(src, begin + at, rotate, shift, width)
            store(staging, at, fields ^ (fields >> 4 & SPREAD))
        for at in range(0, length, TABLES):
            i = at & STAGING - TABLES  # the same, and plainly not negative: Numba then need not ask at each element
            counts[np.int64(staging[i])] += 1
            counts[np.int64(staging[i + 1]) + size] += 1
            counts[np.int64(staging[i + 2]) + 2 * size] += 1
            counts[np.int64(staging[i + 3]) + 3 * size] += 1
    for i in range(size):
        counts[i] += counts[i + size] + counts[i + 2 * size] + counts[i + 3 * size]
    for field in range(size):
        place = field ^ (field >> 4 & SPREAD)
        if place > field:
            counts[field], counts[place] = counts[place], counts[field]
    return OK


@kernel
def find_escapes(
    src: Array, rotate: int, shift: int, width: int, symbols: Array, staging: Array, positions: Array, fields: Array
) -> int:
    """List the fields that a kernel of split.py coded as symbol 0 although they are not 0.

    src, rotate, shift, width, staging  as for field_histogram
    symbols    uint8[n]   what the split made of them
    positions  uint32[E]  where they are, rising
    fields     uint16[E]  what they are

    Returns how many were listed, at most E; -1 if the lengths or parameters disagree.
    """
    bits = src.itemsize * 8
    if not 1 <= width <= 16 or shift < 0 or shift + width > bits or not 0 <= rotate < bits:
        return -1
    if src.size % LANES != 0 or symbols.size != src.size or staging.size != STAGING or positions.size != fields.size:
        return -1
    found = 0
    for at in range(0, src.size, LANES):
        if count(load(symbols, at) == 0) == 0:
            continue
        store(staging, 0, fields_at(src, at, rotate, shift, width))
        for lane in range(LANES):
            if symbols[at + lane] == 0 and staging[lane] != 0 and found < positions.size:
                positions[found] = at + lane
                fields[found] = staging[lane]
                found += 1
    return found
