"""Integers that are the codes of quantised weights: cut into fields of four or eight bits, given row and column.

How likely a code is, depends on how its row and its column are spread beside the scale that it has. That shows in what
codes take: rare codes mean wide rows. Nothing has to be known of what a code stands for, or which nibble comes first.
Whole numbers only, so that the classes, and the file's bytes, are the same on every machine.
"""

from __future__ import annotations

import math
from dataclasses import replace
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


class Packed(NamedTuple):
    """A record whose last field has classes, the side planes with these, and units of a chunk."""

    record: Record
    classes: Classes | None
    chunk: int
    why: str


def find_packed(tensor: Input, plain: Bits) -> Packed | None:
    """How to store codes in less room than the plain planes take, if the tensor seems to hold such."""
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
    least = WORTH * len(encode_chunk(units, plain, place, try_zstd=True))
    best = None
    for width in WIDTHS[tensor.dtype.name]:
        record = _record(size, width)
        if width < 8:
            found = len(encode_chunk(units, record, place))
            if found < least:
                least, best = WORTH * found, Packed(record, None, chunk, f"codes of {width} bits")
        given = classed(tensor, record, nbytes // length, chunk, least)
        if given is not None:
            made, classes, least = given
            best = Packed(made, classes, chunk, f"codes of {width} bits, given the classes of row and column")
    return best


def classed(tensor: Input, record: Record, rows: int, chunk: int, least: float) -> tuple[Record, Classes, float] | None:
    """The record with classes for its last field, where the middle chunk then takes less than `least` bytes with its
    share of the side planes; and how much it takes.

    rows: of the tensor, each of whole records. chunk: units.
    """
    field = record.fields[-1]
    of_rows, of_columns = _means(tensor, record, rows)
    best = None
    for step in STEPS[8 if field.width > 4 else 4]:
        classes = Classes(_classes(of_rows, step), _classes(of_columns, step))
        most = int(classes.rows.max()) + int(classes.columns.max())
        if most == 0:
            break
        tables = min(-(-(most + 1) // ROUND) * ROUND, MAX_TABLES)
        given = replace(field, context=FieldClass(0, 1, tables))
        made = Record(record.size, (*record.fields[:-1], given))
        units, place = _middle(tensor, chunk, classes)
        sides = sum(len(encode_chunk(side, layouts.BYTES, NOWHERE, try_zstd=True)) for side in classes)
        size = len(encode_chunk(units, made, place)) + sides * units.size / unit_count(tensor)
        if size < least:
            best, least = (made, classes, size), size
    return best


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


def _means(tensor: Input, record: Record, rows: int) -> tuple[Numbers, Numbers]:
    """What codes of each row and each column of the last field's plane take, in 1 / (LOG * SCALE) bits."""
    unit, field, last = tensor.dtype.unit_bytes, record.fields[-1], len(record.fields) - 1
    length = unit_count(tensor) * unit // rows  # bytes of a row
    columns = length // record.size * field.count
    each = max(1, PIECE // length)
    of_rows, of_columns = np.empty(rows, np.int64), np.zeros(columns, np.int64)
    middle = tensor.read(rows // 2 * length // unit, min(each, rows - rows // 2) * length // unit)
    takes = _likelihoods(_fields(middle, record, last), field.width)
    for row in range(0, rows, each):
        count = min(each, rows - row)
        units = tensor.read(row * length // unit, count * length // unit)
        found = takes[_fields(units, record, last)].reshape(count, columns)
        of_rows[row : row + count] = found.sum(axis=1, dtype=np.int64)
        of_columns += found.sum(axis=0, dtype=np.int64)
    return SCALE * of_rows // columns, SCALE * of_columns // rows


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
