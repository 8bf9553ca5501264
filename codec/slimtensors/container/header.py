"""The header: what the file holds and how it is cut up, as planned before the first weight is read."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from slimtensors.container import canonical
from slimtensors.container.hints import first_users, shorten
from slimtensors.container.layout import CHUNK_RECORD_BYTES, DIGEST_BYTES, STREAM_RECORD_BYTES
from slimtensors.container.lossy import Lossy
from slimtensors.dtypes import DTYPES, DType
from slimtensors.expression import Bits, Cast, Expression, Ref, Stored

__all__ = ["Base", "Header", "Image", "Pack", "Side", "Stream", "Tensor"]


class Base(NamedTuple):
    """A tensor of another file, of which tensors of this one are stored as differences."""

    dtype: DType
    shape: tuple[int, ...]
    identity: bytes  # BLAKE3 of its decoded bytes
    hints: dict[str, str]  # where people may find it; never opened

    def __hash__(self) -> int:
        return hash((self.dtype, self.shape, self.identity))

    @property
    def nbytes(self) -> int:
        return self.dtype.bytes_of(self.shape)

    @property
    def units(self) -> int:
        return self.nbytes // self.dtype.unit_bytes

    def __str__(self) -> str:
        """What it is called, where it was, and its identity."""
        words = {"tensor": "{!r}", "file": "of the file {!r}", "repository": "of {}", "revision": "at revision {}"}
        known = [form.format(self.hints[key]) for key, form in words.items() if key in self.hints]
        kind = f"{self.dtype.name}{list(self.shape)}"
        return " ".join(["the base tensor", *known, f"({kind}, identity {self.identity.hex()})"])

    def to_json(self) -> dict[str, Any]:
        return {
            "dtype": self.dtype.name,
            "hints": self.hints,
            "identity": self.identity.hex(),
            "shape": list(self.shape),
        }


class Side(NamedTuple):
    """A side plane: what all chunks of its tensor share."""

    dtype: DType
    shape: tuple[int, ...]
    chunk: int
    expression: int

    def to_json(self) -> dict[str, Any]:
        return {
            "chunk": self.chunk,
            "dtype": self.dtype.name,
            "expression": self.expression,
            "shape": list(self.shape),
        }


class Tensor(NamedTuple):
    """One tensor; `chunk` for a stream of its own, `pack` for a part of one, neither for a ref or no elements."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    expression: int | None = None
    chunk: int | None = None
    sides: tuple[Side, ...] = ()
    scale: int | None = None  # the tensor that is the last of its side planes
    pack: int | None = None
    encoding: str | None = None  # what the elements are, where the dtype does not tell (format_spec/records.md)
    lossy: Lossy | None = None  # if the elements are not the source's

    @property
    def nbytes(self) -> int:
        return self.dtype.bytes_of(self.shape)

    @property
    def units(self) -> int:
        return self.nbytes // self.dtype.unit_bytes

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = {"dtype": self.dtype.name, "name": self.name, "shape": list(self.shape)}
        for key in ("chunk", "encoding", "expression", "pack"):
            if getattr(self, key) is not None:
                value[key] = getattr(self, key)
        if self.lossy is not None:
            value["lossy"] = self.lossy.to_json()
        if self.sides or self.scale is not None:
            value["sides"] = [side.to_json() for side in self.sides] + ([] if self.scale is None else [self.scale])
        return value


class Pack(NamedTuple):
    """Small tensors of one dtype, one after another in one chunk."""

    dtype: DType
    expression: int

    def to_json(self) -> dict[str, Any]:
        return {"dtype": self.dtype.name, "expression": self.expression}


class Image(NamedTuple):
    """How the source file is put together: a number of literal bytes, or (first tensor, number of tensors)."""

    format: str
    segments: tuple[int | tuple[int, int], ...]
    chunk: int
    expression: int

    @property
    def literal_bytes(self) -> int:
        return sum(segment for segment in self.segments if isinstance(segment, int))

    def to_json(self) -> dict[str, Any]:
        segments = [s if isinstance(s, int) else list(s) for s in self.segments]
        return {"chunk": self.chunk, "expression": self.expression, "format": self.format, "segments": segments}


class Stream(NamedTuple):
    """One stream, as its header describes it."""

    label: str  # for messages
    dtype: DType
    units: int
    chunk: int
    expression: Stored
    shape: tuple[int, ...] = ()  # of a side plane
    members: tuple[int, ...] = ()  # of a pack: the units of its tensors

    @property
    def bits(self) -> Bits:
        """The planes of its chunks."""
        return self.expression.bits

    @property
    def chunks(self) -> int:
        return -(-self.units // self.chunk)

    def chunk_units(self, index: int) -> int:
        """Units of one chunk; the last may be shorter."""
        return min(self.chunk, self.units - index * self.chunk)


@dataclass
class Header:
    """A valid header. `schema.parse` and the planner make them."""

    expressions: list[Expression]
    tensors: list[Tensor]
    packs: list[Pack] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    image: Image | None = None
    bases: list[Base] = field(default_factory=list)
    source: bytes | None = None  # of a lossy file: the SHA-256 of what its tensors are near to

    def __post_init__(self) -> None:
        self.streams: list[Stream] = []
        self.nbytes = [tensor.nbytes for tensor in self.tensors]  # decoded
        self.refs: dict[int, int] = {}  # by tensor: which earlier one it is
        self.casts: dict[int, int] = {}  # by tensor: of which it is the cast
        self.tensor_stream: list[int | None] = []  # of each tensor: its own, or its pack's
        self.side_streams: dict[int, list[int]] = {}  # by tensor
        self.pack_stream: list[int] = []
        self.pack_offset: dict[int, int] = {}  # by tensor: its first unit in its pack
        self.pack_member: dict[int, int] = {}  # by tensor: how many of its pack come before it
        self.image_stream: int | None = None
        self._lay_out()

    def _lay_out(self) -> None:
        pack_units = [0] * len(self.packs)
        members: list[list[int]] = [[] for _ in self.packs]
        for i, tensor in enumerate(self.tensors):
            if tensor.pack is not None:
                self.pack_offset[i] = pack_units[tensor.pack]
                self.pack_member[i] = len(members[tensor.pack])
                units = self.nbytes[i] // tensor.dtype.unit_bytes
                pack_units[tensor.pack] += units
                members[tensor.pack].append(units)
        for i, tensor in enumerate(self.tensors):
            if tensor.pack is not None:
                if tensor.pack == len(self.pack_stream):
                    pack, units = self.packs[tensor.pack], pack_units[tensor.pack]
                    held, label = tuple(members[tensor.pack]), f"pack {tensor.pack}"
                    self.pack_stream.append(self._add(label, pack.dtype, units, units, pack.expression, members=held))
                self.tensor_stream.append(self.pack_stream[tensor.pack])
            elif tensor.chunk is not None and tensor.expression is not None:
                self.side_streams[i] = [
                    self._add(
                        f"side plane {k} of tensor {tensor.name!r}",
                        side.dtype, math.prod(side.shape), side.chunk, side.expression, side.shape,
                    )
                    for k, side in enumerate(tensor.sides)
                ]  # fmt: skip
                label, units = f"tensor {tensor.name!r}", self.nbytes[i] // tensor.dtype.unit_bytes
                self.tensor_stream.append(self._add(label, tensor.dtype, units, tensor.chunk, tensor.expression))
            else:
                self.tensor_stream.append(None)
                found = None if tensor.expression is None else self.expressions[tensor.expression]
                if isinstance(found, Ref):
                    self.refs[i] = found.tensor
                elif isinstance(found, Cast):
                    self.casts[i] = found.tensor
        if self.image is not None:
            units = DIGEST_BYTES + self.image.literal_bytes
            self.image_stream = self._add(
                "the source image", DTYPES["U8"], units, self.image.chunk, self.image.expression
            )

    def _add(
        self,
        label: str,
        dtype: DType,
        units: int,
        chunk: int,
        expression: int,
        shape: tuple[int, ...] = (),
        members: tuple[int, ...] = (),
    ) -> int:
        stored = self.expressions[expression]
        assert isinstance(stored, Stored)  # the schema and the planner see to it
        self.streams.append(Stream(label, dtype, units, chunk, stored, shape, members))
        return len(self.streams) - 1

    @cached_property
    def largest_chunk(self) -> int:
        """Decoded bytes."""
        sizes = (min(stream.chunk, stream.units) * stream.dtype.unit_bytes for stream in self.streams)
        return max(sizes, default=0)

    @cached_property
    def steered(self) -> dict[int, int]:
        """By stream, the tensor that has side planes, or another tensor in the place of one."""
        numbers = enumerate(self.tensor_stream)
        return {
            number: index
            for index, number in numbers
            if number is not None and (self.side_streams.get(index) or self.tensors[index].scale is not None)
        }

    @cached_property
    def needed_streams(self) -> dict[int, list[int]]:
        """By the stream of a tensor: those that are read before it, its side planes and the tensor that is one."""
        needed: dict[int, list[int]] = {}
        for index, sides in self.side_streams.items():
            number, scale = self.tensor_stream[index], self.tensors[index].scale
            assert number is not None
            needed[number] = list(sides)
            stream = None if scale is None else self.tensor_stream[scale]
            if scale is not None and stream is not None:
                needed[number] += [*self.side_streams.get(scale, []), stream]
        return needed

    def target(self, index: int) -> int:
        """The tensor that holds the bytes: itself, or what it refers to."""
        return self.refs.get(index, index)

    def holder(self, index: int) -> int:
        """The tensor with the stream or pack that it is decoded from: its target, or what that is the cast of."""
        index = self.refs.get(index, index)
        return self.casts.get(index, index)

    @cached_property
    def chunks(self) -> int:
        return sum(stream.chunks for stream in self.streams)

    @property
    def index_length(self) -> int:
        return STREAM_RECORD_BYTES * len(self.streams) + DIGEST_BYTES * len(self.tensors)

    @property
    def table_length(self) -> int:
        return CHUNK_RECORD_BYTES * self.chunks

    @property
    def decoded_bytes(self) -> int:
        """Of all tensors, ties each time."""
        return sum(self.nbytes)

    @property
    def limited_bytes(self) -> int:
        """What the limit of decoded bytes counts: tensors, side planes and the image's literal bytes; of a side plane
        that is a tensor in a pack, all of the pack, which has to be decoded for it.
        """
        sides = sum(side.dtype.bytes_of(side.shape) for tensor in self.tensors for side in tensor.sides)
        for tensor in self.tensors:
            number = None if tensor.scale is None else self.tensor_stream[tensor.scale]
            if number is not None:
                sides += self.streams[number].units * self.streams[number].dtype.unit_bytes
        return self.decoded_bytes + sides + (self.image.literal_bytes if self.image is not None else 0)

    def to_bytes(self) -> bytes:
        return canonical.dumps(self.to_json())

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = {
            "expressions": [expression.to_json() for expression in self.expressions],
            "metadata": self.metadata,
            "packs": [pack.to_json() for pack in self.packs],
            "tensors": [tensor.to_json() for tensor in self.tensors],
        }
        if self.image is not None:
            value["image"] = self.image.to_json()
        if self.source is not None:
            value["lossy"] = {"source": self.source.hex()}
        if self.bases:
            users = first_users(self.tensors, self.packs, self.expressions)
            stated = shorten(self.bases, users)
            value["bases"] = [{**base.to_json(), "hints": h} for base, h in zip(self.bases, stated, strict=True)]
        return value
