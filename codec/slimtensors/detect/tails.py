"""Values held wider than they are: last bits that are zero, in a whole tensor or in many of its rows."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.sources.inputs import Input

__all__ = ["row_flags", "trailing_zeros"]

Units = npt.NDArray[Any]

SAMPLE_ROWS = 1024
FEW_ROWS = 256  # at least, looked at before: what these miss is worth 0.03 bits per unit on average at most
NEAR = 4  # rows of which one is looked at, at most: so near that all of them are read at once
MIN_ROW, MIN_ROWS = 32, 8  # rows shorter or fewer than this are not worth a side plane
MIN_TAIL = 2  # common trailing zeros that are worth giving up a fused kernel for
MASK = (1 << MIN_TAIL) - 1
FIRST = 8  # units of a row
MIN_ROW_GAIN = 0.1  # bits per unit that rows with trailing zeros must save in the sample


def trailing_zeros(tensor: Input, sample: Units, units: int, most: int) -> tuple[int, bool, str]:
    """(bits, by row, why): trailing zeros that all units have in common, or that many rows have."""
    if not int(np.bitwise_or.reduce(sample[:MIN_ROW])) & MASK:
        tail = min(_zeros_below(int(np.bitwise_or.reduce(sample))), most)
        if tail >= MIN_TAIL:
            return tail, False, f"the last {tail} bits are zero"
    length = tensor.shape[-1] if len(tensor.shape) > 1 else 0
    if length < MIN_ROW or tensor.dtype.unit_bits < 32 or units // length < MIN_ROWS:
        return 0, False, ""
    rows = units // length
    picked = np.arange(rows)
    if rows > SAMPLE_ROWS:
        picked = np.linspace(0, rows - 1, SAMPLE_ROWS).astype(np.int64)  # no row twice
    # The first few units of a few rows tell nearly always that there is nothing to save.
    few = picked[:: max(1, picked.size // FEW_ROWS)]
    for looked, count in ((few, FIRST), (picked, FIRST), (picked, MIN_ROW), (picked, length)):
        bits = _bits_of_rows(tensor, looked, length, count)
        if np.count_nonzero(bits & MASK == 0) * most < MIN_ROW_GAIN * bits.size:
            return 0, False, ""
        best, share = _best_tail(bits, most)
        if share * best < MIN_ROW_GAIN:
            return 0, False, ""
    return best, True, f"the last {best} bits are zero in {share:.0%} of rows"


def _best_tail(bits: Units, most: int) -> tuple[int, float]:
    """(t, share): rows with at least t trailing zeros, of all; the t for which share * t is largest. bits: of each."""
    lowest = (bits & -bits).astype(np.float64)  # a power of two, or 0
    zeros = np.where(bits == 0, most, np.minimum(np.frexp(lowest)[1] - 1, most))
    shares = np.cumsum(np.bincount(zeros, minlength=most + 1)[::-1])[::-1] / bits.size
    gains = (shares * np.arange(most + 1))[MIN_TAIL:]
    best = MIN_TAIL + int(np.argmax(gains)) if gains.size else 0
    return best, float(shares[best])


def _bits_of_rows(tensor: Input, rows: Units, length: int, count: int) -> Units:
    """Of each of some rows, the bits that any of its first `count` units has; a megabyte at a time."""
    every = int(rows[1] - rows[0])
    near = every <= NEAR and rows[-1] - rows[0] == every * (rows.size - 1)
    step = max(1, (1 << 20) // (length * tensor.dtype.unit_bytes) // every)
    found = []
    for at in range(0, len(rows), step):
        some = rows[at : at + step]
        if near:
            block = tensor.read(int(some[0]) * length, (int(some[-1] - some[0]) + 1) * length)
            block = block.reshape(-1, length)[::every, :count]
        else:
            block = np.stack([tensor.read(int(row) * length, count) for row in some])
        # Column by column where they are few: rows that nobody has touched are then waited for all at once.
        found.append(reduce(np.bitwise_or, block.T) if count == FIRST else np.bitwise_or.reduce(block, axis=1))
    return np.concatenate(found)


def row_flags(tensor: Input, low: int, high: int, *, tail: int) -> Units:
    """One flag for each of the rows [low, high): whether any of its last `tail` bits is set."""
    length = tensor.shape[-1]
    flags = np.empty(high - low, np.uint8)
    mask = tensor.dtype.unit.type((1 << tail) - 1)
    step = max(1, (1 << 20) // (length * tensor.dtype.unit_bytes))
    for row in range(low, high, step):
        count = min(step, high - row)
        block = tensor.read(row * length, count * length).reshape(count, length)
        flags[row - low : row - low + count] = (np.bitwise_or.reduce(block, axis=1) & mask) != 0
    return flags


def _zeros_below(value: int) -> int:
    """Trailing zero bits; many for 0."""
    return (value & -value).bit_length() - 1 if value else 64
