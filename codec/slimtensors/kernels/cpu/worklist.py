"""The work list of a segment, for the kernels of kernels/cuda, and all checks that a decoder makes of what it lists.

A segment is stored bytes of whole chunks. For each chunk that a kernel can decode, items are listed; any other chunk,
malformed ones with them, is left to the decoder for CPUs, which decodes it or has the words for what is wrong.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.kernels._jit import inlined, kernel
from slimtensors.kernels.cpu.payload import (
    FIELDS,
    PARTS,
    POSITIONS,
    STATES,
    TWO_BYTES,
    WORDS,
    all_zero,
    cut_payload,
    largest_field,
    u32_at,
    up,
)
from slimtensors.kernels.cpu.planes import packed_size
from slimtensors.kernels.cuda import rows
from slimtensors.kernels.status import BAD_ARGUMENT, OK

Array = npt.NDArray[Any]

# A chunk that is asked for, int64: its first byte in the segment (a multiple of 64), its stored length, its units, its
# first unit in the output.
AT, LENGTH, CHUNK_UNITS, OUT, CHUNK = 0, 1, 2, 3, 4
# The expression, int64: bytes of a unit, rotation, number of planes, their widths.
UNIT_BYTES, ROTATE, PLANES, WIDTHS = 0, 1, 2, 3
# How much of each list is filled, int64.
ITEMS, ROWS, TABLES, PLAIN, LISTS = 0, 1, 2, 3, 4
# What becomes of a chunk.
LEFT, LISTED = 0, 1

NO_ROOM = 32  # status: a list is full

FIXED = 3 + rows.MOST_PIECES
HEAD, DESCRIPTOR, READ_AHEAD = 16, 16, 64
GROUP = 128
KIND_LITERAL, KIND_AFFINE, KIND_PLANES = 0, 1, 2
CONSTANT, RAW, CODED = 0, 1, 2
ESCAPE_SHARE = 16


@inlined
def u16_at(data: Array, at: int) -> int:
    return int(data[at]) | int(data[at + 1]) << 8


@kernel
def read_starts(payload: Array, length: int, precision: int, starts: Array) -> int:
    """Where each symbol's slots start, from a table's stored form (coder.md, section 3); as payload.read_table.

    starts  uint16[256]
    """
    if not 11 <= precision <= 12 or starts.size != 256:
        return -1
    slots = 1 << precision
    end = min(length, payload.size)
    if end < 4:
        return -1
    first, last = np.int64(payload[0]), np.int64(payload[1])
    if first >= last:
        return -1
    for symbol in range(first):
        starts[symbol] = 0
    at, slot = 2, 0
    for symbol in range(first, last + 1):
        if at >= end:
            return -1
        frequency = np.int64(payload[at])
        at += 1
        if frequency >= TWO_BYTES:
            if at >= end or payload[at] == 0:
                return -1
            frequency += (np.int64(payload[at]) - 1) * TWO_BYTES
            at += 1
        at_end = symbol == first or symbol == last  # Numba would build a tuple
        if frequency > slots - slot or frequency == slots or (frequency == 0 and at_end):
            return -1
        starts[symbol] = np.uint16(slot)
        slot += frequency
    for symbol in range(last + 1, 256):
        starts[symbol] = np.uint16(slots)
    return at + 1024 * last if slot == slots else -1


@inlined
def odd_bits_are_zero(segment: Array, at: int, width: int, groups: int) -> bool:
    """Whether the bits that fill up a piece of one bit are zero."""
    if width % 2 == 0 or groups % 2 == 0:
        return True
    seen = np.int64(0)
    end = at + packed_size(groups * GROUP, width)
    for i in range(end - 32, end):
        seen |= np.int64(segment[i]) >> 4
    return bool(seen == 0)


@inlined
def put_plain(plain: Array, used: Array, to: int, units: int, source: int, start: int, step: int) -> bool:
    """List units that are copied (from a place in the segment) or a sequence; False if there is no room."""
    done = 0
    # Sequences are modulo the unit.
    while done < units:
        at = used[PLAIN] * rows.PLAIN_ITEM
        if at + rows.PLAIN_ITEM > plain.size:
            return False
        count = min(units - done, rows.PLAIN_UNITS)
        plain[at + rows.TO] = np.uint32(to + done & 0xFFFFFFFF)
        plain[at + rows.TO_HIGH] = np.uint32(to + done >> 32)
        plain[at + rows.UNITS] = np.uint32(count)
        plain[at + rows.FROM] = np.uint32(rows.NOWHERE if source < 0 else source + done)
        first = start + done * step
        plain[at + rows.START] = np.uint32(first & 0xFFFFFFFF)
        plain[at + rows.START + 1] = np.uint32(first >> 32 & 0xFFFFFFFF)
        plain[at + rows.STEP] = np.uint32(step & 0xFFFFFFFF)
        plain[at + rows.STEP + 1] = np.uint32(step >> 32 & 0xFFFFFFFF)
        used[PLAIN] += 1
        done += count
    return True


@inlined
def list_affine(
    segment: Array, at: int, length: int, units: int, out: int, bits: int, plain: Array, used: Array
) -> int:
    """A sequence of numbers. Signed arithmetic wraps as unsigned does."""
    start = np.int64(u32_at(segment, at + 16)) | np.int64(u32_at(segment, at + 20)) << 32
    step = np.int64(u32_at(segment, at + 24)) | np.int64(u32_at(segment, at + 28)) << 32
    if bits < 64 and (start >> bits != 0 or step >> bits != 0):
        return LEFT
    if not all_zero(segment, at + 32, at + length):
        return LEFT
    return LISTED if put_plain(plain, used, out, units, -1, start, step) else NO_ROOM


@inlined
def put_block_rows(block_rows: Array, used: Array, groups: int, blocks: int, first_word: int, starts: Array) -> None:
    """A row for each block of a plane: its groups and its words."""
    for block in range(blocks):
        row = rows.BLOCK_ROW * (used[ROWS] + block)
        group = block * groups // blocks
        block_rows[row + rows.GROUP_AT] = np.uint32(group)
        block_rows[row + rows.GROUPS] = np.uint32((block + 1) * groups // blocks - group)
        block_rows[row + rows.WORD] = np.uint32(first_word + starts[block])
        block_rows[row + rows.END] = np.uint32(first_word + starts[block + 1])
    used[ROWS] += blocks


@inlined
def put_blocks(
    segment: Array,
    chunk: Array,
    at: int,
    width: int,
    groups: int,
    lists: tuple[Array, Array, Array],
    used: Array,
    scratch: Array,
) -> int:
    """List the items of a coded plane whose descriptor is at `at`; `scratch` begins with what list_planes found."""
    items, block_rows, tables = lists
    precision, base = np.int64(segment[at + 1]), u16_at(segment, at + 2)
    length, blocks, escapes = u32_at(segment, at + 4), u32_at(segment, at + 8), u32_at(segment, at + 12)
    if not 1 <= blocks <= groups or escapes * ESCAPE_SHARE > groups * GROUP:
        return LEFT
    if rows.BLOCK_ROW * (used[ROWS] + blocks) > block_rows.size or 256 * (used[TABLES] + 1) > tables.size:
        return NO_ROOM
    if rows.ITEM * (used[ITEMS] + (blocks + rows.CODER_BLOCKS - 1) // rows.CODER_BLOCKS) > items.size:
        return NO_ROOM
    if FIXED + PARTS + blocks + 1 > scratch.size:
        return NO_ROOM
    fixed, parts, starts = scratch[:FIXED], scratch[FIXED : FIXED + PARTS], scratch[FIXED + PARTS :][: blocks + 1]
    payload = segment[fixed[0] : fixed[0] + length]
    read = read_starts(payload, length, precision, tables[256 * used[TABLES] : 256 * (used[TABLES] + 1)])
    if read < 0 or largest_field(read // 1024, base, False) >= 1 << width:
        return LEFT
    if cut_payload(payload, length, read % 1024, width, escapes, groups * GROUP, starts, parts) != OK:
        return LEFT
    first_word = (fixed[0] + parts[WORDS]) // 2
    escape = 0
    for block in range(0, blocks, rows.CODER_BLOCKS):
        members = min(rows.CODER_BLOCKS, blocks - block)
        item = rows.ITEM * used[ITEMS]
        items[item + rows.OUT] = np.uint32(chunk[OUT] & 0xFFFFFFFF)
        items[item + rows.OUT_HIGH] = np.uint32(chunk[OUT] >> 32)
        items[item + rows.BLOCKS] = np.uint32(members)
        items[item + rows.ROW] = np.uint32(rows.BLOCK_ROW * (used[ROWS] + block))
        items[item + rows.TABLE] = np.uint32(256 * used[TABLES])
        items[item + rows.PRECISION] = np.uint32(precision)
        items[item + rows.BASE] = np.uint32(base)
        items[item + rows.STATES] = np.uint32((fixed[0] + parts[STATES]) // 4 + 32 * block)
        items[item + rows.LAST] = np.uint32(first_word + starts[blocks])
        items[item + rows.POSITIONS] = np.uint32((fixed[0] + parts[POSITIONS]) // 4 + escape)
        items[item + rows.FIELDS] = np.uint32((fixed[0] + parts[FIELDS]) // 2 + escape)
        items[item + rows.KEEP], items[item + rows.FILL] = np.uint32(fixed[1]), np.uint32(fixed[2])
        for i in range(rows.MOST_PIECES):
            items[item + rows.PIECES + i] = np.uint32(fixed[3 + i])
        end, before = (block + members) * groups // blocks * GROUP, escape
        while escape < escapes and u32_at(payload, parts[POSITIONS] + 4 * escape) < end:
            escape += 1
        items[item + rows.ESCAPES] = np.uint32(escape - before)
        used[ITEMS] += 1
    put_block_rows(block_rows, used, groups, blocks, first_word, starts)
    used[TABLES] += 1
    return LISTED


@inlined
def list_planes(
    segment: Array,
    chunk: Array,
    plan: Array,
    lists: tuple[Array, Array, Array],
    plain: Array,
    used: Array,
    scratch: Array,
) -> int:
    """Raw and constant planes below a coded one."""
    begin, units, unit_bytes, planes = chunk[AT], chunk[CHUNK_UNITS], plan[UNIT_BYTES], plan[PLANES]
    groups, end = units // GROUP, chunk[AT] + chunk[LENGTH]
    at = begin + HEAD + DESCRIPTOR * planes
    if groups == 0 or at > end:
        return LEFT
    # The coded plane's payload, KEEP and FILL, then the first byte of each piece.
    fixed = scratch[:FIXED]
    for i in range(FIXED):
        fixed[i] = 0
    keep, fill, shift, piece, filled = 0, 0, 0, 0, at
    for plane in range(planes):
        descriptor, width = begin + HEAD + DESCRIPTOR * plane, plan[WIDTHS + plane]
        mode, base, length = segment[descriptor], u16_at(segment, descriptor + 2), u32_at(segment, descriptor + 4)
        if length > end - at:
            return LEFT
        is_top = plane == planes - 1
        if is_top != (mode == CODED):
            return LEFT
        if not is_top:
            if mode == CONSTANT:
                if base >= 1 << width or length != 0:
                    return LEFT
                fill |= base << shift
            else:
                if mode != RAW or base != 0 or length != packed_size(groups * GROUP, width):
                    return LEFT
                if not odd_bits_are_zero(segment, at, width, groups):
                    return LEFT
                keep |= (1 << width) - 1 << shift
            if segment[descriptor + 1] != 0 or not all_zero(segment, descriptor + 8, descriptor + DESCRIPTOR):
                return LEFT
            place = at
            for bits in (8, 4, 2, 1):
                if width & bits:
                    # Of a constant plane, any bytes will do.
                    fixed[3 + piece] = place if mode == RAW else begin
                    place += packed_size(groups * GROUP, bits)
                    piece += 1
        shift += width
        if length > 0:
            if not all_zero(segment, filled, at):
                return LEFT
            fixed[0] = at
            filled = at + length
            at = begin + up(filled - begin)
    tail = units % GROUP
    if at + tail * unit_bytes > end:
        return LEFT
    if tail > 0:
        if not all_zero(segment, filled, at):
            return LEFT
        filled = at + tail * unit_bytes
    if end - filled < READ_AHEAD or not all_zero(segment, filled, end):
        return LEFT
    fixed[1], fixed[2] = keep, fill
    top = begin + HEAD + DESCRIPTOR * (planes - 1)
    found = put_blocks(segment, chunk, top, plan[WIDTHS + planes - 1], groups, lists, used, scratch)
    if found != LISTED or tail == 0:
        return found
    return LISTED if put_plain(plain, used, chunk[OUT] + units - tail, tail, at // unit_bytes, 0, 0) else NO_ROOM


@kernel
def list_chunks(
    segment: Array,
    chunks: Array,
    plan: Array,
    items: Array,
    block_rows: Array,
    tables: Array,
    plain: Array,
    used: Array,
    scratch: Array,
    becomes: Array,
    ends: Array,
) -> int:
    """List the work of a segment's chunks, all of one expression.

    segment     uint8[...]         below 4 GiB
    chunks      int64[CHUNK * n]   inside the segment
    plan        int64[WIDTHS + planes]
    items, block_rows, plain       uint32[...]  as rows.py says
    tables      uint16[256 * ...]
    used        int64[LISTS]       filled: how many items, rows, tables and plain items there are
    scratch     int64[...]         work space: 32, and one for each block of a chunk
    becomes     uint8[n]           filled: LISTED, or LEFT for the decoder for CPUs
    ends        int64[n]           filled: the items up to each chunk's last

    Returns OK, BAD_ARGUMENT, or NO_ROOM if a list is too short.
    """
    if segment.size >= 1 << 32 or used.size != LISTS:
        return BAD_ARGUMENT
    if chunks.size != CHUNK * becomes.size or ends.size != becomes.size:
        return BAD_ARGUMENT
    if plan.size < WIDTHS + 1 or plan.size != WIDTHS + plan[PLANES] or scratch.size < FIXED:
        return BAD_ARGUMENT
    bits = 8 * plan[UNIT_BYTES]
    for i in range(LISTS):
        used[i] = 0
    lists = (items, block_rows, tables)
    for i in range(becomes.size):
        chunk = chunks[CHUNK * i : CHUNK * (i + 1)]
        at, length, units, out = chunk[AT], chunk[LENGTH], chunk[CHUNK_UNITS], chunk[OUT]
        if at < 0 or at % 64 != 0 or length < 64 or length % 64 != 0 or at + length > segment.size:
            return BAD_ARGUMENT
        if not 1 <= units < 1 << 31 or out < 0:
            return BAD_ARGUMENT
        kind, planes = segment[at], segment[at + 1]
        sound = planes == (plan[PLANES] if kind == KIND_PLANES else 0)
        sound = sound and u16_at(segment, at + 2) == 0 and u32_at(segment, at + 4) == units
        sound = sound and all_zero(segment, at + 8, at + 16)
        found = LEFT
        if sound and kind == KIND_LITERAL:
            end = at + HEAD + units * plan[UNIT_BYTES]
            if end <= at + length and all_zero(segment, end, at + length):
                source = (at + HEAD) // plan[UNIT_BYTES]
                found = LISTED if put_plain(plain, used, out, units, source, 0, 0) else NO_ROOM
        elif sound and kind == KIND_AFFINE:
            found = list_affine(segment, at, length, units, out, bits, plain, used)
        elif sound and kind == KIND_PLANES:
            found = list_planes(segment, chunk, plan, lists, plain, used, scratch)
        if found == NO_ROOM:
            return NO_ROOM
        becomes[i], ends[i] = found, used[ITEMS]
    return OK
