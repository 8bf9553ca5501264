"""Write a file whose header is planned: reserve the front, append chunks, fill the front in."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from slimtensors.container import canonical, schema
from slimtensors.container.digest import decoded_digest, stored_digest
from slimtensors.container.header import Header
from slimtensors.container.layout import (
    ALIGNMENT,
    PREFIX_BYTES,
    SIGNED_PREFIX_BYTES,
    ChunkRecord,
    Prefix,
    StreamRecord,
    aligned,
)
from slimtensors.container.lossy import Lossy
from slimtensors.container.system import advise_huge_pages
from slimtensors.errors import UsageError
from slimtensors.limits import MAX_HEADER_BYTES

__all__ = ["Chunk", "MemoryOutput", "Output", "Writer", "front_length", "header_text", "seal"]


LARGE_BYTES = 4 << 20  # from here on huge pages are worth asking for


class Output(Protocol):
    """What a file is written to."""

    def write(self, data: bytes | memoryview) -> None:
        """Append all of it. The memory may be used again afterwards."""

    def write_at_start(self, data: bytes) -> None:
        """Overwrite the first bytes."""


class MemoryOutput:
    """A file in memory, of perhaps `expected` bytes.

    A large one is set aside at once: memory that nobody has touched costs nothing, and huge pages halve the time that
    writing takes.
    """

    def __init__(self, expected: int = 0) -> None:
        large = expected >= LARGE_BYTES
        self._file = io.BytesIO(bytes(expected) if large else b"")
        self._room: npt.NDArray[np.uint8] = np.empty(0, np.uint8)  # the memory of `_file`, which keeps its length
        if large:
            memory = self._file.getbuffer()
            advise_huge_pages(memory)
            self._room = np.frombuffer(memory, np.uint8)
        self._length = 0

    def take(self, length: int) -> npt.NDArray[np.uint8]:
        """Memory for what is to be written next; written where it lies, it is not copied."""
        end = self._length + length
        return self._room[self._length : end] if end <= self._room.size else np.empty(length, np.uint8)

    def write(self, data: bytes | memoryview) -> None:
        end = self._length + len(data)
        if end <= self._room.size:
            given, place = np.frombuffer(data, np.uint8), self._room[self._length : end]
            if given.ctypes.data != place.ctypes.data:
                place[:] = given  # other threads run meanwhile
        else:
            if self._room.size:  # somebody may still hold a part of it, so it cannot grow
                begun = self._room[: self._length].data
                self._file, self._room = io.BytesIO(), np.empty(0, np.uint8)
                self._file.write(begun)
            self._file.seek(self._length)
            self._file.write(data)
        self._length = end

    def write_at_start(self, data: bytes) -> None:
        self._file.getbuffer()[: len(data)] = data

    def getvalue(self) -> bytes:
        self._room = np.empty(0, np.uint8)
        try:
            self._file.truncate(self._length)
        except BufferError:  # as above
            return bytes(self._file.getbuffer()[: self._length])
        return self._file.getvalue()


class Chunk(NamedTuple):
    """A finished chunk."""

    data: bytes | memoryview
    record: ChunkRecord


def seal(data: bytes | memoryview, decoded: memoryview) -> Chunk:
    """Give a chunk its record; runs in the worker that made it."""
    record = ChunkRecord(len(data), len(decoded), stored_digest(data), decoded_digest(decoded))
    return Chunk(data, record)


def header_text(header: Header) -> bytes:
    """The header's bytes. Raises what a reader would, which must accept what a writer writes, or UsageError."""
    content = header.to_json()
    data = canonical.dumps(content)
    if len(data) > MAX_HEADER_BYTES:
        raise UsageError(f"the header would take {len(data)} bytes; the limit is {MAX_HEADER_BYTES}")
    schema.validated(content)
    return data


def front_length(header: Header, text: bytes) -> int:
    """Bytes of a file before its first chunk, which are filled in last. text: the header's."""
    return aligned(PREFIX_BYTES + len(text) + header.index_length + header.table_length)


class Writer:
    """Takes the chunks of a header's streams in order."""

    def __init__(self, output: Output, header: Header, text: bytes) -> None:
        """text: the header's, as `header_text` gives it."""
        self.output = output
        self.header = header
        self.header_bytes = text
        self.position = front_length(header, text)
        self._table = bytearray()
        self._streams: list[StreamRecord] = []
        self._records: list[bytes] = []  # of the stream in hand
        self._stored = 0
        # A gap of zeros, in pieces: the table of a large file is large.
        for at in range(0, self.position, 1 << 20):
            output.write(bytes(min(1 << 20, self.position - at)))

    def add(self, chunk: Chunk) -> None:
        """Append the next chunk: all chunks of the first stream, then of the second, and so on."""
        assert len(chunk.data) % ALIGNMENT == 0
        self.output.write(chunk.data)
        self.position += len(chunk.data)
        self._stored += len(chunk.data)
        self._records.append(chunk.record.pack())
        if len(self._records) == self.header.streams[len(self._streams)].chunks:
            table = b"".join(self._records)
            self._table += table
            self._streams.append(StreamRecord(self._stored, stored_digest(table)))
            self._records, self._stored = [], 0

    def finish(self, identities: list[bytes], lossy: Sequence[Lossy | None] = ()) -> bytes:
        """Fill in prefix, index and table; returns the file id. lossy: of each tensor, with its errors."""
        assert len(self._streams) == len(self.header.streams)
        assert not self._records
        if self.header.source is not None and lossy:
            tensors = zip(self.header.tensors, lossy, strict=True)
            self.header.tensors = [tensor._replace(lossy=stated) for tensor, stated in tensors]
            length, self.header_bytes = len(self.header_bytes), header_text(self.header)
            assert len(self.header_bytes) == length  # errors are numbers of a fixed length
        index = b"".join(record.pack() for record in self._streams) + b"".join(identities)
        prefix = Prefix(self.position, len(self.header_bytes), len(index), bytes(32))
        file_id = stored_digest(prefix.pack()[:SIGNED_PREFIX_BYTES], self.header_bytes, index)
        front = prefix._replace(file_id=file_id).pack() + self.header_bytes + index + self._table
        self.output.write_at_start(front)
        return file_id
