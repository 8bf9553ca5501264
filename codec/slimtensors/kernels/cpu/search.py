"""A slot's entry by a binary search in registers, for processors whose look-ups in memory are slow.

The symbols share out the slots in order, so the symbol of a slot is the last one that starts at it or below. Six
comparisons find it among 64; each takes its pivots from one vector, by what the comparisons before it gave. Two more
vectors each hold the halves of the 64 entries. All of it, ten vectors, stays in registers.

Where there are more symbols, the 62 neighbours that own the most slots are leaves, and those below and above them are
strays: a step that meets one looks all its entries up in the table.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.kernels._jit import brief, inlined
from slimtensors.kernels.cpu.blocks import LANES
from slimtensors.kernels.cpu.decode import Entry
from slimtensors.kernels.cpu.table import FREQUENCY_SHIFT, LOW, MOST_PRECISION, SLOTS, SYMBOLS
from slimtensors.kernels.simd.lanes import Lanes
from slimtensors.kernels.simd.memory import load, look_up_missing
from slimtensors.kernels.simd.permute import append_top_bit, permute, permute_two

Array = npt.NDArray[Any]
Tree = tuple[Lanes, ...]

PRECISION = MOST_PRECISION  # of tables that have a tree; entries of lower ones lie twice
LEVELS = 6
LEAVES = 1 << LEVELS
HIGH, LOW_HALF = LEVELS * LANES, LEVELS * LANES + LEAVES  # where the entries' halves are
STARTS = LOW_HALF + LEAVES  # work space: where each symbol's slots start
TREE = STARTS + SYMBOLS + 1  # elements
BEYOND = 1 << 14  # above any slot


@brief
def plant(table: Array, tree: Array) -> int:
    """Make the tree of a table of precision 12.

    table  uint32[4096]  from build_table
    tree   uint16[TREE]  filled

    Returns how many slots the strays own; -1 if `table` is no such table.
    """
    if table.size != SLOTS or tree.size != TREE:
        return -1
    starts = tree[STARTS:]
    symbols, slot = 0, 0
    for _ in range(SYMBOLS):
        if slot < SLOTS:
            starts[symbols] = np.uint16(slot)
            slot += np.int64(table[slot]) >> FREQUENCY_SHIFT
            symbols += 1
    if slot != SLOTS:
        return -1
    starts[symbols] = SLOTS
    first, end = 0, symbols
    if symbols > LEAVES:
        end = LEAVES - 2
        for i in range(1, symbols - (LEAVES - 2) + 1):
            if np.int64(starts[i + LEAVES - 2]) - np.int64(starts[i]) > np.int64(starts[end]) - np.int64(starts[first]):
                first, end = i, i + LEAVES - 2

    low_strays = 1 if first > 0 else 0  # leaves that stand for them
    leaves = low_strays + end - first + (1 if end < symbols else 0)
    for leaf in range(LEAVES):
        i = first + leaf - low_strays
        entry = np.int64(table[starts[i]]) if first <= i < end else 0
        # The entry of the slot at which the symbol starts has bias 0; the slot, less that one, is the bias.
        start = np.int64(starts[i]) if first <= i < end else 0
        tree[HIGH + leaf] = np.uint16(entry >> 16)
        tree[LOW_HALF + leaf] = np.uint16(entry - start & 0xFFFF)
    for level in range(LEVELS):
        for k in range(LANES):
            leaf = (2 * (k & (1 << level) - 1) + 1) << LEVELS - 1 - level
            # The pivot is the last slot below the leaf's first one.
            pivot = np.int64(starts[first + leaf - low_strays]) - 1 if leaf < leaves else BEYOND
            tree[level * LANES + k] = np.uint16(pivot & 0xFFFF)
    strays: int = np.int64(starts[first]) + SLOTS - np.int64(starts[end])
    return strays


@inlined
def open_tree(tree: Array) -> Tree:
    """The ten vectors of a tree of TREE elements."""
    return (
        load(tree, 0), load(tree, 32), load(tree, 64), load(tree, 96), load(tree, 128), load(tree, 160),
        load(tree, 192), load(tree, 224), load(tree, 256), load(tree, 288),
    )  # fmt: skip


@inlined
def searched(_pieces: tuple[Array, ...], _t: int, table: Array, tree: Tree, low: Lanes) -> Entry:
    """What look_up(table, slot) gives."""
    slot = low & LOW
    # leaf = 2 * leaf + (1 if pivot < slot else 0), six times: the difference is negative then
    leaf = tree[0] - slot >> 15
    leaf = append_top_bit(leaf, permute(tree[1], leaf) - slot)
    leaf = append_top_bit(leaf, permute(tree[2], leaf) - slot)
    leaf = append_top_bit(leaf, permute(tree[3], leaf) - slot)
    leaf = append_top_bit(leaf, permute(tree[4], leaf) - slot)
    leaf = append_top_bit(leaf, permute(tree[5], leaf) - slot)
    high, low = permute_two(tree[6], tree[7], leaf), permute_two(tree[8], tree[9], leaf) + slot
    return look_up_missing(table, slot, high, low)  # of strays `high` is 0
