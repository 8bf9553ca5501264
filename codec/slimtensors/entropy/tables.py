"""Frequency tables: normalised and stored (format_spec/coder.md, section 3)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from slimtensors.kernels.cpu import frequencies as kernels
from slimtensors.kernels.status import must

__all__ = ["PRECISIONS", "Frequencies", "cost", "normalise", "table_bytes"]

Frequencies = npt.NDArray[np.uint16]  # of the 256 symbols; they sum to 2^precision

PRECISIONS = (11, 12)


def normalise(counts: npt.NDArray[np.integer], precision: int) -> Frequencies:
    """Frequencies that sum to 2^precision, at least 1 for each symbol that occurs, at least two symbols.

    counts: how often each of the 256 symbols occurs; at least one does.
    """
    frequencies = np.empty(256, np.uint16)
    status = kernels.normalise(counts.astype(np.int64), precision, frequencies)
    must(status)
    return frequencies


def cost(counts: npt.NDArray[np.integer]) -> float:
    """Bits that an ideal coder needs for symbols that occur so often. A guide for choices, never stored."""
    used = counts[counts > 0].astype(np.float64)
    return float(-(used * np.log2(used / used.sum())).sum()) if used.size else 0.0


def table_bytes(frequencies: Frequencies) -> bytes:
    """The stored form."""
    out = np.empty(kernels.MOST_TABLE_BYTES, np.uint8)
    length = kernels.write_table(frequencies, out)
    assert length > 0
    return out[:length].tobytes()
