"""Carry out a plan: read, encode in threads, write in order (DESIGN.md, "A tensor's walk")."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slimtensors.codecs.chunk import decode_chunk, encode_chunk
from slimtensors.codecs.place import Place
from slimtensors.codecs.workspace import Buffers
from slimtensors.container.digest import new_identity
from slimtensors.container.header import Header, Stream
from slimtensors.container.layout import ALIGNMENT, aligned
from slimtensors.container.lossy import Lossy
from slimtensors.container.pieces import PieceOutput
from slimtensors.container.source import ByteSource, aligned_empty
from slimtensors.container.writer import Chunk, MemoryOutput, Output, Writer, seal
from slimtensors.dtypes import bytes_of
from slimtensors.errors import FormatError, SelfCheckError, UsageError
from slimtensors.limits import EXPANSION, EXPANSION_SLACK
from slimtensors.planning.plan import Job, Plan, SideMaker
from slimtensors.quantise.quantiser import QuantisedInput
from slimtensors.sources.inputs import Input, unit_count
from slimtensors.threads import run_in_order

__all__ = ["Progress", "SourceImage", "write_plan"]

Units = npt.NDArray[Any]
SIDE_UNITS = 1 << 20  # of a tensor, whose side plane is made between two signs of progress

Progress = Callable[[int], object]  # called with decoded bytes done since the last call


class SourceImage(NamedTuple):
    """The source file, to be given back byte for byte."""

    source: ByteSource
    segments: Sequence[int | tuple[int, int]]
    kind: str = "safetensors"


class _Passed(NamedTuple):
    """Units of a tensor that are to be digested: they begin `offset` bytes into it."""

    tensor: int
    data: memoryview
    offset: int
    imaged: bool  # whether they pass in the source file's order


class _Task(NamedTuple):
    """One chunk to encode, and what of the tensors passes with it."""

    stream: Stream
    units: Units
    place: Place
    job: Job
    passed: Sequence[_Passed]


class _Made(NamedTuple):
    chunk: Chunk
    passed: Sequence[_Passed]


def write_plan(
    plan: Plan,
    inputs: Sequence[Input],
    output: Output,
    *,
    threads: int,
    image: SourceImage | None = None,
    progress: Progress | None = None,
    check: bool = False,
) -> bytes:
    """Write the file; returns its file id. Memory: a few chunks per thread.

    check: decode each chunk before it is written, where the output cannot be read back. Raises SelfCheckError.
    """
    buffers = Buffers()
    take = buffers.take
    if threads == 1:  # which can make chunks where they are to lie
        output = output if isinstance(output, MemoryOutput) else PieceOutput(output)
        take = output.take
    share = _least_share(plan.header)
    writer = Writer(output, plan.header, plan.text)
    feed = _Feed(plan, inputs, image, progress)

    def encode(task: _Task) -> _Made:
        place = _placed(task)
        job = task.job
        data: bytes | memoryview
        if job.chunk is not None:
            data = job.chunk(task.place.first // task.stream.chunk)
        else:
            how = task.stream.expression
            data = encode_chunk(task.units, how, place, try_zstd=job.try_zstd, slow=job.slow, take=take)
        if check:
            _check(data, task, place)
        decoded = bytes_of(task.units)
        return _Made(seal(_lengthened(data, share, len(decoded)), decoded), task.passed)

    def put(made: _Made) -> None:
        chunk, passed = made
        feed.digest(passed)  # the coder has just read the units: they are in a cache
        writer.add(chunk)
        if take == buffers.take:
            buffers.give_back(chunk.data)
        if progress is not None:
            progress(feed.not_yet_told(chunk.record.decoded_length))

    run_in_order(encode, put, feed.tasks(), threads)
    return writer.finish(feed.identities(), feed.lossy())


def _least_share(header: Header) -> int:
    """How many of 1024 decoded bytes chunks have to store, so that readers allow all that the file decodes to.

    One does for what the streams hold; ties and casts decode it once more each, and a file of hardly any bytes may hold
    them. Raises UsageError where no length would do.
    """
    own = sum(stream.units * stream.dtype.unit_bytes for stream in header.streams)
    share = max(1, -(-(header.limited_bytes - EXPANSION_SLACK) // own)) if own else 1
    if share > EXPANSION:
        raise UsageError(
            f"the tensors have {header.decoded_bytes} bytes, of which only {own} are not those of others over again; "
            "no reader would allow that: leave some of them out"
        )
    return share


def _lengthened(data: bytes | memoryview, share: int, decoded: int) -> bytes | memoryview:
    """With zeros behind it that make it long enough, or as long as a chunk may be."""
    least = min(aligned(-(-share * decoded // EXPANSION)), aligned(decoded) + ALIGNMENT)
    return data if len(data) >= least else bytes(data).ljust(least, b"\0")


def _check(data: bytes | memoryview, task: _Task, place: Place) -> None:
    """Decode the chunk. Raises SelfCheckError."""
    stored = aligned_empty(len(data))
    stored[:] = np.frombuffer(data, np.uint8)
    found = np.empty_like(task.units)
    try:
        decode_chunk(stored, task.stream.expression, found, place)
        same = np.array_equal(found, task.units)
    except FormatError:
        same = False
    if not same:
        raise SelfCheckError(
            f"{task.stream.label}: a chunk does not decode to what was given; nothing was stored. If nothing changed "
            "the tensor meanwhile, test this machine's memory and processor; if they are sound, please report this"
        )


def _placed(task: _Task) -> Place:
    base = task.job.base
    if base is None:
        return task.place
    return task.place._replace(base=base.units(task.stream.dtype, task.place.first, task.units.size))


class _Feed:
    """Reads the inputs once, in the streams' order, and digests what has passed."""

    def __init__(
        self, plan: Plan, inputs: Sequence[Input], image: SourceImage | None, progress: Progress | None = None
    ) -> None:
        self._plan = plan
        self._progress = progress
        self._told = plan.told  # bytes that were told to `progress` ahead of their chunks
        self._telling = threading.Lock()
        self._inputs = inputs
        self._hashers: dict[int, Any] = {}
        self._image = _ImageDigest(image, inputs) if image is not None else None
        self._sides: dict[int, tuple[Units, ...]] = {}  # by input: what its side planes hold

    def tasks(self) -> Iterator[_Task]:
        for stream, job in zip(self._plan.header.streams, self._plan.jobs, strict=True):
            pieces: Iterator[tuple[Units, Sequence[_Passed]]]
            if job.side is not None:
                pieces = ((units, ()) for units in self._side(stream, job, job.side))
            elif job.image:
                pieces = ((units, ()) for units in self._image_pieces(stream))
            elif stream.chunks == 1:
                pieces = self._small(job.inputs)
            else:
                pieces = self._large(stream, job.inputs[0])
            # Of a side plane, those before it.
            sides = self._sides.get(job.inputs[0], ()) if len(job.inputs) == 1 else ()
            if job.scale is not None:
                scale = self._inputs[job.scale]
                sides = (*sides, scale.read(0, unit_count(scale)))
            first = 0
            for units, passed in pieces:
                numbers = self._numbers(job, first, units.size)
                place = Place(stream.units, first, sides, stream.dtype, numbers=numbers, counted=job.counted)
                yield _Task(stream, units, place, job, passed)
                first += units.size
            if job.side is None and len(job.inputs) == 1:
                self._sides.pop(job.inputs[0], None)  # its own stream comes last

    def _numbers(self, job: Job, first: int, count: int) -> Units | None:
        """What codes make of a quantised tensor's units, where that is not all."""
        tensor = self._inputs[job.inputs[0]] if len(job.inputs) == 1 and job.side is None else None
        return tensor.numbers(first, count) if isinstance(tensor, QuantisedInput) else None

    def digest(self, passed: Sequence[_Passed]) -> None:
        """Digest units, in the order in which they were handed out."""
        for tensor, data, offset, imaged in passed:
            if tensor not in self._hashers:
                self._hashers[tensor] = new_identity()
            self._hashers[tensor].update(data)
            if self._image is not None and imaged:
                self._image.tensor(tensor, data, offset)

    def identities(self) -> list[bytes]:
        """BLAKE3 of each tensor's decoded bytes."""
        header = self._plan.header
        found = {i: bytes(hasher.digest()) for i, hasher in self._hashers.items()} | self._plan.identities
        empty = bytes(new_identity().digest())
        return [found.get(header.target(i), empty) for i in range(len(header.tensors))]

    def lossy(self) -> list[Lossy | None]:
        """How each tensor was made, and its errors, which are known now that it has been read."""
        header = self._plan.header
        return [self._inputs[header.target(i)].lossy for i in range(len(header.tensors))]

    def _small(self, indices: Sequence[int]) -> Iterator[tuple[Units, Sequence[_Passed]]]:
        """The tensors of a pack, or one that makes a single chunk."""
        parts = [self._inputs[i].read(0, unit_count(self._inputs[i])) for i in indices]
        alone = len(parts) == 1
        passed = [_Passed(i, bytes_of(units), 0, alone) for i, units in zip(indices, parts, strict=True)]
        yield parts[0] if alone else np.concatenate(parts), passed

    def _large(self, stream: Stream, index: int) -> Iterator[tuple[Units, Sequence[_Passed]]]:
        for k in range(stream.chunks):
            units = self._inputs[index].read(k * stream.chunk, stream.chunk_units(k))
            offset = k * stream.chunk * stream.dtype.unit_bytes
            yield units, (_Passed(index, bytes_of(units), offset, True),)

    def _side(self, stream: Stream, job: Job, make: SideMaker) -> Iterator[Units]:
        (index,) = job.inputs
        tensor = self._inputs[index]
        made = []
        step = max(1, SIDE_UNITS // job.each) if job.each else stream.chunk
        for low in range(0, stream.units, step):
            high = min(low + step, stream.units)
            made.append(make(tensor, low, high))
            self._tell((high - low) * job.each * tensor.dtype.unit_bytes // 2)
        side = np.concatenate(made)
        self._sides[index] = (*self._sides.get(index, ()), side.reshape(stream.shape))
        for k in range(stream.chunks):
            yield side[k * stream.chunk : k * stream.chunk + stream.chunk_units(k)]

    def _tell(self, size: int) -> None:
        """To look for scales takes as long as to encode what they are for: half of it is done."""
        if self._progress is not None and size:
            with self._telling:
                self._told += size
            self._progress(size)

    def not_yet_told(self, size: int) -> int:
        """Of a finished chunk's bytes, those to tell `progress` now."""
        with self._telling:
            told = min(self._told, size // 2)
            self._told -= told
        return size - told

    def _image_pieces(self, stream: Stream) -> Iterator[Units]:
        assert self._image is not None
        data = np.frombuffer(bytearray(self._image.finish()), np.uint8)
        for k in range(stream.chunks):
            yield data[k * stream.chunk : k * stream.chunk + stream.chunk_units(k)]


class _ImageDigest:
    """SHA-256 of the source file, taken from the tensors' bytes as they pass; what passes out of order is read again.

    Large tensors pass in file order. Small ones may pass earlier, in a pack, and literal bytes do not pass at all.
    """

    def __init__(self, image: SourceImage, inputs: Sequence[Input]) -> None:
        self._source = image.source
        self._hasher = hashlib.sha256()
        self._lock = threading.Lock()  # the end may be asked for while the last tensors pass in another thread
        self._at = 0
        self._size = 0
        self._literal: list[tuple[int, int]] = []
        self._start: list[int] = []  # of each tensor, in the file
        for segment in image.segments:
            if isinstance(segment, int):
                self._literal.append((self._size, segment))
                self._size += segment
            else:
                for tensor in inputs[segment[0] : segment[0] + segment[1]]:
                    self._start.append(self._size)
                    self._size += tensor.dtype.bytes_of(tensor.shape)

    def tensor(self, index: int, data: memoryview, offset: int) -> None:
        """Bytes of tensor `index`, from `offset` of it."""
        start = self._start[index] + offset
        with self._lock:
            if start < self._at:
                return  # a single-chunk tensor may have been caught up with
            self._catch_up(start)
            self._hasher.update(data)
            self._at += len(data)

    def _catch_up(self, end: int) -> None:
        while self._at < end:
            count = min(1 << 20, end - self._at)
            self._hasher.update(self._source.read(self._at, count).data)
            self._at += count

    def finish(self) -> bytes:
        """What the image's stream holds."""
        with self._lock:
            self._catch_up(self._size)
        literal = b"".join(self._source.read(at, count).tobytes() for at, count in self._literal)
        return self._hasher.digest() + literal
