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
        self.memory(start, found.size)[:] = found


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
        if len(by_stream[stream]) == 1:  # most are a tensor's own
            yield from jobs_of(header, by_stream[stream][0], ranges[by_stream[stream][0]], locate)
            continue
        found: dict[int, Job] = {}
        for number in by_stream[stream]:
            for job in jobs_of(header, number, ranges[number], locate):
                known = found.setdefault(job.chunk, job)
                if known is not job:
                    known.cuts.extend(job.cuts)
        for chunk in sorted(found):
            yield found[chunk]


def jobs_of(header: Header, number: int, wanted: Range, locate: Locate) -> Iterator[Job]:
    """The chunks of one range, in the order of the file."""
    holder = header.holder(wanted.tensor)
    stream_number = header.tensor_stream[holder]
    if stream_number is None or wanted.units == 0:
        return
    stream = header.streams[stream_number]
    records, positions = locate(stream_number)
    origin = header.pack_offset.get(holder, 0)
    start, end = wanted.start + origin, wanted.start + origin + wanted.units
    for chunk in range(start // stream.chunk, -(-end // stream.chunk)):
        low = chunk * stream.chunk
        units = stream.chunk_units(chunk)
        a, b = max(low, start), min(low + units, end)
        cut = Cut(number, wanted.tensor, a - low, a - origin, b - a)
        length = records[chunk].stored_length
        yield Job(stream_number, chunk, holder, positions[chunk], length, units, [cut])
