"""Frequency tables: normalised and stored (format_spec/coder.md, section 3)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["PRECISIONS", "Frequencies", "cost", "normalise", "table_bytes"]

Frequencies = npt.NDArray[np.int64]  # of the 256 symbols; they sum to 2^precision

PRECISIONS = (11, 12)
_TWO_BYTES = 0x80  # set in the first of two bytes


def normalise(counts: npt.NDArray[np.integer], precision: int) -> Frequencies:
    """Frequencies that sum to 2^precision, at least 1 for each symbol that occurs, at least two symbols.

    counts: how often each of the 256 symbols occurs; at least one does. Integers only, so every machine gets the same.
    """
    slots = 1 << precision
    counts = counts.astype(np.int64)
    # Symbols below one slot get one; the others share what is left, in proportion. That may push more below one slot.
    small = np.zeros(256, np.bool_)
    while True:
        left = slots - int(np.count_nonzero(small))
        shared = np.where(small, 0, counts)
        total = int(shared.sum())
        # ideal[s] = counts[s] * left / total
        below = (shared > 0) & (shared * left < total)
        if not below.any():
            break
        small |= below
    frequencies = shared * left // total + small
    # Rounding down leaves fewer slots than symbols: to those that it cost most.
    most_cut = np.argsort(-(shared * left % total), kind="stable")
    frequencies[most_cut[: slots - int(frequencies.sum())]] += 1
    if np.count_nonzero(frequencies) == 1:  # 2^precision itself is not a frequency; lend a slot to a neighbour
        only = int(np.argmax(frequencies))
        frequencies[only] -= 1
        frequencies[only - 1 if only else 1] = 1
    return frequencies


def cost(counts: npt.NDArray[np.integer]) -> float:
    """Bits that an ideal coder needs for symbols that occur so often. A guide for choices, never stored."""
    used = counts[counts > 0].astype(np.float64)
    return float(-(used * np.log2(used / used.sum())).sum()) if used.size else 0.0


def table_bytes(frequencies: Frequencies) -> bytes:
    """The stored form."""
    used = np.flatnonzero(frequencies)
    first, last = int(used[0]), int(used[-1])
    out = bytearray((first, last))
    for frequency in frequencies[first : last + 1].tolist():
        if frequency < _TWO_BYTES:
            out.append(frequency)
        else:
            out.append(frequency % _TWO_BYTES + _TWO_BYTES)
            out.append(frequency // _TWO_BYTES)
    return bytes(out)
