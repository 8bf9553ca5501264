"""Writes whole files from tensors and from what the caller decides about every chunk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import decode
from coder import GROUP
from encode import (
    Coded,
    Plane,
    PlanesChunk,
    affine_chunk,
    difference,
    encode_plane,
    literal_chunk,
    mask_and_values,
    record_fields,
    split_fields,
    stored_fields,
    to_units,
)
from expressions import (
    DTYPES,
    FLOATS,
    Bits,
    FieldClass,
    FieldLines,
    FieldScale,
    Records,
    SignContext,
    Sparse,
    Sum,
    parse_expression,
)
from parts import ChunkParts, Parts, StreamParts, chunk_of

BYTES = {"bits": [{"plane": 8}], "rotate": 0}


@dataclass
class Place:
    """What is known about the chunk to be coded."""

    data: bytes
    unit: int
    expression: Bits | Sparse | Records
    start: int  # its first unit, counted from the stream's
    units: int  # of the stream
    sides: list[bytes]
    codes: list[int] | None = None  # of these units, where they are made from codes
    stream: decode.Stream | None = None  # for what depends on a base
    marked: frozenset[int] = frozenset()  # units of the stream that a mask takes, where others are made from codes

    def body(self) -> list[int]:
        """What the planes hold of the body's units."""
        units = to_units(self.data, self.unit) if self.codes is None else self.codes
        body = units[: len(units) - len(units) % GROUP]
        if self.expression.base is None or self.codes is not None:
            return body
        bases = to_units(decode.base_units(self.stream, self.start, len(body)), self.unit)
        if self.expression.matmul is not None:
            bases = decode.moved_units(bases, self.stream, self.start, self.sides)
        floats = self.stream.dtype in FLOATS
        return [difference(u, v, 8 * self.unit, floats=floats) for u, v in zip(body, bases, strict=True)]

    def fields(self) -> list[list[int]]:
        """Per plane, the fields that are stored (a multiple of 128 of them)."""
        if isinstance(self.expression, Records):
            return record_fields(self.data, self.expression)
        body = self.body()
        if isinstance(self.expression, Sparse) and self.expression.rest:
            taken = [self.start + i in self.marked for i in range(len(body))]
            values = [unit for unit, t in zip(to_units(self.data, self.unit), taken, strict=False) if t]
            mask, values = mask_and_values(taken)[0], values + [0] * (-len(values) % GROUP)
            codes = split_fields(body, self.expression.rest.codes, 8 * self.unit)
            return [mask, *split_fields(values, self.expression.values, 8 * self.unit), *codes]
        if isinstance(self.expression, Sparse):
            mask, values = mask_and_values(body)
            return [mask, *split_fields(values, self.expression.values, 8 * self.unit)]
        sides = [None if part.side is None else self.sides[part.side] for part in self.expression.parts]
        return [
            stored_fields(plane, side, self.units // len(side) if side else 1, self.start)
            for plane, side in zip(split_fields(body, self.expression, 8 * self.unit), sides, strict=True)
        ]

    def planes(self, *plans: Plane, extra: int = 0) -> PlanesChunk:
        parts = zip(self.fields(), self.expression.planes(), plans, strict=True)
        n = len(self.data) // self.unit
        if isinstance(self.expression, Records):
            return PlanesChunk(n, self.unit, [self.record_plane(i, plan) for i, plan in enumerate(plans)], b"", extra)
        coded = []
        for fields, part, plan in parts:
            here = range(n - n % GROUP)
            if part.side is not None:
                flags = self.sides[part.side]
                here = [j for j in here if flags[(self.start + j) // (self.units // len(flags))]]
            if isinstance(part.context, SignContext):
                contexts, negative = decode.sign_contexts(self.stream, self.fields()[-1], self.start, self.sides)
                if plan.mode == decode.CODED:
                    fields = [1 - f if n else f for f, n in zip(fields, negative, strict=True)]
            elif isinstance(part.context, FieldClass):
                contexts = decode.field_classes(part.context, self.start, len(here), self.sides)
            else:
                contexts = part.context and decode.contexts_of(self.stream, part, self.start, here, self.sides)
            coded.append(encode_plane(fields, part.width, plan, contexts))
        chunk = PlanesChunk(n, self.unit, coded, self.data[(n - n % GROUP) * self.unit :], extra)
        if self.expression.base is None:
            return chunk
        return replace(chunk, base_digest=decode.decoded_digest(decode.base_units(self.stream, self.start, n)))

    def record_plane(self, i: int, plan: Plane) -> Coded:
        planes, every = self.fields(), self.expression.fields
        field, count = every[i], len(self.data) // self.expression.size * every[i].count()
        context = field.context
        if isinstance(context, FieldClass):
            before = self.start * self.unit // self.expression.size * field.count()
            return encode_plane(planes[i], field.width, plan, decode.field_classes(context, before, count, self.sides))
        first = self.start * self.unit // self.expression.size
        if isinstance(context, FieldLines | FieldScale):
            given = decode.field_scales(field, self.stream, first, count, self.sides)
            return encode_plane(planes[i], field.width, plan, given)
        contexts = context and decode.field_contexts(context, planes[context.plane], first, count, every, field)
        return encode_plane(planes[i], field.width, plan, contexts)


Coding = Callable[[Place], bytes]


def literal(place: Place) -> bytes:
    return literal_chunk(place.data, place.unit)


def affine(start: int, step: int) -> Coding:
    return lambda place: affine_chunk(
        (start + place.start * step) % (1 << 8 * place.unit), step, len(place.data) // place.unit, place.unit
    )


def planes(*plans: Plane, extra: int = 0) -> Coding:
    return lambda place: place.planes(*plans, extra=extra).bytes()


@dataclass
class BaseTensor:
    """A tensor of another file; `add` names it as the base 0."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes
    hints: dict[str, str] = field(default_factory=dict)

    def entry(self) -> dict:
        identity = decode.digest(self.data).hex()
        return {"dtype": self.dtype, "hints": self.hints, "identity": identity, "shape": list(self.shape)}

    def converted(self, dtype: str) -> bytes:
        return self.data if dtype == self.dtype else decode.cast_bytes(self.data, self.dtype, dtype)


@dataclass
class Scale:
    """A tensor that is another one's last side plane: its position, bytes, and those of a unit."""

    position: int
    data: bytes
    unit: int


@dataclass
class Source:
    """Data, and how to store them."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes
    expression: dict
    code: Coding = literal
    chunk: int | None = None  # units; None: all in one
    sides: list[Source] = field(default_factory=list)
    codes: list[int] | None = None
    base: BaseTensor | None = None
    encoding: str | None = None
    lossy: dict | None = None
    members: list[tuple[BaseTensor, int]] = field(default_factory=list)  # of a pack: a base and the bytes it is for
    marked: frozenset[int] = frozenset()  # units that a mask takes, where others are made from codes
    scale: Scale | None = None

    def unit(self) -> int:
        return DTYPES[self.dtype][1]

    def chunk_units(self) -> int:
        return self.chunk or len(self.data) // self.unit()

    def stream(self) -> StreamParts:
        size = self.chunk_units() * self.unit()
        expression = parse_expression(self.expression)
        bits = expression if isinstance(expression, Bits | Sparse | Records) else None
        bits = bits or (expression.planes if isinstance(expression, Sum) else expression.codes)
        sides = [side.data for side in self.sides]
        chunks: list[ChunkParts] = []
        units = len(self.data) // self.unit()
        plan = [{"dtype": side.dtype, "shape": side.shape} for side in self.sides]
        stream = decode.Stream("tensor", units, self.unit(), self.chunk_units(), bits, self.dtype, None, plan)
        if self.scale:
            sides.append(self.scale.data)
            stream.scale_unit = self.scale.unit
        members = [(self.base, len(self.data))] if self.base else self.members
        if members:
            stream.base = b"".join(base.converted(self.dtype)[:n].ljust(n, b"\0") for base, n in members)
        for at in range(0, len(self.data), size):
            data = self.data[at : at + size]
            start = at // self.unit()
            codes = self.codes and self.codes[start : start + len(data) // self.unit()]
            stored = self.code(Place(data, self.unit(), bits, start, units, sides, codes, stream, self.marked))
            chunks.append(chunk_of(stored, data))
        return StreamParts(chunks)


def front(header: bytes) -> bytes:
    """What a safetensors file of this header begins with."""
    return len(header).to_bytes(8, "little") + header


class Writer:
    def __init__(self, metadata: dict[str, str] | None = None) -> None:
        self.header: dict = {"expressions": [], "metadata": metadata or {}, "packs": [], "tensors": []}
        self.decoded: list[bytes] = []
        self.streams: list[StreamParts | int] = []  # an int: the pack whose stream goes there
        self.pack_sources: list[Source] = []
        self.image_stream: StreamParts | None = None
        self.source: bytes | None = None  # what the image gives back

    def expression(self, value: dict) -> int:
        expressions = self.header["expressions"]
        if value not in expressions:
            expressions.append(value)
        return expressions.index(value)

    def _add(self, name: str, dtype: str, shape: tuple[int, ...], data: bytes, **keys: object) -> int:
        self.header["tensors"].append({"dtype": dtype, "name": name, "shape": list(shape), **keys})
        self.decoded.append(data)
        return len(self.decoded) - 1

    def _keys(self, source: Source) -> dict:
        return {"chunk": source.chunk_units(), "expression": self.expression(source.expression)}

    def tensor(self, name: str, source: Source) -> int:
        keys = {"chunk": source.chunk_units()} if source.base else self._keys(source)
        if source.sides:
            keys["sides"] = [
                {"dtype": side.dtype, "shape": list(side.shape), **self._keys(side)} for side in source.sides
            ]
        if source.scale:
            keys["sides"] = [*keys.get("sides", []), source.scale.position]
        if source.base:
            add = [{"base": self.base(source.base)}, *source.expression["add"][1:]]
            keys["expression"] = self.expression({"add": add})
        if source.encoding:
            keys["encoding"] = source.encoding
        if source.lossy:
            keys["lossy"] = source.lossy
        self.streams += [side.stream() for side in source.sides] + [source.stream()]
        return self._add(name, source.dtype, source.shape, source.data, **keys)

    def base(self, base: BaseTensor) -> int:
        entries = self.header.setdefault("bases", [])
        entries.append(base.entry())
        return len(entries) - 1

    def ref(self, name: str, target: int) -> int:
        earlier = self.header["tensors"][target]
        expression = self.expression({"ref": target})
        return self._add(name, earlier["dtype"], earlier["shape"], self.decoded[target], expression=expression)

    def cast(self, name: str, target: int, dtype: str) -> int:
        """Of a tensor that is already there."""
        earlier = self.header["tensors"][target]
        data = decode.cast_bytes(self.decoded[target], earlier["dtype"], dtype)
        expression = self.expression({"cast": target})
        return self._add(name, dtype, tuple(earlier["shape"]), data, expression=expression)

    def empty(self, name: str, dtype: str, shape: tuple[int, ...]) -> int:
        return self._add(name, dtype, shape, b"")

    def pack(self, dtype: str, expression: dict, code: Coding = literal) -> int:
        """A pack, whose first tensor must be added before the next pack is made."""
        p = len(self.pack_sources)
        self.pack_sources.append(Source(dtype, (), b"", expression, code))
        # The bases of an `add` are known at the end.
        self.header["packs"].append({"dtype": dtype, "expression": "add" in expression or self.expression(expression)})
        self.streams.append(p)
        return p

    def pack_member(
        self, name: str, pack: int, shape: tuple[int, ...], data: bytes, base: BaseTensor | None = None
    ) -> int:
        self.pack_sources[pack].data += data
        if base:
            self.pack_sources[pack].members.append((base, len(data)))
        return self._add(name, self.pack_sources[pack].dtype, shape, data, pack=pack)

    def front(self, segments: list[bytes | tuple[int, int]], more: dict | None = None) -> bytes:
        """What a safetensors file begins with, of which these segments are the rest. more: other or further entries."""
        at, places = 0, {}
        for segment in segments:
            if isinstance(segment, bytes):
                at += len(segment)
                continue
            for i in range(segment[0], sum(segment)):
                places[i] = at
                at += len(self.decoded[i])
        entries = {}
        for i, (tensor, data) in enumerate(zip(self.header["tensors"], self.decoded, strict=True)):
            begin = places.get(i, 0)
            offsets = [begin, begin + len(data)]
            entries[tensor["name"]] = {"dtype": tensor["dtype"], "shape": tensor["shape"], "data_offsets": offsets}
        return front(json.dumps(entries | (more or {})).encode())

    def image(
        self,
        segments: list[bytes | tuple[int, int]],
        expression: dict,
        code: Coding,
        chunk: int | None = None,
        kind: str = "safetensors",
    ) -> None:
        """Literal bytes, or (first, count)."""
        self.source = b"".join(s if isinstance(s, bytes) else b"".join(self.decoded[s[0] : sum(s)]) for s in segments)
        data = hashlib.sha256(self.source).digest() + b"".join(s for s in segments if isinstance(s, bytes))
        stored = Source("U8", (len(data),), data, expression, code, chunk)
        named = [len(s) if isinstance(s, bytes) else list(s) for s in segments]
        self.header["image"] = {"format": kind, "segments": named, **self._keys(stored)}
        self.image_stream = stored.stream()

    def parts(self) -> Parts:
        for pack, source in zip(self.header["packs"], self.pack_sources, strict=True):
            if source.members:
                numbers = [self.base(base) for base, _ in source.members]
                pack["expression"] = self.expression({"add": [{"base": numbers}, source.expression["add"][1]]})
        streams = [self.pack_sources[s].stream() if isinstance(s, int) else s for s in self.streams]
        if self.image_stream:
            streams.append(self.image_stream)
        identities = [decode.digest(data) for data in self.decoded]
        return Parts(decode.canonical(self.header), streams, identities)
