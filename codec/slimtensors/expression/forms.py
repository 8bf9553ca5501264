"""What is made of planes, and of other tensors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from slimtensors.expression.limits import MASK_WIDTH
from slimtensors.expression.planes import Bits, Part
from slimtensors.expression.records import Record

__all__ = [
    "Cast",
    "Decimal",
    "Delta",
    "Expression",
    "Gather",
    "LowRank",
    "Mul",
    "Ref",
    "Sparse",
    "Stored",
    "Sum",
    "Trellis",
    "Values",
    "bases_of",
    "values_of",
]


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
        return self.bits.sides | {side for side in (self.rows, self.columns) if side is not None}

    def to_json(self) -> dict[str, Any]:
        scaled = [] if self.rows is None else [self.rows, self.columns]
        return {"trellis": [self.states, self.step, self.zero, self.bits.to_json(), *scaled]}

    def __str__(self) -> str:
        grid = "grid" if self.states == 1 else f"trellis{self.states}"
        return f"{grid}({self.bits})" + ("" if self.rows is None else " * rows * columns")


Values = Mul | Trellis  # numbers from codes


@dataclass(frozen=True)
class Sparse:
    """Units that a mask takes one after another from `values`; all others are zero, or `rest`, numbers from codes."""

    values: Bits
    rest: Values | None = None

    @cached_property
    def bits(self) -> Bits:
        """The planes of a chunk: the mask's, those of the values, and those of the codes."""
        codes = () if self.rest is None else self.rest.bits.parts
        return Bits((Part(MASK_WIDTH), *self.values.parts, *codes), self.values.rotate)

    @property
    def width(self) -> int:
        return max(self.values.width, 0 if self.rest is None else self.rest.width)

    @property
    def sides(self) -> set[int]:
        return set() if self.rest is None else self.rest.sides

    def to_json(self) -> dict[str, Any]:
        rest = [] if self.rest is None else [self.rest.to_json()]
        return {"scatter": [{"plane": 1}, self.values.to_json(), *rest]}

    def __str__(self) -> str:
        return f"scatter[mask {self.values}]" + ("" if self.rest is None else f" else {self.rest}")


@dataclass(frozen=True)
class Sum:
    """Numbers from codes, added to a base's or to a matrix product's.

    plus: the base's position in the header's list, or the product.
    """

    values: Values
    plus: int | LowRank

    @property
    def bits(self) -> Bits:
        return self.values.bits

    @property
    def width(self) -> int:
        return self.values.width

    @property
    def bases(self) -> tuple[int, ...]:
        return (self.plus,) if isinstance(self.plus, int) else ()

    @property
    def sides(self) -> set[int]:
        return self.values.sides | (set() if isinstance(self.plus, int) else {self.plus.left, self.plus.right})

    def to_json(self) -> dict[str, Any]:
        plus = {"base": self.plus} if isinstance(self.plus, int) else self.plus.to_json()
        return {"add": [plus, self.values.to_json()]}

    def __str__(self) -> str:
        plus = f"base {self.plus}" if isinstance(self.plus, int) else str(self.plus)
        return f"{plus} + {self.values}"


Stored = Bits | Delta | Sparse | Gather | Mul | Decimal | Record | Sum | Trellis  # what a stream holds
Expression = Stored | Ref | Cast


def values_of(expression: Expression) -> Values | None:
    """The numbers from codes that an expression has or is."""
    if isinstance(expression, Sum):
        return expression.values
    if isinstance(expression, Sparse):
        return expression.rest
    return expression if isinstance(expression, (Mul, Trellis)) else None


def bases_of(expression: Expression | None) -> tuple[int, ...]:
    """The bases that chunks need, by their positions in the header's list."""
    return expression.bases if isinstance(expression, (Delta, Sum)) else ()  # a union would be made each time
