"""Open a whole chunk of the usual kind at once: raw planes below one coded plane, perhaps after a mask, perhaps with
classes and signs (container.md, section 6).

The codecs check head, descriptors, padding and payload piece by piece, in Python, which takes a fifth of the time that
a chunk takes to decode. What is not of the usual kind, malformed chunks among it, is left to them: they decode it, or
have the words for what is wrong.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.kernels._jit import brief, shared, spliced
from slimtensors.kernels.cpu.payload import (
    FIELDS,
    PARTS,
    POSITIONS,
    SAME_MARK,
    STATES,
    TWO_BYTES,
    WORDS,
    all_zero,
    cut_payload,
    largest_field,
    read_table,
    u32_at,
    up,
)
from slimtensors.kernels.cpu.planes import packed_size
from slimtensors.kernels.cpu.table import MOST_PRECISION, SLOTS
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


@spliced
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


@spliced
def pass_planes(
    data: Array, units: int, unit_bytes: int, above: int, groups: int, widths: Array, signs: bool, places: Array
) -> int:
    """Check head, raw planes, padding and tail, and find where planes begin: OK or LEFT.

    above: planes that are only passed over. groups: of the others. signs: whether the first of these is coded, too.
    """
    planes, length = above + widths.size, data.size
    at = HEAD + DESCRIPTOR * planes
    if places.size != PLACES or not 1 <= widths.size <= MOST_PLANES or groups == 0 or at > length:
        return LEFT
    head = np.int64(0)  # for literals Numba would compile u32_at anew
    if data[0] != KIND_PLANES or data[1] != planes or u16_at(data, head + 2) != 0 or u32_at(data, head + 4) != units:
        return LEFT
    zeros = u32_at(data, head + 8) | u32_at(data, head + 12)  # no digest of a base
    filled, size = at, np.int64(0)
    for plane in range(planes):
        descriptor, width = HEAD + DESCRIPTOR * plane, widths[max(plane - above, 0)]
        if width == 0 and above <= plane < planes - 1:
            for i in range(descriptor, descriptor + DESCRIPTOR):
                zeros |= data[i]
            continue
        size = np.int64(u32_at(data, descriptor + 4))
        if size > length - at or (size == 0 and plane >= above):
            return LEFT
        if above <= plane < planes - 1 and not (signs and plane == above):
            if data[descriptor] != RAW or not 1 <= width <= 8 or size != packed_size(groups * GROUP, width):
                return LEFT
            if not odd_bits_are_zero(data, at, width, groups):
                return LEFT
            zeros |= u32_at(data, descriptor) >> 8 | u32_at(data, descriptor + 8) | u32_at(data, descriptor + 12)
        if size > 0:
            for i in range(filled, at):
                zeros |= data[i]
            filled = at + size
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
    places[TAIL], places[GROUPS] = at, groups
    return OK


@shared
def read_zeros(payload: Array, length: int, zeros: Array) -> int:
    """Tables of signs: of each, the frequency of 0 in 4096. The bytes read; -1 if one is absent or wrong.

    zeros uint16[tables], filled
    """
    at = 0
    for i in range(zeros.size):
        if at + 2 <= length and payload[at] == SAME_MARK and payload[at + 1] == 0 and i > 0:
            zeros[i] = zeros[i - 1]
            at += 2
            continue
        if at + 2 > length or payload[at] != 0 or payload[at + 1] != 1:  # symbols 0 to 1
            return -1
        at += 2
        total, first = np.int64(0), np.int64(0)
        for symbol in range(2):
            if at >= length:
                return -1
            frequency = np.int64(payload[at])
            at += 1
            if frequency >= TWO_BYTES:
                if at >= length or payload[at] == 0:
                    return -1
                frequency += (np.int64(payload[at]) - 1) * TWO_BYTES
                at += 1
            if frequency == 0:
                return -1
            total += frequency
            first = frequency if symbol == 0 else first
        if total != SLOTS:
            return -1
        zeros[i] = first
    return at


@shared
def read_tables(payload: Array, length: int, precision: int, base: int, width: int, table: Array) -> int:
    """A table for each context, one after another; the bytes read, or -1 if one is absent or wrong."""
    end = 0
    for i in range(table.size // SLOTS):
        if end + 2 <= length and payload[end] == SAME_MARK and payload[end + 1] == 0 and i > 0:
            for slot in range(SLOTS * i, SLOTS * (i + 1)):
                table[slot] = table[slot - SLOTS]
            end += 2
            continue
        read = read_table(payload[end:], length - end, precision, 0, table[SLOTS * i : SLOTS * (i + 1)])
        if read < 0 or largest_field(read // 1024, base, False) >= 1 << width:
            return -1
        end += read % 1024
    return end


@spliced
def cut_coded(
    data: Array, plane: int, at: int, read: int, width: int, groups: int, starts: Array, places: Array
) -> int:
    """Check what follows the tables of a plane, `read` bytes from its beginning, and note it: OK or LEFT."""
    descriptor = HEAD + DESCRIPTOR * plane
    blocks, escapes = np.int64(u32_at(data, descriptor + 8)), np.int64(u32_at(data, descriptor + 12))
    length = np.int64(u32_at(data, descriptor + 4))
    if data[descriptor] != CODED or not 1 <= blocks <= groups or escapes * ESCAPE_SHARE > groups * GROUP:
        return LEFT
    if blocks >= starts.size or read < 0:
        return LEFT
    payload, some, parts = data[at : at + length], starts[: blocks + 1], places[:PARTS]
    if cut_payload(payload, length, read, width, escapes, groups * GROUP, some, parts) != OK:
        return LEFT
    for part in (POSITIONS, FIELDS, STATES, WORDS):
        places[part] += at
    places[BASE], places[PRECISION] = u16_at(data, descriptor + 2), data[descriptor + 1]
    places[BLOCKS], places[ESCAPES] = blocks, escapes
    return OK


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
    if pass_planes(data, units, unit_bytes, above, groups, widths, False, places) != OK:
        return LEFT
    plane, width = above + widths.size - 1, widths[widths.size - 1]
    descriptor, at = HEAD + DESCRIPTOR * plane, places[PAYLOADS + widths.size - 1]
    precision, base = np.int64(data[descriptor + 1]), np.int64(u16_at(data, descriptor + 2))
    length = np.int64(u32_at(data, descriptor + 4))
    read = read_table(data[at : at + length], length, precision, base if width <= 8 else 0, table)
    if read < 0 or largest_field(read // 1024, base, False) >= 1 << width:
        return LEFT
    return cut_coded(data, plane, at, read % 1024, width, groups, starts, places)


@shared
def most(classes: Array) -> int:
    found = np.uint8(0)
    for i in range(classes.size):
        found = max(found, classes[i])
    return int(found)


@brief
def open_classes(
    data: Array,
    units: int,
    unit_bytes: int,
    widths: Array,
    rows: Array,
    columns: Array,
    octave: int,
    lifts: int,
    table: Array,
    starts: Array,
    places: Array,
    zeros: Array,
    sign_starts: Array,
    sign_places: Array,
) -> int:
    """open_chunk for raw planes below one with classes of rows and columns; with a mean, and signs as the first plane.

    rows, columns  uint8[...]      their classes
    octave, lifts                  by how much four classes move a field; by how many the mean lifts a class at most
    table          uint32[4096 * tables]   filled: one table for each class modulo their number
    zeros          uint16[tables]  filled: of signs' tables, the frequency of 0. Empty if no signs are coded

    sign_starts and sign_places are to signs what starts and places are to the plane on top. LEFT also where a field
    might be moved twice around its plane, a table is absent, or the signs are not in as many blocks as the rest.
    """
    signs, groups, planes, none = zeros.size > 0, units // GROUP, widths.size, np.int64(0)  # a literal, as above
    if pass_planes(data, units, unit_bytes, none, groups, widths, signs, places) != OK:
        return LEFT
    width, at = widths[planes - 1], places[PAYLOADS + planes - 1]
    descriptor = HEAD + DESCRIPTOR * (planes - 1)
    precision, base = np.int64(data[descriptor + 1]), np.int64(u16_at(data, descriptor + 2))
    length = np.int64(u32_at(data, descriptor + 4))
    # A field is symbol + base, moved by octaves, and goes round about its plane once.
    highest = (min(base + 256, 1 << width) - 1) + octave * ((most(rows) + most(columns) + lifts) // 4)
    if highest >= (2 << width) - 1:
        return LEFT
    read = read_tables(data[at : at + length], length, precision, base, width, table)
    if cut_coded(data, planes - 1, at, read, width, groups, starts, places) != OK:
        return LEFT
    if not signs:
        return OK
    length = np.int64(u32_at(data, np.int64(HEAD) + 4))
    at = places[PAYLOADS]
    read = read_zeros(data[at : at + length], length, zeros)
    if cut_coded(data, none, at, read, widths[0], groups, sign_starts, sign_places) != OK:
        return LEFT
    plain = sign_places[BASE] == 0 and sign_places[ESCAPES] == 0 and sign_places[PRECISION] == MOST_PRECISION
    return OK if plain and sign_places[BLOCKS] == places[BLOCKS] else LEFT
