"""Scales of rows and columns, fitted to logarithms (detect/classes.py), and how often codes
come with classes (detect/packed.py)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.kernels._jit import inlined, kernel
from slimtensors.kernels.cpu.blocks import LANES
from slimtensors.kernels.simd.lanes import Lanes, first_lanes, select, to_u16, to_u32
from slimtensors.kernels.simd.memory import load, store
from slimtensors.kernels.status import BAD_ARGUMENT, OK

Array = npt.NDArray[Any]

SCALE = 64  # of means, so that they round late
TILE = 1 << 12  # columns whose rests are summed in 32 bits


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


@inlined
def rest_lanes(logs: Array, moved: Array, i: int, j: int, row: int) -> Lanes:
    """max(logs - rows - columns, least) - least of 32 units. moved: columns + least."""
    rest = load(logs, i * moved.size + j) - (load(moved, j) + row)
    return select(rest < 1 << 15, rest, rest & 0)


@inlined
def last_lanes(logs: Array, moved: Array, i: int, j: int, row: int) -> Lanes:
    """Those of a row's last 32 units that do not come before j, and 0 for the others."""
    at = moved.size - LANES
    rest = rest_lanes(logs, moved, i, at, row)
    return select(first_lanes(j - at), rest & 0, rest)


@kernel
def fit_scales(
    logs: Array, rounds: int, least: int, both: bool, rows: Array, columns: Array, moved: Array, sums: Array
) -> int:
    """Fit rows and columns to logarithms by turns, as if logs[i, j] were about rows[i] + columns[j].

    In each round, with r and c the whole numbers nearest to rows / SCALE and columns / SCALE,

        rows[i] = SCALE * r[i] + floor(SCALE * (sum over j of max(logs[i, j] - r[i] - c[j], least)) / C)

    and then the columns alike, if `both`, with the new r and the same c.

    logs     uint16[R * C]  two's complement, R at most 2^16, C at least 32
    rows     int64[R]       in 1 / SCALE of a logarithm; changed
    columns  int64[C]       alike; changed if `both`
    moved    uint16[C]      work space
    sums     uint32[C]      work space

    Sums and differences are taken modulo 2^16: right while they lie between -2^15 and 2^15.
    """
    n, m = rows.size, columns.size
    if m < LANES or n > 1 << 16 or logs.size != n * m or moved.size != m or sums.size != m:
        return BAD_ARGUMENT
    line = np.zeros(LANES, np.uint32)
    whole = m // LANES * LANES
    for _ in range(rounds):
        for j in range(m):
            moved[j] = (int(columns[j]) + SCALE // 2) // SCALE + least & 0xFFFF
            sums[j] = 0
        for i in range(n):
            row = (int(rows[i]) + SCALE // 2) // SCALE
            total = 0
            for begin in range(0, m, TILE):
                some = load(line, 0) & 0
                end = min(begin + TILE, whole)
                for j in range(begin, end - LANES, 2 * LANES):  # two rests are below 2^16
                    first = rest_lanes(logs, moved, i, j, row & 0xFFFF)
                    some = some + to_u32(first + rest_lanes(logs, moved, i, j + LANES, row & 0xFFFF))
                if (end - begin) % (2 * LANES) != 0:
                    some = some + to_u32(rest_lanes(logs, moved, i, end - LANES, row & 0xFFFF))
                store(line, 0, some)
                for lane in range(LANES):
                    total += int(line[lane])
            if whole < m:
                store(line, 0, to_u32(last_lanes(logs, moved, i, whole, row & 0xFFFF)))
                for lane in range(LANES):
                    total += int(line[lane])
            rows[i] = SCALE * row + SCALE * (total + least * m) // m
            if both:
                row = (int(rows[i]) + SCALE // 2) // SCALE & 0xFFFF
                for j in range(0, whole, LANES):
                    store(sums, j, load(sums, j) + to_u32(rest_lanes(logs, moved, i, j, row)))
                if whole < m:
                    at = m - LANES
                    store(sums, at, load(sums, at) + to_u32(last_lanes(logs, moved, i, whole, row)))
        if both:
            for j in range(m):
                column = (int(columns[j]) + SCALE // 2) // SCALE
                columns[j] = SCALE * column + SCALE * (int(sums[j]) + least * n) // n
    return OK


@kernel
def count_codes(codes: Array, rows: Array, columns: Array, blocks: Array, each: int, values: int, counts: Array) -> int:
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
