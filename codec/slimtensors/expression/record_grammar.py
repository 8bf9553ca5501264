"""Records from the header's JSON (format_spec/records.md)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from slimtensors.errors import FormatError
from slimtensors.expression.contexts import FieldClass, FieldContext, FieldLines, FieldScale
from slimtensors.expression.limits import (
    MAX_ENTRIES,
    MAX_MEAN,
    MAX_RECORD,
    MAX_RUNS,
    MAX_SCALE_SHIFT,
    MAX_TABLES,
    MAX_WIDTH,
)
from slimtensors.expression.records import Field, Record, Span
from slimtensors.expression.values import integer, keys_of, side_plane
from slimtensors.limits import MAX_ELEMENTS, MAX_PLANES

AnyContext = FieldClass | FieldContext | FieldLines | FieldScale

__all__ = ["parse_field_class", "parse_record"]


def parse_record(value: Any) -> Record:
    """What a record holds: each of its bits belongs to one field. Raises FormatError."""
    if not isinstance(value, list) or not 2 <= len(value) <= MAX_PLANES + 1:
        raise FormatError(f"a record has a size and 1 to {MAX_PLANES} fields")
    size = integer(value[0], 1, MAX_RECORD, "the size of a record")
    taken = 0  # a bit for each bit of the record that a field has
    fields: list[Field] = []
    for item in value[1:]:
        if keys_of(item, "a field of a record") - {"context"} != {"plane", "spans"}:
            raise FormatError(f"a field of a record has the keys {sorted(item)}")
        width = integer(item["plane"], 1, MAX_WIDTH, "the width of a plane")
        if not isinstance(item["spans"], list) or not item["spans"]:
            raise FormatError("the spans of a field are not a list of some")
        spans = []
        for numbers in item["spans"]:
            span = _span(numbers, 8 * size)
            if span.width != width:
                raise FormatError(f"a span of {span.width} bits for a plane of {width}")
            for bit, step, piece in span.pieces:
                bits = _repeated(span.count, bit, step, piece)
                if bits & taken:
                    raise FormatError("two fields of a record share a bit")
                taken |= bits
            spans.append(span)
        found = Field(width, tuple(spans))
        if "context" in item:
            found = replace(found, context=_field_context(item["context"], found, fields))
        fields.append(found)
    _check_scales(fields)
    if taken != (1 << 8 * size) - 1:
        raise FormatError("some bits of a record belong to no field")
    return Record(size, tuple(fields))


def _field_context(value: Any, field: Field, earlier: list[Field]) -> AnyContext:
    keys = keys_of(value, "a context")
    if keys == {"class"}:
        return parse_field_class(value["class"])
    if keys in ({"lines"}, {"scale"}, {"lines", "scale"}):
        lines = _field_lines(value["lines"]) if "lines" in keys else None
        return _field_scale(value["scale"], lines) if "scale" in keys or lines is None else lines
    if keys not in ({"field"}, {"field", "mean"}):
        raise FormatError(f"a context of a record's field has the keys {sorted(value)}")
    numbers = value["field"]
    if not isinstance(numbers, list) or len(numbers) != 4:
        raise FormatError("a context of a field has four numbers")
    found = FieldContext(
        integer(numbers[0], 0, len(earlier) - 1, "the field of a context, which comes earlier,"),
        integer(numbers[1], 0, MAX_WIDTH - 1, "the shift of a context"),
        integer(numbers[2], 0, 2**MAX_WIDTH - 1, "the first of a context"),
        integer(numbers[3], 2, MAX_TABLES, "the tables of a context"),
        integer(value["mean"], 1, MAX_MEAN, "the records of a context's mean") if "mean" in keys else 0,
    )
    if found.mean and earlier[found.field].width == MAX_WIDTH:
        raise FormatError(f"a context by the mean of fields of {MAX_WIDTH} bits")
    if field.count % earlier[found.field].count:
        raise FormatError(f"{field.count} fields of a record given {earlier[found.field].count}")
    return found


def _field_lines(numbers: Any) -> FieldLines:
    if not isinstance(numbers, list) or len(numbers) != 3:
        raise FormatError("the lines of a field have three numbers")
    return FieldLines(
        side_plane(numbers[0], "the classes of a context"),
        integer(numbers[1], 1, MAX_ELEMENTS, "the columns of a context"),
        integer(numbers[2], 2, MAX_TABLES, "the tables of a context"),
    )


def _field_scale(numbers: Any, lines: FieldLines | None) -> FieldScale:
    if not isinstance(numbers, list) or len(numbers) != 4:
        raise FormatError("the scale of a context is not a side plane, a shift, a first number and classes")
    runs = numbers[3]
    if not isinstance(runs, list) or len(runs) % 2 or not 2 <= len(runs) <= 2 * MAX_RUNS:
        raise FormatError(f"the classes of a scale are not 1 to {MAX_RUNS} runs")
    found = FieldScale(
        side_plane(numbers[0], "the side plane of a scale"),
        integer(numbers[1], 0, MAX_SCALE_SHIFT, "the shift of a scale"),
        integer(numbers[2], 0, 2**MAX_WIDTH - 1, "the first of a scale"),
        tuple(
            (integer(n, 1, MAX_ENTRIES, "a run of a scale"), integer(each, 0, MAX_TABLES - 1, "a class of a scale"))
            for n, each in zip(runs[::2], runs[1::2], strict=True)
        ),
        lines,
    )
    if sum(n for n, _ in found.runs) > MAX_ENTRIES:
        raise FormatError(f"classes for more than {MAX_ENTRIES} numbers of a scale")
    if found.tables < 2:
        raise FormatError("the scale of a context selects one table only")
    return found


def _check_scales(fields: list[Field]) -> None:
    """The side plane that is another tensor is one, and nothing else."""
    given = {each.context.side for each in fields if isinstance(each.context, FieldScale)}
    lines = (each.context.lines if isinstance(each.context, FieldScale) else each.context for each in fields)
    others = {side for each in lines if isinstance(each, FieldClass | FieldLines) for side in each.sides}
    if len(given) > 1 or given & others:
        raise FormatError("two side planes of scales, or one that holds classes, too")


def parse_field_class(numbers: Any) -> FieldClass:
    """Side planes of rows and of columns, and how many tables. Raises FormatError."""
    if not isinstance(numbers, list) or len(numbers) != 3:
        raise FormatError("classes of a field have three numbers")
    return FieldClass(
        side_plane(numbers[0], "the row classes of a context"),
        side_plane(numbers[1], "the column classes of a context"),
        integer(numbers[2], 2, MAX_TABLES, "the tables of a context"),
    )


def _span(numbers: Any, bits: int) -> Span:
    if not isinstance(numbers, list) or len(numbers) % 3 != 1 or not 4 <= len(numbers) <= 1 + 3 * MAX_WIDTH:
        raise FormatError("a span is not a number of fields and some triples of bit, step and width")
    count = integer(numbers[0], 1, bits, "the number of fields of a span")
    pieces = []
    for at in range(1, len(numbers), 3):
        bit = integer(numbers[at], 0, bits, "the first bit of a piece")
        step = integer(numbers[at + 1], 0, bits, "the step of a piece")
        width = integer(numbers[at + 2], 1, MAX_WIDTH, "the width of a piece")
        if (step < width) if count > 1 else step:
            raise FormatError(f"{count} pieces of {width} bits, {step} apart")
        if bit + (count - 1) * step + width > bits:
            raise FormatError("a field reaches out of its record")
        pieces.append((bit, step, width))
    return Span(count, tuple(pieces))


def _repeated(count: int, bit: int, step: int, width: int) -> int:
    """The bits of a record that pieces take."""
    # 1 + 2^step + 2^(2 step) + ... is (2^(count step) - 1) / (2^step - 1)
    starts = ((1 << count * step) - 1) // ((1 << step) - 1) if step else 1
    return starts * ((1 << width) - 1) << bit
