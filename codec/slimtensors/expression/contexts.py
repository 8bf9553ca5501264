"""What selects the frequency table of a symbol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from slimtensors.expression.limits import CLASS_TABLES

__all__ = [
    "BaseContext",
    "ClassContext",
    "Context",
    "FactorContext",
    "FieldClass",
    "FieldContext",
    "FieldLines",
    "FieldScale",
    "Mean",
    "SignContext",
]


@dataclass(frozen=True)
class BaseContext:
    """The base's exponent selects the table: floor(rotated base unit / 2^shift) - first, cut to 0 ... tables - 1; with
    tables of its own for each class of rows, which side plane `rows` holds.
    """

    shift: int
    first: int
    tables: int
    rows: int | None = None
    classes: int = 1

    @property
    def all_tables(self) -> int:
        return self.tables * self.classes

    @property
    def sides(self) -> set[int]:
        return set() if self.rows is None else {self.rows}

    def to_json(self) -> dict[str, Any]:
        base = {"base": [self.shift, self.first, self.tables]}
        return base if self.rows is None else {**base, "rows": [self.rows, self.classes]}

    def __str__(self) -> str:
        return "given the base" if self.rows is None else "given base and row"


@dataclass(frozen=True)
class Mean:
    """A unit's expected value, in steps of its scale: a matrix product of small integers, held in side plane `factors`.

    groups: how many of the factors count once, twice, four times, and so on. steps: from which logarithms of its
    magnitude on it lifts the class, one more each.
    """

    factors: int
    groups: tuple[int, ...]
    steps: tuple[int, ...]

    @property
    def rank(self) -> int:
        return sum(self.groups)

    def to_json(self) -> list[Any]:
        return [self.factors, list(self.groups), list(self.steps)]


@dataclass(frozen=True)
class ClassContext:
    """Row's and column's class, of the side planes `rows` and `columns`, select the table and move the fields; with
    `mean`, what is expected of the unit lifts the class.
    """

    rows: int
    columns: int
    octave: int
    mean: Mean | None = None
    all_tables = CLASS_TABLES

    @property
    def sides(self) -> set[int]:
        return {self.rows, self.columns} | (set() if self.mean is None else {self.mean.factors})

    def to_json(self) -> dict[str, Any]:
        classes: dict[str, Any] = {"class": [self.rows, self.columns, self.octave]}
        return classes if self.mean is None else {**classes, "mean": self.mean.to_json()}

    def __str__(self) -> str:
        return "given row and column" if self.mean is None else "given row, column and mean"


@dataclass(frozen=True)
class SignContext:
    """Of a float's sign, which is coded as whether it is that of the mean: magnitude and mean, over the scale, select
    the table.
    """

    first: int
    tables: int

    @property
    def all_tables(self) -> int:
        return self.tables

    @property
    def sides(self) -> set[int]:
        return set()  # those of the field on top

    def to_json(self) -> dict[str, Any]:
        return {"sign": [self.first, self.tables]}

    def __str__(self) -> str:
        return "given mean"


@dataclass(frozen=True)
class FactorContext:
    """Of a side plane of factors, [rank, rows + columns]: the bit length of the factor's number and the class of its
    row less `first`, cut to 0 ... classes - 1, select the table; columns have one apart.

    rows, columns: earlier side planes of the tensor.
    """

    rows: int
    columns: int
    first: int
    classes: int

    def tables(self, rank: int) -> int:
        """Of a plane of so many factors."""
        return (self.classes + 1) * ((rank - 1).bit_length() + 1)

    @property
    def sides(self) -> set[int]:
        return {self.rows, self.columns}

    def to_json(self) -> dict[str, Any]:
        return {"factor": [self.rows, self.columns, self.first, self.classes]}

    def __str__(self) -> str:
        return "given factor and row"


@dataclass(frozen=True)
class FieldContext:
    """A field of an earlier plane selects the table: floor(field / 2^shift) - first, cut to 0 ... tables - 1.

    mean: if not 0, it is the field plus 2^width, less the mean of its plane's fields in a group of so many records.
    """

    field: int  # the plane
    shift: int
    first: int
    tables: int
    mean: int = 0

    sides: ClassVar[frozenset[int]] = frozenset()

    def to_json(self) -> dict[str, Any]:
        given: dict[str, Any] = {"field": [self.field, self.shift, self.first, self.tables]}
        return given if not self.mean else {**given, "mean": self.mean}

    def __str__(self) -> str:
        return f"given {self.field}" if not self.mean else f"given {self.field} less its mean"


@dataclass(frozen=True)
class FieldClass:
    """Of a record's field, or of codes on a grid: its row's and its column's class select the table, the last one if
    they sum to more.
    """

    rows: int
    columns: int
    tables: int

    @property
    def sides(self) -> frozenset[int]:
        return frozenset((self.rows, self.columns))

    @property
    def all_tables(self) -> int:
        return self.tables

    def to_json(self) -> dict[str, Any]:
        return {"class": [self.rows, self.columns, self.tables]}

    def __str__(self) -> str:
        return "given row and column"


@dataclass(frozen=True)
class FieldLines:
    """Of a record's field: the classes of row and column, as of `FieldClass`, in one side plane, rows first."""

    side: int
    columns: int
    tables: int

    @property
    def sides(self) -> frozenset[int]:
        return frozenset((self.side,))

    def to_json(self) -> dict[str, Any]:
        return {"lines": [self.side, self.columns, self.tables]}

    def __str__(self) -> str:
        return "given row and column"


@dataclass(frozen=True)
class FieldScale:
    """Of a record's field: a unit of another tensor, one for so many records, selects the table; with `lines`, the
    classes of row and column are added.

    side: the side plane that is the other tensor. shift, first: number floor(unit / 2^shift) - first, cut to those that
    have a class, selects. runs: of numbers from 0 on, how many have which class.
    """

    side: int
    shift: int
    first: int
    runs: tuple[tuple[int, int], ...]
    lines: FieldLines | None = None

    @property
    def sides(self) -> frozenset[int]:
        return frozenset((self.side,)) | (frozenset() if self.lines is None else self.lines.sides)

    @property
    def tables(self) -> int:
        return max(table for _, table in self.runs) + 1 if self.lines is None else self.lines.tables

    def to_json(self) -> dict[str, Any]:
        scale = {"scale": [self.side, self.shift, self.first, [number for run in self.runs for number in run]]}
        return scale if self.lines is None else {**self.lines.to_json(), **scale}

    def __str__(self) -> str:
        return "given scale" if self.lines is None else "given scale, row and column"


Context = BaseContext | ClassContext | FactorContext | FieldClass | SignContext
