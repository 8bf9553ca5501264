"""A file's decoded bytes from front to back, decoded ahead in threads, a few chunks in memory at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from heapq import heappop, heappush
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slimtensors.codecs.casts import cast_units
from slimtensors.container.header import Image
from slimtensors.container.layout import DIGEST_BYTES
from slimtensors.dtypes import bytes_of
from slimtensors.errors import FormatError, LimitError
from slimtensors.limits import KEPT_PACKS
from slimtensors.reading.base_units import chunk_work
from slimtensors.reading.tensors import TensorFile
from slimtensors.threads import in_order

__all__ = ["LiteralBytes", "Run", "walk"]

Units = npt.NDArray[Any]


class Run(NamedTuple):
    """Some decoded bytes of a tensor. `visit` counts tensors walked over, so that a tensor met twice is told apart."""

    visit: int
    tensor: int
    data: memoryview


class _Job(NamedTuple):
    visit: int
    tensor: int
    stream: int
    chunk: int | None  # None for a tensor in a pack that is decoded for an earlier one


def walk(file: TensorFile, tensors: Iterable[int], threads: int, pool: ThreadPoolExecutor | None) -> Iterator[Run]:
    """The tensors' decoded bytes, tensor by tensor, chunk by chunk; those without elements are passed over.

    A pack is decoded once and kept until its last tensor, or if too many are kept, again for a later one. Raises
    LimitError if that takes too much.
    """
    header, tensors = file.header, list(tensors)
    streams = [header.tensor_stream[header.holder(tensor)] for tensor in tensors]
    if file.reader.source.remote:
        file.expect(_chunks(file, streams))
    decoded, dropped = _plan_packs(file, streams)
    packs: dict[int, Units] = {}

    def jobs() -> Iterator[_Job]:
        for visit, (tensor, number) in enumerate(zip(tensors, streams, strict=True)):
            holder = header.holder(tensor)
            if number is None:
                continue
            if holder in header.pack_offset:
                yield _Job(visit, tensor, number, 0 if visit in decoded else None)
                continue
            file.sides_of(holder)
            for chunk in range(header.streams[number].chunks):
                yield _Job(visit, tensor, number, chunk)

    def decode(job: _Job) -> tuple[_Job, Units]:
        stream = header.streams[job.stream]
        out: Units = np.empty(0 if job.chunk is None else stream.chunk_units(job.chunk), stream.dtype.unit)
        if job.chunk is not None:
            file.decode_chunk(job.stream, job.chunk, out)
        return job, out if stream.members else cast_units(out, stream.dtype, header.tensors[job.tensor].dtype)

    def cut(job: _Job, out: Units) -> Units:
        """A tensor, of its pack."""
        if job.chunk is not None:
            packs[job.stream] = out
        begin, pack = header.pack_offset[header.holder(job.tensor)], packs[job.stream]
        for number in dropped.get(job.visit, ()):
            del packs[number]
        tensor = header.tensors[job.tensor]
        return cast_units(pack[begin : begin + tensor.units], header.streams[job.stream].dtype, tensor.dtype)

    for job, out in in_order(decode, jobs(), threads, pool):
        found = cut(job, out) if header.streams[job.stream].members else out
        yield Run(job.visit, job.tensor, bytes_of(found))


def _plan_packs(file: TensorFile, streams: list[int | None]) -> tuple[set[int], dict[int, list[int]]]:
    """Visits that decode their pack; and by visit, the packs that are dropped after it: one whose last tensor it was,
    and while there are more than KEPT_PACKS, the one that is needed last.
    """
    header, never = file.header, len(streams)
    visits = {i: number for i, number in enumerate(streams) if number is not None and header.streams[number].members}
    following, later = dict[int, int](), dict[int, int]()
    for visit, number in reversed(visits.items()):
        later[visit] = following.get(number, never)
        following[number] = visit
    decoded, dropped = set[int](), dict[int, list[int]]()
    begun, held = set[int](), dict[int, int]()  # held: by pack, the visit that needs it next
    needed: list[tuple[int, int]] = []  # the same from the last on: a heap, with some that are no longer so
    kept = again = 0  # bytes
    for visit, number in visits.items():
        if number not in held:
            decoded.add(visit)
            kept += _pack_bytes(file, number)
            if number in begun:
                again += _pack_bytes(file, number)
                with suppress(FormatError):  # told of where it is decoded
                    again += chunk_work(file, number).decoded
            begun.add(number)
        held[number] = later[visit]
        heappush(needed, (-later[visit], number))
        while needed and (kept > KEPT_PACKS or needed[0][0] == -never):
            when, pack = heappop(needed)
            if held.get(pack) == -when:
                del held[pack]
                kept -= _pack_bytes(file, pack)
                dropped.setdefault(visit, []).append(pack)
    if again > file.reader.allowed_bytes:
        raise LimitError(
            f"{file.reader.source.label}: its tensors take turns in so many packs that {again} bytes would be decoded "
            f"again; {file.reader.allowed_bytes} are allowed. If you trust the file, pass max_bytes={again}"
        )
    return decoded, dropped


def _pack_bytes(file: TensorFile, number: int) -> int:
    stream = file.header.streams[number]
    return stream.units * stream.dtype.unit_bytes


def _chunks(file: TensorFile, streams: list[int | None]) -> Iterator[tuple[int, int]]:
    """Chunks of these streams, in order, each once."""
    for number in dict.fromkeys(streams):
        if number is not None:
            yield from ((number, chunk) for chunk in range(file.header.streams[number].chunks))


class LiteralBytes:
    """The image's stream, taken piece by piece: first the source's SHA-256, then its literal bytes."""

    def __init__(self, file: TensorFile) -> None:
        self._file = file
        self._number = file.header.image_stream
        self._chunk = 0
        self._left = memoryview(b"")
        self.sha256 = b"".join(self.take(DIGEST_BYTES))

    def look(self, length: int) -> bytes:
        """The next bytes, which are still to be taken."""
        found = b"".join(self.take(length))
        self._left = memoryview(found + self._left)
        return found

    def take(self, length: int) -> Iterator[memoryview]:
        """The next bytes, in pieces of at most a chunk, or what was looked at."""
        assert self._number is not None
        stream = self._file.header.streams[self._number]
        while length:
            if not len(self._left):
                out = np.empty(stream.chunk_units(self._chunk), np.uint8)
                self._file.decode_chunk(self._number, self._chunk, out)
                self._chunk += 1
                self._left = out.data
            piece, self._left = self._left[:length], self._left[length:]
            length -= len(piece)
            yield piece


def image_tensors(image: Image) -> list[int]:
    """The tensors of the source file, in its order."""
    return [
        tensor
        for segment in image.segments
        if not isinstance(segment, int)
        for tensor in range(segment[0], segment[0] + segment[1])
    ]
