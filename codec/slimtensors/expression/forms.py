"""What is made of planes, and of other tensors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from slimtensors.expression.limits import MASK_WIDTH
from slimtensors.expression.planes import Bits, Part
from slimtensors.expression.records import Record

__all__ = ["Cast", "Decimal", "Delta", "Expression", "Gather", "LowRank", "Mul", "Ref", "Sparse", "Stored", "Trellis"]


@dataclass(frozen=True)
class LowRank:
    """A matrix product of two side planes, over 2^shift, that a base is moved by."""

    left: int
    right: int
    shift: int

    def to_json(self) -> dict[str, Any]:
        return {"matmul": [self.left, self.right, self.shift]}

    def __str__(self) -> str:
        return "low rank"


@dataclass(frozen=True)
class Delta:
    """A tensor as its difference from a base; the planes hold the differences."""

    bits: Bits
    base: int | tuple[int, ...]  # position in the header's list; of a pack, one for each of its tensors
    moved: LowRank | None = None  # what moves the base first

    @property
    def bases(self) -> tuple[int, ...]:
        return (self.base,) if isinstance(self.base, int) else self.base

    @property
    def width(self) -> int:
        """The bits of a difference that can be other than zero."""
        return self.bits.width

    @property
    def sides(self) -> set[int]:
        return self.bits.sides if self.moved is None else self.bits.sides | {self.moved.left, self.moved.right}

    def to_json(self) -> dict[str, Any]:
        base = self.base if isinstance(self.base, int) else list(self.base)
        moved = [] if self.moved is None else [self.moved.to_json()]
        return {"add": [{"base": base}, *moved, self.bits.to_json()]}

    def __str__(self) -> str:
        base = f"base {self.base}" if isinstance(self.base, int) else "bases"
        return " + ".join([base, *([] if self.moved is None else [str(self.moved)]), str(self.bits)])


@dataclass(frozen=True)
class Sparse:
    """Units that are zero where a mask says so, and elsewhere taken one after another from `values`."""

    values: Bits

    @cached_property
    def bits(self) -> Bits:
        """The planes of a chunk: the mask's, then those of the values."""
        return Bits((Part(MASK_WIDTH), *self.values.parts), self.values.rotate)

    @property
    def width(self) -> int:
        return self.values.width

    @property
    def sides(self) -> set[int]:
        return set()

    def to_json(self) -> dict[str, Any]:
        return {"scatter": [{"plane": 1}, self.values.to_json()]}

    def __str__(self) -> str:
        return f"scatter[mask {self.values}]"


@dataclass(frozen=True)
class Ref:
    """The whole of an earlier tensor."""

    tensor: int

    def to_json(self) -> dict[str, Any]:
        return {"ref": self.tensor}

    def __str__(self) -> str:
        return f"ref({self.tensor})"


@dataclass(frozen=True)
class Cast:
    """The whole of another tensor, of another float dtype, converted."""

    tensor: int

    def to_json(self) -> dict[str, Any]:
        return {"cast": self.tensor}

    def __str__(self) -> str:
        return f"cast({self.tensor})"


@dataclass(frozen=True)
class Gather:
    """Units by their codes, from a palette in side plane `palette`: one, or one for each of equal runs."""

    palette: int
    bits: Bits  # the codes

    @property
    def width(self) -> int:
        return self.bits.width

    @property
    def sides(self) -> set[int]:
        return {self.palette}

    def to_json(self) -> dict[str, Any]:
        return {"gather": [self.palette, self.bits.to_json()]}

    def __str__(self) -> str:
        return f"palette({self.bits})"


@dataclass(frozen=True)
class Mul:
    """Numbers from a palette, each times the scale of its run, and plus its offset if there are such.

    scale, offset: a side plane, or two: the products of a run's number and of that of several runs.
    """

    gather: Gather
    scale: int | tuple[int, int]
    offset: int | tuple[int, int] | None = None

    @property
    def bits(self) -> Bits:
        return self.gather.bits

    @property
    def width(self) -> int:
        return self.bits.width

    @property
    def plain(self) -> bool:
        """Whether there is one scale for each run, and no offset."""
        return isinstance(self.scale, int) and self.offset is None

    @property
    def factors(self) -> list[tuple[int, ...]]:
        """The side planes of scales, and of offsets if there are some."""
        return [each if isinstance(each, tuple) else (each,) for each in (self.scale, self.offset) if each is not None]

    @property
    def sides(self) -> set[int]:
        return {self.gather.palette, *(side for factors in self.factors for side in factors)}

    def to_json(self) -> dict[str, Any]:
        scale, *offset = [factors[0] if len(factors) == 1 else list(factors) for factors in self.factors]
        product = {"mul": [self.gather.to_json(), scale]}
        return {"add": [product, *offset]} if offset else product

    def __str__(self) -> str:
        words = ["scale" if len(factors) == 1 else "scale of scales" for factors in self.factors]
        return f"{self.gather} * {words[0]}" + ("" if self.offset is None else " + offset")


@dataclass(frozen=True)
class Decimal:
    """Integers over ten to the `power`; the lowest bit of a code is the sign."""

    power: int
    bits: Bits

    @property
    def width(self) -> int:
        return self.bits.width

    @property
    def sides(self) -> set[int]:
        return set()

    def to_json(self) -> dict[str, Any]:
        return {"decimal": [self.power, self.bits.to_json()]}

    def __str__(self) -> str:
        return f"decimal{self.power}({self.bits})"


@dataclass(frozen=True)
class Trellis:
    """Levels of a uniform grid; with 8 states, every other level at a time, by the parities of the codes before.

    step: of the grid, the bits of an F32. zero: the code of level 0. rows, columns: side planes that multiply it.
    """

    states: int
    step: int
    zero: int
    bits: Bits  # the codes
    rows: int | None = None
    columns: int | None = None

    @property
    def width(self) -> int:
        return self.bits.width

    @property
    def sides(self) -> set[int]:
        return {side for side in (self.rows, self.columns) if side is not None}

    def to_json(self) -> dict[str, Any]:
        scaled = [] if self.rows is None else [self.rows, self.columns]
        return {"trellis": [self.states, self.step, self.zero, self.bits.to_json(), *scaled]}

    def __str__(self) -> str:
        grid = "grid" if self.states == 1 else f"trellis{self.states}"
        return f"{grid}({self.bits})" + ("" if self.rows is None else " * rows * columns")


Stored = Bits | Delta | Sparse | Gather | Mul | Decimal | Record | Trellis  # what a stream holds
Expression = Stored | Ref | Cast
