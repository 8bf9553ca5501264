"""Files with right digests over whatever one likes, made without the library."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any

import blake3
import xxhash

Chunk = tuple[bytes, bytes]  # stored, decoded
BYTES = {"bits": [{"plane": 8}], "rotate": 0}
EMPTY = blake3.blake3(b"").digest()


def digest(data: bytes) -> bytes:
    return blake3.blake3(data).digest()


def padding(length: int) -> bytes:
    return bytes(-length % 64)


def decoded_digest(data: bytes) -> int:
    pieces = [xxhash.xxh3_64_intdigest(data[at : at + 16384]) for at in range(0, len(data), 16384)]
    return xxhash.xxh3_64_intdigest(struct.pack(f"<{len(pieces)}Q", *pieces))


def literal(data: bytes) -> Chunk:
    """A chunk of bytes as they are."""
    stored = struct.pack("<BBHIQ", 0, 0, 0, len(data), 0) + data
    return stored + padding(len(stored)), data


def zeros(length: int, stored_length: int) -> Chunk:
    """An affine chunk of zeros."""
    return struct.pack("<BBHIQQQ", 1, 0, 0, length, 0, 0, 0).ljust(stored_length, b"\0"), bytes(length)


def header(tensors: Sequence[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {"expressions": [BYTES], "metadata": {}, "packs": [], "tensors": list(tensors), **more}


def canonical(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def sealed(head: bytes, index: bytes = b"", rest: bytes = b"", **prefix: int) -> bytes:
    """A file of these parts. `prefix`: fields of the prefix to be other than they should be."""
    length = 64 + len(head) + len(index) + len(rest)
    fields = {"file_length": length, "header_length": len(head), "index_length": len(index), **prefix}
    start = struct.pack("<8sIIQII", b"\x89SLM\r\n\x1a\n", 0, 0, *fields.values())
    return start + digest(start + head + index) + head + index + rest


def build(value: Any, streams: Sequence[Sequence[Chunk]] = (), identities: Sequence[bytes] = ()) -> bytes:
    """A whole file: its header as JSON, the chunks of each stream, the identity of each tensor."""
    head = canonical(value)
    tables = [
        b"".join(
            struct.pack("<II32sQ", len(stored), len(decoded), digest(stored), decoded_digest(decoded))
            for stored, decoded in stream
        )
        for stream in streams
    ]
    index = b"".join(
        struct.pack("<Q32s", sum(len(stored) for stored, _ in stream), digest(table))
        for stream, table in zip(streams, tables, strict=True)
    )
    index += b"".join(identities)
    table = b"".join(tables)
    front = 64 + len(head) + len(index) + len(table)
    chunks = b"".join(stored for stream in streams for stored, _ in stream)
    return sealed(head, index, table + padding(front) + chunks)
