"""Bases of chunks that are differences, on a device: where they are, decoded there, or read, checked and uploaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slimtensors.codecs.delta import check_base
from slimtensors.codecs.head import PLANES
from slimtensors.codecs.place import Place
from slimtensors.device.backend import Backend, Buffer
from slimtensors.device.chunks import Chunk
from slimtensors.device.results import Digesting, digests_of, list_digests
from slimtensors.device.tasks import Segment, Task
from slimtensors.errors import BaseError
from slimtensors.expression import Delta, Stored, Sum
from slimtensors.reading.tensors import TensorFile
from slimtensors.threads import run_all

__all__ = [
    "BaseDigests", "Bases", "BasesThere", "Resident", "Wanted", "as_bytes", "bases_there", "list_base_digests",
]  # fmt: skip

Array = npt.NDArray[Any]

ALIGNMENT = 8  # of a base that the kernels read


class Resident(NamedTuple):
    """A tensor on the device."""

    dtype: str
    shape: tuple[int, ...]
    memory: Buffer


class Wanted(NamedTuple):
    """What a part of a segment is a difference from."""

    name: str | None  # of a tensor that may be on the device
    dtype: str
    shape: tuple[int, ...]
    begin: int  # bytes of it
    end: int


class BaseDigests(NamedTuple):
    """Of chunks' bases that the CPU has not seen."""

    numbers: list[int]  # of the chunks
    stated: list[int]  # the digest that each base must have
    digesting: Digesting

    def wrong(self, found: Array) -> list[int]:
        """Chunks that are differences from something else. found: what the kernels left, changed here."""
        digests = digests_of(self.digesting, found)
        return [i for i, stated, digest in zip(self.numbers, self.stated, digests, strict=True) if stated != digest]


class BasesThere(NamedTuple):
    """A range of memory that has the base units of all chunks, and where they begin in it. Whoever asks kernels to read
    it holds the bases until then: the range does not, and what nobody holds is given to others.
    """

    memory: Buffer  # None if there are none
    at: list[int]  # the first byte of each chunk's; of bases that are where the caller has them, of each part's
    held: list[Buffer]
    whole: Callable[[int], Buffer]  # a chunk's, by its number
    places: Array  # of each chunk, bytes; empty unless they are to be listed
    stated: dict[int, int]  # by chunk: the digest that its base must have, where the CPU has not seen it


def list_base_digests(bases: BasesThere, sizes: Array) -> tuple[BaseDigests, dict[str, Array]]:
    """Of those whose digests are stated, and lists for the kernels. sizes: of all chunks."""
    numbers = list(bases.stated)
    digesting, lists = list_digests(bases.places[numbers], sizes[numbers], "base ")
    return BaseDigests(numbers, list(bases.stated.values()), digesting), lists


def bases_there(backend: Backend, chunks: Sequence[Chunk]) -> BasesThere:
    if chunks[0].base is None:
        return BasesThere(None, [], [], [].__getitem__, np.zeros(len(chunks), np.int64), {})
    held = [chunk.base for chunk in chunks]
    found, places = backend.window(held)
    by_chunk = {i: chunk.base_digest for i, chunk in enumerate(chunks) if chunk.base_digest is not None}
    return BasesThere(found, places, held, held.__getitem__, np.array(places, np.int64), by_chunk)


class Bases:
    """Of a file's chunks. fill: decodes other files' tensors, as `loading.fill_device`."""

    def __init__(
        self,
        file: TensorFile,
        backend: Backend,
        threads: int,
        resident: Mapping[str, Resident],
        fill: Callable[..., None],
    ) -> None:
        self._file, self._backend, self._threads, self._resident = file, backend, threads, resident
        self._fill = fill

    def wanted(self, segment: Segment, staging: Array) -> list[Wanted | None]:
        """What each of a segment's parts is a difference from; None if none of its chunks is a difference."""
        needed, first, found = staging[segment.starts] == PLANES, 0, list[Wanted | None]()
        for part in segment.parts:
            stream, chunk = self._file.header.streams[segment.tasks[first].stream], segment.tasks[first].chunk
            only, begin = _only_base(stream.expression), chunk * stream.chunk * stream.dtype.unit_bytes
            if not needed[first : first + part.tasks].any():
                found.append(None)
            elif only is None or self._file.header.bases[only].dtype != stream.dtype:
                found.append(Wanted(None, "", (), 0, 0))
            else:
                base, end = self._file.header.bases[only], begin + part.end - part.begin
                found.append(Wanted(base.hints.get("tensor", ""), base.dtype.name, base.shape, begin, end))
            first += part.tasks
        return found

    def resident(self, segment: Segment, wanted: Sequence[Wanted | None]) -> BasesThere | None:
        """Bases that the device has, all of them and as they are needed, unchecked; nothing of single chunks yet."""
        by_part: list[Buffer] = [None] * len(wanted)
        for number, each in enumerate(wanted):
            if each is None:
                continue
            there = None if each.name is None else self._resident.get(each.name)
            if there is None or (there.dtype, there.shape) != (each.dtype, each.shape):
                return None
            if len(there.memory) < each.end:
                return None
            by_part[number] = there.memory
        held = [memory for memory in by_part if memory is not None]
        memory, places = self._backend.window(held) if held else (None, [])
        left = iter(places)
        at = [0 if each is None else next(left) + each.begin for each in wanted]
        if any(place % ALIGNMENT for place in at):
            return None
        whole = partial(_whole, segment, [0 if each is None else each.begin for each in wanted], by_part)
        return BasesThere(memory, at, held, whole, np.empty(0, np.int64), {})

    @staticmethod
    def of_chunks(segment: Segment, bases: BasesThere, staging: Array) -> BasesThere:
        """`resident` ones, with what is told of each chunk."""
        needed = np.flatnonzero(staging[segment.starts] == PLANES)
        heads = staging[segment.starts[needed, None] + np.arange(8, 16)]
        by_chunk = dict(zip(needed.tolist(), heads.view("<u8")[:, 0].tolist(), strict=True))
        return bases._replace(places=segment.places(bases.at), stated=by_chunk)

    def given(self, tasks: Sequence[Task], chunks: list[Chunk], staging: Array) -> list[Chunk]:
        """The chunks with their bases. What the device has, or decodes, is to be checked there."""
        found, missing = [], []
        for i, (task, chunk) in enumerate(zip(tasks, chunks, strict=True)):
            needed = staging[chunk.at] == PLANES
            base = self._base_there(task, chunk.size) if needed else None
            if base is not None:
                found.append(chunk._replace(base=base, base_digest=stated(staging, chunk)))
                continue
            found.append(chunk._replace(base=self._backend.fresh(chunk.size)))
            missing += [i] if needed else []
        missing = self._decode_bases(tasks, found, missing, staging)
        units: dict[int, Array] = {}

        def read(i: int) -> None:
            units[i] = self._base_units(tasks[i], staging[chunks[i].at :])

        if missing:
            run_all(read, missing, min(self._threads, len(missing)))
        for i in missing:
            self._backend.write(found[i].base, as_bytes(units[i]))
        return found

    def _decode_bases(
        self, tasks: Sequence[Task], chunks: list[Chunk], missing: list[int], staging: Array
    ) -> list[int]:
        """Give chunks their bases that slimtensors files have, decoded on the device; those without are returned."""
        by_stream: dict[int, list[int]] = {}
        for i in missing:
            by_stream.setdefault(tasks[i].stream, []).append(i)
        left = []
        for number, some in by_stream.items():
            stream, last = self._file.header.streams[number], tasks[some[-1]].chunk
            high = last * stream.chunk + stream.chunk_units(last)
            made = self._base_decoded(number, tasks[some[0]].chunk * stream.chunk, high)
            for i in some:
                begin = 0 if made is None else (tasks[i].chunk * stream.chunk - made[1]) * stream.dtype.unit_bytes
                if made is None or begin % ALIGNMENT:
                    left.append(i)
                    continue
                base = made[0][begin : begin + tasks[i].size]
                chunks[i] = chunks[i]._replace(base=base, base_digest=stated(staging, chunks[i]))
        return left

    def _base_decoded(self, number: int, low: int, high: int) -> tuple[Buffer, int] | None:
        """A buffer that has these units of a stream's base, unchecked, and the first unit that it has."""
        stream, bases = self._file.header.streams[number], self._file.bases
        only = _only_base(stream.expression)
        if bases is None or only is None:
            return None
        base = self._file.header.bases[only]
        try:
            where = bases.stored(base) if base.dtype == stream.dtype else None
        except BaseError:
            return None  # the CPU has the words
        if where is None:
            return None
        file, index = where
        holder = file.header.tensor_stream[index]
        plain = file.header.holder(index) == index and index not in file.header.pack_offset
        if holder is None or not plain or high > file.header.streams[holder].units:
            return None
        held = file.header.streams[holder]
        chunks = range(low // held.chunk, -(-high // held.chunk))
        length = sum(held.chunk_units(chunk) for chunk in chunks) * held.dtype.unit_bytes
        buffer = self._backend.fresh(length)
        self._fill(file, {index: buffer}, self._backend, self._threads, chunks=chunks)
        return buffer, chunks.start * held.chunk

    def _base_there(self, task: Task, length: int) -> Buffer | None:
        """What a chunk is a difference from, if the device has it as it is needed; unchecked."""
        stream = self._file.header.streams[task.stream]
        only = _only_base(stream.expression)
        if only is None:
            return None
        base = self._file.header.bases[only]
        held = self._resident.get(base.hints.get("tensor", ""))
        if held is None or base.dtype != stream.dtype or (held.dtype, held.shape) != (base.dtype.name, base.shape):
            return None
        begin = task.chunk * stream.chunk * stream.dtype.unit_bytes
        found = held.memory[begin : begin + length]
        aligned = len(found) == length and self._backend.window([found])[1][0] % ALIGNMENT == 0
        return found if aligned else None

    def _base_units(self, task: Task, data: Array) -> Array:
        """What a chunk is a difference from, checked."""
        stream = self._file.header.streams[task.stream]
        try:
            units = self._file.base_of(task.stream, task.chunk)
            assert units is not None
            check_base(Place(stream.units, base=units), int(data[8:16].view("<u8")[0]))
        except BaseError:
            # The decoder for CPUs has the words for it, or finds the base elsewhere.
            out = np.empty(stream.chunk_units(task.chunk), stream.dtype.unit)
            self._file.decode_chunk(task.stream, task.chunk, out)
            units = self._file.base_of(task.stream, task.chunk)
            assert units is not None
        return units


def _whole(segment: Segment, at: Sequence[int], memory: Sequence[Buffer], i: int) -> Buffer:
    """A chunk's base. at, memory: of each part, its base's first byte in memory that has it."""
    behind = np.cumsum([part.tasks for part in segment.parts])
    number = int(np.searchsorted(behind, i, side="right"))
    begin = at[number] + segment.tasks[i].begin - segment.parts[number].begin
    return memory[number][begin : begin + segment.tasks[i].size]


def _only_base(expression: Stored) -> int | None:
    """What a stream's chunks are differences from, by its position in the header's list; of packs, which have several,
    nothing.
    """
    if isinstance(expression, Sum):
        return expression.plus if isinstance(expression.plus, int) else None
    return expression.base if isinstance(expression, Delta) and isinstance(expression.base, int) else None


def stated(staging: Array, chunk: Chunk) -> int:
    """The digest that a chunk's base must have."""
    return int(staging[chunk.at + 8 : chunk.at + 16].view("<u8")[0])


def as_bytes(units: Array) -> Array:
    return np.ascontiguousarray(units).view(np.uint8)
