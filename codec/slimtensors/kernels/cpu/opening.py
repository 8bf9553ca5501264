"""Open a whole chunk of the usual kind at once: raw planes below one coded plane, perhaps after a mask (container.md,
section 6).

The codecs check head, descriptors, padding and payload piece by piece, in Python, which takes a fifth of the time that
a chunk takes to decode. What is not of the usual kind, malformed chunks among it, is left to them: they decode it, or
have the words for what is wrong.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.kernels._jit import brief, shared
from slimtensors.kernels.cpu.payload import (
    FIELDS,
    PARTS,
    POSITIONS,
    STATES,
    WORDS,
    all_zero,
    cut_payload,
    largest_field,
    read_table,
    u32_at,
    up,
)
from slimtensors.kernels.cpu.planes import packed_size
from slimtensors.kernels.cpu.worklist import (
    CODED,
    DESCRIPTOR,
    ESCAPE_SHARE,
    GROUP,
    HEAD,
    KIND_PLANES,
    RAW,
    READ_AHEAD,
    odd_bits_are_zero,
    u16_at,
)
from slimtensors.kernels.simd.lanes import count
from slimtensors.kernels.simd.sparse import mask_of
from slimtensors.kernels.status import OK

Array = npt.NDArray[Any]

LEFT = 48  # status: not of the usual kind

# Places: what is found, in bytes from the chunk's beginning; the first five are those of payload.py.
BASE, BLOCKS, ESCAPES, PRECISION, TAIL, GROUPS = PARTS, PARTS + 1, PARTS + 2, PARTS + 3, PARTS + 4, PARTS + 5
PAYLOADS = PARTS + 6  # of the planes that have widths, in their order
MOST_PLANES = 8
PLACES = PAYLOADS + MOST_PLANES


@shared
def values_of(data: Array, units: int, mask: Array, bits: Array) -> int:
    """How many units a mask has, if it fits the chunk and they are some but not all; else 0."""
    body = units // GROUP * GROUP
    used = body // 8
    if bits.size != body // 32 or mask.size != (used + GROUP - 1) // GROUP * GROUP:
        return 0
    first, values = np.int64(HEAD), np.int64(0)
    if first + DESCRIPTOR > data.size or not all_zero(mask, used, mask.size):
        return 0
    if data[first] == RAW:
        rest = u32_at(data, first) >> 8 | u32_at(data, first + 8) | u32_at(data, first + 12)
        if rest != 0 or u32_at(data, first + 4) != mask.size:
            return 0
    for i in range(bits.size):
        values += count(mask_of(bits, i))
    return values if values < body else 0


@brief
def open_chunk(
    data: Array,
    units: int,
    unit_bytes: int,
    mask: Array,
    bits: Array,
    widths: Array,
    table: Array,
    starts: Array,
    places: Array,
) -> int:
    """Check a chunk and find its parts.

    data     uint8[...]      the chunk, as stored
    units, unit_bytes        what the header implies
    mask     uint8[whole groups]   of a chunk whose first plane is one: its fields, in the chunk or decoded and checked
    bits     uint32[units of the body / 32]   what `mask` begins with. Both are empty if there is none
    widths   int64[planes]   of the other planes, 1 to 8 bits of all but the last; 0 of one that has to be constant 0
    table    uint32[4096]    filled: the decoder's
    starts   int64[...]      filled: each block's first word, and the end; LEFT if there are too many
    places   int64[PLACES]   filled

    Returns OK or LEFT.
    """
    above, groups = 0, units // GROUP  # planes that are only passed over, groups of the others
    if bits.size > 0:
        above, groups = 1, (values_of(data, units, mask, bits) + GROUP - 1) // GROUP
    planes, length = above + widths.size, data.size
    at = HEAD + DESCRIPTOR * planes
    if places.size != PLACES or not 1 <= widths.size <= MOST_PLANES or groups == 0 or at > length:
        return LEFT
    head = np.int64(0)  # for literals Numba would compile u32_at anew
    if data[0] != KIND_PLANES or data[1] != planes or u16_at(data, head + 2) != 0 or u32_at(data, head + 4) != units:
        return LEFT
    zeros = u32_at(data, head + 8) | u32_at(data, head + 12)  # no digest of a base
    filled, top, top_length = at, 0, np.int64(0)
    for plane in range(planes):
        descriptor, width = HEAD + DESCRIPTOR * plane, widths[max(plane - above, 0)]
        if width == 0 and above <= plane < planes - 1:
            for i in range(descriptor, descriptor + DESCRIPTOR):
                zeros |= data[i]
            continue
        top, top_length = at, np.int64(u32_at(data, descriptor + 4))
        if top_length > length - at or (top_length == 0 and plane >= above):
            return LEFT
        if above <= plane < planes - 1:
            if data[descriptor] != RAW or not 1 <= width <= 8 or top_length != packed_size(groups * GROUP, width):
                return LEFT
            if not odd_bits_are_zero(data, at, width, groups):
                return LEFT
            zeros |= u32_at(data, descriptor) >> 8 | u32_at(data, descriptor + 8) | u32_at(data, descriptor + 12)
        if top_length > 0:
            for i in range(filled, at):
                zeros |= data[i]
            filled = at + top_length
        if plane >= above:
            places[PAYLOADS + plane - above] = at
        at = up(filled)
    tail = units % GROUP * unit_bytes
    if at + tail > length:
        return LEFT
    begin = filled
    if tail > 0:
        for i in range(filled, at):
            zeros |= data[i]
        begin = at + tail
    if zeros != 0 or length - begin < READ_AHEAD or not all_zero(data, begin, length):
        return LEFT

    descriptor, width = HEAD + DESCRIPTOR * (planes - 1), widths[widths.size - 1]
    precision, base = np.int64(data[descriptor + 1]), np.int64(u16_at(data, descriptor + 2))
    blocks, escapes = np.int64(u32_at(data, descriptor + 8)), np.int64(u32_at(data, descriptor + 12))
    if data[descriptor] != CODED or not 1 <= blocks <= groups or escapes * ESCAPE_SHARE > groups * GROUP:
        return LEFT
    if blocks >= starts.size:
        return LEFT
    payload = data[top : top + top_length]
    read = read_table(payload, top_length, precision, base if width <= 8 else 0, table)
    if read < 0 or largest_field(read // 1024, base, False) >= 1 << width:
        return LEFT
    some, parts = starts[: blocks + 1], places[:PARTS]
    if cut_payload(payload, top_length, read % 1024, width, escapes, groups * GROUP, some, parts) != OK:
        return LEFT
    for part in (POSITIONS, FIELDS, STATES, WORDS):
        places[part] += top
    places[BASE], places[BLOCKS], places[ESCAPES], places[TAIL] = base, blocks, escapes, at
    places[PRECISION], places[GROUPS] = precision, groups
    return OK
