"""Open a file, check it in the order of format_spec/container.md section 10, hand out chunks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Literal

from slimtensors.container import schema
from slimtensors.container.digest import stored_digest
from slimtensors.container.header import Header
from slimtensors.container.layout import (
    CHUNK_RECORD_BYTES,
    DIGEST_BYTES,
    PREFIX_BYTES,
    SIGNED_PREFIX_BYTES,
    STREAM_RECORD_BYTES,
    ChunkRecord,
    Prefix,
    aligned,
    read_chunk_records,
    read_prefix,
    read_stream_records,
)
from slimtensors.container.source import Bytes, ByteSource
from slimtensors.errors import ChecksumError, FormatError, LimitError, TruncatedError
from slimtensors.limits import EXPANSION, EXPANSION_SLACK, MAX_CHUNK_BYTES, MAX_INDEX_BYTES

__all__ = ["Reader", "Verify"]

Verify = Literal["none", "stored", "full"]

# Prefix, header and index of most files; saves a second request where each costs a round trip.
FIRST_READ_BYTES = 64 * 1024
TABLE_SHARE = 8192  # of large files, one byte in so many: chunks of most of 1 MiB decoded have a record of 48 bytes
# Tables up to this length are read as a whole, by one read, when the first record is needed.
WHOLE_TABLE_BYTES = 4 << 20


class Reader:
    """A checked header and index, and the chunks on demand. Safe to use from several threads."""

    def __init__(
        self, source: ByteSource, *, verify: Verify = "full", max_bytes: int | None = None, partial: bool = False
    ) -> None:
        """partial: the file may be shorter or longer than it says, or its disk may not read all of it: what it lacks is
        found out when it is read, and nothing is read ahead.
        """
        self.source = source
        self.verify = verify
        size = source.size()
        self._size, self._partial = size, partial
        start = source.read(0, min(size, PREFIX_BYTES if partial else FIRST_READ_BYTES)).tobytes()
        self.prefix: Prefix = read_prefix(start, None if partial else size)
        index_at = PREFIX_BYTES + self.prefix.header_length
        end = index_at + self.prefix.index_length
        if end > size:  # of a partial file; so that nothing is allocated for what is not there
            raise TruncatedError(f"the file has {size} bytes and ends inside its header and index, which have {end}")
        if end > len(start):
            # Every stream has a record in the index and at least one, about as long, in the table.
            table = 0 if partial else min(self.prefix.index_length + size // TABLE_SHARE, MAX_INDEX_BYTES)
            start += source.read(len(start), max(end, min(size, end + table)) - len(start)).tobytes()
        self._start = start  # in most files it has the table too
        header_bytes, index = start[PREFIX_BYTES:index_at], start[index_at:end]
        if stored_digest(start[:SIGNED_PREFIX_BYTES], header_bytes, index) != self.prefix.file_id:
            raise ChecksumError("prefix, header or index do not match the file id: the file is damaged")
        self.header: Header = schema.parse(header_bytes)
        self._check_lengths(index)
        self.allowed_bytes = max_bytes if max_bytes is not None else EXPANSION * size + EXPANSION_SLACK
        if max_bytes is not None or not self.header.bases:
            self.check_budget()  # else whoever has the bases checks it
        self._records: dict[int, tuple[list[ChunkRecord], list[int]]] = {}
        self._lock = threading.Lock()

    @property
    def file_id(self) -> bytes:
        """BLAKE3 that commits to every byte of the file."""
        return self.prefix.file_id

    def _check_lengths(self, index: bytes) -> None:
        header, length = self.header, self.prefix.file_length
        if len(index) != header.index_length:
            raise FormatError(f"the index has {len(index)} bytes; the header implies {header.index_length}")
        streams = len(header.streams)
        self.stream_records = read_stream_records(index, streams)
        digests = index[streams * STREAM_RECORD_BYTES :]
        self.identities = [digests[i : i + DIGEST_BYTES] for i in range(0, len(digests), DIGEST_BYTES)]
        empty = stored_digest(b"")
        for i, nbytes in enumerate(header.nbytes):
            if nbytes == 0 and self.identities[i] != empty:
                name = header.tensors[i].name
                raise FormatError(f"tensor {name!r} has no elements, but its identity is not that of no bytes")
        for i, target in header.refs.items():
            if self.identities[i] != self.identities[target]:
                name = header.tensors[i].name
                raise FormatError(f"tensor {name!r} has another identity than the tensor it refers to")
        self.table_at = PREFIX_BYTES + self.prefix.header_length + self.prefix.index_length
        table_end = self.table_at + header.table_length
        self.chunks_at = aligned(table_end)
        if self.chunks_at > length:
            raise FormatError("the table reaches past the end of the file")
        if any(self._front(table_end, self.chunks_at - table_end)):
            raise FormatError("padding after the table is not zero")
        stored = sum(record.stored_length for record in self.stream_records)
        if self.chunks_at + stored != length:
            raise FormatError(f"the streams have {stored} bytes, the file has room for {length - self.chunks_at}")

    def check_budget(self, base_bytes: Callable[[], int] = lambda: 0) -> None:
        """Raises LimitError if all that the file holds takes more than is allowed.

        base_bytes: of bases whose identities were checked, decoded; asked for only if it matters.
        """
        taken = self.header.limited_bytes
        if taken > self.allowed_bytes:
            self.allowed_bytes += EXPANSION * base_bytes()
        if taken > self.allowed_bytes:
            raise LimitError(
                f"the file takes {taken} bytes decoded; {self.allowed_bytes} are allowed for a file of {self._size} "
                "bytes. If you trust the file, pass max_bytes"
            )

    def records(self, stream: int) -> tuple[list[ChunkRecord], list[int]]:
        """A stream's table records, checked, and the position of each chunk in the file."""
        known = self._records.get(stream)
        if known is not None:  # asked for at every chunk: without the lock
            return known
        with self._lock:
            if stream not in self._records:
                self._records[stream] = self._read_records(stream)
            return self._records[stream]

    def read_table(self) -> None:
        """Read the records of all chunks at once; else a stream's are read when it is first used."""
        if not self._partial:
            with self._lock:
                self._read_whole_table()

    def _read_whole_table(self) -> None:
        end = self.table_at + self.header.table_length
        if end > len(self._start):
            self._start += self.source.read(len(self._start), end - len(self._start)).tobytes()

    def _front(self, offset: int, length: int) -> bytes:
        """Bytes of what lies before the chunks, of which the beginning has been read already."""
        if offset + length <= len(self._start):
            return self._start[offset : offset + length]
        if offset + length > self._size:  # of a partial file
            raise TruncatedError(f"bytes {offset} to {offset + length} are its table; the file has {self._size}")
        return self.source.read(offset, length).tobytes()

    def _read_records(self, stream: int) -> tuple[list[ChunkRecord], list[int]]:
        plan, record = self.header.streams[stream], self.stream_records[stream]
        if self.header.table_length <= WHOLE_TABLE_BYTES and not self._partial:
            self._read_whole_table()
        if not hasattr(self, "_positions"):
            self._sum_up()
        position, end = self._positions[stream : stream + 2]
        begin = self.table_at + self._first_chunk[stream] * CHUNK_RECORD_BYTES
        data = self._front(begin, plan.chunks * CHUNK_RECORD_BYTES)
        if stored_digest(data) != record.table_digest:
            raise ChecksumError(f"{plan.label}: its table records do not match the index: the file is damaged")
        records = read_chunk_records(data)
        positions, unit_bytes = [], plan.dtype.unit_bytes
        most, left = plan.chunk * unit_bytes, plan.units * unit_bytes
        for i, (stored, stated_length, _stored_digest, _decoded_digest) in enumerate(records):
            decoded = min(most, left)
            left -= most
            if stated_length != decoded:
                stated = f"decoded length {stated_length}; the header implies {decoded}"
                raise FormatError(f"{plan.label}, chunk {i}: {stated}")
            if decoded > MAX_CHUNK_BYTES:
                raise LimitError(f"{plan.label}, chunk {i}: {decoded} bytes decoded; the limit is {MAX_CHUNK_BYTES}")
            if stored % 64 or not stored * EXPANSION >= decoded or not 0 < stored <= aligned(decoded) + 128:
                raise FormatError(f"{plan.label}, chunk {i}: a stored length of {stored} for {decoded} bytes decoded")
            positions.append(position)
            position += stored
        if position != end:
            raise FormatError(f"{plan.label}: the chunks' lengths do not sum to the stream's")
        return records, positions

    def _sum_up(self) -> None:
        """Running sums, once and only when a chunk is wanted."""
        first, at = [0], [self.chunks_at]
        for plan, record in zip(self.header.streams, self.stream_records, strict=True):
            first.append(first[-1] + plan.chunks)
            at.append(at[-1] + record.stored_length)
        self._first_chunk, self._positions = first, at

    def stored(self, stream: int, chunks: range, scratch: Bytes | None = None) -> Bytes:
        """Stored bytes of chunks that follow each other, by one read; each checked unless verify is "none"."""
        records, positions = self.records(stream)
        begin = positions[chunks[0]]
        end = positions[chunks[-1]] + records[chunks[-1]].stored_length
        data = self.source.read(begin, end - begin, scratch)
        for chunk in chunks:
            at = positions[chunk] - begin
            self.check(stream, chunk, data[at : at + records[chunk].stored_length])
        return data

    def check(self, stream: int, chunk: int, data: Bytes) -> ChunkRecord:
        """A chunk's record; raises ChecksumError if the bytes are not those that it names, unless verify is "none"."""
        records, positions = self.records(stream)
        record = records[chunk]
        if self.verify != "none" and stored_digest(data.data) != record.stored_digest:
            raise ChecksumError(
                f"{self.header.streams[stream].label}, chunk {chunk}: its {record.stored_length} bytes at offset "
                f"{positions[chunk]} do not have their BLAKE3 digest: the file is damaged; copy or download it again"
            )
        return record

    def front_of(self, stream: int, chunk: int, length: int) -> Bytes:
        """The first bytes of a chunk, or fewer if it is shorter; unchecked, to be looked at and not decoded."""
        records, positions = self.records(stream)
        return self.source.read(positions[chunk], min(length, records[chunk].stored_length))

    def close(self) -> None:
        self.source.close()
