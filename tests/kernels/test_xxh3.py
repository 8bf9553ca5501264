"""The chunk digest against its definition, whatever the length. The kernel alone is checked by kernels.check."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import xxhash

from slimtensors.digests import PIECE_BYTES, decoded_digest


def expected(data: bytes) -> int:
    """As container.md, section 7 says it."""
    pieces = [data[at : at + PIECE_BYTES] for at in range(0, len(data), PIECE_BYTES)]
    return xxhash.xxh3_64_intdigest(b"".join(struct.pack("<Q", xxhash.xxh3_64_intdigest(piece)) for piece in pieces))


def noise(length: int) -> np.ndarray:
    return np.random.default_rng(length).integers(0, 256, length, np.uint8)


def test_every_short_length():
    data = noise(1100)
    for length in range(1101):
        assert decoded_digest(data[:length].data) == expected(data[:length].tobytes())


def test_many_lengths():
    rng = np.random.default_rng(5)
    data = noise(1 << 20)
    for length in [*rng.integers(0, PIECE_BYTES, 100), *rng.integers(0, data.size, 100), 8 * PIECE_BYTES, data.size]:
        assert decoded_digest(data[:length].data) == expected(data[:length].tobytes())


@pytest.mark.parametrize("kind", ["unaligned", "read-only"])
def test_bytes_that_kernels_do_not_take(kind):
    data = noise(10 * PIECE_BYTES + 1)
    part = data[1:].data if kind == "unaligned" else memoryview(data[1:].tobytes())
    assert decoded_digest(part) == expected(bytes(part))
