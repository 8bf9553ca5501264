"""Items of the kernels that see each unit by itself: ranges of units, and where they come from."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["ITEM_UNITS", "pieces"]

ITEM_UNITS = 1 << 16  # of an item


def pieces(count: int, to: int, source: int) -> Iterator[tuple[int, tuple[int, ...]]]:
    """(units before it, its first words up to BASE_HIGH) of each item of so many units."""
    for done in range(0, count, ITEM_UNITS):
        there, here = to + done, source + done
        units = min(ITEM_UNITS, count - done)
        yield done, (there & 0xFFFFFFFF, there >> 32, units, here & 0xFFFFFFFF, here >> 32)
