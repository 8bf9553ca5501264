"""Chapter `expressions.md`: dtypes, and how planes become units. Quotations are from that text."""

from __future__ import annotations

from dataclasses import dataclass, replace

from coder import Refused, check

# section 1: dtype -> bits of an element, bytes of a unit
DTYPES = {
    **dict.fromkeys(["BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"], (8, 1)),
    **dict.fromkeys(["U16", "I16", "F16", "BF16"], (16, 2)),
    **dict.fromkeys(["U32", "I32", "F32"], (32, 4)),
    **dict.fromkeys(["U64", "I64", "F64"], (64, 8)),
    "C64": (64, 4),
    "F4": (4, 1),
    "F6_E2M3": (6, 1),
    "F6_E3M2": (6, 1),
}

# `container.md`, section 9: of a tensor, of a file
MAX_SIDES = 6
MAX_TENSORS = 1 << 17

# section 6: "refused as needing a newer reader, wherever a key of an expression or part is expected"
RESERVED = {"hadamard", "matmul", "rand", "view"}


class NeedsNewerReader(Refused):
    """The file uses a version, feature or name that this text only reserves."""


# section 8: "for the floats, that is the dtypes whose names begin with `F8_`, except `F8_E8M0`, and ..."
FLOATS = {"F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F16", "BF16", "F32", "F64", "C64"}


@dataclass(frozen=True)
class BaseContext:
    shift: int
    first: int
    tables: int
    rows: int | None = None  # the side plane of the rows' classes
    classes: int = 1


@dataclass(frozen=True)
class Mean:
    factors: int
    groups: tuple[int, ...]
    steps: tuple[int, ...]


@dataclass(frozen=True)
class ClassContext:
    rows: int
    columns: int
    octave: int
    mean: Mean | None = None
    tables = 4


@dataclass(frozen=True)
class SignContext:
    first: int
    tables: int


@dataclass(frozen=True)
class FactorContext:
    rows: int
    columns: int
    first: int
    classes: int


@dataclass(frozen=True)
class Part:
    width: int
    side: int | None  # the side plane that says which rows have fields; None: all have
    context: BaseContext | ClassContext | FactorContext | FieldClass | SignContext | None = None

    def sides(self) -> set[int]:
        by_class = isinstance(self.context, ClassContext | FactorContext | FieldClass)
        classes = {self.context.rows, self.context.columns} if by_class else set()
        if isinstance(self.context, ClassContext) and self.context.mean:
            classes.add(self.context.mean.factors)
        if isinstance(self.context, BaseContext):
            classes = {self.context.rows}
        return (classes | {self.side}) - {None}


@dataclass(frozen=True)
class Matmul:
    p: int
    q: int
    shift: int


@dataclass(frozen=True)
class Bits:
    parts: tuple[Part, ...]
    rotate: int
    base: int | tuple[int, ...] | None = None  # of `add`; a tuple: of a pack's tensors
    matmul: Matmul | None = None  # section 8.1

    def sides(self) -> set[int]:
        factors = {self.matmul.p, self.matmul.q} if self.matmul else set()
        return factors | {side for part in self.parts for side in part.sides()}

    def width(self) -> int:
        return sum(part.width for part in self.parts)

    def planes(self) -> tuple[Part, ...]:
        """Those of a chunk."""
        return self.parts


@dataclass(frozen=True)
class Sparse:
    """ "units of which many are 0", or (section 3.3) what `rest` makes """

    values: Bits
    rest: Mul | Trellis | None = None
    base = matmul = None

    def sides(self) -> set[int]:
        return set()  # those of `rest` are its own

    def width(self) -> int:
        return max(self.values.width(), self.rest.codes.width() if self.rest else 0)

    def planes(self) -> tuple[Part, ...]:
        # "The planes of a chunk are the mask, then those of `bits`. The mask's plane has width 8"
        # section 3.3: "then those of the codes"
        return (Part(8, None), *self.values.parts, *(self.rest.codes.parts if self.rest else ()))


@dataclass(frozen=True)
class FieldContext:
    """`records.md`, section 2."""

    plane: int
    shift: int
    first: int
    tables: int
    mean: int | None


@dataclass(frozen=True)
class FieldClass:
    """`records.md`, section 2: row and column classes of a record's fields, or of codes (`expressions.md`, 7.5)."""

    rows: int
    columns: int
    tables: int


@dataclass(frozen=True)
class FieldLines:
    """`records.md`, section 2: the classes of rows and columns in one side plane."""

    side: int
    columns: int
    tables: int


@dataclass(frozen=True)
class FieldScale:
    """`records.md`, section 2: tables by another tensor; a run is a count and a class."""

    side: int
    shift: int
    first: int
    runs: tuple[tuple[int, int], ...]
    lines: FieldLines | None

    def spelled(self) -> list[int]:
        """ "`count` times each class, they are a list" """
        return [c for n, c in self.runs for _ in range(n)]


@dataclass(frozen=True)
class Field:
    """A plane of a record. A span is a number of fields and its pieces: bit, step, width."""

    width: int
    spans: tuple[tuple[int, tuple[tuple[int, int, int], ...]], ...]
    context: FieldContext | FieldClass | FieldLines | FieldScale | None
    side = None

    def count(self) -> int:
        return sum(n for n, _ in self.spans)


@dataclass(frozen=True)
class Records:
    """`records.md`, section 1: "a pattern that repeats" """

    size: int
    fields: tuple[Field, ...]
    base = matmul = None

    def sides(self) -> set[int]:
        named: set[int] = self.scales()
        for field in self.fields:
            if isinstance(field.context, FieldClass):
                named |= {field.context.rows, field.context.columns}
            lines = lines_of(field.context)
            named |= {lines.side} if lines else set()
        return named

    def scales(self) -> set[int]:
        return {field.context.side for field in self.fields if isinstance(field.context, FieldScale)}

    def width(self) -> int:
        return 0  # a record's planes may be wider than the unit

    def planes(self) -> tuple[Field, ...]:
        return self.fields


@dataclass(frozen=True)
class Ref:
    target: int


@dataclass(frozen=True)
class Gather:
    palette: int
    codes: Bits


@dataclass(frozen=True)
class Mul:
    palette: int
    codes: Bits
    scale: tuple[int, ...]  # one side plane, or two whose products scales are
    offset: tuple[int, ...] = ()  # likewise; none unless something is added


@dataclass(frozen=True)
class Decimal:
    power: int
    codes: Bits


@dataclass(frozen=True)
class Trellis:
    states: int
    step: int
    zero: int
    codes: Bits
    rows: int | None
    columns: int | None


@dataclass(frozen=True)
class Sum:
    """Section 8.2: `planes` are the codes, with the base or the matmul that `values` are added to."""

    values: Mul | Trellis
    planes: Bits


@dataclass(frozen=True)
class Cast:
    target: int


def integer(value: object, low: int, high: int, what: str) -> int:
    # `type() is`: JSON's true must not pass for 1.
    if type(value) is not int or not low <= value <= high:
        raise Refused(f"{what}: not a number from {low} to {high}")
    return value


def side_plane(value: object, what: str) -> int:
    """ "A position within an expression is below the limit of what it names" """
    return integer(value, 0, MAX_SIDES - 1, what)


def keyed(value: object, what: str) -> dict[str, object]:
    """An object of the expression language; reserved names are told apart from malformed ones."""
    if not isinstance(value, dict):
        raise Refused(f"{what}: not an object")
    if reserved := RESERVED & value.keys():
        raise NeedsNewerReader(f"{what}: {min(reserved)}")
    return value


def parse_expression(value: object) -> Bits | Sparse | Gather | Mul | Decimal | Trellis | Records | Ref | Cast | Sum:
    object_ = keyed(value, "expression")
    if object_.keys() == {"record"}:
        return parse_record(object_["record"])
    if object_.keys() == {"ref"}:
        return Ref(integer(object_["ref"], 0, MAX_TENSORS - 1, "ref"))
    if object_.keys() == {"gather"}:
        return parse_gather(object_["gather"])
    if object_.keys() == {"mul"}:
        return parse_mul(object_["mul"])
    if object_.keys() == {"decimal"}:
        power, codes = pair(object_["decimal"], "decimal")
        return Decimal(integer(power, 0, 22, "decimal"), parse_codes(codes, 53))
    if object_.keys() == {"trellis"}:
        return parse_trellis(object_["trellis"])
    if object_.keys() == {"cast"}:
        return Cast(integer(object_["cast"], 0, MAX_TENSORS - 1, "cast"))
    if object_.keys() == {"add"}:
        first = object_["add"][0] if isinstance(object_["add"], list) and object_["add"] else None
        if isinstance(first, dict) and "mul" in first:
            return parse_shifted(object_["add"])
        last = object_["add"][-1] if isinstance(object_["add"], list) and object_["add"] else None
        if isinstance(last, dict) and last.keys() & {"add", "mul", "trellis"}:
            return parse_sum(object_["add"])
        return parse_add(object_["add"])
    if object_.keys() == {"scatter"}:
        return parse_sparse(object_["scatter"])
    return parse_bits(object_, 16)


def parse_mul(value: object) -> Mul:
    """Section 7.2."""
    first, scale = pair(value, "mul")
    check(keyed(first, "mul").keys() == {"gather"}, "mul: the first is not a gather")
    gather = parse_gather(first["gather"])
    return distinct(Mul(gather.palette, gather.codes, factors(scale)))


def parse_sum(value: object) -> Sum:
    """Section 8.2."""
    first, last = pair(value, "add")
    values = parse_values(keyed(last, "add"))
    if isinstance(first, dict) and "matmul" in first:
        matmul = parse_matmul(first)
        named = {values.rows, values.columns} if isinstance(values, Trellis) else named_by(values)
        check(not {matmul.p, matmul.q} & named, "add: a side plane named twice")
        return Sum(values, replace(values.codes, matmul=matmul))
    check(keyed(first, "add").keys() == {"base"}, "add: the first is not a base")
    return Sum(values, replace(values.codes, base=integer(first["base"], 0, MAX_TENSORS - 1, "base")))


def parse_values(object_: dict[str, object]) -> Mul | Trellis:
    """ "a `mul` (section 7.2), a `mul` plus an offset (7.4) or a `trellis` (7.5)" """
    if object_.keys() == {"mul"}:
        return parse_mul(object_["mul"])
    if object_.keys() == {"trellis"}:
        found = parse_trellis(object_["trellis"])
        # "Not where the `trellis` is within an `add` or a `scatter`."
        check(all(part.context is None for part in found.codes.parts), "trellis: a context within add or scatter")
        return found
    check(object_.keys() == {"add"}, "add: neither a mul nor a trellis")
    return parse_shifted(object_["add"])


def parse_shifted(value: object) -> Mul:
    """Section 7.4."""
    first, offset = pair(value, "add")
    check(keyed(first, "add").keys() == {"mul"}, "add: keys beside a mul")
    product = parse_mul(first["mul"])
    return distinct(replace(product, offset=factors(offset)))


def factors(value: object) -> tuple[int, ...]:
    """ "a side plane", or "an array of two" """
    if isinstance(value, list):
        check(len(value) == 2, "factors: not two")
        return tuple(side_plane(item, "factors") for item in value)
    return (side_plane(value, "factors"),)


def distinct(found: Mul) -> Mul:
    """ "No side plane is named twice." """
    check(len(named_by(found)) == 1 + len(found.scale + found.offset), "mul: a side plane named twice")
    return found


def named_by(found: Mul) -> set[int]:
    return {found.palette, *found.scale, *found.offset}


def parse_trellis(value: object) -> Trellis:
    if not isinstance(value, list) or len(value) not in (4, 6):
        raise Refused("trellis: not an array of four or six")
    states = integer(value[0], 1, 8, "trellis: states")
    check(states in (1, 8), "trellis: neither 1 nor 8 states")
    # "an F32 above 0 and finite, by its bits"
    step = integer(value[1], 1, 0x7F7FFFFF, "trellis: step")
    codes = parse_classed_codes(value[3])
    zero = integer(value[2], 0, 2 ** codes.width() - 1, "trellis: zero")
    if len(value) == 4:
        return Trellis(states, step, zero, codes, None, None)
    rows, columns = side_plane(value[4], "trellis: rows"), side_plane(value[5], "trellis: columns")
    check(rows != columns, "trellis: one side plane twice")
    return Trellis(states, step, zero, codes, rows, columns)


def parse_add(add: object) -> Bits:
    """Section 8, and 8.1 where there are three arguments."""
    if not isinstance(add, list) or not 2 <= len(add) <= 3:
        raise Refused("add: not an array of two or three")
    first = keyed(add[0], "add")
    check(first.keys() == {"base"}, "add: the first is not a base")
    matmul = parse_matmul(add[1]) if len(add) == 3 else None
    planes = parse_bits(keyed(add[-1], "add"), 16)
    check(planes.rotate == 0, "add: rotated")
    base = first["base"]
    if isinstance(base, list):
        check(matmul is None, "add: a matmul of a pack")
        check(1 <= len(base) <= MAX_TENSORS, "base: an empty list, or too long")
        return Bits(planes.parts, 0, tuple(integer(j, 0, MAX_TENSORS - 1, "base") for j in base))
    return Bits(planes.parts, 0, integer(base, 0, MAX_TENSORS - 1, "base"), matmul)


def parse_matmul(value: object) -> Matmul:
    if not isinstance(value, dict) or value.keys() != {"matmul"}:
        keyed(value, "add")  # another reserved name is one
        raise Refused("add: the second of three is not a matmul")
    numbers = value["matmul"]
    if not isinstance(numbers, list) or len(numbers) != 3:
        raise Refused("matmul: not an array of three")
    p, q = side_plane(numbers[0], "matmul"), side_plane(numbers[1], "matmul")
    check(p != q, "matmul: one side plane twice")
    return Matmul(p, q, integer(numbers[2], 0, 60, "matmul: shift"))


def lines_of(context: object) -> FieldLines | None:
    return context.lines if isinstance(context, FieldScale) else context if isinstance(context, FieldLines) else None


def parse_record(value: object) -> Records:
    """`records.md`, section 1."""
    if not isinstance(value, list) or not 2 <= len(value) <= 17:
        raise Refused("record: not a size and 1 to 16 fields")
    size = integer(value[0], 1, 512, "record")
    free = [True] * (8 * size)
    fields: list[Field] = []
    for item in value[1:]:
        object_ = keyed(item, "record")
        check(object_.keys() in ({"plane", "spans"}, {"context", "plane", "spans"}), "record: keys of a field")
        width = integer(object_["plane"], 1, 16, "plane")
        if not isinstance(object_["spans"], list):
            raise Refused("spans: not an array")
        check(len(object_["spans"]) > 0, "spans: none")
        field = Field(width, tuple(parse_span(span, width, free) for span in object_["spans"]), None)
        if "context" in object_:
            field = replace(field, context=parse_field_context(object_["context"], field, fields))
        fields.append(field)
    # "Every bit of the record belongs to exactly one field."
    check(not any(free), "record: a bit that belongs to no field")
    record = Records(size, tuple(fields))
    # "All fields with a `scale` name the same side plane `k`, and nothing else names it."
    check(len(record.scales()) <= 1, "scale: two side planes")
    others = replace(record, fields=tuple(replace(f, context=without_scale(f.context)) for f in fields))
    check(not record.scales() & others.sides(), "scale: a side plane of classes")
    return record


def without_scale(context: object) -> object:
    return context.lines if isinstance(context, FieldScale) else context


def parse_span(value: object, width: int, free: list[bool]) -> tuple[int, tuple[tuple[int, int, int], ...]]:
    # "`n` (at least 1) and 1 to 16 triples"
    if not isinstance(value, list) or len(value) not in range(4, 50, 3):
        raise Refused("span: not a number and 1 to 16 triples")
    n = integer(value[0], 1, len(free), "span")
    pieces = []
    for at in range(1, len(value), 3):
        bit = integer(value[at], 0, len(free) - 1, "bit")
        step = integer(value[at + 1], 0, len(free), "step")
        w = integer(value[at + 2], 1, width, "width")
        # "`step` is at least `width`, but 0 where `n` is 1"
        check(step == 0 if n == 1 else step >= w, "span: step")
        for i in range(n):
            for b in range(bit + i * step, bit + i * step + w):
                check(b < len(free) and free[b], "record: a bit of two fields, or beyond its end")
                free[b] = False
        pieces.append((bit, step, w))
    check(sum(w for _, _, w in pieces) == width, "span: its widths are not the plane's")
    return n, tuple(pieces)


def parse_field_context(
    value: object, field: Field, earlier: list[Field]
) -> FieldContext | FieldClass | FieldLines | FieldScale:
    context = keyed(value, "context")
    if context.keys() == {"class"}:
        return parse_field_class(context["class"])
    if context.keys() in ({"lines"}, {"scale"}, {"lines", "scale"}):
        lines = parse_lines(context["lines"]) if "lines" in context else None
        return parse_scale(context["scale"], lines) if "scale" in context else lines
    check(context.keys() in ({"field"}, {"field", "mean"}), "context: unknown keys")
    numbers = context["field"]
    if not isinstance(numbers, list) or len(numbers) != 4:
        raise Refused("context: not an array of four")
    plane = integer(numbers[0], 0, len(earlier) - 1, "context: not an earlier plane")
    check(field.count() % earlier[plane].count() == 0, "context: fields that are not a multiple")
    shift, first = integer(numbers[1], 0, 15, "shift"), integer(numbers[2], 0, 65535, "first")
    mean = None
    if "mean" in context:
        mean = integer(context["mean"], 1, 65536, "mean")
        check(earlier[plane].width <= 15, "mean: of fields of 16 bits")
    return FieldContext(plane, shift, first, integer(numbers[3], 2, 64, "tables"), mean)


def parse_field_class(numbers: object) -> FieldClass:
    if not isinstance(numbers, list) or len(numbers) != 3:
        raise Refused("class: not an array of three")
    rows, columns = side_plane(numbers[0], "class"), side_plane(numbers[1], "class")
    return FieldClass(rows, columns, integer(numbers[2], 2, 64, "tables"))


def parse_lines(numbers: object) -> FieldLines:
    if not isinstance(numbers, list) or len(numbers) != 3:
        raise Refused("lines: not an array of three")
    side, columns = side_plane(numbers[0], "lines"), integer(numbers[1], 1, 2**48, "columns")
    return FieldLines(side, columns, integer(numbers[2], 2, 64, "tables"))


def parse_scale(numbers: object, lines: FieldLines | None) -> FieldScale:
    if not isinstance(numbers, list) or len(numbers) != 4 or not isinstance(numbers[3], list):
        raise Refused("scale: not an array of four, the last an array")
    runs = numbers[3]
    check(len(runs) % 2 == 0 and 2 <= len(runs) <= 512, "scale: not 1 to 256 pairs")
    counts = [integer(n, 1, 65536, "a count") for n in runs[::2]]
    classes = [integer(n, 0, 63, "a class") for n in runs[1::2]]
    check(sum(counts) <= 65536, "scale: counts of more than 65536")
    # "one table more than the largest class says; these are at least 2"
    check(lines is not None or max(classes) > 0, "scale: one table")
    side, pairs = side_plane(numbers[0], "scale"), tuple(zip(counts, classes, strict=True))
    return FieldScale(side, integer(numbers[1], 0, 31, "shift"), integer(numbers[2], 0, 65535, "first"), pairs, lines)


def records_of(planes: list[list[int]], record: Records, n: int) -> bytes:
    """The bytes of `n` records. "Bit `k` of a record is bit `k mod 8` of its byte `floor(k / 8)`." """
    fields = [iter(plane) for plane in planes]
    out = []
    for _ in range(n):
        bits = 0
        for each, field in zip(fields, record.fields, strict=True):
            for count, pieces in field.spans:
                for i in range(count):
                    value = next(each)
                    # "put together from its least significant bits up"
                    for bit, step, width in pieces:
                        bits |= (value % (1 << width)) << bit + i * step
                        value >>= width
        out.append(bits.to_bytes(record.size, "little"))
    return b"".join(out)


def parse_sparse(value: object) -> Sparse:
    """ "`{"scatter":[{"plane":1},{"bits":[part, ...],"rotate":r}]}`", and section 3.3 """
    if not isinstance(value, list) or len(value) not in (2, 3):
        raise Refused("scatter: not an array of two or three")
    mask = keyed(value[0], "mask")
    check(mask.keys() == {"plane"}, "mask: not a plane")
    integer(mask["plane"], 1, 1, "mask")
    values = parse_bits(keyed(value[1], "scatter"), 15)
    check(all(part.side is None and part.context is None for part in values.parts), "scatter: rows or contexts")
    found = Sparse(values, parse_values(keyed(value[2], "scatter")) if len(value) == 3 else None)
    check(len(found.planes()) <= 16, "scatter: more than 16 planes")
    return found


def parse_bits(object_: dict[str, object], most: int) -> Bits:
    check(object_.keys() == {"bits", "rotate"}, "expression: unknown keys")
    parts = object_["bits"]
    if not isinstance(parts, list):
        raise Refused("bits: not an array")
    check(1 <= len(parts) <= most, f"bits: not 1 to {most} parts")
    found = Bits(tuple(map(parse_part, parts)), integer(object_["rotate"], 0, 1, "rotate"))
    mean = None
    for i, part in enumerate(found.parts):
        if isinstance(part.context, ClassContext) and part.context.mean:
            # "Only for the last part of `bits` with `rotate` 1, not under `scatter`."
            check(i == len(found.parts) - 1 and found.rotate == 1 and part.side is None, "mean: not for this part")
            mean = part.context
    for i, part in enumerate(found.parts):
        if isinstance(part.context, SignContext):
            # "the first part, `{"plane":1}` not under `scatter`, of `bits` whose last part has a mean"
            check(i == 0 and part.width == 1 and part.side is None, "sign: not for this part")
            check(mean is not None and mean.octave in (1, 2, 4, 8, 16), "sign: no mean, or its octave")
    return found


def pair(value: object, what: str) -> list:
    if not isinstance(value, list) or len(value) != 2:
        raise Refused(f"{what}: not an array of two")
    return value


def parse_gather(value: object) -> Gather:
    palette, codes = pair(value, "gather")
    return Gather(side_plane(palette, "gather"), parse_codes(codes, 16))


def parse_codes(value: object, most: int) -> Bits:
    """ "Codes are `bits` with `rotate` 0, without `scatter` and contexts" """
    codes = parse_expression(value)
    check(isinstance(codes, Bits) and codes.rotate == 0 and codes.width() <= most, "codes: not bits, or too wide")
    check(codes.base is None, "codes: add")
    check(all(part.side is None and part.context is None for part in codes.parts), "codes: scatter or context")
    return codes


def parse_classed_codes(value: object) -> Bits:
    """Section 7.5: "the last plane of the codes may have a context `class`" """
    parts = keyed(value, "codes").get("bits")
    last = parts[-1] if isinstance(parts, list) and parts else None
    if not isinstance(last, dict) or "context" not in last:
        return parse_codes(value, 16)
    context = keyed(last["context"], "context")
    check(context.keys() == {"class"}, "codes: a context that is not of classes")
    plain = {key: item for key, item in last.items() if key != "context"}
    codes = parse_codes({**value, "bits": [*parts[:-1], plain]}, 16)
    top = replace(codes.parts[-1], context=parse_field_class(context["class"]))
    return replace(codes, parts=(*codes.parts[:-1], top))


def parse_part(value: object) -> Part:
    object_ = keyed(value, "part")
    if object_.keys() == {"scatter"}:
        scatter = object_["scatter"]
        if not isinstance(scatter, list) or len(scatter) != 2:
            raise Refused("scatter: not an array of two")
        return parse_plane(keyed(scatter[1], "scatter"), side_plane(scatter[0], "scatter"))
    return parse_plane(object_, None)


def parse_plane(object_: dict[str, object], side: int | None) -> Part:
    check(object_.keys() in ({"plane"}, {"context", "plane"}), "part: unknown keys")
    width = integer(object_["plane"], 1, 16, "plane")
    if "context" not in object_:
        return Part(width, side)
    context = keyed(object_["context"], "context")
    known = ({"base"}, {"base", "rows"}, {"class"}, {"class", "mean"}, {"factor"}, {"sign"})
    check(context.keys() in known, "context: unknown keys")
    if "sign" in context:
        first, tables = pair(context["sign"], "sign")
        return Part(width, side, SignContext(integer(first, 0, 65535, "first"), integer(tables, 2, 32, "tables")))
    if "factor" in context:
        return Part(width, side, parse_factor(context["factor"]))
    kind = "class" if "class" in context else "base"
    numbers = context[kind]
    if not isinstance(numbers, list) or len(numbers) != 3:
        raise Refused("context: not an array of three")
    if kind == "base":
        shift, first = integer(numbers[0], 0, 63, "shift"), integer(numbers[1], 0, 65535, "first")
        base = BaseContext(shift, first, integer(numbers[2], 2, 64, "tables"))
        if "rows" in context:
            rows = context["rows"]
            if not isinstance(rows, list) or len(rows) != 2:
                raise Refused("context: rows are not an array of two")
            base = replace(base, rows=side_plane(rows[0], "rows"), classes=integer(rows[1], 2, 64, "classes"))
            check(base.tables * base.classes <= 256, "context: more than 256 tables")
        return Part(width, side, base)
    rows, columns = side_plane(numbers[0], "class"), side_plane(numbers[1], "class")
    mean = parse_mean(context["mean"]) if "mean" in context else None
    return Part(width, side, ClassContext(rows, columns, integer(numbers[2], 0, 16, "octave"), mean))


def parse_factor(value: object) -> FactorContext:
    if not isinstance(value, list) or len(value) != 4:
        raise Refused("factor: not an array of four")
    rows, columns = side_plane(value[0], "factor"), side_plane(value[1], "factor")
    return FactorContext(rows, columns, integer(value[2], 0, 255, "first"), integer(value[3], 1, 31, "classes"))


def parse_mean(value: object) -> Mean:
    if not isinstance(value, list) or len(value) != 3:
        raise Refused("mean: not an array of three")
    factors, groups, steps = value
    if not isinstance(groups, list) or not isinstance(steps, list):
        raise Refused("mean: groups and steps are not arrays")
    check(1 <= len(groups) <= 8 and len(steps) <= 16, "mean: too few groups, or too many groups or steps")
    mean = Mean(
        side_plane(factors, "mean"),
        tuple(integer(g, 0, 64, "groups") for g in groups),
        tuple(integer(s, 0, 63, "steps") for s in steps),
    )
    check(1 <= sum(mean.groups) <= 64, "mean: k")
    check(list(mean.steps) == sorted(mean.steps), "mean: steps fall")
    return mean


def combine(fields: list[list[int]], expression: Bits, unit_bits: int) -> list[int]:
    """ "The parts, from the first, are put one above the other from the least significant bit up" """
    units = [0] * len(fields[0])
    below = 0
    for plane, part in zip(fields, expression.parts, strict=True):
        units = [unit | field << below for unit, field in zip(units, plane, strict=True)]
        below += part.width
    r = expression.rotate
    # "unit = floor(v / 2^r) + (v mod 2^r) * 2^(b - r)"
    return [(v >> r) + (v % (1 << r) << unit_bits - r) for v in units] if r else units


# -- section 8: differences ------------------------------------------------------------------------------------------


def ordered(unit: int, bits: int, *, floats: bool) -> int:
    """ "`o(u)` is `u + 2^(b-1)` if `u < 2^(b-1)`, else `2^b - 1 - u`" for the floats; `u` for all others"""
    if not floats:
        return unit
    return unit + (1 << bits - 1) if unit < 1 << bits - 1 else (1 << bits) - 1 - unit


def add_difference(z: int, base: int, bits: int, *, floats: bool) -> int:
    """ "`z = 2 d` for `d >= 0`, else `-2 d - 1`"; "`o(unit) = o(base) + d` modulo `2^b`" """
    d = z // 2 if z % 2 == 0 else -(z + 1) // 2
    o = (ordered(base, bits, floats=floats) + d) % (1 << bits)
    if not floats:
        return o
    return o - (1 << bits - 1) if o >= 1 << bits - 1 else (1 << bits) - 1 - o


def scattered(mask: list[int], values: list[int], body: int) -> list[int]:
    """ "a unit whose bit is 0 is 0 (all its bits), the others take, in order, the units that `bits` gives" """
    following = iter(values)
    # "bit `k` of field `i` is for unit `8 i + k`"
    return [next(following) if mask[i // 8] >> i % 8 & 1 else 0 for i in range(body)]


# -- section 7.1 of coder.md: means ----------------------------------------------------------------------------------


def mean_sum(mean: Mean, f: bytes, rows: int, columns: int, i: int, j: int) -> int:
    """ "modulo 2^16, as a number from -2^15 to 2^15 - 1" """
    s = t = 0
    for g, count in enumerate(mean.groups):
        for _ in range(count):
            line = f[t * (rows + columns) : (t + 1) * (rows + columns)]
            s += (line[i] - 128) * (line[rows + j] - 128) * 2**g
            t += 1
    return (s + 2**15) % 2**16 - 2**15


def quarters(s: int) -> int:
    """ "l = 4 * e + floor(4 * |s| / 2^e) - 4" """
    e = abs(s).bit_length() - 1
    return 4 * e + (4 * abs(s) >> e) - 4
