"""A reference decoder of the slimtensors format, slow and plain: chapter `container.md`, section by section.

It is written from the specification alone and shares no code with the library. Quotations are from that text. It always
verifies every digest and decodes everything; what it accepts is a sound file from end to end.

    python format_spec/reference/decode.py FILE        lists the tensors
"""

from __future__ import annotations

import hashlib
import json
import struct
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

import blake3
import xxhash

import casts
import coder
import lookup
from coder import GROUP, Refused, check, round_up
from expressions import (
    DTYPES,
    FLOATS,
    MAX_SIDES,
    MAX_TENSORS,
    BaseContext,
    Bits,
    Cast,
    ClassContext,
    Decimal,
    FactorContext,
    Field,
    FieldClass,
    FieldContext,
    FieldLines,
    FieldScale,
    Gather,
    Mul,
    NeedsNewerReader,
    Part,
    Records,
    Ref,
    SignContext,
    Sparse,
    Sum,
    Trellis,
    add_difference,
    combine,
    integer,
    lines_of,
    mean_sum,
    parse_expression,
    quarters,
    records_of,
    scattered,
)

__all__ = ["File", "NeedsNewerReader", "Refused", "decode_file"]

# section 2
MAGIC = bytes.fromhex("89534C4D0D0A1A0A")
PREFIX = struct.Struct("<8sIIQII32s")
# sections 4 and 5
STREAM_RECORD = struct.Struct("<Q32s")
IDENTITY_BYTES = 32
TABLE_RECORD = struct.Struct("<II32sQ")
ALIGNMENT = 64
# section 6
HEAD = struct.Struct("<BBHIQ")
DESCRIPTOR = struct.Struct("<BBHIII")
LITERAL, AFFINE, PLANES = 0, 1, 2
CONSTANT, RAW, CODED, ZSTD, BYPASS = 0, 1, 2, 3, 4
READ_AHEAD = 64  # "At least 64 zero bytes follow the last of these"
# section 7
PIECE = 16384
# section 9
MAX_HEADER = 16 << 20
MAX_EXPRESSIONS = 1 << 16
MAX_INDEX = 312 * MAX_TENSORS + 40
MAX_SEGMENTS = 2 * MAX_TENSORS + 1
MAX_DIMENSIONS = 16
MAX_ELEMENTS = 1 << 48
MAX_NAME = 512
MAX_METADATA = 8 << 20
MAX_CHUNK = 16 << 20
MAX_RECORDS = 4 << 20
MAX_SOURCE_HEADER = 100_000_000
MAX_TOKENS = 1 << 24
MAX_RATIO = 1024
HEX = "0123456789abcdef"
FREE_BYTES = 256 << 20


def zero(data: bytes) -> bool:
    return data.count(0) == len(data)


def digest(*parts: bytes) -> bytes:
    hasher = blake3.blake3()
    for part in parts:
        hasher.update(part)
    return hasher.digest()


@dataclass
class Stream:
    """ "the units of one tensor, one pack, one side plane or the image, cut into chunks" """

    kind: str  # "tensor", "pack", "side" or "image"
    units: int
    unit: int  # bytes of a unit
    chunk: int
    expression: Bits | Sparse | Records
    dtype: str = "U8"
    lookup: Gather | Mul | Decimal | Trellis | None = None  # what makes units of what `expression` gives
    plan: list[dict] = field(default_factory=list)  # its side planes, as the header describes them
    base: bytes | None = None  # the base's bytes, as many as the stream has; read_bases puts them here
    members: list[Tensor] = field(default_factory=list)  # of a pack that has bases
    scale: int | None = None  # the tensor that is the last side plane
    scale_unit: int = 1  # bytes of its units
    chunks: int = field(init=False)

    def __post_init__(self) -> None:
        # "`ceil(u / chunk)` chunks; side planes and tensors with a stream have at least one unit"
        check(self.units >= 1, f"{self.kind} stream without units")
        check(self.chunk >= 1 and self.chunk * self.unit <= MAX_CHUNK, "decoded bytes of a chunk over the limit")
        check(self.expression.width() <= 8 * self.unit, "the parts are wider than the unit")
        if isinstance(self.expression, Records):
            # `records.md`: "`B` divides their number of bytes, and the bytes of `chunk` units, which are at most 4 MiB"
            check(self.kind == "tensor", "a record that is not a tensor with a stream of its own")
            size, chunk = self.expression.size, self.chunk * self.unit
            check(self.bytes() % size == chunk % size == 0, "records that do not divide chunks or tensor")
            check(min(chunk, self.bytes()) <= MAX_RECORDS, "a chunk of records over the limit")
        self.chunks = -(-self.units // self.chunk)

    def bytes(self) -> int:
        return self.units * self.unit


@dataclass
class Tensor:
    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    lossy: tuple[str, float, float] | None = None  # recipe, nmse, max
    ref: int | None = None
    cast: int | None = None
    pack: int | None = None
    sides: list[Stream] = field(default_factory=list)
    scale: int | None = None  # the tensor that is its last side plane
    data: Stream | None = None  # its own stream


@dataclass
class Image:
    format: str
    segments: list[int | tuple[int, int]]
    literal_bytes: int
    bytes: int


@dataclass
class Base:
    dtype: str
    shape: tuple[int, ...]
    identity: bytes
    bytes: int


@dataclass
class Header:
    tensors: list[Tensor]
    streams: list[Stream]  # in the order of section 4
    metadata: dict[str, str]
    image: Image | None
    bases: list[Base]
    source: str | None  # of a lossy file: the SHA-256 of what its weights are near to


@dataclass
class File:
    tensors: dict[str, tuple[str, tuple[int, ...], bytes]]
    metadata: dict[str, str]
    image: bytes | None
    file_id: bytes
    source: str | None  # of a lossy file
    lossy: dict[str, tuple[str, float, float]]  # by tensor: recipe, nmse, max


# -- section 2: prefix -----------------------------------------------------------------------------------------------


def read_prefix(data: bytes) -> tuple[int, int, bytes]:
    """header_length, index_length, file_id"""
    check(len(data) >= PREFIX.size, "shorter than the prefix")
    magic, version, features, file_length, header_length, index_length, file_id = PREFIX.unpack_from(data)
    check(magic == MAGIC, "magic")
    if version != 0:
        raise NeedsNewerReader(f"version {version}")
    if features != 0:
        raise NeedsNewerReader(f"features {features:#x}")
    check(file_length == len(data), "file_length is not the file's length")
    check(header_length <= MAX_HEADER, "header_length over the limit")
    check(index_length <= MAX_INDEX, "index_length over the limit")
    check(PREFIX.size + header_length + index_length <= file_length, "header and index leave the file")
    # "BLAKE3 of the prefix's first 32 bytes, the header and the index, one after another"
    check(digest(data[:32], data[64 : 64 + header_length + index_length]) == file_id, "file id")
    return header_length, index_length, file_id


# -- section 3: header -----------------------------------------------------------------------------------------------


def canonical(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def parse_json(text: bytes, what: str = "header") -> object:
    def no_floats(number: str) -> object:
        raise Refused(f"{what}: the number {number}")

    try:
        value = json.loads(text.decode(), parse_float=no_floats, parse_constant=no_floats)
        # "A reader re-encodes what it parsed and refuses the file unless the bytes are the same."
        check(canonical(value) == text, f"{what}: not canonical")
    except (ValueError, RecursionError) as error:  # ValueError: bad UTF-8, bad JSON, lone surrogates, endless numbers
        raise Refused(f"{what}: {error}") from None
    return value


def object_of(value: object, what: str, *allowed: set[str]) -> dict:
    if not isinstance(value, dict):
        raise Refused(f"{what}: not an object")
    check(value.keys() in allowed, f"{what}: keys")
    return value


def array_of(value: object, what: str, low: int, high: int) -> list:
    if not isinstance(value, list):
        raise Refused(f"{what}: not an array")
    check(low <= len(value) <= high, f"{what}: not {low} to {high} entries")
    return value


def read_lossy(value: object) -> tuple[str, float, float]:
    """`lossy.md`, section 1: recipe, nmse, max"""
    value = object_of(value, "lossy", {"max", "nmse", "recipe"})
    recipe, numbers = value["recipe"], []
    check(isinstance(recipe, str) and 1 <= len(recipe) <= 64, "lossy: recipe: not a string of 1 to 64")
    check(set(recipe) <= set("abcdefghijklmnopqrstuvwxyz0123456789_.,=-"), "lossy: recipe: another character")
    for key in ("nmse", "max"):
        digits = value[key]
        check(isinstance(digits, str) and len(digits) == 16 and set(digits) <= set(HEX), f"lossy: {key}: not 16 digits")
        # "finite and neither negative nor -0"
        check(int(digits, 16) < 0x7FF << 52, f"lossy: {key}: negative, infinite or not a number")
        numbers.append(struct.unpack(">d", bytes.fromhex(digits))[0])
    return recipe, numbers[0], numbers[1]


def errors(source: Sequence[float], found: Sequence[float]) -> tuple[float, float]:
    """`lossy.md`, section 2: nmse, max"""
    error, power, largest = [0.0] * 32, [0.0] * 32, 0.0
    for i, (x, y) in enumerate(zip(source, found, strict=True)):
        d = x - y
        largest = max(largest, abs(d))
        error[i % 32] += d * d
        power[i % 32] += x * x
    # from number 0 on; what `sum` does differs between versions
    total, whole = error[0], power[0]
    for k in range(1, 32):
        total, whole = total + error[k], whole + power[k]
    return (total / whole if total else 0.0), largest


class HeaderReader:
    def __init__(self, text: bytes) -> None:
        keys = {"expressions", "metadata", "packs", "tensors"}
        value = parse_json(text)
        # `lossy.md`, section 1
        lossy, self.source = isinstance(value, dict) and "lossy" in value, None
        if lossy:
            self.source = source = object_of(value.pop("lossy"), "lossy", {"source"})["source"]
            check(isinstance(source, str) and len(source) == 64, "lossy: source: not 64 digits")
            check(set(source) <= set(HEX), "lossy: source: not lower-case hexadecimal digits")
            check("image" not in value, "lossy: an image")
        top = object_of(value, "header", keys, keys | {"image"}, keys | {"bases"}, keys | {"bases", "image"})
        self.expressions = [
            parse_expression(value) for value in array_of(top["expressions"], "expressions", 0, MAX_EXPRESSIONS)
        ]
        self.bases = self.read_bases(top["bases"]) if "bases" in top else []
        packs = array_of(top["packs"], "packs", 0, MAX_TENSORS)
        self.packs = [object_of(pack, "pack", {"dtype", "expression"}) for pack in packs]
        self.pack_units = [0] * len(packs)
        self.pack_place: list[int] = []  # where in `streams` each pack is; the position of its first tensor
        self.tensors: list[Tensor] = []
        self.streams: list[Stream | None] = []
        for value in array_of(top["tensors"], "tensors", 0, MAX_TENSORS):
            self.tensor(value)
        check(len({tensor.name for tensor in self.tensors}) == len(self.tensors), "two tensors of one name")
        self.check_casts()
        # "The header has `lossy` if, and only if, at least one tensor has."
        check(lossy == any(tensor.lossy for tensor in self.tensors), "lossy: tensors and header disagree")
        for tensor in self.tensors:
            target = tensor.ref if tensor.cast is None else tensor.cast
            # "A `ref` to, or `cast` of, a tensor that has `lossy` has it too."
            check(target is None or not self.tensors[target].lossy or bool(tensor.lossy), "lossy: a silent copy")
        check(len(self.pack_place) == len(packs), "a pack without tensors")
        for p, (pack, units, place) in enumerate(zip(self.packs, self.pack_units, self.pack_place, strict=True)):
            # "together they make one chunk"
            stream = self.stream("pack", units, pack, units)
            self.streams[place] = stream
            if stream.expression.base is not None:
                stream.members = [tensor for tensor in self.tensors if tensor.pack == p]
                # "as many bases as the pack has tensors, in their order"
                check(len(stream.expression.base) == len(stream.members), "bases for more or fewer tensors")
                for tensor, j in zip(stream.members, stream.expression.base, strict=True):
                    self.check_base(tensor, stream, j)
        self.check_scales()
        self.image = self.read_image(top["image"]) if "image" in top else None
        metadata = top["metadata"]
        if not isinstance(metadata, dict):
            raise Refused("metadata: not an object")
        check(all(isinstance(value, str) for value in metadata.values()), "metadata: not strings")
        # "8 MiB of UTF-8, keys and values together"
        size = sum(len(text.encode()) for pair in metadata.items() for text in pair)
        check(size <= MAX_METADATA, "metadata over the limit")
        self.metadata = metadata

    def result(self) -> Header:
        return Header(self.tensors, [s for s in self.streams if s], self.metadata, self.image, self.bases, self.source)

    def expression(self, value: dict) -> Bits | Sparse | Gather | Mul | Decimal | Ref | Cast | Sum:
        return self.expressions[integer(value["expression"], 0, len(self.expressions) - 1, "expression")]

    def stream(self, kind: str, units: int, value: dict, chunk: int | None = None, sides: list | None = None) -> Stream:
        plan = sides or []
        found = self.expression(value)
        dtype = value["dtype"] if kind != "image" else "U8"
        look = found if isinstance(found, Gather | Mul | Decimal | Trellis) else None
        expression = look.codes if look else found
        if isinstance(found, Sum):
            look, expression = found.values, found.planes
        if isinstance(found, Sparse):
            look = found.rest
        if look:
            lookup.check_use(look, dtype, units, plan)
        if not isinstance(expression, Bits | Sparse | Records):
            raise Refused(f"{kind}: a ref has no stream")
        check(max(expression.sides(), default=-1) < len(plan), "no such side plane")
        if expression.base is None:
            contexts = [part.context for part in expression.planes()]  # of records, others
            check(not any(isinstance(c, BaseContext) for c in contexts), "a context of a base without a base")
        else:
            of_one, of_many = isinstance(expression.base, int), isinstance(expression.base, tuple)
            check((kind == "tensor" and of_one) or (kind == "pack" and of_many), "a base, or bases, for what has none")
        unit = DTYPES[dtype][1]
        chunk = integer(value["chunk"], 1, MAX_CHUNK, "chunk") if chunk is None else chunk
        return Stream(kind, units, unit, chunk, expression, dtype, look, plan)

    def read_bases(self, value: object) -> list[Base]:
        bases = []
        for entry in array_of(value, "bases", 1, MAX_TENSORS):
            entry = object_of(entry, "base", {"dtype", "hints", "identity", "shape"})
            hints, identity = entry["hints"], entry["identity"]
            check(isinstance(hints, dict) and all(isinstance(h, str) for h in hints.values()), "hints: not strings")
            check(all(len(h.encode()) <= MAX_NAME for h in hints.values()), "hints: one over 512 bytes")
            check(isinstance(identity, str) and len(identity) == 64, "identity: not 64 digits")
            check(set(identity) <= set("0123456789abcdef"), "identity: not lower-case hexadecimal digits")
            dtype, shape, size = self.sizes(entry, "base")
            check(size > 0, "a base without elements")
            bases.append(Base(dtype, shape, bytes.fromhex(identity), size))
        used: set[int | None] = set()
        for e in self.expressions:
            e = e.planes if isinstance(e, Sum) else e
            if isinstance(e, Bits):
                used |= set(e.base) if isinstance(e.base, tuple) else {e.base}
        check(used >= set(range(len(bases))), "a base that no expression uses")
        return bases

    def sizes(self, value: dict, what: str) -> tuple[str, tuple[int, ...], int]:
        """dtype, shape, bytes"""
        dtype = value["dtype"]
        check(isinstance(dtype, str) and dtype in DTYPES, f"{what}: dtype")
        shape = array_of(value["shape"], f"{what}: shape", 0, MAX_DIMENSIONS)
        elements, product = 1, 1
        for dimension in shape:
            elements *= integer(dimension, 0, MAX_ELEMENTS, f"{what}: dimension")
            # "a dimension, and the product of those that are not 0"
            product *= dimension or 1
            check(product <= MAX_ELEMENTS, f"{what}: too many elements")
        bits = elements * DTYPES[dtype][0]
        check(bits % 8 == 0, f"{what}: not whole bytes")
        return dtype, tuple(shape), bits // 8

    def tensor(self, value: object) -> None:
        every = {"dtype", "name", "shape"}
        with_stream = every | {"chunk", "expression"}
        if isinstance(value, dict) and "encoding" in value:
            # `records.md`, section 3: "1 to 64 characters from `A` to `Z`, `0` to `9` and `_`"
            encoding = value.pop("encoding")
            check(isinstance(encoding, str) and 1 <= len(encoding) <= 64, "encoding: not a string of 1 to 64")
            check(set(encoding) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"), "encoding: another character")
        lossy = read_lossy(value.pop("lossy")) if isinstance(value, dict) and "lossy" in value else None
        value = object_of(
            value, "tensor", every, every | {"pack"}, every | {"expression"}, with_stream, with_stream | {"sides"}
        )
        name = value["name"]
        check(isinstance(name, str) and 1 <= len(name.encode()) <= MAX_NAME, "name: not a string of 1 to 512 bytes")
        check(all(c >= " " and c != "\x7f" for c in name), "name: a control character")
        check(name != "__metadata__", "name: kept by safetensors")
        dtype, shape, size = self.sizes(value, "tensor")
        tensor = Tensor(name, dtype, shape, size, lossy)
        check(lossy is None or (dtype in casts.FLOATS and size > 0), "lossy: a tensor of no floats")
        check((size > 0) == (value.keys() != every), "a tensor has elements and nothing to hold them, or none and has")
        if "pack" in value:
            self.pack_member(tensor, integer(value["pack"], 0, len(self.packs) - 1, "pack"))
        elif "chunk" in value:
            self.own_stream(tensor, value)
        elif "expression" in value:
            self.reference(tensor, value)
        self.tensors.append(tensor)

    def pack_member(self, tensor: Tensor, p: int) -> None:
        # "the first tensor of pack `p` comes after the first of pack `p - 1`"
        check(p <= len(self.pack_place), "packs are not in the order of their first tensors")
        if p == len(self.pack_place):
            self.pack_place.append(len(self.streams))
            self.streams.append(None)  # until its units are counted
        check(tensor.dtype == self.packs[p]["dtype"], "a tensor's dtype is not its pack's")
        self.pack_units[p] += tensor.bytes // DTYPES[tensor.dtype][1]
        tensor.pack = p

    def own_stream(self, tensor: Tensor, value: dict) -> None:
        sides = array_of(value["sides"], "sides", 1, MAX_SIDES) if "sides" in value else []
        planes = sides
        if sides and type(sides[-1]) is int:
            # section 3.1: "The last of a tensor's `sides` may be a number `i`"
            tensor.scale, planes = integer(sides[-1], 0, MAX_TENSORS - 1, "a side plane that is a tensor"), sides[:-1]
            sides = [*planes, {"dtype": "", "shape": []}]  # which nothing but a `scale` takes
        units = tensor.bytes // DTYPES[tensor.dtype][1]
        for side in planes:
            side = object_of(side, "side plane", {"chunk", "dtype", "expression", "shape"})
            dtype, _, size = self.sizes(side, "side plane")
            earlier = sides[: len(tensor.sides)]
            found = self.stream("side", size // DTYPES[dtype][1], side, sides=earlier)
            check_factors(found, earlier)
            tensor.sides.append(found)
        data = self.stream("tensor", units, value, sides=sides)
        check(len(named_sides(data)) == len(sides), "a side plane that nothing names")
        # "such a side plane is named by a `scale`, and a `scale` names no other"
        scales = data.expression.scales() if isinstance(data.expression, Records) else set()
        check(scales == (set() if tensor.scale is None else {len(planes)}), "scale: not the one that is a tensor")
        tensor.data, data.scale = data, tensor.scale
        if data.expression.base is not None:
            self.check_base(tensor, data, data.expression.base)
        if data.expression.matmul is not None:
            check_matmul(data, sides)
        for part in data.expression.planes():
            check(not isinstance(part.context, FactorContext), "factor: not of a side plane")
            if isinstance(part.context, FieldClass):
                # "`rows * columns` is the number of this plane's fields in the whole tensor"
                two = [sides[part.context.rows], sides[part.context.columns]]
                check(all(s["dtype"] == "U8" and len(s["shape"]) == 1 for s in two), "class: not planes of classes")
                fields = units
                if isinstance(data.expression, Records):
                    fields = data.bytes() // data.expression.size * part.count()
                check(two[0]["shape"][0] * two[1]["shape"][0] == fields, "class: rows and columns are not the fields")
            if lines_of(part.context):
                # "`s` is `U8` of one dimension, `[rows + columns]`"
                lines = lines_of(part.context)
                side, fields = sides[lines.side], data.bytes() // data.expression.size * part.count()
                check(side["dtype"] == "U8" and len(side["shape"]) == 1, "lines: not a plane of classes")
                rows = side["shape"][0] - lines.columns
                check(rows * lines.columns == fields, "lines: rows and columns are not the fields")
            if isinstance(part.context, ClassContext):
                # "both `U8` of one dimension; `rows * columns` is the number of units"
                two = [sides[part.context.rows], sides[part.context.columns]]
                check(all(s["dtype"] == "U8" and len(s["shape"]) == 1 for s in two), "class: not planes of classes")
                rows, columns = two[0]["shape"][0], two[1]["shape"][0]
                check(rows * columns == units, "class: rows and columns are not the tensor's")
                if part.context.mean:
                    # "`U8` of shape `[k, rows + columns]`"
                    side, k = sides[part.context.mean.factors], sum(part.context.mean.groups)
                    check(side["dtype"] == "U8" and side["shape"] == [k, rows + columns], "mean: side plane")
            if isinstance(part.context, BaseContext) and part.context.rows is not None:
                side = sides[part.context.rows]
                check(side["dtype"] == "U8" and len(side["shape"]) == 1, "context: not a side plane of rows")
                check(units % side["shape"][0] == 0, "context: the rows do not divide the units")
            if part.side is not None:
                # "dtype `U8`, shape `[rows]` ... `rows` divides their number"
                side = sides[part.side]
                check(side["dtype"] == "U8" and len(side["shape"]) == 1, "scatter: not a side plane of rows")
                check(units % side["shape"][0] == 0, "scatter: the rows do not divide the units")
        self.streams += [*tensor.sides, data]

    def check_base(self, tensor: Tensor, data: Stream, j: int) -> None:
        check(j < len(self.bases), "no such base")
        base = self.bases[j]
        floats = {base.dtype, tensor.dtype} <= casts.FLOATS.keys()
        check(base.dtype == tensor.dtype or floats, "base: another dtype")
        check(len(base.shape) == len(tensor.shape) and base.shape[1:] == tensor.shape[1:], "base: another shape")
        for part in data.expression.planes():
            if isinstance(part.context, BaseContext):
                # "`b - 16 <= shift < b`"
                check(8 * data.unit - 16 <= part.context.shift < 8 * data.unit, "context: shift")

    def reference(self, tensor: Tensor, value: dict) -> None:
        expression = self.expression(value)
        if isinstance(expression, Cast):
            tensor.cast = expression.target
            return
        check(isinstance(expression, Ref), "a tensor without a stream whose expression is not a ref")
        # "comes earlier in the header, is not itself a `ref`, has elements, and has the same dtype and shape"
        check(expression.target < len(self.tensors), "ref: not an earlier tensor")
        target = self.tensors[expression.target]
        check(target.ref is target.cast is None and target.bytes > 0, "ref: to a ref or cast, or to nothing")
        check((target.dtype, target.shape) == (tensor.dtype, tensor.shape), "ref: another dtype or shape")
        tensor.ref = expression.target

    def check_casts(self) -> None:
        """Expressions, section 4.1: "may come earlier or later, is not itself a `ref` or `cast`, has elements" """
        for tensor in self.tensors:
            if tensor.cast is None:
                continue
            check(tensor.cast < len(self.tensors), "cast: no such tensor")
            source = self.tensors[tensor.cast]
            check(source.ref is source.cast is None and source.bytes > 0, "cast: of a ref or cast, or of nothing")
            check(source.shape == tensor.shape, "cast: another shape")
            check({tensor.dtype, source.dtype} <= casts.FLOATS.keys(), "cast: not from float to float")
            check(tensor.dtype != source.dtype, "cast: to the same dtype")

    def check_scales(self) -> None:
        """Section 3.1: what a tensor is that is a side plane."""
        for tensor in self.tensors:
            if tensor.scale is None:
                continue
            check(tensor.scale < len(self.tensors), "scale: no such tensor")
            given = self.tensors[tensor.scale]
            stream = given.data if given.pack is None else self.streams[self.pack_place[given.pack]]
            # "has a stream of its own or is part of a pack"
            if stream is None:
                raise Refused("scale: a tensor without bytes of its own")
            # "whose expression has no base, and none of its own side planes is a number"
            check(stream.expression.base is None and given.scale is None, "scale: a tensor that needs another one")
            check(stream.unit <= 4, "scale: units of more than 32 bits")
            records = tensor.bytes // tensor.data.expression.size
            check(records % (given.bytes // stream.unit) == 0, "scale: units that do not divide the records")
            tensor.data.scale_unit = stream.unit

    def read_image(self, value: object) -> Image:
        """Section 8."""
        value = object_of(value, "image", {"chunk", "expression", "format", "segments"})
        check(value["format"] in ("gguf", "safetensors"), "image: format")
        segments: list[int | tuple[int, int]] = []
        literal_bytes = total = after = left_out = 0
        bytes_before = [0, *accumulate(tensor.bytes for tensor in self.tensors)]
        for segment in array_of(value["segments"], "segments", 0, MAX_SEGMENTS):
            if isinstance(segment, list):
                check(len(segment) == 2, "segment: not a pair")
                # "in the order of the source file", which is also that of the tensors: no tensor comes again
                first = integer(segment[0], after, len(self.tensors) - 1, "segment")
                left_out += bytes_before[first] - bytes_before[after]
                count = integer(segment[1], 1, len(self.tensors) - first, "segment")
                after = first + count
                segments.append((first, count))
                total += bytes_before[after] - bytes_before[first]
            else:
                segments.append(integer(segment, 1, MAX_ELEMENTS, "segment"))
                literal_bytes += segment
        # "Every tensor that has elements is in a segment."
        check(left_out + bytes_before[-1] == bytes_before[after], "image: a tensor left out")
        check(literal_bytes <= MAX_ELEMENTS, "image: literal bytes over the limit")
        # "first the SHA-256 of the source file, then the literal bytes"
        self.streams.append(self.stream("image", 32 + literal_bytes, value))
        return Image(value["format"], segments, literal_bytes, total + literal_bytes)


# -- sections 4 and 5: index and table -------------------------------------------------------------------------------


@dataclass
class Record:
    """A chunk's record of the table, and its stored bytes."""

    decoded_length: int
    decoded_digest: int
    stored: bytes


@dataclass
class StoredStream:
    """A stream as it lies in the file, nothing of it checked yet."""

    stream: Stream
    table: bytes
    table_digest: bytes
    stored: bytes  # its chunks, one after another

    def records(self) -> list[Record]:
        """Step 5 of section 10, and the digests of the stored bytes."""
        check(digest(self.table) == self.table_digest, "digest of the table records")
        records = []
        at, left = 0, self.stream.bytes()
        for stored_length, decoded_length, stored_digest, decoded_digest in TABLE_RECORD.iter_unpack(self.table):
            check(decoded_length == min(left, self.stream.chunk * self.stream.unit), "decoded length of a chunk")
            left -= decoded_length
            check(stored_length % ALIGNMENT == 0, "stored length is not a multiple of 64")
            # "at least decoded length / 1024 ... at most decoded length rounded up to a multiple of 64, plus 128"
            check(MAX_RATIO * stored_length >= decoded_length, "stored length too small for what it decodes to")
            check(stored_length <= round_up(decoded_length, ALIGNMENT) + 128, "stored length too large")
            check(at + stored_length <= len(self.stored), "chunks leave their stream")
            stored = self.stored[at : at + stored_length]
            at += stored_length
            check(digest(stored) == stored_digest, "digest of the stored bytes")
            records.append(Record(decoded_length, decoded_digest, stored))
        check(at == len(self.stored), "stored length of a stream")
        return records


def read_index(data: bytes, begin: int, index_length: int, header: Header) -> tuple[list[StoredStream], list[bytes]]:
    """The streams, and the tensors' identities."""
    streams = header.streams
    implied = STREAM_RECORD.size * len(streams) + IDENTITY_BYTES * len(header.tensors)
    check(index_length == implied, "index_length is not what the header implies")
    index = data[begin : begin + index_length]
    table_at = begin + index_length
    table_end = table_at + TABLE_RECORD.size * sum(stream.chunks for stream in streams)
    chunk_at = round_up(table_end, ALIGNMENT)
    check(chunk_at <= len(data), "the table leaves the file")
    check(zero(data[table_end:chunk_at]), "padding after the table is not zero")
    lengths_and_digests = [STREAM_RECORD.unpack_from(index, STREAM_RECORD.size * i) for i in range(len(streams))]
    check(chunk_at + sum(length for length, _ in lengths_and_digests) == len(data), "streams and file differ in length")

    stored = []
    for stream, (length, table_digest) in zip(streams, lengths_and_digests, strict=True):
        table = data[table_at : table_at + TABLE_RECORD.size * stream.chunks]
        stored.append(StoredStream(stream, table, table_digest, data[chunk_at : chunk_at + length]))
        table_at += len(table)
        chunk_at += length
    at = STREAM_RECORD.size * len(streams)
    return stored, [index[i : i + IDENTITY_BYTES] for i in range(at, len(index), IDENTITY_BYTES)]


# -- section 6: chunks -----------------------------------------------------------------------------------------------


def decode_chunk(stored: bytes, stream: Stream, start: int, n: int, sides: list[bytes]) -> bytes:
    """The bytes of the units `start` to `start + n - 1` of the stream. `sides`: the decoded side planes."""
    check(len(stored) >= HEAD.size, "chunk without a head")
    kind, planes, reserved, units, reserved_too = HEAD.unpack_from(stored)
    check(units == n and reserved == 0, "head of a chunk")
    with_base = kind == PLANES and stream.expression.base is not None
    check(with_base or reserved_too == 0, "head of a chunk")
    if with_base:
        # "the digest, as in section 7, of the base's units in the chunk's range"
        check(decoded_digest(base_units(stream, start, n)) == reserved_too, "digest of the base")
    check(planes == (len(stream.expression.planes()) if kind == PLANES else 0), "number of planes")
    if kind == LITERAL:
        end = HEAD.size + n * stream.unit
        check(end <= len(stored), "literal cut short")
        check(zero(stored[end:]), "bytes after the chunk's last are not zero")
        return stored[HEAD.size : end]
    if kind == AFFINE:
        check(len(stored) >= 32, "affine cut short")
        first, step = struct.unpack_from("<QQ", stored, 16)
        modulus = 1 << 8 * stream.unit
        check(first < modulus and step < modulus, "affine: start or step wider than the unit")
        check(zero(stored[32:]), "bytes after the chunk's last are not zero")
        return b"".join(((first + i * step) % modulus).to_bytes(stream.unit, "little") for i in range(n))
    check(kind == PLANES, "kind of a chunk")
    return decode_planes(stored, stream, start, n, sides)


def decode_planes(stored: bytes, stream: Stream, start: int, n: int, sides: list[bytes]) -> bytes:
    check(n >= GROUP, "planes of fewer than 128 units")
    parts = stream.expression.planes()
    record = stream.expression if isinstance(stream.expression, Records) else None
    body = n if record else n - n % GROUP  # `records.md`: "There is no tail"
    at = HEAD.size + DESCRIPTOR.size * len(parts)
    check(at <= len(stored), "descriptors cut short")
    fields: list[list[int]] = []
    sign: tuple | None = None  # of a first part with the context of a sign, which needs the last part's fields
    for i, part in enumerate(parts):
        mode, precision, base, length, blocks, escapes = DESCRIPTOR.unpack_from(stored, HEAD.size + 16 * i)
        payload = b""
        if length:
            begin = round_up(at, 16)
            check(zero(stored[at:begin]), "gap between payloads is not zero")
            at = begin + length
            check(at <= len(stored), "payload leaves the chunk")
            payload = stored[begin:at]
        here = range(body)
        if part.side is not None:
            # "has only the fields of the body's units whose row is present"
            row = stream.units // len(sides[part.side])
            here = [j for j in range(body) if sides[part.side][(start + j) // row]]
        elif record:
            here = range(n * stream.unit // record.size * part.count())
        elif isinstance(stream.expression, Sparse) and i <= len(stream.expression.values.parts):
            # "a field for every 8 units of the body, and each of the others a field for every bit of the mask that is
            # 1"; of codes, "a field for every unit of the body"
            here = range(sum(field.bit_count() for field in fields[0]) if i else body // 8)
        # "With none, the plane is constant 0."
        check(len(here) > 0 or (mode == CONSTANT and base == 0), "a plane without fields is not constant 0")
        groups = -(-len(here) // GROUP)
        if isinstance(part.context, SignContext) and mode == CODED:
            sign = payload, part.width, groups, mode, precision, base, blocks, escapes
            fields.append([])
            continue
        contexts = None
        if part.context and not isinstance(part.context, SignContext) and mode in (CODED, BYPASS):
            if isinstance(part.context, FieldContext):
                given, first = fields[part.context.plane], start * stream.unit // record.size
                contexts = field_contexts(part.context, given, first, len(here), record.fields, part)
            elif isinstance(part.context, FieldClass):
                before = start * stream.unit // record.size * part.count() if record else start
                contexts = field_classes(part.context, before, len(here), sides)
            elif isinstance(part.context, FieldLines | FieldScale):
                contexts = field_scales(part, stream, start * stream.unit // record.size, len(here), sides)
            else:
                contexts = contexts_of(stream, part, start, here, sides)
        plane = decode_plane(payload, part.width, groups, mode, precision, base, blocks, escapes, contexts)
        # "followed by as many zeros as make a multiple of 128"
        check(not any(plane[len(here) :]), "fields after the last present one are not zero")
        if part.side is not None:
            present, plane = plane, [0] * body
            for j, value in zip(here, present, strict=False):
                plane[j] = value
        fields.append(plane)
    tail_bytes = (n - body) * stream.unit
    if tail_bytes:
        begin = round_up(at, 16)
        check(zero(stored[at:begin]), "gap before the tail is not zero")
        at = begin + tail_bytes
    check(at + READ_AHEAD <= len(stored), "fewer than 64 bytes after the last")
    check(zero(stored[at:]), "bytes after the chunk's last are not zero")
    if record:
        return records_of(fields, record, n * stream.unit // record.size)
    if sign is not None:
        contexts, negative = sign_contexts(stream, fields[-1], start, sides)
        # "the field that section 5 gives, an escape's too, is 1 minus itself where `s` is negative"
        fields[0] = [1 - f if n else f for f, n in zip(decode_plane(*sign, contexts), negative, strict=True)]
    bits = 8 * stream.unit
    if isinstance(stream.expression, Sparse):
        mask, *values = fields[: 1 + len(stream.expression.values.parts)]
        units = scattered(mask, combine(values, stream.expression.values, bits), body)
        if stream.lookup:
            codes = combine(fields[1 + len(values) :], stream.lookup.codes, bits)
            rest = lookup_units(stream, codes, start, sides)
            units = [u if mask[i // 8] >> i % 8 & 1 else rest[i] for i, u in enumerate(units)]
    else:
        units = combine(fields, stream.expression, bits)
    if stream.lookup and not isinstance(stream.expression, Sparse):
        units = lookup_units(stream, units, start, sides)
    elif stream.expression.base is not None:
        bases = to_units(base_units(stream, start, body), stream.unit)
        if stream.expression.matmul is not None:
            bases = moved_units(bases, stream, start, sides)
        units = [add_difference(z, u, bits, floats=stream.dtype in FLOATS) for z, u in zip(units, bases, strict=True)]
    return b"".join(unit.to_bytes(stream.unit, "little") for unit in units) + stored[at - tail_bytes : at]


def lookup_units(stream: Stream, codes: list[int], start: int, sides: list[bytes]) -> list[int]:
    """Sections 7 and 8.2 of `expressions.md`."""

    def made(dtype: str) -> list[int]:
        return lookup.lookup(stream.lookup, codes, dtype, stream.units, start, sides, stream.plan)

    matmul = stream.expression.matmul
    if stream.expression.base is not None:
        bases = to_units(base_units(stream, start, len(codes)), stream.unit)
        return [casts.sum_with(u, stream.dtype, number) for u, number in zip(bases, made("F32"), strict=True)]
    if matmul is None:
        return made(stream.dtype)
    deltas = [casts.delta(s, matmul.shift) for s in product_sums(stream, start, len(codes), sides)]
    units = [casts.sum_with(delta, "F32", number) for delta, number in zip(deltas, made("F32"), strict=True)]
    return [lookup.rounded(unit, stream.dtype) for unit in units]


def to_units(data: bytes, unit: int) -> list[int]:
    return [int.from_bytes(data[i : i + unit], "little") for i in range(0, len(data), unit)]


def base_units(stream: Stream, start: int, n: int) -> bytes:
    check(stream.base is not None, "a base that was not given")
    # "and are 0 beyond its end"
    return stream.base[start * stream.unit : (start + n) * stream.unit].ljust(n * stream.unit, b"\0")


def named_sides(stream: Stream) -> set[int]:
    """The side planes that its expression names."""
    used = set(stream.expression.sides())
    if isinstance(stream.lookup, Gather | Mul):
        used |= {stream.lookup.palette}
    if isinstance(stream.lookup, Mul):
        used |= set(stream.lookup.scale + stream.lookup.offset)
    if isinstance(stream.lookup, Trellis) and stream.lookup.rows is not None:
        used |= {stream.lookup.rows, stream.lookup.columns}
    return used


def check_factors(side: Stream, earlier: list[dict]) -> None:
    """ "only for planes of a side plane, not under `scatter`, ... with contexts of this kind only" """
    if not named_sides(side):
        return
    check(isinstance(side.expression, Bits) and side.lookup is None, "a side plane with side planes")
    for part in side.expression.parts:
        check(part.side is None and isinstance(part.context, FactorContext | None), "a side plane with side planes")
        if part.context:
            two = [earlier[part.context.rows], earlier[part.context.columns]]
            check(all(s["dtype"] == "U8" and len(s["shape"]) == 1 for s in two), "factor: not planes of classes")
            k, rest = divmod(side.units, two[0]["shape"][0] + two[1]["shape"][0])
            check(rest == 0 and 1 <= k <= 64, "factor: not 1 to 64 rows of rows + columns")


def check_matmul(data: Stream, sides: list[dict]) -> None:
    matmul = data.expression.matmul
    check(data.dtype in ("F32", "BF16", "F16"), "matmul: dtype")
    p, q = sides[matmul.p], sides[matmul.q]
    # "both are `I16`, or both `I32`"
    check(p["dtype"] == q["dtype"] and p["dtype"] in ("I16", "I32"), "matmul: dtype of the side planes")
    check(len(p["shape"]) == len(q["shape"]) == 2 and p["shape"][1] == q["shape"][0], "matmul: shapes")
    check(1 <= q["shape"][0] <= 64, "matmul: k")
    check(p["shape"][0] * q["shape"][1] == data.units, "matmul: rows and columns are not the tensor's")


def moved_units(bases: list[int], stream: Stream, start: int, sides: list[bytes]) -> list[int]:
    """Section 8.1 of `expressions.md`."""
    sums = product_sums(stream, start, len(bases), sides)
    shift = stream.expression.matmul.shift
    return [casts.moved(unit, stream.dtype, s, shift) for unit, s in zip(bases, sums, strict=True)]


def product_sums(stream: Stream, start: int, n: int, sides: list[bytes]) -> list[int]:
    """`s` of section 8.1, of `n` units."""
    matmul = stream.expression.matmul
    k, columns = stream.plan[matmul.q]["shape"]
    size, modulus = (2, 1 << 32) if stream.plan[matmul.q]["dtype"] == "I16" else (4, 1 << 64)

    def entry(side: int, i: int) -> int:
        return int.from_bytes(sides[side][size * i : size * (i + 1)], "little", signed=True)

    out = []
    for j in range(start, start + n):
        r, c = divmod(j, columns)
        s = sum(entry(matmul.p, r * k + i) * entry(matmul.q, i * columns + c) for i in range(k)) % modulus
        out.append(s - modulus if s >= modulus // 2 else s)
    return out


def contexts_of(stream: Stream, part: Part, start: int, here: Sequence[int], sides: list[bytes]) -> coder.Contexts:
    """Section 7 of `coder.md`; `here`: the units of the body that have fields."""
    context = part.context
    if isinstance(context, BaseContext):
        bits = 8 * stream.unit
        table = []
        for j in here:
            u = int.from_bytes(base_units(stream, start + j, 1), "little")
            c = ((u << 1 | u >> bits - 1) % (1 << bits) >> context.shift) - context.first
            row = 0
            if context.rows is not None:
                classes = sides[context.rows]
                row = classes[(start + j) // (stream.units // len(classes))]
            table.append(max(0, min(c, context.tables - 1)) + context.tables * row)
        moved = [0] * len(table)
    elif isinstance(context, FactorContext):
        rows, line = sides[context.rows], len(sides[context.rows]) + len(sides[context.columns])
        table = []
        for j in here:
            t, at = divmod(start + j, line)
            m = max(0, min(rows[at] - context.first, context.classes - 1)) if at < len(rows) else context.classes
            table.append((context.classes + 1) * t.bit_length() + m)
        moved = [0] * len(table)
    else:
        columns = sides[context.columns]
        k = [sides[context.rows][(start + j) // len(columns)] + columns[(start + j) % len(columns)] for j in here]
        if context.mean:
            sums = [unit_mean(context, start + j, sides) for j in here]
            # "raised by the number of `steps` that are `l` or less"
            raised = [sum(step <= quarters(s) for step in context.mean.steps) if s else 0 for s in sums]
            k = [c + r for c, r in zip(k, raised, strict=True)]
        table, moved = [c % 4 for c in k], [context.octave * (c // 4) for c in k]
    # "The zeros that follow the last field have the context 0."
    fill = [0] * (-len(table) % GROUP)
    if isinstance(context, BaseContext):
        number = context.tables * context.classes
    elif isinstance(context, FactorContext):
        number = (context.classes + 1) * ((stream.units // line - 1).bit_length() + 1)
    else:
        number = context.tables
    return coder.Contexts(number, table + fill, moved + fill)


def field_contexts(
    context: FieldContext, given: list[int], first: int, count: int, fields: Sequence[Field], field: Field
) -> coder.Contexts:
    """`records.md`, section 2; `given`: the fields that select; `first`: the number of the chunk's first record."""
    selecting = fields[context.plane]
    each = field.count() // selecting.count()
    if context.mean is not None:
        groups: dict[int, list[int]] = {}
        for i in range(count // each):
            groups.setdefault((first + i // selecting.count()) // context.mean, []).append(given[i])
        given = [f + 2**selecting.width - sum(group) // len(group) for group in groups.values() for f in group]
    table = [max(0, min((given[i // each] >> context.shift) - context.first, context.tables - 1)) for i in range(count)]
    fill = [0] * (-count % GROUP)
    return coder.Contexts(context.tables, table + fill, [0] * (count + len(fill)))


def field_classes(context: FieldClass, before: int, count: int, sides: list[bytes]) -> coder.Contexts:
    """`records.md`, section 2, for the `count` fields that follow the first `before` of the tensor."""
    rows, columns = sides[context.rows], sides[context.columns]
    table = [
        min(rows[j // len(columns)] + columns[j % len(columns)], context.tables - 1)
        for j in range(before, before + count)
    ]
    fill = [0] * (-count % GROUP)
    return coder.Contexts(context.tables, table + fill, [0] * (count + len(fill)))


def field_scales(field: Field, stream: Stream, first: int, count: int, sides: list[bytes]) -> coder.Contexts:
    """`records.md`, section 2: by lines, by a scale, or both; `first`: the number of the chunk's first record."""
    context, lines, each = field.context, lines_of(field.context), field.count()
    table = [0] * count
    if isinstance(context, FieldScale):
        units = to_units(sides[context.side], stream.scale_unit)
        n, classes = stream.bytes() // stream.expression.size // len(units), context.spelled()
        for i in range(count):
            at = (units[(first + i // each) // n] >> context.shift) - context.first
            table[i] = classes[max(0, min(at, len(classes) - 1))]
    if lines:
        rows, columns = sides[lines.side][: -lines.columns], sides[lines.side][-lines.columns :]
        for i in range(count):
            row, column = divmod(first * each + i, lines.columns)
            table[i] = min(rows[row] + columns[column] + table[i], lines.tables - 1)
    tables = lines.tables if lines else max(c for _, c in context.runs) + 1
    fill = [0] * (-count % GROUP)
    return coder.Contexts(tables, table + fill, [0] * (count + len(fill)))


def unit_mean(context: ClassContext, unit: int, sides: list[bytes]) -> int:
    rows, columns = len(sides[context.rows]), len(sides[context.columns])
    i, j = divmod(unit, columns)
    return mean_sum(context.mean, sides[context.mean.factors], rows, columns, i, j)


def sign_contexts(
    stream: Stream, fields: list[int], start: int, sides: list[bytes]
) -> tuple[coder.Contexts, list[bool]]:
    """Section 7.1 of `coder.md`, and where `s` is negative."""
    sign, last = stream.expression.planes()[0].context, stream.expression.planes()[-1].context
    rows, columns = sides[last.rows], sides[last.columns]
    table, negative = [], []
    for n, field_ in enumerate(fields):
        s = unit_mean(last, start + n, sides)
        i, j = divmod(start + n, len(columns))
        halved = 4 * field_ // last.octave + (quarters(s) if s else 0) + 256 - rows[i] - columns[j] - sign.first
        # "0 if `s` is 0 ... or 0 if what is halved is negative, or `tables - 1` if it is more"
        table.append(min(halved // 2, sign.tables - 1) if s and halved >= 0 else 0)
        negative.append(s < 0)
    return coder.Contexts(sign.tables, table, [0] * len(table)), negative


def decode_plane(
    payload: bytes,
    width: int,
    groups: int,
    mode: int,
    precision: int,
    base: int,
    blocks: int,
    escapes: int,
    contexts: coder.Contexts | None = None,
) -> list[int]:
    """Section 6.3, one column of the table of descriptors after the other."""
    if mode == CONSTANT:
        check((precision, len(payload), blocks, escapes) == (0, 0, 0, 0), "constant: descriptor")
        check(base < 1 << width, "constant does not fit the plane")
        return [base] * (GROUP * groups)
    if mode == RAW:
        check((precision, base, blocks, escapes) == (0, 0, 0, 0), "raw: descriptor")
        return coder.raw(payload, width, groups)
    if mode == CODED:
        return coder.coded(payload, width, groups, precision, base, blocks, escapes, contexts)
    if mode == ZSTD:
        check((precision, base, blocks, escapes) == (0, 0, 0, 0), "zstd: descriptor")
        return coder.zstd(payload, width, groups)
    check(mode == BYPASS, "mode of a plane")
    check((base, escapes) == (0, 0), "bypass: descriptor")
    return coder.bypass(payload, width, groups, precision, blocks, contexts)


# -- section 7: decoded digest ---------------------------------------------------------------------------------------


def decoded_digest(decoded: bytes) -> int:
    cuts = range(0, len(decoded), PIECE)
    numbers = b"".join(struct.pack("<Q", xxhash.xxh3_64_intdigest(decoded[i : i + PIECE])) for i in cuts)
    return xxhash.xxh3_64_intdigest(numbers)


# -- sections 8 to 10: the whole file --------------------------------------------------------------------------------


def decode_stream(stored: StoredStream, sides: list[bytes]) -> bytes:
    out, stream = [], stored.stream
    for c, record in enumerate(stored.records()):
        n = record.decoded_length // stream.unit
        decoded = decode_chunk(record.stored, stream, c * stream.chunk, n, sides)
        check(decoded_digest(decoded) == record.decoded_digest, "digest of the decoded bytes")
        out.append(decoded)
    return b"".join(out)


def check_side(stream: Stream, sides: list[bytes]) -> None:
    """ "1 where the row has fields and 0 where it has none (other values are refused)" """
    for part in stream.expression.planes():
        check(part.side is None or max(sides[part.side]) <= 1, "a side plane of rows is neither 0 nor 1")
        if isinstance(part.context, BaseContext) and part.context.rows is not None:
            check(max(sides[part.context.rows]) < part.context.classes, "a row's class is not below `classes`")
        if lines_of(part.context):
            plane, columns = sides[lines_of(part.context).side], lines_of(part.context).columns
            check(max(plane[:-columns]) + max(plane[-columns:]) <= 255, "classes of row and column over 255")
        if isinstance(part.context, ClassContext | FieldClass):
            most = max(sides[part.context.rows]) + max(sides[part.context.columns])
            if isinstance(part.context, ClassContext):
                most += len(part.context.mean.steps) if part.context.mean else 0
            check(most <= 255, "classes of row and column over 255")
    if isinstance(stream.lookup, Mul):
        # entries and products that are not finite are refused
        lookup.numbers(sides[stream.lookup.palette], stream.plan[stream.lookup.palette]["dtype"])
        for named in filter(None, (stream.lookup.scale, stream.lookup.offset)):
            lookup.per_run(named, sides)
            for k in named:
                lookup.numbers(sides[k], "F32")
    if isinstance(stream.lookup, Trellis) and stream.lookup.rows is not None:
        lookup.check_steps(stream.lookup, sides)


def read_layout(data: bytes) -> tuple[Header, list[StoredStream], list[bytes], bytes]:
    """Steps 1 to 4 of section 10."""
    header_length, index_length, file_id = read_prefix(data)
    header = HeaderReader(data[64 : 64 + header_length]).result()
    streams, identities = read_index(data, 64 + header_length, index_length, header)
    return header, streams, identities, file_id


def put_bases(header: Header, bases: Callable[[bytes], bytes | None] | None) -> int:
    """Gives the streams their bases, as far as they are had; returns how many bytes these are, each identity once.

    `bases` gives the decoded bytes of the tensor of an identity, which is checked.
    """
    found: list[bytes | None] = []
    for base in header.bases:
        data = bases(base.identity) if bases else None
        if data is not None:
            check(digest(data) == base.identity, "a base of another identity")
            if len(data) != base.bytes:
                data = None  # not what the header describes: not had, and refused where a chunk needs it
        found.append(data)

    def converted(i: int, dtype: str) -> bytes | None:
        data, own = found[i], header.bases[i].dtype
        return data if data is None or own == dtype else cast_bytes(data, own, dtype)

    for stream in header.streams:
        if isinstance(stream.expression.base, int):
            stream.base = converted(stream.expression.base, stream.dtype)
        elif stream.expression.base is not None:
            each = [converted(i, stream.dtype) for i in stream.expression.base]
            if None not in each:
                # "those of each tensor from its base, one after another", cut or filled with zeros
                pairs = zip(each, stream.members, strict=True)
                stream.base = b"".join(data[: tensor.bytes].ljust(tensor.bytes, b"\0") for data, tensor in pairs)
    each = {base.identity: len(data) for base, data in zip(header.bases, found, strict=True) if data is not None}
    return sum(each.values())


def decode_streams(header: Header, streams: list[StoredStream]) -> list[bytes]:
    """The decoded streams, in their order."""
    decoded: list[bytes] = [b""] * len(header.streams)
    for i in decoding_order(header.streams):
        sides = sides_of(header, i, decoded)
        check_side(header.streams[i], sides)
        decoded[i] = decode_stream(streams[i], sides)
    return decoded


def decoding_order(streams: list[Stream]) -> list[int]:
    """What has another tensor as a side plane comes after all that has not."""
    return sorted(range(len(streams)), key=lambda i: streams[i].scale is not None)


def sides_of(header: Header, i: int, decoded: list[bytes]) -> list[bytes]:
    """A stream's side planes, from those that are decoded."""
    stream = header.streams[i]
    # A tensor's side planes are the streams just before its own.
    # A side plane has those before it.
    first = i
    while first and stream.kind in ("tensor", "side") and header.streams[first - 1].kind == "side":
        first -= 1
    tensors = [] if stream.scale is None else [assemble(header, decoded)[stream.scale]]
    return decoded[first:i] + tensors


def assemble(header: Header, decoded: list[bytes]) -> list[bytes]:
    """The tensors' bytes from the streams'."""
    of_tensors = iter([d for s, d in zip(header.streams, decoded, strict=True) if s.kind == "tensor"])
    of_packs = [d for s, d in zip(header.streams, decoded, strict=True) if s.kind == "pack"]
    pack_at = [0] * len(of_packs)
    out: list[bytes] = []
    for tensor in header.tensors:
        if tensor.bytes == 0 or tensor.cast is not None:
            out.append(b"")
        elif tensor.ref is not None:
            out.append(out[tensor.ref])
        elif tensor.pack is not None:
            begin = pack_at[tensor.pack]
            pack_at[tensor.pack] = begin + tensor.bytes
            out.append(of_packs[tensor.pack][begin : begin + tensor.bytes])
        else:
            out.append(next(of_tensors))
    for i, tensor in enumerate(header.tensors):
        if tensor.cast is not None:
            out[i] = cast_bytes(out[tensor.cast], header.tensors[tensor.cast].dtype, tensor.dtype)
    return out


def cast_bytes(data: bytes, source: str, target: str) -> bytes:
    """Expressions, section 4.1."""
    unit, size = DTYPES[source][1], DTYPES[target][1]
    units = [int.from_bytes(data[i : i + unit], "little") for i in range(0, len(data), unit)]
    return b"".join(casts.cast(u, source, target).to_bytes(size, "little") for u in units)


def rebuild_image(image: Image, stream: bytes, tensors: list[bytes]) -> bytes:
    """ "`segments`, in the order of the source file, cover it without gaps" """
    out = []
    at = 32
    for segment in image.segments:
        if isinstance(segment, int):
            out.append(stream[at : at + segment])
            at += segment
        else:
            out += tensors[segment[0] : sum(segment)]
    source = b"".join(out)
    check(hashlib.sha256(source).digest() == stream[:32], "SHA-256 of the source file")
    return source


def check_source(header: Header, source: bytes) -> None:
    """Section 8: "The file that is given back has to be the one whose tensors are loaded." """
    image = header.image
    at, places = 0, {}
    for segment in image.segments:
        if isinstance(segment, int):
            at += segment
            continue
        for index in range(segment[0], sum(segment)):
            places[index] = at
            at += header.tensors[index].bytes
    start = 8 + int.from_bytes(source[:8], "little")
    check(start <= min(len(source), 8 + MAX_SOURCE_HEADER), "image: no such header")
    tokens = sum(map(source[8:start].count, b",:[{"))
    check(tokens <= MAX_TOKENS, "image: commas, colons and brackets over the limit")

    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        check(len(dict(pairs)) == len(pairs), "image: a key twice")
        return dict(pairs)

    try:
        entries = json.loads(source[8:start].decode(), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise Refused(f"image: {error}") from None
    check(isinstance(entries, dict), "image: not an object")
    entries.pop("__metadata__", None)
    # "all of them and no other"
    check(entries.keys() == {tensor.name for tensor in header.tensors}, "image: other tensors")
    for index, tensor in enumerate(header.tensors):
        entry = entries[tensor.name]
        check(isinstance(entry, dict) and entry.keys() >= {"dtype", "shape", "data_offsets"}, "image: keys of a tensor")
        shape = [integer(n, 0, MAX_ELEMENTS, "image: shape") for n in array_of(entry["shape"], "image: shape", 0, 16)]
        begin, end = array_of(entry["data_offsets"], "image: data_offsets", 2, 2)
        check(all(type(n) is int and n >= 0 for n in (begin, end)), "image: data_offsets")
        check(entry["dtype"] == tensor.dtype and shape == list(tensor.shape), f"image: another {tensor.name}")
        check(end - begin == tensor.bytes, f"image: the length of {tensor.name}")
        check(tensor.bytes == 0 or start + begin == places[index], f"image: the place of {tensor.name}")


def check_total(header: Header, given: int, most: int | None = None) -> None:
    """What the file decodes to, of `given` bytes: it and the bases that were had. `most`: what the caller allows."""
    # "tensors (ties each time), side planes, literal bytes of the image"
    total = sum(tensor.bytes + sum(side.bytes() for side in tensor.sides) for tensor in header.tensors)
    in_packs: dict[int, int] = {}
    for tensor in header.tensors:
        if tensor.pack is not None:
            in_packs[tensor.pack] = in_packs.get(tensor.pack, 0) + tensor.bytes
    # "those that are tensors, too; of one in a pack, the pack"
    scales = [header.tensors[tensor.scale] for tensor in header.tensors if tensor.scale is not None]
    total += sum(scale.bytes if scale.pack is None else in_packs[scale.pack] for scale in scales)
    total += header.image.literal_bytes if header.image else 0
    limit = MAX_RATIO * given + FREE_BYTES if most is None else most
    check(total <= limit, "decoded bytes of the file over the limit")


def decode_file(
    data: bytes, max_decoded: int | None = None, bases: Callable[[bytes], bytes | None] | None = None
) -> File:
    header, streams, identities, file_id = read_layout(data)
    check_total(header, len(data) + put_bases(header, bases), max_decoded)

    decoded = decode_streams(header, streams)
    tensors = assemble(header, decoded)
    for tensor, data_, identity in zip(header.tensors, tensors, identities, strict=True):
        check(digest(data_) == identity, f"identity of {tensor.name}")
    image = rebuild_image(header.image, decoded[-1], tensors) if header.image else None
    if header.image and header.image.format == "safetensors":
        check_source(header, image)
    named = {t.name: (t.dtype, t.shape, data_) for t, data_ in zip(header.tensors, tensors, strict=True)}
    lossy = {tensor.name: tensor.lossy for tensor in header.tensors if tensor.lossy}
    return File(named, header.metadata, image, file_id, header.source, lossy)


def main(paths: list[str]) -> int:
    for path in paths:
        try:
            file = decode_file(Path(path).read_bytes())
        except Refused as refused:
            print(f"{path}: refused: {refused}", file=sys.stderr)
            return 1
        print(f"{path}: id {file.file_id.hex()}, image {'none' if file.image is None else len(file.image)}")
        for name, (dtype, shape, data) in file.tensors.items():
            print(f"  {name}  {dtype}{list(shape)}  {len(data)} bytes  {digest(data).hex()[:16]}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
