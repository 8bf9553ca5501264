"""Writes whole files from tensors and from what the caller decides about every chunk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import decode
from coder import GROUP
from encode import Plane, PlanesChunk, affine_chunk, encode_plane, literal_chunk, split_fields, stored_fields, to_units
from expressions import DTYPES, Bits, parse_expression
from parts import ChunkParts, Parts, StreamParts, chunk_of

BYTES = {"bits": [{"plane": 8}], "rotate": 0}


@dataclass
class Place:
    """What is known about the chunk to be coded."""

    data: bytes
    unit: int
    expression: Bits
    start: int  # its first unit, counted from the stream's
    units: int  # of the stream
    sides: list[bytes]
    codes: list[int] | None = None  # of these units, where they are made from codes

    def fields(self) -> list[list[int]]:
        """Per plane, the fields that are stored (a multiple of 128 of them)."""
        units = to_units(self.data, self.unit) if self.codes is None else self.codes
        body = units[: len(units) - len(units) % GROUP]
        sides = [None if part.side is None else self.sides[part.side] for part in self.expression.parts]
        return [
            stored_fields(plane, side, self.units // len(side) if side else 1, self.start)
            for plane, side in zip(split_fields(body, self.expression, 8 * self.unit), sides, strict=True)
        ]

    def planes(self, *plans: Plane, extra: int = 0) -> PlanesChunk:
        parts = zip(self.fields(), self.expression.parts, plans, strict=True)
        coded = [encode_plane(fields, part.width, plan) for fields, part, plan in parts]
        n = len(self.data) // self.unit
        return PlanesChunk(n, self.unit, coded, self.data[(n - n % GROUP) * self.unit :], extra)


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

    def unit(self) -> int:
        return DTYPES[self.dtype][1]

    def chunk_units(self) -> int:
        return self.chunk or len(self.data) // self.unit()

    def stream(self) -> StreamParts:
        size = self.chunk_units() * self.unit()
        expression = parse_expression(self.expression)
        bits = expression if isinstance(expression, Bits) else expression.codes
        sides = [side.data for side in self.sides]
        chunks: list[ChunkParts] = []
        for at in range(0, len(self.data), size):
            data = self.data[at : at + size]
            start, units = at // self.unit(), len(self.data) // self.unit()
            codes = self.codes and self.codes[start : start + len(data) // self.unit()]
            stored = self.code(Place(data, self.unit(), bits, start, units, sides, codes))
            chunks.append(chunk_of(stored, data))
        return StreamParts(chunks)


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
        keys = self._keys(source)
        if source.sides:
            keys["sides"] = [
                {"dtype": side.dtype, "shape": list(side.shape), **self._keys(side)} for side in source.sides
            ]
        self.streams += [side.stream() for side in source.sides] + [source.stream()]
        return self._add(name, source.dtype, source.shape, source.data, **keys)

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
        self.header["packs"].append({"dtype": dtype, "expression": self.expression(expression)})
        self.streams.append(p)
        return p

    def pack_member(self, name: str, pack: int, shape: tuple[int, ...], data: bytes) -> int:
        self.pack_sources[pack].data += data
        return self._add(name, self.pack_sources[pack].dtype, shape, data, pack=pack)

    def image(
        self, segments: list[bytes | tuple[int, int]], expression: dict, code: Coding, chunk: int | None = None
    ) -> None:
        """Literal bytes, or (first, count)."""
        self.source = b"".join(s if isinstance(s, bytes) else b"".join(self.decoded[s[0] : sum(s)]) for s in segments)
        data = hashlib.sha256(self.source).digest() + b"".join(s for s in segments if isinstance(s, bytes))
        stored = Source("U8", (len(data),), data, expression, code, chunk)
        named = [len(s) if isinstance(s, bytes) else list(s) for s in segments]
        self.header["image"] = {"format": "safetensors", "segments": named, **self._keys(stored)}
        self.image_stream = stored.stream()

    def parts(self) -> Parts:
        streams = [self.pack_sources[s].stream() if isinstance(s, int) else s for s in self.streams]
        if self.image_stream:
            streams.append(self.image_stream)
        identities = [decode.digest(data) for data in self.decoded]
        return Parts(decode.canonical(self.header), streams, identities)
