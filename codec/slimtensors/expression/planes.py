"""Planes put one above the other."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from slimtensors.expression.contexts import Context

__all__ = ["Bits", "Part", "bits"]


class Part(NamedTuple):
    """A plane of `width` bits; with `side`, only of the rows that this side plane marks."""

    width: int
    side: int | None = None
    context: Context | None = None

    @property
    def sides(self) -> set[int]:
        """The side planes that it needs."""
        flags = set() if self.side is None else {self.side}
        return flags if self.context is None else flags | self.context.sides

    def to_json(self) -> dict[str, Any]:
        plane: dict[str, Any] = {"plane": self.width}
        if self.context is not None:
            plane["context"] = self.context.to_json()
        return plane if self.side is None else {"scatter": [self.side, plane]}

    def __str__(self) -> str:
        plane = f"{self.width}" if self.context is None else f"{self.width} {self.context}"
        return plane if self.side is None else f"rows({plane})"


@dataclass(frozen=True)
class Bits:
    """Planes put one above the other, then rotated right by `rotate` bits."""

    parts: tuple[Part, ...]
    rotate: int = 0

    @property
    def bits(self) -> Bits:
        """The planes of a chunk; every stored expression has such."""
        return self

    @cached_property
    def widths(self) -> tuple[int, ...]:
        return tuple(part.width for part in self.parts)

    @property
    def width(self) -> int:
        """The bits of a unit that can be other than zero."""
        return sum(self.widths)

    @cached_property
    def sides(self) -> set[int]:
        return {side for part in self.parts for side in part.sides}

    @cached_property
    def flags(self) -> set[int]:
        """The side planes that say which rows have a field."""
        return {part.side for part in self.parts if part.side is not None}

    @cached_property
    def contexts(self) -> tuple[Context, ...]:
        return tuple(part.context for part in self.parts if part.context is not None)

    def to_json(self) -> dict[str, Any]:
        return {"bits": [part.to_json() for part in self.parts], "rotate": self.rotate}

    def __str__(self) -> str:
        return f"bits[{' '.join(map(str, self.parts))}]" + (" rotated" if self.rotate else "")


def bits(*widths: int, rotate: int = 0) -> Bits:
    """Planes of these widths, lowest first."""
    return Bits(tuple(Part(width) for width in widths), rotate)
