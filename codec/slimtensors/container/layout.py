"""Numbers and fixed records of the file, named as in format_spec/container.md."""

from __future__ import annotations

import struct
from typing import NamedTuple

from slimtensors.errors import FormatError, LimitError, NewerFormatError, TruncatedError
from slimtensors.limits import MAX_HEADER_BYTES, MAX_INDEX_BYTES

MAGIC = b"\x89SLM\r\n\x1a\n"
FORMAT_VERSION = 0
KNOWN_FEATURES = 0

ALIGNMENT = 64  # of chunks in the file and of their lengths: a cache line
PREFIX_BYTES = 64
DIGEST_BYTES = 32

_PREFIX = struct.Struct("<8sIIQII32s")
_STREAM = struct.Struct("<Q32s")
_CHUNK = struct.Struct("<II32sQ")
SIGNED_PREFIX_BYTES = 32  # what the file id covers of the prefix: all but the file id
STREAM_RECORD_BYTES = _STREAM.size
CHUNK_RECORD_BYTES = _CHUNK.size


def aligned(length: int, alignment: int = ALIGNMENT) -> int:
    """The next multiple."""
    return -(-length // alignment) * alignment


class Prefix(NamedTuple):
    file_length: int
    header_length: int
    index_length: int
    file_id: bytes

    def pack(self) -> bytes:
        return _PREFIX.pack(
            MAGIC, FORMAT_VERSION, KNOWN_FEATURES, self.file_length, self.header_length, self.index_length, self.file_id
        )


class StreamRecord(NamedTuple):
    stored_length: int
    table_digest: bytes

    def pack(self) -> bytes:
        return _STREAM.pack(*self)


class ChunkRecord(NamedTuple):
    stored_length: int
    decoded_length: int
    stored_digest: bytes
    decoded_digest: int

    def pack(self) -> bytes:
        return _CHUNK.pack(*self)


def read_prefix(data: bytes, file_length: int | None) -> Prefix:
    """Step 1 of container.md, section 10. `file_length` is None where a source cannot tell its length."""
    if len(data) < PREFIX_BYTES:
        raise TruncatedError(f"the file ends after {len(data)} of the prefix's {PREFIX_BYTES} bytes")
    magic, version, features, length, header_length, index_length, file_id = _PREFIX.unpack_from(data)
    if magic != MAGIC:
        raise FormatError("this is not a slimtensors file: its first eight bytes are others")
    if version != FORMAT_VERSION:
        raise NewerFormatError(f"the file has format version {version}, this reader knows version {FORMAT_VERSION}")
    if features & ~KNOWN_FEATURES:
        raise NewerFormatError(f"the file needs features {features:#x}, unknown to this reader; update slimtensors")
    if file_length is not None and length != file_length:
        rest = "; `slimtensors salvage` writes the tensors that are there" if file_length < length else ""
        stated = f"the file has {file_length} bytes, it should have {length}"
        raise TruncatedError(f"{stated}; copy or download it again{rest}")
    if header_length > MAX_HEADER_BYTES:
        raise LimitError(f"the header is {header_length} bytes long; the limit is {MAX_HEADER_BYTES}")
    if index_length > MAX_INDEX_BYTES:
        raise LimitError(f"the index is {index_length} bytes long; the limit is {MAX_INDEX_BYTES}")
    if PREFIX_BYTES + header_length + index_length > length:
        raise FormatError("header and index reach past the end of the file")
    return Prefix(length, header_length, index_length, file_id)


def read_stream_records(data: bytes, count: int) -> list[StreamRecord]:
    return list(map(StreamRecord._make, _STREAM.iter_unpack(data[: count * _STREAM.size])))


def read_chunk_records(data: bytes) -> list[ChunkRecord]:
    return list(map(ChunkRecord._make, _CHUNK.iter_unpack(data)))
