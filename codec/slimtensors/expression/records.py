"""Bytes in which a pattern of fields repeats."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from slimtensors.expression.contexts import FieldClass, FieldContext, FieldLines, FieldScale
from slimtensors.expression.planes import Bits, Part

__all__ = ["Field", "Record", "Span"]


@dataclass(frozen=True)
class Span:
    """`count` fields, each put together from pieces: (bit of the record for the first field, step, width)."""

    count: int
    pieces: tuple[tuple[int, int, int], ...]

    @property
    def width(self) -> int:
        return sum(width for _bit, _step, width in self.pieces)

    def to_json(self) -> list[int]:
        return [self.count, *(number for piece in self.pieces for number in piece)]


@dataclass(frozen=True)
class Field:
    """What lies in one plane of a record, and where."""

    width: int
    spans: tuple[Span, ...]
    context: FieldClass | FieldContext | FieldLines | FieldScale | None = None

    @cached_property
    def count(self) -> int:
        """Fields of each record."""
        return sum(span.count for span in self.spans)

    def to_json(self) -> dict[str, Any]:
        value = {"plane": self.width, "spans": [span.to_json() for span in self.spans]}
        return value if self.context is None else {**value, "context": self.context.to_json()}


@dataclass(frozen=True)
class Record:
    """Units whose bytes repeat a pattern of fields; each kind of field has a plane at its own rate."""

    size: int  # bytes
    fields: tuple[Field, ...]
    width = 0  # no plane says how wide a unit is: records may be longer

    @cached_property
    def bits(self) -> Bits:
        """The planes of a chunk."""
        return Bits(tuple(Part(field.width) for field in self.fields))

    @cached_property
    def sides(self) -> set[int]:
        """The side planes that contexts need."""
        return {side for field in self.fields if field.context is not None for side in field.context.sides}

    @cached_property
    def scale(self) -> int | None:
        """The side plane that is another tensor, if there is one."""
        return next((f.context.side for f in self.fields if isinstance(f.context, FieldScale)), None)

    def to_json(self) -> dict[str, Any]:
        return {"record": [self.size, *(field.to_json() for field in self.fields)]}

    def __str__(self) -> str:
        fields = " ".join(
            f"{field.count}x{field.width}" + ("" if field.context is None else f" {field.context}")
            for field in self.fields
        )
        return f"record of {self.size} bytes[{fields}]"
