"""Chunks of records: each kind of field in a plane of its own (format_spec/records.md)."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.codecs.contexts import Contexts
from slimtensors.codecs.head import GROUP, Mode, Part, Plane, up
from slimtensors.codecs.place import Place
from slimtensors.codecs.planes import decode_plane, encode_plane, field_dtype
from slimtensors.codecs.workspace import work_space
from slimtensors.errors import FormatError
from slimtensors.expression import Field, FieldClass, FieldLines, FieldScale, Record
from slimtensors.kernels.cpu import contexts as selecting
from slimtensors.kernels.cpu import records as kernels
from slimtensors.kernels.status import must

__all__ = ["cut", "decode", "encode", "less_means", "scale_classes"]

Units = npt.NDArray[Any]
Fields = npt.NDArray[Any]  # uint8 or uint16, whole groups of 128


@lru_cache(maxsize=256)
def _runs(field: Field) -> npt.NDArray[np.int64]:
    """One row for each piece of a field's spans, as the kernels have them."""
    rows = []
    first = 0
    for span in field.spans:
        shift = 0
        for bit, step, width in span.pieces:
            rows.append((first, span.count, step, bit, shift, width))
            shift += width
        first += span.count
    return np.array(rows, np.int64)


def decode(planes: list[Plane], record: Record, out: Units, place: Place) -> None:
    """Fill `out`, all of the chunk's units, whole records. Raises FormatError."""
    data = out.view(np.uint8)
    records = data.size // record.size
    data[:] = 0
    found: list[Fields] = []
    for i, (plane, field) in enumerate(zip(planes, record.fields, strict=True)):
        steered = plane.descriptor.mode in (Mode.CODED, Mode.BYPASS)
        contexts = _contexts(field, found, record, records, out.itemsize, place) if steered else None
        try:
            fields = _decode_field(plane, field, records, contexts, _space(i, field, records))
        except FormatError as error:
            raise type(error)(f"plane {i}: {error}") from None
        status = kernels.put_fields(fields, field.count, _runs(field), record.size, data)
        must(status)
        found.append(fields)


def _space(plane: int, field: Field, records: int) -> Fields:
    return work_space(f"record {plane}", up(records * field.count, GROUP), field_dtype(field.width))


def _decode_field(plane: Plane, field: Field, records: int, contexts: Contexts | None, space: Fields) -> Fields:
    """All of the chunk's fields of one kind, in whole groups."""
    used = records * field.count
    fields = decode_plane(plane, field.width, -(-used // GROUP), contexts, space)
    if isinstance(fields, int):
        if fields and used % GROUP:
            raise FormatError("the fields after the last record are not zero")
        space[:] = fields
        return space
    if fields[used:].any():
        raise FormatError("the fields after the last record are not zero")
    return fields


def _contexts(
    field: Field, found: list[Fields], record: Record, records: int, unit: int, place: Place
) -> Contexts | None:
    """What selects the tables of a plane's fields: those of an earlier plane, the classes of row and column, a scale.

    unit: bytes of the tensor's units.
    """
    context, first = field.context, place.first * unit // record.size
    if context is None:
        return None
    used = records * field.count
    values = work_space("contexts", up(used, GROUP), np.uint8)
    values[used:] = 0
    lines = context.lines if isinstance(context, FieldScale) else context
    if isinstance(lines, FieldClass | FieldLines):
        if isinstance(lines, FieldLines):
            rows, columns = np.split(place.sides[lines.side], [-lines.columns])
        else:
            rows, columns = place.sides[lines.rows], place.sides[lines.columns]
        status = selecting.class_contexts(rows, columns, first * field.count, values[:used])
        must(status)
    if isinstance(context, FieldScale):
        if lines is None:
            values[:used] = 0
        found_classes = scale_classes(context, place, unit, record.size, records)
        must(kernels.add_to_records(found_classes, field.count, context.tables - 1, values[:used]))
        return Contexts(values, context.tables)
    if isinstance(context, FieldClass | FieldLines):
        np.minimum(values, np.uint8(context.tables - 1), out=values)
        return Contexts(values, context.tables)
    count = record.fields[context.field].count
    given = found[context.field][: records * count]
    if context.mean:
        given = less_means(given, record.fields[context.field], context.mean, first)
    status = kernels.field_contexts(
        given, field.count // count, context.shift, context.first, context.tables, values[:used]
    )
    must(status)
    return Contexts(values, context.tables)


def scale_classes(context: FieldScale, place: Place, unit: int, size: int, records: int) -> npt.NDArray[np.uint8]:
    """Of each of a chunk's records, of `size` bytes: the class that its unit of another tensor has.

    unit: bytes of the tensor's units.
    """
    units = place.sides[context.side]
    all_records = place.units * unit // size
    counts, tables = np.array(context.runs).T
    of_numbers = np.repeat(tables.astype(np.uint8), counts)  # not kept: a header may have 64 KiB of it in each field
    classes = work_space("scale classes", records, np.uint8)
    status = kernels.scale_classes(
        units.reshape(-1), of_numbers, all_records // units.size, place.first * unit // size,
        context.shift, context.first, classes,
    )  # fmt: skip
    must(status)
    return classes


def less_means(fields: Fields, field: Field, group: int, first: int) -> npt.NDArray[np.uint16]:
    """A chunk's fields of one kind, at most 15 bits wide, plus 2^width, less the mean of their group of records.

    group: records. first: the chunk's first record, counted from the tensor's.
    """
    values = work_space("less means", fields.size, np.uint16)
    before = first % group * field.count
    status = kernels.less_means(fields, group * field.count, before, 1 << field.width, values)
    must(status)
    return values


# ---- encoding


def cut(data: npt.NDArray[np.uint8], record: Record, plane: int) -> Fields:
    """The fields of one plane, in whole groups; good until the next call for the same plane."""
    field = record.fields[plane]
    space = _space(plane, field, data.size // record.size)
    space[:] = 0
    status = kernels.cut_fields(data, field.count, _runs(field), record.size, space)
    must(status)
    return space


def encode(units: Units, record: Record, place: Place, *, try_zstd: bool, slow: bool = False) -> list[Part] | None:
    """Descriptors and payloads; None if some plane has no mode that can hold it. slow: see `encode_plane`."""
    data = units.view(np.uint8)
    found: list[Fields] = []
    parts = []
    for i, field in enumerate(record.fields):
        fields = cut(data, record, i)
        contexts = _contexts(field, found, record, data.size // record.size, units.itemsize, place)
        # A block is as long as for units of as many bytes as a field is for.
        each = max(1, data.size // max(1, fields.size))
        part = encode_plane(
            fields, field.width, each, try_zstd=try_zstd and field.width <= 8, contexts=contexts, codes=True, slow=slow
        )
        if part is None:
            return None
        parts.append(part)
        found.append(fields)
    return parts
