"""Segments of a file's chunks onto a device: read, listed, asked for, and checked when the device has got there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from slimtensors.codecs.sparse import stored_mask
from slimtensors.container.header import Stream
from slimtensors.container.source import aligned_empty
from slimtensors.device.backend import Backend, Buffer
from slimtensors.device.bases import Bases, BasesThere, as_bytes, bases_there
from slimtensors.device.chunks import Chunk
from slimtensors.device.decoders import Decoders
from slimtensors.device.kept import Held, Kept, Lists
from slimtensors.device.layouts import Planes
from slimtensors.device.planes import list_planes
from slimtensors.device.read_ahead import ReadAhead
from slimtensors.device.segments import Listed, Pending, Work, ask, bundled, list_segment, listed
from slimtensors.device.split import split
from slimtensors.device.tasks import Segment, Task
from slimtensors.device.telling import tell
from slimtensors.device.uploads import Uploads
from slimtensors.errors import ChecksumError, FormatError
from slimtensors.expression import Bits, Sparse
from slimtensors.reading.tensors import TensorFile

__all__ = ["Loader"]

Array = npt.NDArray[Any]

LIST_SHARE = 1 / 64  # of stored bytes: longer lists do not stay on the device


class _Asked(NamedTuple):
    """A segment under way."""

    segment: Segment
    pending: Pending
    held: Held | None  # where it is kept
    lists: Array  # in the host's memory, where they may be uploaded from


class Loader:
    """targets: of what is decoded of each tensor."""

    def __init__(
        self, file: TensorFile, targets: Mapping[int, Buffer], backend: Backend, threads: int, bases: Bases,
        kept: Kept | None, uploads: Uploads,
    ) -> None:  # fmt: skip
        self._file, self._targets, self._backend, self._threads = file, targets, backend, threads
        self._bases, self._kept, self._uploads = bases, kept, uploads
        self._decoders: Decoders | None = None
        self._asked: list[_Asked] = []

    def load(self, segments: Sequence[Segment]) -> None:
        """Ask for all, and decode what no kernel does."""
        there = self._kept is not None and self._kept.on_device
        self._uploads.reserve(max((each.length for each in segments), default=0), 0 if there else len(segments))
        missing = [each for each in segments if self._kept is None or each not in self._kept.segments]
        if self._kept is not None and self._kept.uploaded is not None:
            self._backend.follow(self._kept.uploaded)  # by another queue perhaps
        # Fused kernels are done before the next segment has been uploaded.
        slow = sum(isinstance(segment.layout, Planes) for segment in segments)
        self._decoders = Decoders(self._backend) if slow > 1 else None
        with ReadAhead(missing, self._room, self._read, self._threads) as ahead:
            for segment in segments:
                held = self._held(segment, ahead)
                is_slow = isinstance(segment.layout, Planes)
                with self._decoders.turn() if self._decoders is not None and is_slow else nullcontext():
                    self._decode(segment, held)
        if self._decoders is not None:
            self._decoders.end()
        if self._kept is not None:
            self._kept.uploaded = self._backend.mark()
        for asked in self._asked:
            self._decode_left(asked)

    def wait(self) -> None:
        """Until the device is done with all that has been asked for: host memory is read no more."""
        self._uploads.wait()
        if self._decoders is not None:
            self._decoders.wait()
        self._backend.wait(self._backend.mark())

    def check(self, mark: Any) -> None:
        """The verdict, when the device has got to the mark."""
        self._backend.wait(mark)
        for asked in self._asked:
            self._check(asked)

    def _decode(self, segment: Segment, held: Held) -> None:
        if self._kept is not None and self._kept.on_device and held.stored is None:
            held.stored = self._backend.upload(held.staging)
        out, at = self._backend.window(segment.targets(self._targets))
        lists, bases = held.lists, self._resident(segment, held)
        are_there = bases is not None or not (isinstance(segment.layout, Planes) and segment.layout.has_base)
        bases_at = [] if bases is None else bases.at
        if lists is None or not are_there or (lists.at, lists.bases_at) != (at, bases_at):
            given, bases = self._listed(segment, held, at, bases)
            lists = Lists(at, bases_at, given._replace(arrays={}), bundled(self._backend, given.arrays), None)
        there = lists.there or lists.here.there(self._backend.upload(lists.here.host))
        if self._kept is not None and held.lists is None and are_there:
            is_small = lists.here.host.size <= LIST_SHARE * segment.length
            held.lists = lists._replace(there=there if is_small else None)
        stored = self._uploads.send(held.staging, self._kept is None) if held.stored is None else held.stored
        whole = partial(segment.decoded, self._targets)
        pending = ask(self._backend, lists.given, stored, there, out, whole, bases)
        kept = held if self._kept is not None else None
        self._asked.append(_Asked(segment, pending, kept, lists.here.host))
        if held.stored is None:
            self._uploads.done()

    def _resident(self, segment: Segment, held: Held) -> BasesThere | None:
        """A segment's bases, if it has any and the device has all of them."""
        if not (isinstance(segment.layout, Planes) and segment.layout.has_base):
            return None
        if held.wanted is None:
            held.wanted = self._bases.wanted(segment, held.staging)
        return self._bases.resident(segment, held.wanted)

    def _held(self, segment: Segment, ahead: ReadAhead) -> Held:
        """Read, or kept."""
        kept = self._kept
        if kept is not None and segment in kept.segments:
            return kept.segments[segment]
        held = ahead.take()
        if kept is not None:
            kept.segments[segment] = held
        return held

    def _room(self, segment: Segment) -> Held:
        if self._kept is None:
            staging = self._uploads.staging(segment.length)
        elif self._kept.on_device:
            staging = aligned_empty(segment.length)
        else:
            staging = self._backend.staging(segment.length)
        return Held(staging, [None] * len(segment.tasks))

    def _read(self, segment: Segment, run: range, held: Held) -> None:
        place = held.staging[segment.starts[run[0]] : segment.ends[run[-1]]]
        first, last = segment.tasks[run[0]], segment.tasks[run[-1]]
        data = self._file.reader.stored(first.stream, range(first.chunk, last.chunk + 1), place)
        if data.ctypes.data != place.ctypes.data:
            place[:] = data
        for i in run if isinstance(segment.layout, Planes) and segment.layout.masked else ():
            held.masks[i] = self._mask(segment.tasks[i], held.staging[segment.starts[i] : segment.ends[i]])

    def _mask(self, task: Task, data: Array) -> Array | None:
        """Decoded by the CPU: it tells how many values there are, without which none can be found."""
        stream = self._file.header.streams[task.stream]
        assert isinstance(stream.expression, Sparse)
        try:
            return stored_mask(data, stream.chunk_units(task.chunk), stream.dtype.unit_bytes, stream.expression)
        except FormatError:
            return None  # the CPU decodes all of the chunk, and has the words

    def _listed(
        self, segment: Segment, held: Held, at: list[int], bases: BasesThere | None
    ) -> tuple[Listed, BasesThere | None]:
        """The work of a segment's chunks, and their bases. bases: those that are all on the device."""
        layout, places = segment.layout, segment.places(at)
        work: tuple[Work, dict[str, Array]]
        if isinstance(layout, Planes):
            chunks = self._chunks(segment, held, places)
            if bases is not None:
                bases = self._bases.of_chunks(segment, bases, held.staging)
            else:
                if layout.has_base:
                    chunks = self._bases.given(segment.tasks, chunks, held.staging)
                bases = bases_there(self._backend, chunks)
            work = list_planes(held.staging, chunks, (bases.places // layout.unit_bytes).tolist(), layout)
        else:
            size = layout.unit_bytes
            asked = np.stack([segment.starts, segment.lengths, segment.sizes // size, places // size], 1)
            work = list_segment(held.staging, asked, layout)
            left = work[0].left
            if left:
                every = self._chunks(segment, held, places)
                chunks = [every[i] for i in left]
                apart = Planes(size, self._bits(segment))
                work = split(work, list_planes(held.staging, chunks, [0] * len(left), apart), left)
        return listed(*work, places, segment.sizes, self._file.reader.verify == "full", bases), bases

    def _bits(self, segment: Segment) -> Bits:
        """What its chunks are made of, in a fused kernel's layout."""
        expression = self._file.header.streams[segment.tasks[0].stream].expression
        assert isinstance(expression, Bits)
        return expression

    def _chunks(self, segment: Segment, held: Held, places: Array) -> list[Chunk]:
        """As layouts need them that are decoded plane by plane."""
        found = []
        given = segment.tasks, segment.starts.tolist(), places.tolist(), held.masks
        for task, start, place, mask in zip(*given, strict=True):
            stream, sides = self._file.header.streams[task.stream], self._file.sides_of(task.tensor)
            where = task.chunk * stream.chunk, stream.units, sides
            found.append(Chunk(start, task.length, place, task.size, *where, mask=mask))
        return found

    def _decode_left(self, asked: _Asked) -> None:
        """Decode on the CPU what a kernel left; for what is malformed the CPU has the words."""
        for i in asked.pending.left:
            stream, units = self._decode_here(asked.segment.tasks[i])
            tell(stream.label, f"a chunk of {type(stream.expression).__name__.lower()} in modes that its kernel lacks")
            self._backend.write(asked.segment.decoded(self._targets, i), as_bytes(units))

    def _check(self, asked: _Asked) -> None:
        """Decode again on the CPU what a kernel found wrong; the CPU has the words for it."""
        segment, pending, held = asked.segment, asked.pending, asked.held
        left = xxhash.xxh3_64_intdigest(pending.results.data)
        if held is not None and held.sound == left:
            return
        faulty = set(pending.faulty()) | set(pending.with_other_bases())
        digests = pending.digests()
        if digests is not None:
            faulty |= {i for i, task in enumerate(segment.tasks) if task.digest != digests[i]}
        for i in sorted(faulty - set(pending.left)):
            stream, _units = self._decode_here(segment.tasks[i])
            raise ChecksumError(
                f"{stream.label}, chunk {segment.tasks[i].chunk}: the CPU decodes it, the GPU does not. The file is "
                "sound; set SLIMTENSORS_DECODE=cpu, and report this with the output of `slimtensors env`"
            )
        if held is not None:
            held.sound = left

    def _decode_here(self, task: Task) -> tuple[Stream, Array]:
        stream = self._file.header.streams[task.stream]
        units = np.empty(stream.chunk_units(task.chunk), stream.dtype.unit)
        self._file.decode_chunk(task.stream, task.chunk, units)
        return stream, units
