"""XXH3 of what is decoded (format_spec/container.md, section 7)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import xxhash

from slimtensors.kernels.status import must

__all__ = ["decoded_digest"]

PIECE_BYTES = 16384  # what one block of a GPU kernel can hash
KERNEL_PIECES = 8  # fewer are not worth loading Numba for


def decoded_digest(data: memoryview) -> int:
    """XXH3-64 of the XXH3-64s of pieces of 16 KiB."""
    digests = np.empty(-(-len(data) // PIECE_BYTES), "<u8")
    done = _hash_whole_pieces(data, digests)
    for i in range(done, digests.size):
        digests[i] = xxhash.xxh3_64_intdigest(data[i * PIECE_BYTES : (i + 1) * PIECE_BYTES])
    return xxhash.xxh3_64_intdigest(digests.data)


def _hash_whole_pieces(data: memoryview, digests: npt.NDArray[np.uint64]) -> int:
    """Fill in the digests of whole pieces with other threads running meanwhile; returns how many, 0 if few."""
    pieces = len(data) // PIECE_BYTES
    if pieces < KERNEL_PIECES or data.readonly:
        return 0
    words = np.frombuffer(data, np.uint64, pieces * PIECE_BYTES // 8)
    if not words.flags.aligned:
        return 0
    # Loads Numba, which those who only look at a file can do without. Of a module, not of the package: it is quicker.
    from slimtensors.kernels.cpu.xxh3 import STAGING, hash_pieces

    must(hash_pieces(words, np.empty(STAGING, np.uint64), digests[:pieces]))
    return pieces
