"""From counts to frequencies that sum to a power of two (coder.md, section 3)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.kernels._jit import brief, shared
from slimtensors.kernels.cpu.table import LEAST_PRECISION, MOST_PRECISION, SYMBOLS
from slimtensors.kernels.status import BAD_ARGUMENT, OK

Array = npt.NDArray[Any]

MOST_COUNT = 1 << 40  # so that count * slots fits
MOST_TABLE_BYTES = 2 + 2 * SYMBOLS
TWO_BYTES = 0x80  # set in the first of two bytes


@brief
def normalise(counts: Array, precision: int, frequencies: Array) -> int:
    """Frequencies that sum to 2^precision, at least 1 for each symbol that occurs, at least two symbols.

    counts       int64[256]   how often each symbol occurs; at least one does. They are overwritten
    frequencies  uint16[256]

    Whole numbers only, so every machine gets the same. Returns OK, or BAD_ARGUMENT for lengths, or counts that are
    negative, too large, or all zero.
    """
    if not LEAST_PRECISION <= precision <= MOST_PRECISION or counts.size != SYMBOLS or frequencies.size != SYMBOLS:
        return BAD_ARGUMENT
    for symbol in range(SYMBOLS):
        frequencies[symbol] = 0
    return normalise_some(counts, 0, SYMBOLS, precision, frequencies)


@shared
def normalise_some(counts: Array, low: int, high: int, precision: int, frequencies: Array) -> int:
    """The same where only symbols [low, high) occur, and all other frequencies are 0 already; no other is looked at."""
    total = 0
    for symbol in range(low, high):
        if not 0 <= counts[symbol] <= MOST_COUNT:
            return BAD_ARGUMENT
        total += counts[symbol]
        frequencies[symbol] = 0
    if total == 0:
        return BAD_ARGUMENT

    # Symbols below one slot get one; the others share what is left, in proportion. That may push more below one slot.
    left = 1 << precision
    changed = True
    while changed:
        changed = False
        shared, slots = total, left
        for symbol in range(low, high):
            # ideal = count * slots / shared
            if frequencies[symbol] == 0 and counts[symbol] > 0 and counts[symbol] * slots < shared:
                frequencies[symbol] = 1
                total -= counts[symbol]
                left -= 1
                changed = True

    # Rounded down, these leave fewer slots than there are symbols: they go to those that it cost most, of equal ones to
    # the first.
    missing = left
    for symbol in range(low, high):
        cut = np.int64(-1)
        if frequencies[symbol] == 0 and counts[symbol] > 0:
            share = counts[symbol] * left
            frequencies[symbol] = share // total
            missing -= np.int64(frequencies[symbol])
            cut = share % total
        counts[symbol] = cut
    # The largest cut that so many reach, bit by bit; then all above it and the first that are equal.
    least, bit = np.int64(0), np.int64(1)
    while bit <= total:
        bit <<= 1
    while bit > 0:
        reached = 0
        for symbol in range(low, high):
            reached += counts[symbol] >= least + bit
        if reached >= missing:
            least += bit
        bit >>= 1
    for symbol in range(low, high):
        if counts[symbol] > least:
            frequencies[symbol] += 1
            missing -= 1
    for symbol in range(low, high):
        if missing > 0 and counts[symbol] == least:
            frequencies[symbol] += 1
            missing -= 1

    # 2^precision itself is not a frequency: a single symbol lends a slot to a neighbour.
    for symbol in range(low, high):
        if np.int64(frequencies[symbol]) == 1 << precision:
            frequencies[symbol] -= 1
            frequencies[symbol - 1 if symbol > 0 else 1] = 1
            break
    return OK


@brief
def write_table(frequencies: Array, out: Array) -> int:
    """The stored form: the first and the last symbol that occur, then the frequencies of all from one to the other.

    frequencies  uint16[256]                 less than 2^14, not all zero
    out          uint8[MOST_TABLE_BYTES]

    Returns how many bytes it takes, or -1.
    """
    if frequencies.size != SYMBOLS or out.size != MOST_TABLE_BYTES:
        return -1
    first, last = SYMBOLS, -1
    for symbol in range(SYMBOLS):
        if frequencies[symbol] > 0:
            first, last = min(first, symbol), symbol
    if last < 0:
        return -1
    out[0], out[1] = first, last
    length = 2
    for symbol in range(first, last + 1):
        frequency = np.int64(frequencies[symbol])
        out[length] = frequency if frequency < TWO_BYTES else frequency % TWO_BYTES + TWO_BYTES
        length += 1
        if frequency >= TWO_BYTES:
            out[length] = frequency // TWO_BYTES
            length += 1
    return length
