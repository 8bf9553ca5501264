"""Open a whole chunk of differences at once: one plane of 16 bits in mode bypass, with contexts of the base.

As opening.py for other chunks: what is not of this kind, malformed chunks among it, is left to the codecs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.kernels._jit import kernel
from slimtensors.kernels.cpu.delta_kernels import MOST_TABLES, PRECISION, SLOTS, recode
from slimtensors.kernels.cpu.opening import LEFT
from slimtensors.kernels.cpu.payload import (
    ABSENT_MARK,
    BYPASS_SYMBOLS,
    PARTS,
    SAME_MARK,
    STATES,
    WORDS,
    all_zero,
    cut_payload,
    largest_field,
    read_table,
    u32_at,
    up,
)
from slimtensors.kernels.cpu.table import SLOTS as TABLE_SLOTS
from slimtensors.kernels.cpu.worklist import DESCRIPTOR, GROUP, HEAD, KIND_PLANES, READ_AHEAD, u16_at
from slimtensors.kernels.status import OK

Array = npt.NDArray[Any]

BYPASS = 4
WIDTH = 16
MOST_FOUND = 128  # tables
ROOM = (MOST_FOUND + MOST_TABLES) * SLOTS  # entries: as many as there may be from the beginning of the last

# Places: what is found, in bytes from the chunk's beginning; the first are those of payload.py.
BLOCKS, TAIL = PARTS, PARTS + 1
PLACES = PARTS + 2


@kernel
def open_differences(
    data: Array,
    units: int,
    fields: int,
    tables: int,
    table: Array,
    begins: Array,
    numbers: Array,
    starts: Array,
    places: Array,
) -> int:
    """Check a chunk and find its parts.

    data     uint8[...]             the chunk, as stored
    units    of the chunk           of 16 bits
    fields   that the plane has     whole groups
    tables   for each class of rows, 1 to 32
    table    uint32[ROOM]           filled as delta_kernels.decode_u16 takes it
    begins   int64[classes]         filled: of a class, where its tables begin
    numbers  uint16[32 * classes]   filled: of a class, for each context, 2048 * the number of its table
    starts   int64[...]             filled: each block's first word, and the end; LEFT if there are too many
    places   int64[PLACES]          filled

    Returns OK or LEFT. The digest that the chunk states of its base is not looked at.
    """
    length, begin = data.size, HEAD + DESCRIPTOR
    classes = begins.size
    if places.size != PLACES or table.size != ROOM or not 1 <= tables <= MOST_TABLES or begin > length:
        return LEFT
    if fields < GROUP or fields % GROUP != 0 or units < fields or numbers.size != MOST_TABLES * classes:
        return LEFT
    head = np.int64(0)  # for literals Numba would compile u32_at anew
    if data[0] != KIND_PLANES or data[1] != 1 or u16_at(data, head + 2) != 0 or u32_at(data, head + 4) != units:
        return LEFT
    descriptor = head + HEAD
    used, blocks = np.int64(u32_at(data, descriptor + 4)), np.int64(u32_at(data, descriptor + 8))
    if data[descriptor] != BYPASS or data[descriptor + 1] != PRECISION or u16_at(data, descriptor + 2) != 0:
        return LEFT
    if u32_at(data, descriptor + 12) != 0 or not 1 <= blocks <= fields // GROUP or blocks >= starts.size:
        return LEFT
    if used == 0 or used > length - begin:
        return LEFT
    at = up(begin + used)
    tail = units % GROUP * (WIDTH // 8)
    if at + tail > length:
        return LEFT
    end = begin + used if tail == 0 else at + tail
    if length - end < READ_AHEAD or not all_zero(data, begin + used, at) or not all_zero(data, end, length):
        return LEFT

    payload = data[begin : begin + used]
    table_end, found, absent, before = np.int64(0), 0, -1, 0
    for i in range(tables * classes):
        mark = np.int64(payload[table_end]) if table_end + 2 <= used and payload[table_end + 1] == 0 else 0
        if i % tables == 0:
            absent = -1  # of this class, so that its tables lie together
        if mark == SAME_MARK and i > 0:
            here = before
            table_end += 2
        elif mark == ABSENT_MARK and absent >= 0:
            here = absent
            table_end += 2
        else:
            if found == MOST_FOUND:
                return LEFT
            here = found
            slots = table[SLOTS * found : SLOTS * found + TABLE_SLOTS]
            if mark == ABSENT_MARK:
                absent = found
                slots[:SLOTS] = 0
                table_end += 2
            else:
                read = read_table(payload[table_end:], used - table_end, PRECISION, 0, slots)
                if read < 0:
                    return LEFT
                last = read // 1024
                if last >= BYPASS_SYMBOLS or largest_field(last, 0, True) >= 1 << WIDTH:
                    return LEFT
                recode(slots[:SLOTS])
                table_end += read % 1024
            found += 1
        if i % tables == 0:
            begins[i // tables] = SLOTS * here
        number = SLOTS * here - begins[i // tables]
        if not 0 <= number < SLOTS * MOST_TABLES:
            return LEFT
        numbers[i // tables * MOST_TABLES + i % tables] = number
        before = here
    some, parts = starts[: blocks + 1], places[:PARTS]
    if cut_payload(payload, used, table_end, WIDTH, 0, fields, some, parts) != OK:
        return LEFT
    places[STATES] += begin
    places[WORDS] += begin
    places[BLOCKS], places[TAIL] = blocks, at
    return OK
