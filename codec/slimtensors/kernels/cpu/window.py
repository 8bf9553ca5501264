"""Which fields of a plane symbols stand for (coder.md, section 3), from how often each field occurs."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.kernels._jit import inlined, kernel
from slimtensors.kernels.cpu.table import SYMBOLS
from slimtensors.kernels.status import BAD_ARGUMENT, OK

Array = npt.NDArray[Any]

MOST_TOTAL = 1 << 40  # so that sums fit


@inlined
def rare_end(counts: Array, begin: int, step: int, total: int, gaps: bool) -> int:
    """The first field, from `begin` on by `step`, that is not to be left out. gaps: those that never occur take slots.

    Leaving out the k rarest saves k slots of 4096, each worth n * log2(4096 / 4095) bits to the others, and costs 48
    bits less the 12 of a rare symbol each time that one occurs. n * 3.52e-4 / 36 is n / 102262.
    """
    saved, most, end, field = 0, 0, begin, begin
    while 0 < field < counts.size:
        if gaps or counts[field] > 0:
            # saved(k) = k n - 102262 (counts[0] + ... + counts[k - 1]), of the fields that take slots
            saved += total - 102262 * counts[field]
            if saved > most:
                most, end = saved, field + step
        field += step
    return end


@kernel
def choose_window(counts: Array, gaps: bool, found: Array) -> int:
    """The best window: symbols 1 to 255 stand for the fields base + 1 to last.

    counts  int64[2^w]  how often each field occurs, at least in a sample
    gaps                whether a field of the window that does not occur is given a slot, as after a sample
    found   int64[2]    base and last; 0 and 0 if no field but 0 occurs

    It covers the most fields that 255 symbols can. The smallest and the largest are left out while they are so rare
    that listing them as escapes takes less than the slots that they would occupy. Returns OK or BAD_ARGUMENT.
    """
    if found.size != 2:
        return BAD_ARGUMENT
    total, first, end = 0, counts.size, 0  # of the fields that occur, but for 0
    for field in range(counts.size):
        if not 0 <= counts[field] <= MOST_TOTAL - total:
            return BAD_ARGUMENT
        total += counts[field]
        if field > 0 and counts[field] > 0:
            first, end = min(first, field), field + 1
    found[0] = found[1] = 0
    if end == 0:
        return OK
    low, high = rare_end(counts, first, 1, total, gaps), rare_end(counts, end - 1, -1, total, gaps)
    kept = 0
    for field in range(max(low, 1), min(high + 1, counts.size)):
        kept += counts[field] > 0
    if kept >= 2:
        while counts[low] == 0:
            low += 1
        while counts[high] == 0:
            high -= 1
        first, end = low, high + 1
    found[0], found[1] = first - 1, end - 1
    if end - first >= SYMBOLS:
        # The fields b + 1 to b + 255 that occur most often together; of equal ones the lowest.
        inside = 0
        for field in range(1, SYMBOLS):
            inside += counts[field]
        most, base = inside, 0
        for field in range(SYMBOLS, counts.size):
            inside += counts[field] - counts[field - (SYMBOLS - 1)]
            if inside > most:
                most, base = inside, field - (SYMBOLS - 1)
        found[0], found[1] = base, base + SYMBOLS - 1
    return OK


@kernel
def count_symbols(counts: Array, base: int, last: int, symbols: Array) -> int:
    """How often each symbol occurs, from how often each field does; what the window lacks counts as symbol 0.

    counts   int64[2^w]
    symbols  int64[256]

    Returns OK or BAD_ARGUMENT.
    """
    if not 0 <= base <= last < base + SYMBOLS or last >= counts.size or symbols.size != SYMBOLS:
        return BAD_ARGUMENT
    rest = np.int64(0)
    for field in range(counts.size):
        rest += counts[field]
    symbols[0] = 0
    for symbol in range(1, SYMBOLS):
        symbols[symbol] = counts[base + symbol] if base + symbol <= last else 0
        rest -= symbols[symbol]
    symbols[0] = rest
    return OK
