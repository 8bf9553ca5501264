"""A file taken apart, so that one thing in it can be changed and the digests over it made right again.

`Parts.split(data).join()` is `data`. A number or digest that is None is computed by `join`;
set, it is written as it is.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import decode
from decode import ALIGNMENT, IDENTITY_BYTES, MAGIC, PREFIX, STREAM_RECORD, TABLE_RECORD, digest, round_up


@dataclass
class ChunkParts:
    stored: bytes
    decoded_length: int
    decoded_digest: int
    stored_length: int | None = None
    stored_digest: bytes | None = None
    decoded: bytes | None = None  # where it is known

    def record(self) -> bytes:
        return TABLE_RECORD.pack(
            len(self.stored) if self.stored_length is None else self.stored_length,
            self.decoded_length,
            digest(self.stored) if self.stored_digest is None else self.stored_digest,
            self.decoded_digest,
        )


def chunk_of(stored: bytes, decoded: bytes) -> ChunkParts:
    return ChunkParts(stored, len(decoded), decode.decoded_digest(decoded), decoded=decoded)


@dataclass
class StreamParts:
    chunks: list[ChunkParts]
    stored_length: int | None = None
    table_digest: bytes | None = None

    def record(self) -> bytes:
        length = sum(len(chunk.stored) for chunk in self.chunks)
        return STREAM_RECORD.pack(
            length if self.stored_length is None else self.stored_length,
            digest(*(chunk.record() for chunk in self.chunks)) if self.table_digest is None else self.table_digest,
        )


@dataclass
class Parts:
    header: bytes
    streams: list[StreamParts]
    identities: list[bytes]
    magic: bytes = MAGIC
    version: int = 0
    features: int = 0
    file_length: int | None = None
    header_length: int | None = None
    index_length: int | None = None
    file_id: bytes | None = None
    index_tail: bytes = b""
    padding: bytes | None = None
    trailing: bytes = b""
    json: dict = field(init=False)  # the header, parsed; set_json puts it back

    def __post_init__(self) -> None:
        self.json = json.loads(self.header)

    def set_json(self) -> None:
        self.header = decode.canonical(self.json)

    def chunks(self) -> list[ChunkParts]:
        return [chunk for stream in self.streams for chunk in stream.chunks]

    def join(self) -> bytes:
        index = b"".join([*(stream.record() for stream in self.streams), *self.identities, self.index_tail])
        table = b"".join(chunk.record() for chunk in self.chunks())
        if self.padding is None:
            before = PREFIX.size + len(self.header) + len(index) + len(table)
            padding = bytes(round_up(before, ALIGNMENT) - before)
        else:
            padding = self.padding
        rest = b"".join([table, padding, *(chunk.stored for chunk in self.chunks()), self.trailing])
        file_length = PREFIX.size + len(self.header) + len(index) + len(rest)
        fields = [
            self.magic,
            self.version,
            self.features,
            file_length if self.file_length is None else self.file_length,
            len(self.header) if self.header_length is None else self.header_length,
            len(index) if self.index_length is None else self.index_length,
        ]
        begin = PREFIX.pack(*fields, bytes(32))[:32]
        file_id = digest(begin, self.header, index) if self.file_id is None else self.file_id
        return begin + file_id + self.header + index + rest

    @classmethod
    def split(cls, data: bytes) -> Parts:
        """Of a sound file."""
        header, stored, identities, _ = decode.read_layout(data)
        header_length = PREFIX.unpack_from(data)[4]
        streams = [
            StreamParts([ChunkParts(r.stored, r.decoded_length, r.decoded_digest) for r in stream.records()])
            for stream in stored
        ]
        assert len(header.streams) == len(streams)
        assert all(len(identity) == IDENTITY_BYTES for identity in identities)
        return cls(data[64 : 64 + header_length], streams, identities)
