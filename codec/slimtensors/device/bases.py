"""Bases of chunks that are differences, on a device: where they are, decoded there, or read, checked and uploaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slimtensors.codecs.delta import check_base
from slimtensors.codecs.head import PLANES
from slimtensors.codecs.place import Place
from slimtensors.device.backend import Backend, Buffer
from slimtensors.device.chunks import Chunk
from slimtensors.device.results import Digesting, digests_of, launch_digests, list_digests
from slimtensors.device.segments import joined
from slimtensors.device.tasks import Task
from slimtensors.errors import BaseError
from slimtensors.expression import Delta, Stored, Sum
from slimtensors.reading import TensorFile
from slimtensors.threads import run_all

__all__ = ["BaseDigests", "Bases", "BasesThere", "Resident", "as_bytes", "bases_there", "take_base_digests"]

Array = npt.NDArray[Any]

ALIGNMENT = 8  # of a base that the kernels read


class Resident(NamedTuple):
    """A tensor on the device."""

    dtype: str
    shape: tuple[int, ...]
    memory: Buffer


class BaseDigests(NamedTuple):
    """Of chunks' bases that the CPU has not seen, on the way to the host."""

    stated: dict[int, int]  # by chunk: the digest that its base must have
    digesting: Digesting
    found: Array
    held: Array  # host memory that is being uploaded

    def wrong(self) -> list[int]:
        """Chunks that are differences from something else than what the device has."""
        found = digests_of(self.digesting, self.found)
        return [i for (i, stated), digest in zip(self.stated.items(), found, strict=True) if stated != digest]


def take_base_digests(backend: Backend, chunks: Sequence[Chunk]) -> BaseDigests | None:
    """Of those whose digests are stated; None if no chunk has one."""
    stated = {i: chunk.base_digest for i, chunk in enumerate(chunks) if chunk.base_digest is not None}
    if not stated:
        return None
    held = [chunks[i].base for i in stated]
    out, places = backend.window(held)
    sizes = np.array([chunks[i].size for i in stated], np.int64)
    digesting, arrays = list_digests(np.array(places, np.int64), sizes)
    lists = joined(backend, arrays)
    results = backend.fresh(digesting.length)
    launch_digests(backend, digesting, lists.there(backend.upload(lists.host)), out, results, held.__getitem__)
    return BaseDigests(stated, digesting, backend.fetch(results), lists.host)


class BasesThere(NamedTuple):
    """A range of memory that has the base units of all chunks, and where they begin in it, in units. Whoever asks
    kernels to read it holds the bases until then: the range does not, and what nobody holds is given to others.
    """

    memory: Buffer  # None if there are none
    places: list[int]
    held: list[Buffer]


def bases_there(backend: Backend, chunks: Sequence[Chunk], unit_bytes: int) -> BasesThere:
    if chunks[0].base is None:
        return BasesThere(None, [0] * len(chunks), [])
    held = [chunk.base for chunk in chunks]
    found, places = backend.window(held)
    return BasesThere(found, [place // unit_bytes for place in places], held)


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
            # The decoder for CPUs has the words for it.
            out = np.empty(stream.chunk_units(task.chunk), stream.dtype.unit)
            self._file.decode_chunk(task.stream, task.chunk, out)
            raise
        return units


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
