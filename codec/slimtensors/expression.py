"""How a tensor is rebuilt from its planes (format_spec/expressions.md)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from slimtensors.errors import FormatError, NewerFormatError
from slimtensors.limits import MAX_PLANES, MAX_RANK, MAX_TENSORS

__all__ = [
    "BaseContext",
    "Bits",
    "Cast",
    "ClassContext",
    "Context",
    "Decimal",
    "Delta",
    "Expression",
    "Field",
    "FieldContext",
    "Gather",
    "LowRank",
    "Mean",
    "Mul",
    "Part",
    "Record",
    "Ref",
    "SignContext",
    "Span",
    "Sparse",
    "Stored",
    "parse",
]

MAX_WIDTH = 16  # of a plane
MASK_WIDTH = 8  # of a mask's plane: a field has a bit for each of eight units
MAX_DECIMAL_WIDTH = 53  # of codes: integers of 52 bits and a sign
MAX_POWER = 22  # 10^22 is the last that is exact in binary64
MAX_SHIFT = 63
MAX_PRODUCT_SHIFT = 60  # of a product's sums: what is left of them stays a normal number
MAX_TABLES, MAX_CLASSES = 64, 64
MAX_ALL_TABLES = 256  # of all classes; a context is a byte
MAX_OCTAVE = 16
MAX_RECORD = 512  # bytes of a pattern that repeats
CLASS_TABLES = 4  # classes that are an octave apart share a table
MAX_SIGN_TABLES = 32
MAX_STEPS, MAX_STEP = 16, 63  # of a mean's logarithm
MAX_GROUPS = 8  # of a mean's factors, each of which counts twice as much as the one before
# Names that the format keeps for later (`matmul` but for where `add` has it); a file that uses one is sound but not
# for this reader.
DRAFT = frozenset({"hadamard", "matmul", "rand", "trellis", "view"})


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


Context = BaseContext | ClassContext | SignContext


@dataclass(frozen=True)
class Part:
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
    """Numbers from a palette, each times the scale of its run in side plane `scale`."""

    gather: Gather
    scale: int

    @property
    def bits(self) -> Bits:
        return self.gather.bits

    @property
    def width(self) -> int:
        return self.bits.width

    @property
    def sides(self) -> set[int]:
        return {self.gather.palette, self.scale}

    def to_json(self) -> dict[str, Any]:
        return {"mul": [self.gather.to_json(), self.scale]}

    def __str__(self) -> str:
        return f"{self.gather} * scale"


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
class FieldContext:
    """A field of an earlier plane selects the table: floor(field / 2^shift) - first, cut to 0 ... tables - 1."""

    field: int  # the plane
    shift: int
    first: int
    tables: int

    def to_json(self) -> dict[str, Any]:
        return {"field": [self.field, self.shift, self.first, self.tables]}


@dataclass(frozen=True)
class Field:
    """What lies in one plane of a record, and where."""

    width: int
    spans: tuple[Span, ...]
    context: FieldContext | None = None

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

    @property
    def sides(self) -> set[int]:
        return set()

    def to_json(self) -> dict[str, Any]:
        return {"record": [self.size, *(field.to_json() for field in self.fields)]}

    def __str__(self) -> str:
        fields = " ".join(
            f"{field.count}x{field.width}" + ("" if field.context is None else f" given {field.context.field}")
            for field in self.fields
        )
        return f"record of {self.size} bytes[{fields}]"


Stored = Bits | Delta | Sparse | Gather | Mul | Decimal | Record  # what a stream holds
Expression = Stored | Ref | Cast


def bits(*widths: int, rotate: int = 0) -> Bits:
    """Planes of these widths, lowest first."""
    return Bits(tuple(Part(width) for width in widths), rotate)


def parse(value: Any) -> Expression:
    """An expression from the header's JSON; FormatError for a wrong one, NewerFormatError for a draft one."""
    keys = _keys(value, "an expression")
    if keys == {"bits", "rotate"}:
        return _bits(value, MAX_PLANES)
    if keys == {"add"}:
        return _delta(value["add"])
    if keys == {"scatter"}:
        return _sparse(value["scatter"])
    if keys == {"ref"}:
        return Ref(_integer(value["ref"], 0, MAX_TENSORS, "ref"))
    if keys == {"gather"}:
        return _gather(value["gather"])
    if keys == {"mul"}:
        gather, scale = _pair(value["mul"], "mul")
        if _keys(gather, "the first argument of mul") != {"gather"}:
            raise FormatError("the first argument of mul is not a gather")
        return Mul(_gather(gather["gather"]), _integer(scale, 0, MAX_PLANES, "the side plane of a mul"))
    if keys == {"decimal"}:
        power, codes = _pair(value["decimal"], "decimal")
        return Decimal(_integer(power, 0, MAX_POWER, "the power of a decimal"), _codes(codes, MAX_DECIMAL_WIDTH))
    if keys == {"record"}:
        return _record(value["record"])
    if keys == {"cast"}:
        return Cast(_integer(value["cast"], 0, MAX_TENSORS, "cast"))
    raise FormatError(f"an expression has the keys {sorted(keys)}")


def _gather(value: Any) -> Gather:
    side, codes = _pair(value, "gather")
    return Gather(_integer(side, 0, MAX_PLANES, "the side plane of a gather"), _codes(codes, MAX_WIDTH))


def _codes(value: Any, most: int) -> Bits:
    """Planes that all units have, not rotated."""
    codes = parse(value)
    if not isinstance(codes, Bits) or codes.sides or codes.contexts or codes.rotate or sum(codes.widths) > most:
        raise FormatError(f"codes are not bits of up to {most}, without rotation and side planes")
    return codes


def _record(value: Any) -> Record:
    if not isinstance(value, list) or not 2 <= len(value) <= MAX_PLANES + 1:
        raise FormatError(f"a record has a size and 1 to {MAX_PLANES} fields")
    size = _integer(value[0], 1, MAX_RECORD, "the size of a record")
    taken = 0  # a bit for each bit of the record that a field has
    fields: list[Field] = []
    for item in value[1:]:
        if _keys(item, "a field of a record") - {"context"} != {"plane", "spans"}:
            raise FormatError(f"a field of a record has the keys {sorted(item)}")
        width = _integer(item["plane"], 1, MAX_WIDTH, "the width of a plane")
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
    if taken != (1 << 8 * size) - 1:
        raise FormatError("some bits of a record belong to no field")
    return Record(size, tuple(fields))


def _field_context(value: Any, field: Field, earlier: list[Field]) -> FieldContext:
    if _keys(value, "a context") != {"field"}:
        raise FormatError(f"a context of a record's field has the keys {sorted(value)}")
    numbers = value["field"]
    if not isinstance(numbers, list) or len(numbers) != 4:
        raise FormatError("a context of a field has four numbers")
    found = FieldContext(
        _integer(numbers[0], 0, len(earlier) - 1, "the field of a context, which comes earlier,"),
        _integer(numbers[1], 0, MAX_WIDTH - 1, "the shift of a context"),
        _integer(numbers[2], 0, 2**MAX_WIDTH - 1, "the first of a context"),
        _integer(numbers[3], 2, MAX_TABLES, "the tables of a context"),
    )
    if field.count % earlier[found.field].count:
        raise FormatError(f"{field.count} fields of a record given {earlier[found.field].count}")
    return found


def _span(numbers: Any, bits: int) -> Span:
    if not isinstance(numbers, list) or len(numbers) % 3 != 1 or not 4 <= len(numbers) <= 1 + 3 * MAX_WIDTH:
        raise FormatError("a span is not a number of fields and some triples of bit, step and width")
    count = _integer(numbers[0], 1, bits, "the number of fields of a span")
    pieces = []
    for at in range(1, len(numbers), 3):
        bit = _integer(numbers[at], 0, bits, "the first bit of a piece")
        step = _integer(numbers[at + 1], 0, bits, "the step of a piece")
        width = _integer(numbers[at + 2], 1, MAX_WIDTH, "the width of a piece")
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


def _pair(value: Any, what: str) -> tuple[Any, Any]:
    if not isinstance(value, list) or len(value) != 2:
        raise FormatError(f"{what} has two arguments")
    return value[0], value[1]


def _bits(value: Any, most: int) -> Bits:
    if _keys(value, "an expression") != {"bits", "rotate"}:
        raise FormatError(f"planes have the keys {sorted(value)}")
    parts = value["bits"]
    if not isinstance(parts, list) or not 1 <= len(parts) <= most:
        raise FormatError(f"bits have 1 to {most} planes")
    found = Bits(tuple(_part(part) for part in parts), _integer(value["rotate"], 0, 1, "rotate"))
    _check_mean(found)
    return found


def _check_mean(bits: Bits) -> None:
    """A mean is for the field on top of floats, and a sign for the lowest bit below such a field."""
    *below, top = bits.parts
    mean = top.context.mean if isinstance(top.context, ClassContext) else None
    if any(isinstance(part.context, ClassContext) and part.context.mean is not None for part in below):
        raise FormatError("a mean for a plane that is not the last")
    if mean is not None and (not bits.rotate or top.side is not None):
        raise FormatError("a mean for a plane under scatter, or of units that are not rotated")
    if not any(isinstance(part.context, SignContext) for part in bits.parts):
        return
    if any(isinstance(part.context, SignContext) for part in bits.parts[1:]):
        raise FormatError("the context of a sign for a plane that is not the first")
    first = bits.parts[0]
    if mean is None or first.width != 1 or first.side is not None:
        raise FormatError("the context of a sign for a plane of more than one bit, under scatter, or without a mean")
    assert isinstance(top.context, ClassContext)
    if top.context.octave not in (1, 2, 4, 8, 16):
        raise FormatError(f"the context of a sign beside an octave of {top.context.octave}, not a power of two")


def _delta(arguments: Any) -> Delta:
    if not isinstance(arguments, list) or len(arguments) not in (2, 3):
        raise FormatError("add has two arguments, a base and planes, or a matmul between them")
    if _keys(arguments[0], "an argument of add") != {"base"}:
        raise FormatError("the first argument of add is not a base")
    base = _base(arguments[0]["base"])
    moved = _low_rank(arguments[1]) if len(arguments) == 3 else None
    if moved is not None and not isinstance(base, int):
        raise FormatError("a matmul in a pack")
    found = _bits(arguments[-1], MAX_PLANES)
    if found.rotate:
        raise FormatError("differences from a base are not rotated")
    return Delta(found, base, moved)


def _low_rank(value: Any) -> LowRank:
    if not isinstance(value, dict) or value.keys() != {"matmul"}:
        _keys(value, "an argument of add")  # says so of another name that is kept for later
        raise FormatError("the second of three arguments of add is not a matmul")
    numbers = value["matmul"]
    if not isinstance(numbers, list) or len(numbers) != 3:
        raise FormatError("a matmul has three numbers: two side planes and a shift")
    left, right = (_integer(side, 0, MAX_PLANES, "a side plane of a matmul") for side in numbers[:2])
    if left == right:
        raise FormatError("a matmul of a side plane with itself")
    return LowRank(left, right, _integer(numbers[2], 0, MAX_PRODUCT_SHIFT, "the shift of a matmul"))


def _base(value: Any) -> int | tuple[int, ...]:
    if not isinstance(value, list):
        return _integer(value, 0, MAX_TENSORS, "base")
    if not 1 <= len(value) <= MAX_TENSORS:
        raise FormatError(f"a list of {len(value)} bases")
    return tuple(_integer(item, 0, MAX_TENSORS, "base") for item in value)


def _sparse(arguments: Any) -> Sparse:
    if not isinstance(arguments, list) or len(arguments) != 2:
        raise FormatError("scatter has two arguments: a mask and what it scatters")
    if _keys(arguments[0], "the mask of a scatter") != {"plane"}:
        raise FormatError("the first argument of scatter is not a plane")
    _integer(arguments[0]["plane"], 1, 1, "the width of a mask")
    values = _bits(arguments[1], MAX_PLANES - 1)  # the mask is a plane too
    if values.sides or values.contexts:
        raise FormatError("rows or contexts within a scatter by a mask")
    return Sparse(values)


def _part(value: Any) -> Part:
    keys = _keys(value, "a part of an expression")
    if keys != {"scatter"}:
        return _plane(value)
    arguments = value["scatter"]
    if not isinstance(arguments, list) or len(arguments) != 2:
        raise FormatError("scatter has two arguments: a side plane and a plane")
    plane = _plane(arguments[1])
    return Part(plane.width, _integer(arguments[0], 0, MAX_PLANES, "the side plane of a scatter"), plane.context)


def _plane(value: Any) -> Part:
    """A plane, with or without a context."""
    keys = _keys(value, "a plane")
    if keys - {"context"} != {"plane"}:
        raise FormatError(f"a part of an expression has the keys {sorted(keys)}")
    context = _context(value["context"]) if "context" in keys else None
    return Part(_integer(value["plane"], 1, MAX_WIDTH, "the width of a plane"), context=context)


def _context(value: Any) -> Context:
    keys = _keys(value, "a context")
    if keys not in ({"base"}, {"base", "rows"}, {"class"}, {"class", "mean"}, {"sign"}):
        raise FormatError(f"a context has the keys {sorted(keys)}")
    if "sign" in keys:
        first, tables = _pair(value["sign"], "the context of a sign")
        return SignContext(
            _integer(first, 0, 2**MAX_WIDTH - 1, "the first of a context"),
            _integer(tables, 2, MAX_SIGN_TABLES, "the tables of a context"),
        )
    kind = "class" if "class" in keys else "base"
    numbers = value[kind]
    if not isinstance(numbers, list) or len(numbers) != 3:
        raise FormatError("a context has three numbers")
    if kind == "base":
        context = BaseContext(
            _integer(numbers[0], 0, MAX_SHIFT, "the shift of a context"),
            _integer(numbers[1], 0, 2**MAX_WIDTH - 1, "the first of a context"),
            _integer(numbers[2], 2, MAX_TABLES, "the tables of a context"),
        )
        return _with_rows(context, value["rows"]) if "rows" in keys else context
    return ClassContext(
        _integer(numbers[0], 0, MAX_PLANES, "the row classes of a context"),
        _integer(numbers[1], 0, MAX_PLANES, "the column classes of a context"),
        _integer(numbers[2], 0, MAX_OCTAVE, "the octave of a context"),
        _mean(value["mean"]) if "mean" in keys else None,
    )


def _mean(value: Any) -> Mean:
    if not isinstance(value, list) or len(value) != 3:
        raise FormatError("a mean has three arguments: a side plane, groups of its factors, and steps")
    groups, steps = value[1:]
    if not isinstance(groups, list) or not 1 <= len(groups) <= MAX_GROUPS:
        raise FormatError(f"the factors of a mean are in 1 to {MAX_GROUPS} groups")
    if not isinstance(steps, list) or len(steps) > MAX_STEPS:
        raise FormatError(f"a mean has up to {MAX_STEPS} steps")
    found = Mean(
        _integer(value[0], 0, MAX_PLANES, "the side plane of a mean"),
        tuple(_integer(group, 0, MAX_RANK, "a group of factors") for group in groups),
        tuple(_integer(step, 0, MAX_STEP, "a step of a mean") for step in steps),
    )
    if not 1 <= found.rank <= MAX_RANK:
        raise FormatError(f"a mean of rank {found.rank}, not 1 to {MAX_RANK}")
    if list(found.steps) != sorted(found.steps):
        raise FormatError("the steps of a mean do not rise")
    return found


def _with_rows(context: BaseContext, value: Any) -> BaseContext:
    side, classes = _pair(value, "the rows of a context")
    found = replace(
        context,
        rows=_integer(side, 0, MAX_PLANES, "the row classes of a context"),
        classes=_integer(classes, 2, MAX_CLASSES, "the number of classes of a context"),
    )
    if found.all_tables > MAX_ALL_TABLES:
        raise FormatError(f"a context has {found.all_tables} tables; {MAX_ALL_TABLES} are the most")
    return found


def _keys(value: Any, what: str) -> set[str]:
    if not isinstance(value, dict):
        raise FormatError(f"{what} is not a JSON object")
    draft = DRAFT & value.keys()
    if draft:
        words = ", ".join(sorted(draft))
        raise NewerFormatError(f"{what} uses {words}, which needs a newer reader; update slimtensors")
    return set(value)


def _integer(value: Any, low: int, high: int, what: str) -> int:
    if type(value) is not int or not low <= value <= high:
        raise FormatError(f"{what} is {value!r}, not an integer from {low} to {high}")
    return value
