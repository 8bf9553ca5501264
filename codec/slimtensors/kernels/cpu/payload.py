"""Open the payload of a coded plane: check all of it, build the decoder's table, find the parts (coder.md, section 5).

Python would need as long for this as the decoder needs for a quarter of a chunk.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.kernels._jit import brief, inlined, kernel, shared
from slimtensors.kernels.cpu.table import LEAST_PRECISION, MOST_PRECISION, SLOTS, fill_slots
from slimtensors.kernels.status import BAD_ARGUMENT, OK

Array = npt.NDArray[Any]

# What can be wrong with a payload; codecs/coded.py has the words.
BAD_TABLE, BAD_SYMBOL, BAD_LENGTH, BAD_PADDING, BAD_STATE, BAD_ESCAPES = 16, 17, 18, 19, 20, 21

# Places in `parts`: where they begin in the payload.
TABLE_END, POSITIONS, FIELDS, STATES, WORDS, PARTS = 0, 1, 2, 3, 4, 5

PART_ALIGNMENT = 16
STATE_BYTES = 128  # of a block: 32 states
STATE_MIN = 1 << 16
BYPASS_SYMBOLS = 112
TWO_BYTES = 0x80
ABSENT_MARK, SAME_MARK = 1, 2  # first of two bytes that stand for a table, the second is 0
NO_TABLE = 0xFFFF


@inlined
def up(length: int) -> int:
    """The next multiple of 16."""
    return (length + PART_ALIGNMENT - 1) // PART_ALIGNMENT * PART_ALIGNMENT


@inlined
def u32_at(payload: Array, at: int) -> int:
    low = int(payload[at]) | int(payload[at + 1]) << 8
    return low | int(payload[at + 2]) << 16 | int(payload[at + 3]) << 24


@shared
def all_zero(payload: Array, begin: int, end: int) -> bool:
    seen = np.int64(0)
    for i in range(begin, end):
        seen |= np.int64(payload[i])
    return bool(seen == 0)


@inlined
def largest_field(symbol: int, base: int, bypass: bool) -> int:
    """The largest field that a symbol stands for."""
    if not bypass:
        return base + symbol if symbol > 0 else 0
    return (9 + symbol % 8 << symbol // 8 - 1) - 1 if symbol >= 16 else symbol


@brief
def read_table(payload: Array, length: int, precision: int, base: int, table: Array) -> int:
    """Build the decoder's table from its stored form (coder.md, section 3).

    payload  uint8[...]  begins with the table; no more than `length` bytes are read
    base     what symbols other than 0 are to be raised by in the table, where that makes fields of 8 bits; else 0
    table    uint32[4096]  as build_table fills it

    Returns the bytes read + 1024 * the last symbol; or -1 if the table is wrong.
    """
    if not LEAST_PRECISION <= precision <= MOST_PRECISION or table.size != SLOTS:
        return -1
    slots = 1 << precision
    end = min(length, payload.size)
    if end < 4:
        return -1
    first, last = np.int64(payload[0]), np.int64(payload[1])
    if first >= last:
        return -1
    at, slot = 2, np.int64(0)  # a literal would have fill_slots compiled twice
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
        fill_slots(table, precision, slot, frequency, largest_field(symbol, base, False) & 0xFF)
        slot += frequency
    return at + 1024 * last if slot == slots else -1


@shared
def cut_payload(
    payload: Array, length: int, table_end: int, width: int, escapes: int, units: int, starts: Array, parts: Array
) -> int:
    """Check what follows the tables; fills `starts` and `parts` as open_payload says."""
    blocks = starts.size - 1
    positions = up(table_end)
    fields = positions + up(4 * escapes)
    counts = fields + up(2 * escapes)
    states = counts + up(4 * blocks)
    words = states + STATE_BYTES * blocks
    if words > length:
        return BAD_LENGTH
    parts[TABLE_END], parts[POSITIONS], parts[FIELDS] = table_end, positions, fields
    parts[STATES], parts[WORDS] = states, words

    starts[0] = 0
    for block in range(blocks):
        starts[block + 1] = starts[block] + u32_at(payload, counts + 4 * block)
    if words + 2 * starts[blocks] != length:
        return BAD_LENGTH

    padding = all_zero(payload, table_end, positions) and all_zero(payload, positions + 4 * escapes, fields)
    padding = padding and all_zero(payload, fields + 2 * escapes, counts)
    if not padding or not all_zero(payload, counts + 4 * blocks, states):
        return BAD_PADDING
    for at in range(states, words, 4):
        if payload[at + 2] == 0 and payload[at + 3] == 0:  # below 2^16
            return BAD_STATE
    before = np.int64(-1)
    for i in range(escapes):
        position = u32_at(payload, positions + 4 * i)
        field = np.int64(payload[fields + 2 * i]) | np.int64(payload[fields + 2 * i + 1]) << 8
        if position <= before or position >= units or field >= 1 << width:
            return BAD_ESCAPES
        before = position
    return OK


@brief
def open_payload(
    payload: Array,
    length: int,
    width: int,
    base: int,
    bypass: bool,
    escapes: int,
    precision: int,
    units: int,
    table: Array,
    starts: Array,
    parts: Array,
) -> int:
    """Check a payload and cut it up.

    payload  uint8[...]           at least `length` bytes
    width, base, bypass, escapes  of the plane; 0 <= escapes, 0 <= base < 2^16
    units                         of the body
    table    uint32[4096]         filled
    starts   int64[blocks + 1]    filled: each block's first word, and the end
    parts    int64[PARTS]         filled: where the parts begin in the payload

    Returns OK, BAD_ARGUMENT, or one of the statuses above. Reads nothing beyond `length`.
    """
    blocks = starts.size - 1
    if parts.size != PARTS or blocks < 1 or not 0 <= length <= payload.size or escapes < 0 or escapes > units:
        return BAD_ARGUMENT
    read = read_table(payload, length, precision, base if width <= 8 else 0, table)
    if read < 0:
        return BAD_TABLE
    table_end, last = read % 1024, read // 1024
    if largest_field(last, base, bypass) >= 1 << width or (bypass and last >= BYPASS_SYMBOLS):
        return BAD_SYMBOL

    return cut_payload(payload, length, table_end, width, escapes, units, starts, parts)


@kernel
def open_contexts(
    payload: Array,
    length: int,
    width: int,
    base: int,
    bypass: bool,
    escapes: int,
    precision: int,
    units: int,
    tables: int,
    slots: int,
    table: Array,
    starts: Array,
    parts: Array,
    number: Array,
) -> int:
    """open_payload for a plane with `tables` tables (coder.md, section 7).

    slots   4096, or 2^precision           how many of each table there are to be
    table   uint32[4096 * tables or more]  filled with the tables that differ, zeros up to a power of two of them
    number  uint32[256]                    filled: where in `table` each of the tables is, or NO_TABLE
    """
    blocks = starts.size - 1
    if parts.size != PARTS or blocks < 1 or not 0 <= length <= payload.size or escapes < 0 or escapes > units:
        return BAD_ARGUMENT
    if not LEAST_PRECISION <= precision <= MOST_PRECISION or number.size != 256 or not 1 <= tables <= 256:
        return BAD_ARGUMENT
    if table.size < SLOTS * tables or (slots != SLOTS and slots != 1 << precision):
        return BAD_ARGUMENT
    for i in range(number.size):
        number[i] = NO_TABLE
    end, found = 0, 0
    for i in range(tables):
        mark = np.int64(payload[end]) if end + 2 <= length and payload[end + 1] == 0 else 0
        if mark == ABSENT_MARK or (mark == SAME_MARK and i > 0):
            if mark == SAME_MARK:
                number[i] = number[i - 1]
            end += 2
        else:
            read = read_table(payload[end:], length - end, precision, 0, table[slots * found : slots * found + SLOTS])
            if read < 0:
                return BAD_TABLE
            last = read // 1024
            if largest_field(last, base, bypass) >= 1 << width or (bypass and last >= BYPASS_SYMBOLS):
                return BAD_SYMBOL
            end += read % 1024
            number[i] = found
            found += 1
    room = 1
    while room < found:
        room *= 2
    for i in range(slots * found, min(slots * room, table.size)):
        table[i] = 0
    return cut_payload(payload, length, end, width, escapes, units, starts, parts)


@brief
def patch(body: Array, shift: int, mask: int, positions: Array, fields: Array) -> int:
    """Put the escapes' fields in: body[position] |= field << shift. Their places must be 0, which symbol 0 means.

    body uint8, uint16 or uint32 [n]; positions uint32[E]; fields uint16[E]; mask: the field's width in ones.

    Returns OK; or BAD_ESCAPES if a place is not 0, or a position lies outside.
    """
    if positions.size != fields.size:
        return BAD_ARGUMENT
    for i in range(positions.size):
        at = np.int64(positions[i])
        if at >= body.size or (np.int64(body[at]) >> shift & mask) != 0:
            return BAD_ESCAPES
        body[at] = np.int64(body[at]) | np.int64(fields[i]) << shift
    return OK
