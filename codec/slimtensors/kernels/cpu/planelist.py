"""The work list of chunks plane by plane, for kernels/cuda/plane.py and elements.py: layouts without a kernel of their
own. As worklist.py, whose checks these are too; what is not listed is left to the decoder for CPUs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.kernels._jit import inlined, kernel
from slimtensors.kernels.cpu.payload import (
    ABSENT_MARK,
    BYPASS_SYMBOLS,
    FIELDS,
    PARTS,
    POSITIONS,
    SAME_MARK,
    STATES,
    WORDS,
    all_zero,
    cut_payload,
    largest_field,
    u32_at,
    up,
)
from slimtensors.kernels.cpu.planes import packed_size
from slimtensors.kernels.cpu.worklist import (
    AT,
    CHUNK,
    CHUNK_UNITS,
    CODED,
    CONSTANT,
    DESCRIPTOR,
    ESCAPE_SHARE,
    GROUP,
    HEAD,
    KIND_AFFINE,
    KIND_LITERAL,
    KIND_PLANES,
    LEFT,
    LENGTH,
    LISTED,
    NO_ROOM,
    OUT,
    RAW,
    READ_AHEAD,
    list_affine,
    odd_bits_are_zero,
    put_block_rows,
    put_plain,
    read_starts,
    u16_at,
)
from slimtensors.kernels.cuda import rows
from slimtensors.kernels.status import BAD_ARGUMENT, OK

Array = npt.NDArray[Any]

BYPASS = 4
DONE = 2  # what becomes of a chunk: listed already, as it has no planes
# How much of each list is filled, int64; PLAIN is worklist's. BYPASSED: how many of the items are in mode bypass.
ITEMS, ROWS, TABLES, _PLAIN, MAPS, FIELD_ITEMS, BYPASSED, LISTS = 0, 1, 2, 3, 4, 5, 6, 7
FIXED = 8
FIELD_UNITS = 1 << 14  # of an item of `fields`


@kernel
def place_planes(
    segment: Array,
    chunks: Array,
    unit_bytes: int,
    planes: int,
    has_base: bool,
    plain: Array,
    used: Array,
    places: Array,
    becomes: Array,
) -> int:
    """Check heads, lengths and padding; list literal and affine chunks, and tails.

    segment, chunks, plain  as list_chunks has them
    used     int64[LISTS]   changed
    places   int64[planes * n]  filled: where each plane's payload begins
    becomes  uint8[n]       filled: LISTED if the chunk has planes, DONE if it has none, or LEFT
    """
    if segment.size >= 1 << 32 or used.size != LISTS or chunks.size != CHUNK * becomes.size:
        return BAD_ARGUMENT
    if places.size != planes * becomes.size or planes < 1:
        return BAD_ARGUMENT
    for i in range(becomes.size):
        chunk = chunks[CHUNK * i : CHUNK * (i + 1)]
        begin, length, units, out = chunk[AT], chunk[LENGTH], chunk[CHUNK_UNITS], chunk[OUT]
        if begin < 0 or begin % 64 != 0 or length < 64 or length % 64 != 0 or begin + length > segment.size:
            return BAD_ARGUMENT
        if not 1 <= units < 1 << 31 or out < 0:
            return BAD_ARGUMENT
        becomes[i] = LEFT
        kind, end = segment[begin], begin + length
        sound = segment[begin + 1] == (planes if kind == KIND_PLANES else 0)
        sound = sound and u16_at(segment, begin + 2) == 0 and u32_at(segment, begin + 4) == units
        if not (has_base and kind == KIND_PLANES):
            sound = sound and all_zero(segment, begin + 8, begin + 16)
        if not sound:
            continue
        if kind == KIND_LITERAL:
            stop = begin + HEAD + units * unit_bytes
            if stop <= end and all_zero(segment, stop, end):
                if not put_plain(plain, used, out, units, (begin + HEAD) // unit_bytes, 0, 0):
                    return NO_ROOM
                becomes[i] = DONE
        elif kind == KIND_AFFINE:
            found = list_affine(segment, begin, length, units, out, 8 * unit_bytes, plain, used)
            if found == NO_ROOM:
                return NO_ROOM
            becomes[i] = DONE if found == LISTED else LEFT
        elif kind == KIND_PLANES and units >= GROUP and HEAD + DESCRIPTOR * planes <= length:
            at = begin + HEAD + DESCRIPTOR * planes
            filled = at
            for plane in range(planes):
                size = u32_at(segment, begin + HEAD + DESCRIPTOR * plane + 4)
                sound = sound and size <= end - at
                if sound:
                    places[planes * i + plane] = at
                    if size > 0:
                        sound = all_zero(segment, filled, at)
                        filled = at + size
                        at = begin + up(filled - begin)
                        sound = sound and at <= end
            tail = units % GROUP
            sound = sound and at + tail * unit_bytes <= end
            if sound and tail > 0:
                sound = all_zero(segment, filled, at)
                filled = at + tail * unit_bytes
            if sound and end - filled >= READ_AHEAD and all_zero(segment, filled, end):
                if tail > 0 and not put_plain(plain, used, out + units - tail, tail, at // unit_bytes, 0, 0):
                    return NO_ROOM
                becomes[i] = LISTED
    return OK


@inlined
def put_fields(fields: Array, used: Array, out: int, units: int, plane: Array, value: int) -> bool:
    """List the fields of a raw plane, or of a constant one, whose width is 0. plane: shift, width, above."""
    for done in range(0, units, FIELD_UNITS):
        at = used[FIELD_ITEMS] * rows.FIELDS_ITEM
        if at + rows.FIELDS_ITEM > fields.size:
            return False
        fields[at + rows.TO] = np.uint32(out + done & 0xFFFFFFFF)
        fields[at + rows.TO_HIGH] = np.uint32(out + done >> 32)
        fields[at + rows.UNITS] = np.uint32(min(units - done, FIELD_UNITS))
        fields[at + rows.UNIT_AT] = np.uint32(done)
        fields[at + rows.GROUPS_ALL] = np.uint32(units // GROUP)
        fields[at + rows.FIELD_SHIFT] = np.uint32(plane[0])
        fields[at + rows.FIELD_WIDTH] = np.uint32(plane[1])
        fields[at + rows.FIELD_ABOVE] = np.uint32(plane[2])
        fields[at + rows.VALUE] = np.uint32(value)
        used[FIELD_ITEMS] += 1
    return True


@inlined
def put_tables(
    segment: Array, at: int, length: int, number: int, largest: Array, starts: Array, maps: Array, used: Array
) -> int:
    """List the tables of a coded plane: what they take, or -1; largest: precision, base, width, whether bypass."""
    end, found = np.int64(0), np.int64(0)
    for i in range(number):
        mark = np.int64(0)
        if number > 1 and end + 2 <= length and segment[at + end + 1] == 0:
            mark = np.int64(segment[at + end])
        if mark == ABSENT_MARK or (mark == SAME_MARK and i > 0):
            same = maps[used[MAPS] + i - 1] if mark == SAME_MARK else np.uint32(rows.ABSENT)
            maps[used[MAPS] + i] = same
            end += 2
        else:
            table = used[TABLES] + found
            first = rows.STARTS * table
            read = read_starts(segment[at + end :], length - end, largest[0], starts[first : first + 256])
            if read < 0:
                return -1
            last = read // 1024
            if largest_field(last, largest[1], largest[3] != 0) >= 1 << largest[2]:
                return -1
            if largest[3] != 0 and last >= BYPASS_SYMBOLS:
                return -1
            starts[first + 256] = np.uint16(largest[0])
            maps[used[MAPS] + i] = np.uint32(rows.SLOTS * table)
            end += read % 1024
            found += 1
    used[MAPS] += number
    used[TABLES] += found
    return int(end)


@kernel
def list_plane(
    segment: Array,
    chunks: Array,
    places: Array,
    plane: Array,
    context_at: Array,
    items: Array,
    block_rows: Array,
    starts: Array,
    maps: Array,
    fields: Array,
    used: Array,
    scratch: Array,
    owners: Array,
    becomes: Array,
) -> int:
    """List one plane of all chunks that have planes; those that cannot be become LEFT.

    places      as place_planes left them
    plane       int64[8]: its shift, its width, whether another plane has been there before, its number, the number of
                planes, tables (1 without contexts), the mask of a context that selects one, the octave
    context_at  int64[n]: where the contexts of each chunk begin
    items, block_rows, maps, fields  uint32[...]; starts uint16[...]: filled as rows.py says
    used        int64[LISTS]  changed
    scratch     int64[...]    work space: 32, and one for each block of a chunk
    owners      int64[...]    filled: the chunk of each item
    """
    if plane.size != 8 or used.size != LISTS or context_at.size != becomes.size:
        return BAD_ARGUMENT
    shift, width, number, planes, tables = plane[0], plane[1], plane[3], plane[4], plane[5]
    if places.size != planes * becomes.size or chunks.size != CHUNK * becomes.size:
        return BAD_ARGUMENT
    if scratch.size < FIXED:
        return BAD_ARGUMENT
    largest, constant = scratch[:4], scratch[4:7]
    constant[0], constant[1], constant[2] = shift, 0, plane[2]
    for i in range(becomes.size):
        if becomes[i] != LISTED:
            continue
        begin, units, out = chunks[CHUNK * i + AT], chunks[CHUNK * i + CHUNK_UNITS], chunks[CHUNK * i + OUT]
        groups = units // GROUP
        at, head = places[planes * i + number], begin + HEAD + DESCRIPTOR * number
        mode, precision, base = segment[head], np.int64(segment[head + 1]), u16_at(segment, head + 2)
        length, blocks, escapes = u32_at(segment, head + 4), u32_at(segment, head + 8), u32_at(segment, head + 12)
        becomes[i] = LEFT
        if mode in (CONSTANT, RAW):
            if precision != 0 or blocks != 0 or escapes != 0:
                continue
            if mode == CONSTANT:
                if base >= 1 << width or length != 0:
                    continue
                if not put_fields(fields, used, out, groups * GROUP, constant, base):
                    return NO_ROOM
            else:
                if base != 0 or width > 8 or length != packed_size(groups * GROUP, width):
                    continue
                if not odd_bits_are_zero(segment, at, width, groups):
                    continue
                if not put_fields(fields, used, out, groups * GROUP, plane, at):
                    return NO_ROOM
            becomes[i] = LISTED
            continue
        is_bypass = mode == BYPASS
        if not is_bypass and mode != CODED:
            continue
        if not 1 <= blocks <= groups or escapes * ESCAPE_SHARE > groups * GROUP:
            continue
        if is_bypass and (escapes != 0 or base != 0 or width <= 8):
            continue
        if rows.STARTS * (used[TABLES] + tables) > starts.size or used[MAPS] + tables > maps.size:
            return NO_ROOM
        count = (blocks + rows.CODER_BLOCKS - 1) // rows.CODER_BLOCKS
        if rows.PLANE_ITEM * (used[ITEMS] + count) > items.size or used[ITEMS] + count > owners.size:
            return NO_ROOM
        if rows.BLOCK_ROW * (used[ROWS] + blocks) > block_rows.size or FIXED + PARTS + blocks + 1 > scratch.size:
            return NO_ROOM
        largest[0], largest[1], largest[2], largest[3] = precision, base, width, 1 if is_bypass else 0
        map_at = used[MAPS]
        end = put_tables(segment, at, length, tables, largest, starts, maps, used)
        parts, firsts = scratch[FIXED : FIXED + PARTS], scratch[FIXED + PARTS :][: blocks + 1]
        payload = segment[at : at + length]
        if end < 0 or cut_payload(payload, length, end, width, escapes, groups * GROUP, firsts, parts) != OK:
            continue
        first_word, escape = (at + parts[WORDS]) // 2, 0
        for block in range(0, blocks, rows.CODER_BLOCKS):
            members = min(rows.CODER_BLOCKS, blocks - block)
            item = rows.PLANE_ITEM * used[ITEMS]
            items[item + rows.OUT] = np.uint32(out & 0xFFFFFFFF)
            items[item + rows.OUT_HIGH] = np.uint32(out >> 32)
            items[item + rows.BLOCKS] = np.uint32(members)
            items[item + rows.ROW] = np.uint32(rows.BLOCK_ROW * (used[ROWS] + block))
            items[item + rows.MAP] = np.uint32(map_at)
            items[item + rows.CONTEXT] = np.uint32(context_at[i] if tables > 1 else rows.NOWHERE)
            items[item + rows.BASE] = np.uint32(base)
            items[item + rows.STATES] = np.uint32((at + parts[STATES]) // 4 + 32 * block)
            items[item + rows.LAST] = np.uint32(first_word + firsts[blocks])
            items[item + rows.POSITIONS] = np.uint32((at + parts[POSITIONS]) // 4 + escape)
            items[item + rows.FIELDS] = np.uint32((at + parts[FIELDS]) // 2 + escape)
            items[item + rows.SHIFT], items[item + rows.WIDTH] = np.uint32(shift), np.uint32(width)
            items[item + rows.BYPASS] = np.uint32(1 if is_bypass else 0)
            items[item + rows.OCTAVE], items[item + rows.TABLE_MASK] = np.uint32(plane[7]), np.uint32(plane[6])
            items[item + rows.ABOVE] = np.uint32(plane[2])
            last, before = (block + members) * groups // blocks * GROUP, escape
            while escape < escapes and u32_at(payload, parts[POSITIONS] + 4 * escape) < last:
                escape += 1
            items[item + rows.ESCAPES] = np.uint32(escape - before)
            owners[used[ITEMS]] = i
            used[ITEMS] += 1
            used[BYPASSED] += 1 if is_bypass else 0
        put_block_rows(block_rows, used, groups, blocks, first_word, firsts)
        becomes[i] = LISTED
    return OK
