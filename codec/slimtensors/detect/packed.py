"""Integers that are the codes of quantised weights: cut into fields of four or eight bits, given row and column.

How likely a code is, depends on how its row and its column are spread beside the scale that it has. That shows in what
codes take: rare codes mean wide rows. Nothing has to be known of what a code stands for, or which nibble comes first.
Whole numbers only, so that the classes, and the file's bytes, are the same on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slimtensors.codecs import layouts
from slimtensors.codecs.chunk import encode_chunk, find_affine
from slimtensors.codecs.place import NOWHERE, Place
from slimtensors.codecs.records import cut
from slimtensors.detect.classes import Classes
from slimtensors.expression import MAX_TABLES, Bits, Field, FieldClass, Record, Span
from slimtensors.expression.limits import MAX_RECORD
from slimtensors.inputs import Input, unit_count
from slimtensors.kernels.cpu import scales
from slimtensors.kernels.status import must
from slimtensors.limits import CHUNK_BYTES

__all__ = ["Packed", "classed", "find_packed"]

Numbers = npt.NDArray[np.int64]

WIDTHS = {"I8": (8,), "U8": (4, 8), "I32": (4, 8)}  # of the codes that a tensor may hold
FEWEST = 1 << 15  # bytes
SHORTEST, LONGEST = 32, 1 << 15  # bytes of a row that is looked for; and fewest rows
LEAST_RECORD = 16  # bytes; shorter ones are slow
LOG = 64  # a bit, in the logarithms of likelihoods
STEPS = {4: (6, 12, 20), 8: (12, 20)}  # of classes, in such parts of a bit: coarser ones have fewer tables
SCALE = 16  # of means, so that they round late
PIECE = 1 << 20  # bytes whose fields are looked at at once
PERIOD_SAMPLE = 1 << 18  # bytes in which a row's length is looked for
NEARLY = 0.9  # of the best length's variance: its multiples show it, too
WORTH = 0.998  # what a chunk must come down to, side planes paid
ROUND = 8  # tables, so that tensors alike share one expression
SIDE = 128  # bytes of index, table and header that a side plane takes beside its chunk, about
ROUNDS = 6  # of fitting classes to what codes take
PRIOR = 4  # codes that each table has seen before it has seen any, shared out as all codes are
FIT_ROOM = 1 << 22  # counts that are held while classes are fitted


class Packed(NamedTuple):
    """A record whose last field has classes, the side planes with these, and units of a chunk."""

    record: Record
    classes: Classes | None
    chunk: int
    why: str


def find_packed(tensor: Input, plain: Bits, *, small: bool = False) -> Packed | None:
    """How to store codes in less room than the plain planes take, if the tensor seems to hold such.

    small: classes may take their time, and chunks theirs to decode.
    """
    nbytes = tensor.dtype.bytes_of(tensor.shape)
    if tensor.dtype.name not in WIDTHS or nbytes < FEWEST:
        return None
    length = _row_bytes(tensor, nbytes)
    size = max((b for b in range(1, min(length, MAX_RECORD) + 1) if length % b == 0), default=0)
    if size < LEAST_RECORD or size % tensor.dtype.unit_bytes:
        return None
    chunk = _chunk(nbytes, size) // tensor.dtype.unit_bytes
    units, place = _middle(tensor, chunk, ())
    if find_affine(units) is not None:
        return None
    worth = 1 if small else WORTH
    least = worth * len(encode_chunk(units, plain, place, try_zstd=True))
    best = None
    for width in WIDTHS[tensor.dtype.name]:
        record = _record(size, width)
        if width < 8:
            found = len(encode_chunk(units, record, place, slow=small))
            if found < least:
                least, best = worth * found, Packed(record, None, chunk, f"codes of {width} bits")
        given = classed(tensor, record, nbytes // length, chunk, least, small=small)
        if given is not None:
            made, classes, least = given
            best = Packed(made, classes, chunk, f"codes of {width} bits, given the classes of row and column")
    return best


def classed(
    tensor: Input, record: Record, rows: int, chunk: int, least: float, *, small: bool = False
) -> tuple[Record, Classes, float] | None:
    """The record with classes for its last field, where the middle chunk then takes less than `least` bytes with its
    share of the side planes; and how much it takes.

    rows: of the tensor, each of whole records. chunk: units. small: see `find_packed`.
    """
    field = record.fields[-1]
    of_rows, of_columns = _means(tensor, record, rows)
    tried = []
    for step in STEPS[8 if field.width > 4 else 4]:
        classes = Classes(_classes(of_rows, step), _classes(of_columns, step))
        if not classes.rows.any() and not classes.columns.any():
            break
        tried.append(_given(tensor, record, classes, chunk, slow=small))
    best = min(tried, key=lambda found: found[2], default=None)
    if best is not None and small and field.width <= 4:  # of int8 this gains 0.001 b
        fitted = _fitted(tensor, record, best[1])
        if fitted is not None:
            best = min(best, _given(tensor, record, fitted, chunk, slow=True), key=lambda found: found[2])
    return best if best is not None and best[2] < least else None


def _given(tensor: Input, record: Record, classes: Classes, chunk: int, *, slow: bool) -> tuple[Record, Classes, float]:
    """The record with these classes, and what the middle chunk takes."""
    most = int(classes.rows.max()) + int(classes.columns.max())
    tables = min(-(-(most + 1) // ROUND) * ROUND, MAX_TABLES)
    given = replace(record.fields[-1], context=FieldClass(0, 1, tables))
    made = Record(record.size, (*record.fields[:-1], given))
    units, place = _middle(tensor, chunk, classes)
    sides = sum(len(encode_chunk(side, layouts.BYTES, NOWHERE, try_zstd=True)) for side in classes)
    sides += 2 * SIDE if slow else 0  # else WORTH covers it
    size = len(encode_chunk(units, made, place, slow=slow)) + sides * units.size / unit_count(tensor)
    return made, classes, size


def _record(size: int, width: int) -> Record:
    """All lower nibbles first, then all upper ones: neighbours in memory are neighbours in the plane."""
    spans = tuple(Span(size, ((bit, 8, width),)) for bit in range(0, 8, width))
    return Record(size, (Field(width, spans),))


def _chunk(nbytes: int, size: int) -> int:
    """Bytes of a chunk, whole records: as few chunks as can be, all of about one length."""
    records = nbytes // size
    chunks = -(-nbytes // CHUNK_BYTES)
    return -(-records // chunks) * size


def _middle(tensor: Input, chunk: int, sides: tuple[npt.NDArray[Any], ...]) -> tuple[npt.NDArray[Any], Place]:
    """A chunk in the middle, which is no shorter than others."""
    units = unit_count(tensor)
    first = units // chunk // 2 * chunk
    return tensor.read(first, min(chunk, units - first)), Place(units, first, sides, tensor.dtype)


def _likelihoods(fields: npt.NDArray[Any], width: int) -> npt.NDArray[np.int32]:
    """What each code takes, in 1 / LOG bits: the logarithm of how seldom it is."""
    counts = np.bincount(fields, minlength=1 << width)
    whole = _logarithm(fields.size)
    return np.array([whole - _logarithm(max(int(count), 1)) for count in counts], np.int32)


def _logarithm(number: int) -> int:
    """LOG * log2, rounded down, without a float."""
    return int((number**LOG).bit_length() - 1)


@cache
def _of_bytes() -> Numbers:
    """The logarithms of 1 to 255; of 0 that of 1."""
    return np.array([_logarithm(max(number, 1)) for number in range(256)], np.int64)


def _means(tensor: Input, record: Record, rows: int) -> tuple[Numbers, Numbers]:
    """What codes of each row and each column of the last field's plane take, in 1 / (LOG * SCALE) bits."""
    unit, field, last = tensor.dtype.unit_bytes, record.fields[-1], len(record.fields) - 1
    length = unit_count(tensor) * unit // rows  # bytes of a row
    columns = length // record.size * field.count
    each = max(1, PIECE // length)
    of_rows, of_columns = np.empty(rows, np.int64), np.zeros(columns, np.int64)
    middle = tensor.read(rows // 2 * length // unit, min(each, rows - rows // 2) * length // unit)
    takes = _likelihoods(_fields(middle, record, last), field.width)
    for row, codes in _pieces(tensor, record, rows):
        found = takes[codes]
        of_rows[row : row + len(codes)] = found.sum(axis=1, dtype=np.int64)
        of_columns += found.sum(axis=0, dtype=np.int64)
    return SCALE * of_rows // columns, SCALE * of_columns // rows


def _pieces(tensor: Input, record: Record, rows: int) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Fields of the last plane, [some rows, columns], and the first of these rows; good until the next."""
    unit, last = tensor.dtype.unit_bytes, len(record.fields) - 1
    length = unit_count(tensor) * unit // rows  # bytes of a row
    each = max(1, PIECE // length)
    for row in range(0, rows, each):
        count = min(each, rows - row)
        units = tensor.read(row * length // unit, count * length // unit)
        yield row, _fields(units, record, last).reshape(count, -1)


def _fitted(tensor: Input, record: Record, classes: Classes) -> Classes | None:
    """Classes that make codes take less: each row's, then each column's is the one that its codes and the class itself
    take least with; then tables are counted anew. None where that would need too much memory.
    """
    of_rows, of_columns = (each.astype(np.int64) for each in classes)
    values = 1 << record.fields[-1].width
    r, c = int(of_rows.max()) + 1, int(of_columns.max()) + 1  # classes of rows, of columns
    if r + c - 1 > MAX_TABLES or of_columns.size * r * values > FIT_ROOM:
        return None
    takes = None
    for _ in range(ROUNDS + 1):
        # [columns, classes of rows, values]: how often, from which the tables follow, too.
        counts = np.zeros((of_columns.size, r * values), np.int64)
        for row, codes in _pieces(tensor, record, of_rows.size):
            some = of_rows[row : row + len(codes)]
            if takes is not None:
                some[:] = _rows_fitted(codes, takes, of_rows, of_columns, r, c)
            _count(codes, some, np.arange(of_columns.size) * r, counts, values)
        if takes is not None:
            of_columns = _cheapest(counts, takes, of_columns, c, r)
        joint = np.zeros((r + c - 1, values), np.int64)
        for one in range(c):
            joint[one : one + r] += counts[of_columns == one].sum(axis=0).reshape(r, values)
        takes = _table_costs(joint)
    return Classes(*((each - each.min()).astype(np.uint8) for each in (of_rows, of_columns)))


def _rows_fitted(
    codes: npt.NDArray[Any], takes: Numbers, of_rows: Numbers, of_columns: Numbers, r: int, c: int
) -> Numbers:
    """The classes of some rows, [rows, columns], as many at once as there is room for."""
    values, made = takes.shape[1], np.empty(len(codes), np.int64)
    step = max(1, FIT_ROOM // (c * values))
    for row in range(0, len(codes), step):
        some = codes[row : row + step]
        counts = np.zeros((len(some), c * values), np.int64)
        _count(some, np.arange(len(some)) * c, of_columns, counts, values)
        made[row : row + step] = _cheapest(counts, takes, of_rows, r, c)
    return made


def _count(codes: npt.NDArray[Any], rows: Numbers, columns: Numbers, counts: Numbers, values: int) -> None:
    must(scales.count_codes(codes.reshape(-1), rows, columns, values, counts.reshape(-1)))


def _cheapest(counts: Numbers, takes: Numbers, now: Numbers, classes: int, others: int) -> Numbers:
    """The class, of `classes`, that each line takes least with. counts: [lines, classes of the others and values]."""
    price = _costs(np.bincount(now, minlength=classes) + 1)
    tables = np.stack([takes[first : first + others].reshape(-1) for first in range(classes)], axis=1)
    # Sums of whole numbers below 2^53, so exact in any order.
    sums = counts.astype(np.float64) @ tables.astype(np.float64)
    return np.asarray((sums + price).argmin(axis=1))


def _table_costs(joint: Numbers) -> Numbers:
    """What each value takes in each table, in 1 / LOG bits. joint: [tables, values], how often."""
    whole = joint.sum(axis=0)
    return np.stack([_costs(LOG * each + PRIOR * LOG * whole // int(whole.sum()) + 1) for each in joint])


def _costs(counts: Numbers) -> Numbers:
    """What each takes that comes so often (at least once; cut to its first eight bits), in 1 / LOG bits."""
    whole, (parts, powers) = _logarithm(int(counts.sum())), np.frexp(counts.astype(np.float64))
    return whole - LOG * (powers.astype(np.int64) - 8) - _of_bytes()[(parts * 256).astype(np.int64)]


def _fields(units: npt.NDArray[Any], record: Record, plane: int) -> npt.NDArray[Any]:
    """Those of one plane, without the zeros that follow."""
    return cut(units.view(np.uint8), record, plane)[: units.nbytes // record.size * record.fields[plane].count]


def _classes(means: Numbers, step: int) -> npt.NDArray[np.uint8]:
    """Whole steps, from 0. The lowest and highest in a hundred, such as rows of zeros, are cut off somewhat beyond."""
    classes = (means + SCALE * step // 2) // (SCALE * step)
    some = np.sort(classes)
    low, high = int(some[some.size // 100]) - 2, int(some[-1 - some.size // 100]) + 2
    low, high = max(low, int(some[0])), min(high, int(some[-1]))
    return np.clip(classes - low, 0, min(high - low, MAX_TABLES - 1)).astype(np.uint8)


def _row_bytes(tensor: Input, nbytes: int) -> int:
    """Of a row; where the shape does not tell, as codes lie in one long column or row, the period of columns."""
    length = tensor.shape[-1] * tensor.dtype.unit_bytes if tensor.shape else 0
    if length >= SHORTEST and nbytes // length >= SHORTEST:
        return length
    lengths = [n for n in range(SHORTEST, min(LONGEST, nbytes // SHORTEST) + 1) if nbytes % n == 0]
    unit = tensor.dtype.unit_bytes
    sample = tensor.read(0, min(PERIOD_SAMPLE, nbytes) // unit).view(np.uint8)
    takes = _likelihoods(sample, 8)[sample].astype(np.int64)
    scores = {n: _spread(takes, n) for n in lengths}
    best = max(scores.values(), default=0)
    return next((n for n in lengths if scores[n] >= NEARLY * best), 0) if best > 0 else 0


def _spread(takes: Numbers, length: int) -> float:
    """The variance of the columns' means beyond what chance gives them, if rows have this length."""
    rows = takes.size // length
    if rows < 8:
        return 0
    used = takes[: rows * length]
    sums = used.reshape(rows, length).sum(axis=0)
    mean_square = math.fsum((int(sums @ sums) / rows**2 / length, -((int(sums.sum()) / used.size) ** 2)))
    noise = (int(used @ used) / used.size - (int(used.sum()) / used.size) ** 2) / rows
    return mean_square - noise
