"""The decoder's table in shared memory, from where each symbol's slots start."""

from __future__ import annotations

from typing import Any

from slimtensors.kernels.cuda.rows import CODER_THREADS, SLOTS
from slimtensors.kernels.cuda.seam import Device

BIAS_MASK = 4095
FREQUENCY_SHIFT, SYMBOL_SHIFT = 20, 12


def make_fill_table(types: Any, device: Device) -> Any:
    """fill_table(table, starts, first, precision, base, thread): entries as kernels/cpu/table.py has them.

    base: what symbols other than 0 are to be raised by, to fields of 8 bits; else 0
    """
    u32 = types.uint32

    @device
    def symbol_of(starts: Any, first: int, slot: int) -> Any:
        """The last symbol that starts at the slot or before it."""
        symbol = u32(0)
        for i in range(8):
            later = u32(symbol + u32(128 >> i))
            if u32(starts[u32(first + later)]) <= slot:
                symbol = later
        return symbol

    @device
    def fill_table(table: Any, starts: Any, first: int, precision: int, base: int, thread: int) -> None:
        slots = u32(u32(1) << u32(precision))
        for i in range(thread, SLOTS, CODER_THREADS):
            # For a precision of 11 the table holds every slot twice: see kernels/cpu/table.py.
            slot = u32(u32(i) & u32(slots - u32(1)))
            symbol = symbol_of(starts, first, slot)
            start = u32(starts[u32(first + symbol)])
            end = u32(starts[u32(first + symbol + u32(1))]) if symbol < u32(255) else slots
            frequency = u32(end - start)
            bias = u32(slot - start + u32(u32(u32(i) >> u32(precision)) * frequency))
            field = u32(u32(symbol + base) & u32(255)) if symbol > u32(0) else symbol
            doubled = u32(frequency << u32(u32(12) - u32(precision)))
            table[u32(i)] = u32(u32(doubled << u32(FREQUENCY_SHIFT)) | u32(field << u32(SYMBOL_SHIFT)) | bias)

    return fill_table
