"""How far logarithms lie from what their rows' and columns' scales let expect (detect/classes.py), and how often codes
come with classes (detect/packed.py)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.kernels._jit import kernel
from slimtensors.kernels.cpu.blocks import LANES
from slimtensors.kernels.simd.lanes import to_u16
from slimtensors.kernels.simd.memory import load, store
from slimtensors.kernels.status import BAD_ARGUMENT, OK

Array = npt.NDArray[Any]


@kernel
def logarithms(units: Array, sign: int, shift: int, out: Array) -> int:
    """out[i] = floor((units[i] mod 2^sign) * 2^-shift), modulo 2^16.

    units uint8, 16, 32 or 64 [n], n at least 32; out uint16[n]
    """
    if out.size < LANES or units.size != out.size or not 0 < sign < units.itemsize * 8 or not -16 < shift < sign:
        return BAD_ARGUMENT
    magnitudes = (1 << sign) - 1
    for at in range(0, out.size, LANES):
        at = min(at, out.size - LANES)
        unit = load(units, at) & magnitudes
        store(out, at, to_u16(unit >> shift) if shift >= 0 else to_u16(unit) << -shift)
    return OK


@kernel
def add_rests(logs: Array, rows: Array, columns: Array, least: int, of_rows: Array, of_columns: Array) -> int:
    """Sums over each row, and over each column, of rest[i, j] = max(logs[i, j] - rows[i] - columns[j], least).

    logs        int16[rows.size * columns.size]
    rows        int32[R]
    columns     int32[C]
    of_rows     int64[R]        filled
    of_columns  int64[C]        filled
    """
    length = columns.size
    if logs.size != rows.size * length or of_rows.size != rows.size or of_columns.size != length:
        return BAD_ARGUMENT
    for j in range(length):
        of_columns[j] = 0
    for i in range(rows.size):
        sum_of_row = 0
        for j in range(length):
            rest = max(logs[i * length + j] - rows[i] - columns[j], least)
            sum_of_row += rest
            of_columns[j] += rest
        of_rows[i] = sum_of_row
    return OK


@kernel
def count_codes(
    codes: Array, rows: Array, columns: Array, blocks: Array, each: int, values: int, counts: Array
) -> int:
    """counts[rows[i] + columns[j] + blocks[(i C + j) / each], codes[i, j]] += 1

    codes    uint8[rows.size * columns.size]  below `values`
    rows     int64[R]
    columns  int64[C]
    blocks   int64[B]                         one for each `each` codes
    counts   int64[n * values]                added to; sums of the three numbers are below n

    Where that is broken, BAD_ARGUMENT, and some are counted.
    """
    length = columns.size
    if codes.size != rows.size * length or values < 1 or counts.size % values != 0:
        return BAD_ARGUMENT
    if each < 1 or codes.size > blocks.size * each:
        return BAD_ARGUMENT
    lines = counts.size // values
    for i in range(rows.size):
        j = 0
        while j < length:
            block = (i * length + j) // each
            base, end = rows[i] + blocks[block], min(length, (block + 1) * each - i * length)
            while j < end:
                line, code = base + columns[j], np.int64(codes[i * length + j])
                if line < 0 or line >= lines or code >= values:
                    return BAD_ARGUMENT
                counts[line * values + code] += 1
                j += 1
    return OK


@kernel
def add_costs(
    codes: Array,
    rows: Array,
    columns: Array,
    blocks: Array,
    each: int,
    lines: tuple[Array, Array, Array],
    takes: Array,
    tables: int,
    classes: int,
    sums: Array,
) -> int:
    """What codes take with each of some classes that are added to the others that they have:

        line = lines[0][i] + lines[1][j] + lines[2][b]      b = (i C + j) / each
        sums[line, k] += takes[codes[i, j], rows[i] + columns[j] + blocks[b] + k]

    codes, rows, columns, blocks, each: as above; the three numbers sum to at most tables - classes
    lines    three int64 arrays of the sizes of rows, columns and blocks
    takes    int64[values * tables]
    sums     int64[n * classes]     added to; lines are below n

    Where that is broken, BAD_ARGUMENT, and some are added.
    """
    length = columns.size
    if codes.size != rows.size * length or each < 1 or codes.size > blocks.size * each:
        return BAD_ARGUMENT
    if not 1 <= classes <= tables or takes.size % tables != 0 or sums.size % classes != 0:
        return BAD_ARGUMENT
    of_rows, of_columns, of_blocks = lines
    if of_rows.size != rows.size or of_columns.size != length or of_blocks.size != blocks.size:
        return BAD_ARGUMENT
    values, most = takes.size // tables, sums.size // classes
    for i in range(rows.size):
        j = 0
        while j < length:
            block = (i * length + j) // each
            base, at = rows[i] + blocks[block], of_rows[i] + of_blocks[block]
            end = min(length, (block + 1) * each - i * length)
            while j < end:
                line, other, code = at + of_columns[j], base + columns[j], np.int64(codes[i * length + j])
                if line < 0 or line >= most or other < 0 or other > tables - classes or code >= values:
                    return BAD_ARGUMENT
                first, begin = line * classes, code * tables + other
                for k in range(classes):
                    sums[first + k] += takes[begin + k]
                j += 1
    return OK
