"""From the header's JSON to a valid `Header`, or a FormatError that says what is wrong (container.md, section 3)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from slimtensors import expression as expressions
from slimtensors.container import canonical
from slimtensors.container.header import Base, Header, Image, Pack, Side, Tensor
from slimtensors.container.hints import HINTS, complete, first_users
from slimtensors.container.lossy import Lossy, is_digest
from slimtensors.container.side_planes import (
    check_classes,
    check_factors,
    check_lines,
    check_low_rank,
    check_palettes,
    check_scales,
    check_sides,
    check_trellis,
)
from slimtensors.container.values import (
    array_of,
    check_metadata,
    check_name,
    dtype_of,
    encoding_of,
    object_of,
    shape_of,
)
from slimtensors.dtypes import CASTABLE, DTYPES, DType
from slimtensors.errors import FormatError, LimitError, UsageError
from slimtensors.expression import (
    BaseContext,
    Bits,
    Cast,
    Decimal,
    Delta,
    Expression,
    FactorContext,
    FieldClass,
    FieldLines,
    FieldScale,
    Record,
    Ref,
    Stored,
    Sum,
    Trellis,
    bases_of,
    values_of,
)
from slimtensors.expression.values import integer
from slimtensors.limits import (
    MAX_CHUNK_BYTES,
    MAX_ELEMENTS,
    MAX_EXPRESSIONS,
    MAX_HINT_BYTES,
    MAX_RECORD_CHUNK_BYTES,
    MAX_SIDES,
    MAX_TENSORS,
)

__all__ = ["SOURCES", "check", "parse", "validated"]

SOURCES = ("gguf", "safetensors")  # formats of an image

# Keys of a tensor
NEEDED = frozenset({"dtype", "name", "shape"})
ANYWHERE = NEEDED | {"encoding", "lossy"}
PACKED, REFERRED, STORED = frozenset({"pack"}), frozenset({"expression"}), frozenset({"chunk", "expression"})
WITH_SIDES = STORED | {"sides"}

BASE = frozenset({"dtype", "hints", "identity", "shape"})  # keys of a base


LONGEST_ERROR = 1000  # characters


class _Known(NamedTuple):
    """What was checked already: many tensors have the same."""

    sides: dict[tuple[Any, ...], Side]  # by all that is stated of them
    fitting: set[tuple[int, str]]  # expressions, and dtypes that they fit


def parse(data: bytes) -> Header:
    """A header from its bytes. Raises FormatError, LimitError or NewerFormatError, in words of a length to be read:
    what they quote may have megabytes.
    """
    try:
        return check(canonical.loads(data))
    except FormatError as error:
        said = str(error)
        if len(said) <= LONGEST_ERROR:
            raise
        raise type(error)(f"{said[:LONGEST_ERROR]} ...") from None


def check(content: Any) -> Header:
    """A header from what its JSON holds. Raises as `parse` does."""
    return Header(*validated(content))


def validated(content: Any) -> tuple[Any, ...]:
    """What `Header` is made of. Raises as `parse` does."""
    value = object_of(content, "the header")
    if value.keys() - {"bases", "image", "lossy"} != {"expressions", "metadata", "packs", "tensors"}:
        raise FormatError(f"the header has the keys {sorted(value)[:8]}")
    table = [expressions.parse(item) for item in array_of(value["expressions"], "expressions", MAX_EXPRESSIONS)]
    metadata = object_of(value["metadata"], "metadata")
    check_metadata(metadata)
    bases = _bases(value["bases"], table) if "bases" in value else []
    packs = [_pack(item, table) for item in array_of(value["packs"], "packs", MAX_TENSORS)]
    tensors: list[Tensor] = []
    names: set[str] = set()
    known = _Known({}, set())
    for item in array_of(value["tensors"], "tensors", MAX_TENSORS):
        tensor = _tensor(item, table, tensors, packs, bases, known)
        if tensor.name in names:
            raise FormatError(f"two tensors have the name {tensor.name!r}")
        names.add(tensor.name)
        tensors.append(tensor)
    _check_packs(packs, tensors, table, bases)
    _check_casts(tensors, table)
    check_scales(tensors, packs, table)
    if bases:
        complete(bases, first_users(tensors, packs, table))
    image = _image(value["image"], table, tensors) if "image" in value else None
    source = _lossy_source(value["lossy"]) if "lossy" in value else None
    _check_lossy(tensors, table, source, image)
    return table, tensors, packs, metadata, image, bases, source


def _tensor(
    value: Any, table: list[Expression], earlier: list[Tensor], packs: list[Pack], bases: list[Base], known: _Known
) -> Tensor:
    value = object_of(value, "a tensor")
    keys = value.keys() - ANYWHERE
    if not value.keys() >= NEEDED:
        raise FormatError(f"a tensor has the keys {sorted(value)[:8]}; dtype, name and shape are needed")
    check_name(value["name"])
    name: str = value["name"]
    try:
        dtype = dtype_of(value["dtype"])
        shape = shape_of(value["shape"])
        units = dtype.bytes_of(shape) // dtype.unit_bytes
        encoding = encoding_of(value["encoding"]) if "encoding" in value else None
        lossy = _lossy(value["lossy"], dtype, units) if "lossy" in value else None
        if keys == PACKED:
            pack = _pack_of(value["pack"], dtype, units, packs)
            return Tensor(name, dtype, shape, pack=pack, encoding=encoding, lossy=lossy)
        if keys == REFERRED:
            index, found = _expression(value["expression"], table)
            index = _ref(index, found, dtype, shape, earlier, table)
            return Tensor(name, dtype, shape, index, encoding=encoding, lossy=lossy)
        if keys in (STORED, WITH_SIDES):
            chunk, index = _stream(value, dtype, units, table, known.fitting)
            if len(keys) == 2 and _is_plain(table[index]):  # most are
                return Tensor(name, dtype, shape, index, chunk, encoding=encoding, lossy=lossy)
            given = array_of(value.get("sides", []), "sides", MAX_SIDES)
            scale = None
            if given and type(given[-1]) is int:  # which tensors that may be is checked when all are known
                scale = integer(given.pop(), 0, MAX_TENSORS - 1, "the tensor that is a side plane")
            sides = _sides(given, table, known.sides)
            check_sides(table[index], sides, units, "sides" in keys, scale is not None)
            check_palettes(table[index], sides, dtype, units)
            check_trellis(table[index], sides, units)
            _check_delta(table[index], [(dtype, shape)], bases, packed=False)
            check_low_rank(table[index], sides, dtype, units)
            _check_record(table[index], sides, chunk * dtype.unit_bytes, units * dtype.unit_bytes)
            return Tensor(name, dtype, shape, index, chunk, sides, scale, encoding=encoding, lossy=lossy)
        if not keys and units == 0:
            return Tensor(name, dtype, shape, encoding=encoding, lossy=lossy)
        raise FormatError(f"the keys {sorted(keys)} do not go together")
    except (FormatError, UsageError) as error:
        kind = type(error) if isinstance(error, FormatError) else FormatError
        raise kind(f"tensor {name!r}: {error}") from None


def _is_plain(expression: Expression) -> bool:
    """Whether it asks for nothing beside its own chunks."""
    return type(expression) is Bits and not (expression.flags or expression.contexts)


def _lossy(value: Any, dtype: DType, units: int) -> Lossy:
    if dtype.name not in CASTABLE or units == 0:
        raise FormatError(f"`lossy` of a tensor of {units} units of {dtype.name}")
    return Lossy.from_json(value)


def _lossy_source(value: Any) -> bytes:
    if not isinstance(value, dict) or value.keys() != {"source"} or not is_digest(value["source"]):
        raise FormatError("`lossy` of a file is not its source's 64 hexadecimal digits")
    return bytes.fromhex(value["source"])


def _check_lossy(tensors: list[Tensor], table: list[Expression], source: bytes | None, image: Image | None) -> None:
    if (source is not None) != any(tensor.lossy is not None for tensor in tensors):
        raise FormatError("a file is lossy, and no tensor is, or the other way round")
    if source is not None and image is not None:
        raise FormatError("a lossy file with an image, which would give back the source")
    for tensor in tensors if source is not None else ():
        found = None if tensor.expression is None else table[tensor.expression]
        if isinstance(found, Ref | Cast) and tensors[found.tensor].lossy is not None and tensor.lossy is None:
            raise FormatError(f"tensor {tensor.name!r} is made of a lossy one and does not say so")


def _check_record(expression: Expression, sides: tuple[Side, ...], chunk: int, size: int) -> None:
    if not isinstance(expression, Record):
        return
    if chunk % expression.size or size % expression.size:
        raise FormatError(f"records of {expression.size} bytes in chunks of {chunk} of {size} bytes")
    if min(chunk, size) > MAX_RECORD_CHUNK_BYTES:
        raise LimitError(f"records in a chunk of {min(chunk, size)} bytes; the limit is {MAX_RECORD_CHUNK_BYTES}")
    for field in expression.fields:
        context, fields = field.context, size // expression.size * field.count
        lines = context.lines if isinstance(context, FieldScale) else context
        if isinstance(lines, FieldLines):
            check_lines(sides[lines.side], lines.columns, fields)
        if isinstance(context, FieldClass):
            both = [sides[context.rows], sides[context.columns]]
            check_classes(both, fields, "the fields of its plane")


def _pack_of(value: Any, dtype: DType, units: int, packs: list[Pack]) -> int:
    index = integer(value, 0, len(packs) - 1, "pack")
    if packs[index].dtype != dtype:
        raise FormatError(f"{dtype.name} in a pack of {packs[index].dtype.name}")
    if units == 0:
        raise FormatError("a tensor without elements in a pack")
    return index


def _ref(
    index: int, found: Expression, dtype: DType, shape: tuple[int, ...], earlier: list[Tensor], table: list[Expression]
) -> int:
    if isinstance(found, Cast):
        return index  # what it is the cast of may come later
    if not isinstance(found, Ref):
        raise FormatError("the expression needs chunks, and the tensor has none")
    if found.tensor >= len(earlier):
        raise FormatError(f"refers to tensor {found.tensor}, which is not an earlier one")
    target = earlier[found.tensor]
    if (target.dtype, target.shape) != (dtype, shape):
        raise FormatError(f"refers to tensor {target.name!r} of another dtype or shape")
    if target.units == 0 or (target.expression is not None and isinstance(table[target.expression], Ref | Cast)):
        raise FormatError(f"refers to tensor {target.name!r}, which holds no bytes itself")
    return index


def _stream(
    value: dict[str, Any], dtype: DType, units: int, table: list[Expression], fitting: set[tuple[int, str]]
) -> tuple[int, int]:
    """(chunk, expression) of something that has a stream."""
    index, found = _expression(value["expression"], table)
    if (index, dtype.name) not in fitting:
        _check_fit(found, dtype)
        fitting.add((index, dtype.name))
    if units == 0:
        raise FormatError("chunks for no elements")
    return integer(value["chunk"], 1, MAX_CHUNK_BYTES // dtype.unit_bytes, "chunk"), index


def _check_fit(found: Expression, dtype: DType) -> None:
    if not isinstance(found, Stored):
        raise FormatError("a ref has no chunks")
    if found.width > dtype.unit_bits:
        raise FormatError(f"planes of {found.width} bits for units of {dtype.unit_bits}")
    if isinstance(found, Decimal) and dtype.name not in CASTABLE:
        raise FormatError(f"decimals in {dtype.name}")
    if isinstance(values_of(found), Trellis) and dtype.name not in ("F32", "BF16", "F16"):
        raise FormatError(f"a trellis in {dtype.name}")


def _sides(values: list[Any], table: list[Expression], known: dict[tuple[Any, ...], Side]) -> tuple[Side, ...]:
    sides: tuple[Side, ...] = ()
    for value in values:
        stated = _stated(value)
        side = known.get(stated) if stated else None
        if side is None:
            side = _side(value, table, sides)
            found = table[side.expression]
            if stated and isinstance(found, Bits) and not found.contexts:  # it asks nothing of those before it
                known[stated] = side
        sides += (side,)
    return sides


def _stated(value: Any) -> tuple[Any, ...]:
    """All that a side plane states, if it looks like one; else nothing."""
    if type(value) is not dict or len(value) != 4 or type(value.get("shape")) is not list:
        return ()
    numbers, dtype = (value.get("chunk"), value.get("expression"), *value["shape"]), value.get("dtype")
    plain = type(dtype) is str and all(type(number) is int for number in numbers)  # true would be found as 1
    return (dtype, *numbers) if plain else ()


def _side(value: Any, table: list[Expression], earlier: tuple[Side, ...]) -> Side:
    value = object_of(value, "a side plane")
    if value.keys() != {"chunk", "dtype", "expression", "shape"}:
        raise FormatError(f"a side plane has the keys {sorted(value)[:8]}")
    dtype, shape = dtype_of(value["dtype"]), shape_of(value["shape"])
    chunk, index = _stream(value, dtype, math.prod(shape), table, set())
    found = table[index]
    if isinstance(found, Bits) and any(isinstance(context, FactorContext) for context in found.contexts):
        check_factors(found, earlier, math.prod(shape))
    else:
        _no_sides(found)
    return Side(dtype, shape, chunk, index)


def _no_sides(expression: Expression) -> None:
    if isinstance(expression, Record):
        raise FormatError("a record, which only a tensor with a stream of its own may be")
    if isinstance(expression, Delta):
        raise FormatError("a difference from a base, which only a tensor or a pack may be")
    if isinstance(expression, Sum):
        raise FormatError("a sum of numbers from codes, which only a tensor with a stream of its own may be")
    if isinstance(expression, Stored) and expression.sides:
        raise FormatError("an expression with side planes, where there are none")
    if isinstance(expression, Stored):
        _no_base(expression.bits)


def _no_base(bits: Bits) -> None:
    if any(isinstance(context, BaseContext) for context in bits.contexts):
        raise FormatError("a context of a base, where there is none")


def _bases(value: Any, table: list[Expression]) -> list[Base]:
    bases = [_base(item) for item in array_of(value, "bases", MAX_TENSORS)]
    if not bases:
        raise FormatError("an empty list of bases")
    used = {base for expression in table for base in bases_of(expression)}
    if not used >= set(range(len(bases))):
        raise FormatError("a base that no expression uses")
    return bases


def _base(value: Any) -> Base:
    value = object_of(value, "a base")
    if value.keys() != BASE:
        raise FormatError(f"a base has the keys {sorted(value)[:8]}")
    hints = object_of(value["hints"], "the hints of a base")
    for key, text in hints.items():
        if not isinstance(text, str):
            raise FormatError("a hint of a base is not a string")
        length = len(text.encode("utf-8", "surrogatepass"))
        if length > MAX_HINT_BYTES:
            raise LimitError(f"a base's {key!r:.80}, {text[:40]!r}, has {length} bytes; {MAX_HINT_BYTES} are allowed")
    identity = value["identity"]
    if not is_digest(identity):
        raise FormatError("the identity of a base is not 64 hexadecimal digits")
    dtype, shape = dtype_of(value["dtype"]), shape_of(value["shape"])
    try:
        if dtype.bytes_of(shape) == 0:
            raise FormatError("a base without elements")
    except UsageError as error:
        raise FormatError(f"a base: {error}") from None
    return Base(dtype, shape, bytes.fromhex(identity), {key: hints[key] for key in HINTS if key in hints})


def _check_delta(
    expression: Expression, tensors: list[tuple[DType, tuple[int, ...]]], bases: list[Base], *, packed: bool
) -> None:
    """tensors: dtype and shape of the one with this expression, or of those of a pack."""
    assert isinstance(expression, Stored)
    if not bases_of(expression):
        _no_base(expression.bits)
        return
    assert isinstance(expression, Delta | Sum)
    if (isinstance(expression, Delta) and isinstance(expression.base, tuple)) != packed:
        raise FormatError("a list of bases, which only a pack has" if not packed else "one base for a pack")
    if len(expression.bases) != len(tensors):
        raise FormatError(f"{len(expression.bases)} bases for the {len(tensors)} tensors of a pack")
    for number, (dtype, shape) in zip(expression.bases, tensors, strict=True):
        if number >= len(bases):
            raise FormatError(f"base {number} of {len(bases)}")
        base = bases[number]
        if base.dtype != dtype and not {base.dtype.name, dtype.name} <= CASTABLE:
            raise FormatError(f"a base of {base.dtype.name} for a tensor of {dtype.name}")
        if len(base.shape) != len(shape) or base.shape[1:] != shape[1:]:
            raise FormatError(f"a base of shape {list(base.shape)} for a tensor of {list(shape)}")
    bits = tensors[0][0].unit_bits
    for context in expression.bits.contexts:
        # What the shift leaves is one of at most 2^16 numbers.
        if isinstance(context, BaseContext) and not bits - 16 <= context.shift < bits:
            raise FormatError(f"a context shifts units of {bits} bits by {context.shift}")


def _pack(value: Any, table: list[Expression]) -> Pack:
    value = object_of(value, "a pack")
    if value.keys() != {"dtype", "expression"}:
        raise FormatError(f"a pack has the keys {sorted(value)[:8]}")
    dtype = dtype_of(value["dtype"])
    _chunk, index = _stream({**value, "chunk": 1}, dtype, 1, table, set())
    found = table[index]
    if isinstance(found, Record):
        raise FormatError("a record, which only a tensor with a stream of its own may be")
    if isinstance(found, Stored) and found.sides:
        raise FormatError("a pack whose expression has side planes")
    return Pack(dtype, index)  # what its bases are is checked when its tensors are known


def _check_packs(packs: list[Pack], tensors: list[Tensor], table: list[Expression], bases: list[Base]) -> None:
    seen = 0
    sizes = [0] * len(packs)
    members: list[list[tuple[DType, tuple[int, ...]]]] = [[] for _ in packs]
    for tensor in tensors:
        if tensor.pack is not None:
            if tensor.pack > seen:
                raise FormatError(f"pack {tensor.pack} begins before pack {seen}")
            seen = max(seen, tensor.pack + 1)
            sizes[tensor.pack] += tensor.nbytes
            members[tensor.pack].append((tensor.dtype, tensor.shape))
    if seen != len(packs):
        raise FormatError(f"{len(packs)} packs, of which {seen} are used")
    if max(sizes, default=0) > MAX_CHUNK_BYTES:
        raise LimitError(f"a pack of {max(sizes)} bytes; the limit of a chunk is {MAX_CHUNK_BYTES}")
    for pack, held in zip(packs, members, strict=True):
        _check_delta(table[pack.expression], held, bases, packed=True)


def _check_casts(tensors: list[Tensor], table: list[Expression]) -> None:
    for tensor in tensors:
        found = None if tensor.expression is None else table[tensor.expression]
        if not isinstance(found, Cast):
            continue
        what = f"tensor {tensor.name!r}: the cast of tensor {found.tensor}"
        if found.tensor >= len(tensors):
            raise FormatError(f"{what}, which is not there")
        source = tensors[found.tensor]
        if tensor.dtype == source.dtype or not {tensor.dtype.name, source.dtype.name} <= CASTABLE:
            raise FormatError(f"{what}, from {source.dtype.name} to {tensor.dtype.name}")
        if tensor.shape != source.shape:
            raise FormatError(f"{what}, which has another shape")
        whole = None if source.expression is None else table[source.expression]
        if source.units == 0 or isinstance(whole, Ref | Cast):
            raise FormatError(f"{what}, which holds no bytes itself")


def _image(value: Any, table: list[Expression], tensors: list[Tensor]) -> Image:
    value = object_of(value, "the image")
    if value.keys() != {"chunk", "expression", "format", "segments"}:
        raise FormatError(f"the image has the keys {sorted(value)[:8]}")
    if value["format"] not in SOURCES:
        raise FormatError(f"the image has the format {value['format']!r}")
    segments: list[int | tuple[int, int]] = []
    left_out: list[Tensor] = []
    after = 0  # no tensor comes again
    for item in array_of(value["segments"], "segments", 2 * MAX_TENSORS + 1):
        if isinstance(item, list):
            if len(item) != 2:
                raise FormatError("a segment of the image is not a pair")
            first = integer(item[0], after, len(tensors) - 1, "the first tensor of a segment")
            count = integer(item[1], 1, len(tensors) - first, "the tensors of a segment")
            segments.append((first, count))
            left_out += tensors[after:first]
            after = first + count
        else:
            segments.append(integer(item, 1, MAX_ELEMENTS, "the literal bytes of a segment"))
    for tensor in (*left_out, *tensors[after:]):
        if tensor.nbytes:
            raise FormatError(f"the image does not have tensor {tensor.name!r}")
    literal = sum(segment for segment in segments if isinstance(segment, int))
    if literal > MAX_ELEMENTS:
        raise LimitError("the image has too many literal bytes")
    chunk, index = _stream(value, DTYPES["U8"], 32 + literal, table, set())
    _no_sides(table[index])
    return Image(value["format"], tuple(segments), chunk, index)


def _expression(value: Any, table: list[Expression]) -> tuple[int, Expression]:
    index = integer(value, 0, len(table) - 1, "expression")
    return index, table[index]
