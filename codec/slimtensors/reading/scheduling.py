"""What to read and where it goes: pure data, from a header and the table, before a byte of a chunk is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy.typing as npt

from slimtensors.container.header import Header
from slimtensors.container.layout import ChunkRecord

__all__ = ["Cut", "Destination", "Job", "Piece", "Places", "Range", "jobs_of", "schedule"]

Units = npt.NDArray[Any]

Locate = Callable[[int], tuple[list[ChunkRecord], list[int]]]  # a stream's records, and where its chunks lie


class Range(NamedTuple):
    """Units of a tensor that are wanted."""

    tensor: int
    start: int
    units: int


class Destination(Protocol):
    """Where units of a tensor go."""

    @property
    def wanted(self) -> Range:
        """The units that are needed for it."""

    def memory(self, start: int, units: int) -> Units | None:
        """The place of units [start, start + units) of the tensor, if they can be decoded straight into it."""

    def put(self, start: int, found: Units) -> None:
        """Put units from `start` of the tensor into their place."""


class Piece(NamedTuple):
    """A range of a tensor's units, and where to put it."""

    tensor: int
    start: int
    out: Units

    @property
    def wanted(self) -> Range:
        return Range(self.tensor, self.start, self.out.size)

    def memory(self, start: int, units: int) -> Units:
        return self.out[start - self.start : start - self.start + units]

    def put(self, start: int, found: Units) -> None:
        begin = start - self.start
        self.out[begin : begin + found.size] = found


Places = Mapping[int, Destination] | Sequence[Destination]  # by the number of the range


class Cut(NamedTuple):
    """What is wanted of a chunk, and by which range."""

    wanted: int  # the range's number
    tensor: int
    first: int  # unit within the chunk
    start: int  # unit within the tensor
    units: int


class Job(NamedTuple):
    """A chunk to be read, decoded once, and cut up."""

    stream: int
    chunk: int
    holder: int  # the tensor whose chunk it is, or one of those in a pack
    offset: int  # in the file
    length: int  # stored bytes
    units: int
    cuts: list[Cut]


def schedule(header: Header, ranges: Sequence[Range], locate: Locate) -> Iterator[Job]:
    """Every chunk that the ranges touch, once, in the order of the file; a stream is located when its turn comes."""
    by_stream: dict[int, list[int]] = {}
    for number, wanted in enumerate(ranges):
        stream = header.tensor_stream[header.holder(wanted.tensor)]
        if stream is not None and wanted.units:
            by_stream.setdefault(stream, []).append(number)
    for stream in sorted(by_stream):
        yield from jobs_of(header, [(number, ranges[number]) for number in by_stream[stream]], locate)


def jobs_of(header: Header, ranges: Sequence[tuple[int, Range]], locate: Locate) -> list[Job]:
    """The chunks of ranges, with their numbers, that all lie in one stream; in the order of the file."""
    stream_number = header.tensor_stream[header.holder(ranges[0][1].tensor)]
    if stream_number is None:
        return []
    stream = header.streams[stream_number]
    (records, positions), size = locate(stream_number), stream.chunk
    found: dict[int, Job] = {}
    for number, (tensor, start, units) in ranges:
        holder = header.holder(tensor)
        origin = header.pack_offset.get(holder, 0)
        begin, end = start + origin, start + origin + units
        for chunk in range(begin // size, -(-end // size)):
            low = chunk * size
            a, b = max(low, begin), min(low + size, end)
            cut, known = Cut(number, tensor, a - low, a - origin, b - a), found.get(chunk)
            if known is not None:
                known.cuts.append(cut)
            else:
                at, length = positions[chunk], records[chunk].stored_length
                found[chunk] = Job(stream_number, chunk, holder, at, length, stream.chunk_units(chunk), [cut])
    return [found[chunk] for chunk in sorted(found)]
