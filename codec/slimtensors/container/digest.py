"""BLAKE3 of what is stored, XXH3 of what is decoded (format_spec/container.md, sections 2 and 7)."""

from __future__ import annotations

from typing import Any

import blake3

from slimtensors.digests import decoded_digest

__all__ = ["decoded_digest", "new_identity", "stored_digest"]


def stored_digest(*parts: bytes | memoryview) -> bytes:
    """BLAKE3-256 of the parts, one after another."""
    if len(parts) == 1:
        return blake3.blake3(parts[0]).digest()
    hasher = blake3.blake3()
    for part in parts:
        hasher.update(part)
    return hasher.digest()


def new_identity(data: bytes | memoryview = b"") -> Any:
    """A running BLAKE3 of a tensor's decoded bytes."""
    return blake3.blake3(data)
