"""The coder's tables, from the frequencies of the 256 symbols (coder.md, section 3)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.kernels._jit import kernel
from slimtensors.kernels.status import BAD_ARGUMENT, OK

Array = npt.NDArray[Any]

SYMBOLS = 256
LEAST_PRECISION, MOST_PRECISION = 11, 12
FIELD_BITS = 12  # of a slot, a frequency and a start in a table's entry, whatever the precision
LOW = (1 << FIELD_BITS) - 1
SYMBOL_SHIFT = 2 * FIELD_BITS

ABSENT = 1 << SYMBOL_SHIFT  # marks a symbol without frequency in the encoder's table


@kernel
def build_table(frequencies: Array, precision: int, table: Array) -> int:
    """The decoder's table: for each slot: slot - start[s] (12 bits), frequency[s] (12 bits), s (8 bits).

    frequencies  uint16[256]
    table        uint32[2^precision]

    BAD_ARGUMENT if the frequencies do not sum to 2^precision, or one of them is 2^precision: it would not fit.
    """
    if not LEAST_PRECISION <= precision <= MOST_PRECISION or table.size != 1 << precision:
        return BAD_ARGUMENT
    if frequencies.size != SYMBOLS:
        return BAD_ARGUMENT
    slot = 0
    for symbol in range(SYMBOLS):
        frequency = int(frequencies[symbol])
        if frequency > table.size - slot or frequency == table.size:
            return BAD_ARGUMENT
        entry = frequency << FIELD_BITS | symbol << SYMBOL_SHIFT
        for offset in range(frequency):
            table[slot + offset] = np.uint32(entry | offset)
        slot += frequency
    return OK if slot == table.size else BAD_ARGUMENT


@kernel
def build_encoder_table(frequencies: Array, precision: int, table: Array) -> int:
    """The encoder's table: for each symbol: start[s] (12 bits), frequency[s] (12 bits), whether it is absent (1 bit).

    frequencies  uint16[256]
    table        uint32[256]

    BAD_ARGUMENT as for build_table.
    """
    if not LEAST_PRECISION <= precision <= MOST_PRECISION or table.size != SYMBOLS or frequencies.size != SYMBOLS:
        return BAD_ARGUMENT
    slots = 1 << precision
    start = 0
    for symbol in range(SYMBOLS):
        frequency = int(frequencies[symbol])
        if frequency > slots - start or frequency == slots:
            return BAD_ARGUMENT
        # An absent symbol gets a frequency to divide by, and a mark.
        entry = start | frequency << FIELD_BITS if frequency > 0 else 1 << FIELD_BITS | ABSENT
        table[symbol] = np.uint32(entry)
        start += frequency
    return OK if start == slots else BAD_ARGUMENT
