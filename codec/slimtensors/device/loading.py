"""Tensors of a file into buffers on a device: chunks that a kernel decodes by segments, all else by the CPU."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slimtensors.codecs.sparse import stored_mask
from slimtensors.container.header import Stream
from slimtensors.container.source import aligned_empty
from slimtensors.device.backend import Backend, Buffer
from slimtensors.device.bases import Bases, Resident, Task, as_bytes
from slimtensors.device.layouts import Planes, planes_of
from slimtensors.device.planes import decode_planes
from slimtensors.device.segments import Chunk, Pending, decode_segment, layout_of
from slimtensors.errors import ChecksumError, FormatError
from slimtensors.expression import Sparse
from slimtensors.kernels.cuda.decode import Layout
from slimtensors.reading import Piece, TensorFile
from slimtensors.threads import run_all

__all__ = ["DecodedOnCpuWarning", "Filling", "Kept", "Resident", "begin_fill", "fill_device", "tell"]

Array = npt.NDArray[Any]

SEGMENT_BYTES = 32 * 1024 * 1024  # stored
DECODED_BYTES = 4 * SEGMENT_BYTES  # of a segment: what decodes plane by plane has work space on the device
SLOTS = 3  # segments in host memory at once: read, uploaded, decoded
ALIGNMENT = 8  # of a target that the kernels write to
_told: set[str] = set()


class DecodedOnCpuWarning(RuntimeWarning):
    """Part of a file has no kernel for the GPU; it was decoded on the CPU and copied."""


class Kept:
    """What `begin_fill` keeps of a file's tensors between calls: stored bytes, in memory that uploads are fast from, or
    on the device as well; and what the CPU has decoded.
    """

    def __init__(self, on_device: bool = False) -> None:
        self.on_device = on_device
        self.segments: dict[tuple[int, int], _Segment] = {}  # by stream and first chunk
        self.decoded: dict[int, Array] = {}  # by tensor


class Filling:
    """What has been asked of a device, and is not checked yet."""

    def __init__(self, loader: _Loader, mark: Any) -> None:
        self._loader, self._mark = loader, mark  # behind all of it

    def check(self) -> None:
        """Wait for it. Raises ChecksumError or FormatError for what is wrong."""
        self._loader.check(self._mark)


def fill_device(
    file: TensorFile,
    targets: Mapping[int, Buffer],
    backend: Backend,
    threads: int,
    *,
    chunks: range | None = None,
    resident: Mapping[str, Resident] | None = None,
) -> None:
    """Decode tensors (by their positions in the file) into buffers of their sizes; or these chunks of each, which then
    have streams of their own. resident: tensors on the device, by name, that may be bases.
    """
    begin_fill(file, targets, backend, threads, chunks=chunks, resident=resident).check()


def begin_fill(
    file: TensorFile,
    targets: Mapping[int, Buffer],
    backend: Backend,
    threads: int,
    *,
    chunks: range | None = None,
    resident: Mapping[str, Resident] | None = None,
    kept: Kept | None = None,
) -> Filling:
    """Ask for what `fill_device` does, and leave the verdict for later.

    kept: filled at the first call, so that later ones for the same tensors read nothing.
    """
    by_layout: dict[Layout | Planes, list[Task]] = {}
    others = {}
    for index, target in targets.items():
        layout = _layout(file, index)
        if not len(target) or backend.window([target])[1][0] % ALIGNMENT:
            layout = None
        if layout is None:
            others[index] = target
        else:
            by_layout.setdefault(layout, []).extend(_tasks(file, index, target, chunks))
    loader = _Loader(file, backend, threads, resident or {}, kept)
    loader.load(by_layout)
    for index, target in others.items():
        holder = file.header.holder(index)
        if holder != index and holder in targets and len(targets[holder]) == len(target) and _is_tie(file, index):
            backend.copy(target, targets[holder])
        elif len(target):
            found = None if kept is None else kept.decoded.get(index)
            if found is None:
                found = _read(file, index, len(target), threads, chunks)
                if kept is not None:
                    kept.decoded[index] = found
            backend.write(target, found)
    return Filling(loader, backend.mark())


def _read(file: TensorFile, index: int, length: int, threads: int, chunks: range | None) -> Array:
    """What no kernel decodes."""
    if chunks is None:
        return as_bytes(file.read(index, threads))
    number = file.header.tensor_stream[index]
    assert number is not None
    stream = file.header.streams[number]
    out = np.empty(length // stream.dtype.unit_bytes, stream.dtype.unit)
    file.fill([Piece(index, chunks.start * stream.chunk, out)], threads)
    return as_bytes(out)


def _layout(file: TensorFile, index: int) -> Layout | Planes | None:
    """The layout of a tensor's chunks, if kernels decode them."""
    header = file.header
    number = header.tensor_stream[index]
    if number is None or header.holder(index) != index or index in header.pack_offset:
        return None
    stream = header.streams[number]
    layout: Layout | Planes | None = layout_of(stream.expression, stream.dtype.unit_bytes)
    if layout is None:
        kind = stream.dtype
        layout = planes_of(stream.expression, stream.units, kind.unit_bytes, kind.is_float, kind.name)
    if layout is None:
        tell(stream.label, str(type(stream.expression).__name__).lower())
    return layout


def _is_tie(file: TensorFile, index: int) -> bool:
    tensors = file.header.tensors
    return tensors[index].dtype == tensors[file.header.holder(index)].dtype


def tell(label: str, kind: str) -> None:
    """Warn, once for each kind."""
    if kind not in _told:
        _told.add(kind)
        warnings.warn(
            f"{label}: no GPU kernel decodes its chunks ({kind}); they, and others like them, are decoded on the CPU",
            DecodedOnCpuWarning,
            stacklevel=2,
        )


def _tasks(file: TensorFile, index: int, target: Buffer, chunks: range | None) -> Iterator[Task]:
    number = file.header.tensor_stream[index]
    assert number is not None
    stream = file.header.streams[number]
    at = 0
    records = file.reader.records(number)[0]
    for chunk in range(len(records)) if chunks is None else chunks:
        record = records[chunk]
        yield Task(index, number, chunk, record.stored_length, target[at : at + record.decoded_length])
        at += record.decoded_length
    assert at == len(target), stream.label


class _Segment(NamedTuple):
    """Stored bytes of whole chunks in the host's memory, and their masks, where they have any."""

    staging: Array
    masks: list[Array | None]
    stored: Buffer = None  # on the device, if it stays there


class _Loader:
    def __init__(
        self,
        file: TensorFile,
        backend: Backend,
        threads: int,
        resident: Mapping[str, Resident],
        kept: Kept | None,
    ) -> None:
        self._file, self._backend, self._threads, self._kept = file, backend, threads, kept
        self._bases = Bases(file, backend, threads, resident, fill_device)
        self._slots: list[Array | None] = [None] * SLOTS
        self._marks: list[Any] = [None] * SLOTS
        self._next = 0
        self._pending: list[tuple[list[Task], Pending]] = []

    def load(self, by_layout: Mapping[Layout | Planes, list[Task]]) -> None:
        """Ask for all, and decode what no kernel does."""
        try:
            for layout, tasks in by_layout.items():
                for segment in _segments(tasks):
                    self._decode(segment, layout)
            for tasks, pending in self._pending:
                self._decode_left(tasks, pending)
        except BaseException:
            self._backend.wait(self._backend.mark())  # host memory goes, which is uploaded from
            raise

    def check(self, mark: Any) -> None:
        """The verdict, when the device has got to the mark."""
        self._backend.wait(mark)
        for tasks, pending in self._pending:
            self._check(tasks, pending)

    def _decode(self, tasks: list[Task], layout: Layout | Planes) -> None:
        staging, masks, stored = self._segment(tasks, layout)
        chunks, at = [], 0
        for task, mask in zip(tasks, masks, strict=True):
            chunks.append(Chunk(at, task.length, task.target, mask=mask))
            at += task.length
        digests = self._file.reader.verify == "full"
        if isinstance(layout, Planes):
            known = self._known(tasks, chunks, staging, layout)
            pending = decode_planes(self._backend, staging, known, layout, digests=digests, stored=stored)
        else:
            pending = decode_segment(self._backend, staging, chunks, layout, digests=digests, stored=stored)
        self._pending.append((tasks, pending))
        if self._kept is None:
            self._marks[self._next] = self._backend.mark()
            self._next = (self._next + 1) % SLOTS

    def _segment(self, tasks: list[Task], layout: Layout | Planes) -> _Segment:
        """Read, or kept."""
        length, key = sum(task.length for task in tasks), (tasks[0].stream, tasks[0].chunk)
        if self._kept is not None and key in self._kept.segments:
            found = self._kept.segments[key]
            assert found.staging.size == length
            return found
        if self._kept is None:
            staging = self._slot(length)
        else:
            staging = aligned_empty(length) if self._kept.on_device else self._backend.staging(length)
        ends = np.cumsum([task.length for task in tasks]).tolist()
        masks: list[Array | None] = [None] * len(tasks)

        def read(i: int) -> None:
            place = staging[ends[i] - tasks[i].length : ends[i]]
            data, _record = self._file.reader.stored(tasks[i].stream, tasks[i].chunk, place)
            if data.ctypes.data != place.ctypes.data:
                place[:] = data
            if isinstance(layout, Planes) and layout.masked:
                masks[i] = self._mask(tasks[i], place)

        run_all(read, range(len(tasks)), min(self._threads, len(tasks)))
        if self._kept is None:
            return _Segment(staging, masks)
        made = _Segment(staging, masks, self._backend.upload(staging) if self._kept.on_device else None)
        self._kept.segments[key] = made
        return made

    def _mask(self, task: Task, data: Array) -> Array | None:
        """Decoded by the CPU: it tells how many values there are, without which none can be found."""
        stream = self._file.header.streams[task.stream]
        assert isinstance(stream.expression, Sparse)
        try:
            return stored_mask(data, stream.chunk_units(task.chunk), stream.dtype.unit_bytes, stream.expression)
        except FormatError:
            return None  # the CPU decodes all of the chunk, and has the words

    def _known(self, tasks: list[Task], chunks: list[Chunk], staging: Array, layout: Planes) -> list[Chunk]:
        """With what decoding plane by plane needs of the chunks' tensors and of their bases."""
        found = []
        for task, chunk in zip(tasks, chunks, strict=True):
            stream = self._file.header.streams[task.stream]
            first, sides = task.chunk * stream.chunk, self._file.sides_of(task.tensor)
            found.append(chunk._replace(first=first, units=stream.units, sides=sides))
        return self._bases.given(tasks, found, staging) if layout.has_base else found

    def _slot(self, length: int) -> Array:
        """Host memory that no upload reads from any more."""
        if self._marks[self._next] is not None:
            self._backend.wait(self._marks[self._next])
        slot = self._slots[self._next]
        if slot is None or slot.size < length:
            slot = self._slots[self._next] = self._backend.staging(max(length, SEGMENT_BYTES))
        return slot[:length]

    def _decode_left(self, tasks: list[Task], pending: Pending) -> None:
        """Decode on the CPU what a kernel left; for what is malformed the CPU has the words."""
        for i in pending.left:
            stream, units = self._decode_here(tasks[i])
            tell(stream.label, f"a chunk of {type(stream.expression).__name__.lower()} in modes that its kernel lacks")
            self._backend.write(tasks[i].target, as_bytes(units))

    def _check(self, tasks: list[Task], pending: Pending) -> None:
        """Decode again on the CPU what a kernel found wrong; the CPU has the words for it."""
        faulty = set(pending.faulty()) | set(pending.of_another_base())
        if pending.digests is not None:
            records = [self._file.reader.records(task.stream)[0][task.chunk] for task in tasks]
            found = pending.digests.all()
            faulty |= {i for i, record in enumerate(records) if record.decoded_digest != found[i]}
        for i in sorted(faulty - set(pending.left)):
            stream, _units = self._decode_here(tasks[i])
            raise ChecksumError(
                f"{stream.label}, chunk {tasks[i].chunk}: the CPU decodes it, the GPU does not. The file is sound; "
                "set SLIMTENSORS_DECODE=cpu, and report this with the output of `slimtensors env`"
            )

    def _decode_here(self, task: Task) -> tuple[Stream, Array]:
        stream = self._file.header.streams[task.stream]
        units = np.empty(stream.chunk_units(task.chunk), stream.dtype.unit)
        self._file.decode_chunk(task.stream, task.chunk, units)
        return stream, units


def _segments(tasks: list[Task]) -> Iterator[list[Task]]:
    segment: list[Task] = []
    size = decoded = 0
    for task in tasks:
        if segment and (size + task.length > SEGMENT_BYTES or decoded + len(task.target) > DECODED_BYTES):
            yield segment
            segment, size, decoded = [], 0, 0
        segment.append(task)
        size, decoded = size + task.length, decoded + len(task.target)
    if segment:
        yield segment
