"""Which neighbouring tables of a plane with contexts are worth being one (an encoder's choice; coder.md, section 7)."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from slimtensors.kernels._jit import kernel
from slimtensors.kernels.cpu.frequencies import normalise_some
from slimtensors.kernels.cpu.table import LEAST_PRECISION, MOST_PRECISION, SYMBOLS
from slimtensors.kernels.status import BAD_ARGUMENT, OK

Array = npt.NDArray[Any]

BIT = 512  # costs are counted in parts of a bit, so that all is whole numbers and every machine chooses alike
MARK = 16 * BIT  # of a table that is the same as the one before
TWO_BYTES = 128  # frequencies from here on take two bytes


@kernel
def table_cost(
    counts: Array, at: int, low: int, high: int, precision: int, logarithms: Array, room: Array, frequencies: Array
) -> int:
    """What symbols counts[at : at + 256] take with a table of their own, which are 0 outside [low, high). The last two:
    work space; all frequencies outside [low - 1, high] are 0.
    """
    for symbol in range(low, high):
        room[symbol] = counts[at + symbol]
    if normalise_some(room, low, high, precision, frequencies) != OK:
        return 0
    # A single symbol lends a slot to a neighbour, which may lie outside.
    begin, end = max(low - 1, 0), min(high + 1, SYMBOLS)
    total, first, last = 2 * 8 * BIT, SYMBOLS, 0
    for symbol in range(begin, end):
        frequency = int(frequencies[symbol])
        if frequency > 0:
            first, last = min(first, symbol), symbol
            total += 8 * BIT if frequency >= TWO_BYTES else 0
            if low <= symbol < high:
                # bits = count * (P - log2(frequency))
                total += counts[at + symbol] * (precision * BIT - logarithms[frequency])
        frequencies[symbol] = 0
    return total + 8 * BIT * (last + 1 - first)


@kernel
def pair_gain(
    counts: Array,
    one: int,
    other: int,
    low: int,
    high: int,
    precision: int,
    logarithms: Array,
    costs: Array,
    room: Array,
    frequencies: Array,
) -> int:
    """What table `one` takes with `other` put into it, and a mark, less what both take; 0 where there is no other."""
    if other >= costs.size:
        return 0
    for symbol in range(low, high):
        counts[SYMBOLS * one + symbol] += counts[SYMBOLS * other + symbol]
    together = table_cost(counts, SYMBOLS * one, low, high, precision, logarithms, room, frequencies)
    for symbol in range(low, high):
        counts[SYMBOLS * one + symbol] -= counts[SYMBOLS * other + symbol]
    gain: int = together + MARK - costs[one] - costs[other]
    return gain


@kernel
def merge_tables(
    counts: Array,
    precision: int,
    logarithms: Array,
    costs: Array,
    gains: Array,
    after: Array,
    room: Array,
    frequencies: Array,
    leader: Array,
) -> int:
    """Neighbours become one table where that takes less, the pair that saves most first.

    counts       int64[256 * tables]  how often each symbol occurs in each context; at most 2^24 together; afterwards
                                      each leader has those of its tables
    logarithms   int64[2^precision + 1]  BIT * log2, rounded down
    leader       int64[tables]        filled: the first of the tables that are one with it; a table without symbols goes
                                      with the one before it, or is its own leader where there is none

    costs, gains, after int64[tables], room int64[256], frequencies uint16[256]: work space.
    """
    tables = leader.size
    sizes = costs.size == tables and gains.size == tables and after.size == tables and counts.size == SYMBOLS * tables
    if not sizes or room.size != SYMBOLS or frequencies.size != SYMBOLS:
        return BAD_ARGUMENT
    if not LEAST_PRECISION <= precision <= MOST_PRECISION or logarithms.size <= 1 << precision:
        return BAD_ARGUMENT
    low, high = SYMBOLS, 0  # of the symbols that occur at all
    for symbol in range(SYMBOLS):
        frequencies[symbol] = 0
        for i in range(tables):
            if counts[SYMBOLS * i + symbol] != 0:
                low, high = min(low, symbol), symbol + 1
    before = tables
    for i in range(tables):
        total = 0
        for symbol in range(low, high):
            total += counts[SYMBOLS * i + symbol]
        leader[i], after[i], costs[i], gains[i] = i, tables, 0, 0
        if total > 0:
            costs[i] = table_cost(counts, SYMBOLS * i, low, high, precision, logarithms, room, frequencies)
            if before < tables:
                after[before] = i
            before = i
        elif before < tables:
            leader[i] = before

    # gain of i = cost of i and the one after it together - costs of both
    for i in range(tables):
        gains[i] = pair_gain(counts, i, after[i], low, high, precision, logarithms, costs, room, frequencies)
    for _ in range(tables):
        best = 0
        for i in range(tables):
            best = i if gains[i] < gains[best] else best
        other = after[best]
        if tables == 0 or gains[best] >= 0 or other >= tables:
            break
        for symbol in range(low, high):
            counts[SYMBOLS * best + symbol] += counts[SYMBOLS * other + symbol]
        costs[best] = costs[best] + costs[other] + gains[best] - MARK
        for i in range(tables):
            leader[i] = best if leader[i] == other else leader[i]
        after[best], gains[other], after[other] = after[other], 0, tables
        gains[best] = pair_gain(counts, best, after[best], low, high, precision, logarithms, costs, room, frequencies)
        for i in range(best):
            if after[i] == best:
                gains[i] = pair_gain(counts, i, best, low, high, precision, logarithms, costs, room, frequencies)
    return OK
