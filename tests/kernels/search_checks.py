"""Searches in registers find what look-ups in the table find, on damaged streams too."""

from __future__ import annotations

import numpy as np

from kernels import cases, naive
from slimtensors.kernels.cpu import search, table
from slimtensors.kernels.status import BAD_ARGUMENT, OK


def planted(frequencies: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """(table, tree, slots of strays)"""
    slots, tree = np.zeros(table.SLOTS, np.uint32), np.zeros(search.TREE, np.uint16)
    assert table.build_table(frequencies, search.PRECISION, slots) == OK
    return slots, tree, search.plant(slots, tree)


def find(tree: np.ndarray, slot: int) -> int:
    """The entry that the tree has for a slot, by its definition; 0 for strays."""
    leaf = 0
    for level in range(search.LEVELS):
        leaf = 2 * leaf + (int(tree[32 * level + leaf]) < slot)
    high, low = int(tree[search.HIGH + leaf]), int(tree[search.LOW_HALF + leaf])
    return high << 16 | (low + slot) % (1 << 16) if high else 0


def check_trees() -> None:
    rng = np.random.default_rng(12)
    for symbols in (2, 3, 31, 32, 33, 63, 64, 65, 66, 100, 255, 256):
        counts = np.zeros(256, np.int64)
        counts[rng.permutation(256)[:symbols]] = np.exp2(rng.uniform(0, 12, symbols))
        frequencies = np.array(naive.normalise(counts, search.PRECISION), np.uint16)
        slots, tree, strays = planted(frequencies)
        found = [find(tree, slot) for slot in range(table.SLOTS)]
        used = frequencies[frequencies > 0].astype(int)
        sums = [used[i : i + 62].sum() for i in range(symbols - 61)]
        assert strays == found.count(0) == (0 if symbols <= 64 else table.SLOTS - max(sums))
        assert all(entry in (0, looked_up) for entry, looked_up in zip(found, slots.tolist(), strict=True))
    for bad in (slots[1:], slots - np.uint32(1 << 20), slots | np.uint32(1 << 31), np.zeros_like(slots)):
        assert search.plant(bad, tree) == -1
    assert search.plant(slots, tree[1:]) == -1


def check_search(chunk: cases.Chunk) -> None:
    if chunk.layout.search is None or chunk.precision != search.PRECISION:
        return
    slots, tree, _strays = planted(chunk.frequencies)
    words = np.concatenate([chunk.words, cases.PADDING])
    arguments = (slots, tree, chunk.base, chunk.states, words, chunk.starts, *chunk.pieces)
    out, expected = np.zeros(chunk.elements.size, chunk.layout.dtype), np.zeros(chunk.elements.size, chunk.layout.dtype)
    assert chunk.layout.search(*arguments, out) == OK, chunk.name
    assert np.array_equal(out, chunk.decoded), chunk.name
    for bad in cases.damaged(np.random.default_rng(chunk.elements.size), arguments, 3):
        if bad[0] is slots:  # another table would have another tree
            status = chunk.layout.search(*bad, out)
            assert status == chunk.layout.decode(bad[0], *bad[2:], expected), chunk.name
            assert np.array_equal(out, expected), chunk.name
    for bad in cases.shortened((*arguments, out)):
        assert chunk.layout.search(*bad) == BAD_ARGUMENT, chunk.name
    assert np.array_equal(out, expected), chunk.name
