"""The coder's tables, from the frequencies of the 256 symbols (coder.md, section 3).

The decoder's table has 4096 entries whatever the precision P: frequency (12 bits), symbol (8), bias (12), from the top.
Reading a symbol from a state x with the slot x mod 4096 is

    x = frequency * floor(x / 4096) + bias

For P = 12 the bias is slot - start[s]. For P = 11 the entry's frequency is 2 * frequency[s]: with b for bit 11 of x,

    frequency[s] * floor(x / 2048) + slot - start[s]
        = 2 * frequency[s] * floor(x / 4096) + b * frequency[s] + slot - start[s]

where the second slot is x mod 2048. Either way bias < frequency < 4096.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.kernels._jit import brief, inlined
from slimtensors.kernels.status import BAD_ARGUMENT, OK

Array = npt.NDArray[Any]

SYMBOLS = 256
LEAST_PRECISION, MOST_PRECISION = 11, 12
SLOTS = 1 << MOST_PRECISION

FIELD_BITS = 12
LOW = (1 << FIELD_BITS) - 1
SYMBOL_SHIFT, FREQUENCY_SHIFT = 12, 20

ABSENT = 1 << 24  # marks a symbol without frequency in the encoder's table


@inlined
def fill_slots(table: Array, precision: int, slot: int, frequency: int, symbol: int) -> None:
    """Give a symbol the slots from `slot` on."""
    entry = frequency << FREQUENCY_SHIFT + MOST_PRECISION - precision | symbol << SYMBOL_SHIFT
    # Places are counted from a slice's beginning: LLVM then makes vectors of them.
    here = table[slot : slot + frequency]
    for offset in range(here.size):
        here[offset] = np.uint32(entry | offset)
    if precision < MOST_PRECISION:
        here = table[(1 << precision) + slot : (1 << precision) + slot + frequency]
        for offset in range(here.size):
            here[offset] = np.uint32(entry | offset + frequency)


@brief
def build_table(frequencies: Array, precision: int, table: Array) -> int:
    """The decoder's table. BAD_ARGUMENT if the frequencies do not sum to 2^precision, or one of them is 2^precision.

    frequencies  uint16[256]
    table        uint32[4096]
    """
    if not LEAST_PRECISION <= precision <= MOST_PRECISION or table.size != SLOTS or frequencies.size != SYMBOLS:
        return BAD_ARGUMENT
    slots = 1 << precision
    slot = 0
    for symbol in range(SYMBOLS):
        frequency = int(frequencies[symbol])
        if frequency > slots - slot or frequency == slots:
            return BAD_ARGUMENT
        fill_slots(table, precision, slot, frequency, symbol)
        slot += frequency
    return OK if slot == slots else BAD_ARGUMENT


@brief
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
