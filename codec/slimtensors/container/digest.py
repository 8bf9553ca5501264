"""BLAKE3 of what is stored, XXH3 of what is decoded (format_spec/container.md, sections 2 and 7)."""

from __future__ import annotations

import struct
from typing import Any

import blake3
import xxhash

__all__ = ["decoded_digest", "new_identity", "stored_digest"]

PIECE_BYTES = 16384  # what one block of a GPU kernel can hash


def stored_digest(*parts: bytes | memoryview) -> bytes:
    """BLAKE3-256 of the parts, one after another."""
    if len(parts) == 1:
        return blake3.blake3(parts[0]).digest()
    hasher = blake3.blake3()
    for part in parts:
        hasher.update(part)
    return hasher.digest()


def decoded_digest(data: memoryview) -> int:
    """XXH3-64 of the XXH3-64s of pieces of 16 KiB."""
    xxh3 = xxhash.xxh3_64_intdigest
    pieces = [xxh3(data[at : at + PIECE_BYTES]) for at in range(0, len(data), PIECE_BYTES)]
    return xxh3(struct.pack(f"<{len(pieces)}Q", *pieces))


def new_identity(data: bytes | memoryview = b"") -> Any:
    """A running BLAKE3 of a tensor's decoded bytes."""
    return blake3.blake3(data)
