"""Fields of codes in records, and what they take: the logarithm of how seldom each is. Whole numbers only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slimtensors.codecs import layouts
from slimtensors.codecs.chunk import encode_chunk
from slimtensors.codecs.place import NOWHERE, Place
from slimtensors.codecs.records import cut
from slimtensors.detect.classes import Classes
from slimtensors.detect.fitting import logarithm
from slimtensors.expression import MAX_TABLES, Field, FieldLines, FieldScale, Record, Span
from slimtensors.sources.inputs import Input, unit_count

__all__ = [
    "LEAST_RECORD", "SCALE", "Lined", "fields_of", "in_steps", "likelihoods", "means", "middle", "pieces", "record_of",
    "with_lines",
]  # fmt: skip

Numbers = npt.NDArray[np.int64]

LEAST_RECORD = 16  # bytes; shorter ones are slow
SCALE = 16  # of means, so that they round late
PIECE = 1 << 20  # bytes whose fields are looked at at once
ROUND = 8  # tables, so that tensors alike share one expression
SIDE = 128  # bytes of index, table and header that a side plane takes beside its chunk, about


class Lined(NamedTuple):
    """A record whose last field has classes of rows and columns, the side plane with these, and what a chunk takes."""

    record: Record
    side: npt.NDArray[np.uint8]
    size: float


def record_of(size: int, width: int) -> Record:
    """All lower nibbles first, then all upper ones: neighbours in memory are neighbours in the plane."""
    spans = tuple(Span(size, ((bit, 8, width),)) for bit in range(0, 8, width))
    return Record(size, (Field(width, spans),))


def middle(tensor: Input, chunk: int, sides: tuple[npt.NDArray[Any], ...]) -> tuple[npt.NDArray[Any], Place]:
    """A chunk in the middle, which is no shorter than others."""
    units = unit_count(tensor)
    first = units // chunk // 2 * chunk
    return tensor.read(first, min(chunk, units - first)), Place(units, first, sides, tensor.dtype)


def likelihoods(fields: npt.NDArray[Any], width: int) -> npt.NDArray[np.int32]:
    """What each code takes, in 1 / LOG bits: the logarithm of how seldom it is."""
    counts = np.bincount(fields, minlength=1 << width)
    whole = logarithm(fields.size)
    return np.array([whole - logarithm(max(int(count), 1)) for count in counts], np.int32)


def means(tensor: Input, record: Record, rows: int) -> tuple[Numbers, Numbers]:
    """What codes of each row and each column of the last field's plane take, in 1 / (LOG * SCALE) bits."""
    unit, field, last = tensor.dtype.unit_bytes, record.fields[-1], len(record.fields) - 1
    length = unit_count(tensor) * unit // rows  # bytes of a row
    columns = length // record.size * field.count
    each = max(1, PIECE // length)
    of_rows, of_columns = np.empty(rows, np.int64), np.zeros(columns, np.int64)
    middle = tensor.read(rows // 2 * length // unit, min(each, rows - rows // 2) * length // unit)
    takes = likelihoods(fields_of(middle, record, last), field.width)
    for row, codes in pieces(tensor, record, rows):
        found = takes[codes]
        of_rows[row : row + len(codes)] = found.sum(axis=1, dtype=np.int64)
        of_columns += found.sum(axis=0, dtype=np.int64)
    return SCALE * of_rows // columns, SCALE * of_columns // rows


def pieces(tensor: Input, record: Record, rows: int) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Fields of the last plane, [some rows, columns], and the first of these rows; good until the next."""
    unit, last = tensor.dtype.unit_bytes, len(record.fields) - 1
    length = unit_count(tensor) * unit // rows  # bytes of a row
    each = max(1, PIECE // length)
    for row in range(0, rows, each):
        count = min(each, rows - row)
        units = tensor.read(row * length // unit, count * length // unit)
        yield row, fields_of(units, record, last).reshape(count, -1)


def fields_of(units: npt.NDArray[Any], record: Record, plane: int) -> npt.NDArray[Any]:
    """Those of one plane, without the zeros that follow."""
    return cut(units.view(np.uint8), record, plane)[: units.nbytes // record.size * record.fields[plane].count]


def in_steps(means: Numbers, step: int) -> npt.NDArray[np.uint8]:
    """Whole steps, from 0. The lowest and highest in a hundred, such as rows of zeros, are cut off somewhat beyond."""
    classes = (means + SCALE * step // 2) // (SCALE * step)
    some = np.sort(classes)
    low, high = int(some[some.size // 100]) - 2, int(some[-1 - some.size // 100]) + 2
    low, high = max(low, int(some[0])), min(high, int(some[-1]))
    return np.clip(classes - low, 0, min(high - low, MAX_TABLES - 1)).astype(np.uint8)


def with_lines(
    tensor: Input,
    record: Record,
    classes: Classes,
    chunk: int,
    *,
    slow: bool,
    scale: FieldScale | None = None,
    units: npt.NDArray[np.integer] | None = None,
) -> Lined:
    """The record with these classes for its last field, and what the middle chunk takes.

    scale, units: what adds to them, and the tensor that has it.
    """
    most = int(classes.rows.max()) + int(classes.columns.max()) + (0 if scale is None else scale.tables - 1)
    tables = min(-(-(most + 1) // ROUND) * ROUND, MAX_TABLES)
    side = np.concatenate(classes)
    lines = FieldLines(0, classes.columns.size, tables)
    context = lines if scale is None else replace(scale, side=1, lines=lines)
    made = Record(record.size, (*record.fields[:-1], replace(record.fields[-1], context=context)))
    data, place = middle(tensor, chunk, (side,) if units is None else (side, units))
    share = len(encode_chunk(side, layouts.BYTES, NOWHERE, try_zstd=True)) + (SIDE if slow else 0)
    size = len(encode_chunk(data, made, place, slow=slow)) + share * data.size / unit_count(tensor)
    return Lined(made, side, size)
