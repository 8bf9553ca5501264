"""What selects each unit's frequency table, and symbols joined with it (coder.md, section 7)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.kernels._jit import kernel
from slimtensors.kernels.cpu.blocks import LANES
from slimtensors.kernels.cpu.bypass import bypass_symbols
from slimtensors.kernels.cpu.planes import rotated_left
from slimtensors.kernels.cpu.table import SYMBOLS
from slimtensors.kernels.simd.lanes import count, first_lanes, select, to_u8, to_u16, to_u32
from slimtensors.kernels.simd.memory import load, store
from slimtensors.kernels.status import BAD_ARGUMENT, OK

Array = npt.NDArray[Any]

CONTEXTS = 256  # a context is a byte
MOST_TABLES = 64


@kernel
def base_contexts(base: Array, shift: int, first: int, tables: int, out: Array) -> int:
    """out = clamp((rotate_left(base, 1) >> shift) - first, 0, tables - 1).

    base  uint8, 16, 32 or 64 [n]  n is a multiple of 32; what the shift leaves has at most 16 bits
    out   uint8[n]
    """
    bits = base.itemsize * 8
    if base.size % LANES != 0 or out.size != base.size or not max(0, bits - 16) <= shift < bits:
        return BAD_ARGUMENT
    if not 0 <= first < 1 << 16 or not 1 <= tables <= MOST_TABLES:
        return BAD_ARGUMENT
    for at in range(0, base.size, LANES):
        value = to_u16(rotated_left(load(base, at), bits, 1) >> shift)
        above = select(value >= first, value - first, value & 0)
        store(out, at, to_u8(select(above < tables, above, (value & 0) + (tables - 1))))
    return OK


@kernel
def add_row_classes(classes: Array, length: int, first: int, tables: int, out: Array) -> int:
    """out[i] += tables * classes[(first + i) / length]: each class of rows has tables of its own.

    classes uint8[rows], out uint8[n], n a multiple of 32.
    """
    if length < 1 or first < 0 or first + out.size > classes.size * length or not 1 <= tables <= MOST_TABLES:
        return BAD_ARGUMENT
    if out.size == 0 or out.size % LANES != 0:
        return OK if out.size == 0 else BAD_ARGUMENT
    for row in range(first // length, (first + out.size - 1) // length + 1):
        low, high = max(row * length - first, 0), min((row + 1) * length - first, out.size)
        move = int(np.int64(classes[row])) * tables & CONTEXTS - 1
        for at in range(low // LANES * LANES, high, LANES):
            whole = load(out, at)
            # Of the first step and the last, only the row's own units.
            moved = select(first_lanes(low - at), whole, whole + move)
            store(out, at, select(first_lanes(high - at), moved, whole))
    return OK


@kernel
def class_contexts(rows: Array, columns: Array, first: int, out: Array) -> int:
    """out[i] = rows[j / C] + columns[j mod C] for j = first + i, where C is the number of columns. All uint8."""
    length = columns.size
    if length < 1 or first < 0 or first + out.size > rows.size * length:
        return BAD_ARGUMENT
    if out.size == 0:
        return OK
    at = 0
    for row in range(first // length, (first + out.size - 1) // length + 1):
        # Only the first row may begin in its middle.
        column = max(first - row * length, 0)
        count_here = min(length - column, out.size - at)
        if count_here >= LANES:
            for i in range(0, count_here, LANES):
                # The last vector begins early, so that it ends with the row.
                i = min(i, count_here - LANES)
                store(out, at + i, load(columns, column + i) + rows[row])
        else:
            for i in range(count_here):
                out[at + i] = rows[row] + columns[column + i]
        at += count_here
    return OK


@kernel
def number_tables(contexts: Array, number: Array) -> int:
    """contexts[i] = number[contexts[i]], in place; BAD_ARGUMENT if one of the numbers is more than 255.

    contexts uint8[n], number uint32[256].
    """
    if number.size != CONTEXTS:
        return BAD_ARGUMENT
    seen = np.uint32(0)
    for i in range(contexts.size):  # one by one: vectors would gather, which takes longer
        found = number[np.int64(contexts[i])]
        seen |= found
        contexts[i] = np.uint8(found)
    return BAD_ARGUMENT if seen >= CONTEXTS else OK


@kernel
def join_bypass(fields: Array, contexts: Array, mask: int, out: Array) -> int:
    """256 * table + symbol, for fields of mode bypass; the table is context & mask.

    fields, out uint16[n], contexts uint8[n].
    """
    if out.size % LANES != 0 or fields.size != out.size or contexts.size != out.size or not 0 <= mask < CONTEXTS:
        return BAD_ARGUMENT
    for at in range(0, out.size, LANES):
        symbols, _k = bypass_symbols(to_u32(load(fields, at)))
        store(out, at, to_u16(symbols) & SYMBOLS - 1 | to_u16(load(contexts, at) & mask) << 8)
    return OK


@kernel
def join_window(fields: Array, contexts: Array, mask: int, base: int, octave: int, width: int, out: Array) -> int:
    """256 * table + symbol, for fields of mode coded; fields without a symbol get symbol 0.

    fields uint8 or uint16 [n], contexts uint8[n], out uint16[n]. Returns the number of escapes, or -1.
    """
    if out.size % LANES != 0 or fields.size != out.size or contexts.size != out.size or not 0 <= mask < CONTEXTS:
        return -1
    if not 0 <= base < 1 << 16 or not 0 <= octave <= 16 or not 1 <= width <= 16:
        return -1
    escapes = 0
    for at in range(0, out.size, LANES):
        field, context = to_u32(load(fields, at)), load(contexts, at)
        # A field below what symbol 0 would be wraps around to a large number, and then comes from above the plane.
        moved = to_u32(context >> 2) * octave
        offset = field - (moved + base)
        offset = select((field - moved - 1) >> 31 != 0, offset + ((1 << width) - 1), offset)
        symbol = select((offset < SYMBOLS) & (field != 0), offset, field & 0)
        escapes += count((symbol == 0) & (field != 0))
        store(out, at, to_u16(symbol) | to_u16(context & mask) << 8)
    return escapes


@kernel
def count_moved(fields: Array, contexts: Array, octave: int, every: int, counts: Array) -> int:
    """How often each field occurs, moved down by an octave for each four classes, in one of `every` units: at least 0,
    and 0 stays 0.

    fields uint8 or uint16 [n], contexts uint8[n], counts int64[2^w], filled. BAD_ARGUMENT for a field of more bits.
    """
    if contexts.size != fields.size or every < 1 or not 0 <= octave <= 16:
        return BAD_ARGUMENT
    for i in range(counts.size):
        counts[i] = 0
    for i in range(0, fields.size, every):
        moved = max(int(fields[i]) - octave * (int(contexts[i]) >> 2), 0)
        if moved >= counts.size:
            return BAD_ARGUMENT
        counts[moved] += 1
    return OK
