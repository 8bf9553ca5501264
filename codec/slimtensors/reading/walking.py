"""A file's decoded bytes from front to back, decoded ahead in threads, a few chunks in memory at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slimtensors.codecs.casts import cast_units
from slimtensors.container.header import Image
from slimtensors.container.layout import DIGEST_BYTES
from slimtensors.dtypes import bytes_of
from slimtensors.reading.tensors import TensorFile
from slimtensors.threads import in_order

__all__ = ["LiteralBytes", "Run", "walk"]


class Run(NamedTuple):
    """Some decoded bytes of a tensor. `visit` counts tensors walked over, so that a tensor met twice is told apart."""

    visit: int
    tensor: int
    data: memoryview


class _Job(NamedTuple):
    visit: int
    tensor: int
    stream: int | None  # None for a tensor in a pack
    chunk: int


def walk(file: TensorFile, tensors: Iterable[int], threads: int, pool: ThreadPoolExecutor | None) -> Iterator[Run]:
    """The tensors' decoded bytes, tensor by tensor, chunk by chunk; those without elements are passed over."""

    tensors = list(tensors)
    if file.reader.source.remote:
        file.expect(_chunks(file, tensors))

    def jobs() -> Iterator[_Job]:
        for visit, tensor in enumerate(tensors):
            target = file.header.holder(tensor)
            number = file.header.tensor_stream[target]
            if number is None:
                continue
            if file.header.tensors[target].pack is not None:
                yield _Job(visit, tensor, None, 0)
                continue
            file.sides_of(target)
            for chunk in range(file.header.streams[number].chunks):
                yield _Job(visit, tensor, number, chunk)

    def decode(job: _Job) -> Run:
        out: npt.NDArray[Any]
        if job.stream is None:
            out = file.read(job.tensor, 1)
        else:
            stream = file.header.streams[job.stream]
            out = np.empty(stream.chunk_units(job.chunk), stream.dtype.unit)
            file.decode_chunk(job.stream, job.chunk, out)
            out = cast_units(out, stream.dtype, file.header.tensors[job.tensor].dtype)
        return Run(job.visit, job.tensor, bytes_of(out))

    return in_order(decode, jobs(), threads, pool)


def _chunks(file: TensorFile, tensors: list[int]) -> Iterator[tuple[int, int]]:
    """Streams and chunks that hold these tensors, in order, each once."""
    streams = (file.header.tensor_stream[file.header.holder(tensor)] for tensor in tensors)
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

    def take(self, length: int) -> Iterator[memoryview]:
        """The next bytes, in pieces of at most a chunk."""
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
