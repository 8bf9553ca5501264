"""The kernels of decode_kernels.py with searches in the place of look-ups.

As those, but for

    tree    uint16[TREE]          from search.plant, of the same table; after `table`

`table` is looked up only for strays.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from slimtensors.kernels._jit import kernel
from slimtensors.kernels.cpu import join
from slimtensors.kernels.cpu.blocks import LANES
from slimtensors.kernels.cpu.decode import decode_blocks
from slimtensors.kernels.cpu.search import TREE, open_tree, searched
from slimtensors.kernels.status import BAD_ARGUMENT

Array = npt.NDArray[Any]

field_u8, u16_8_8, u16_6_10 = join.field_u8, join.u16_8_8, join.u16_6_10
u32_8_8_8_8, u32_8_8_6_10, u32_8_8_5_10 = join.u32_8_8_8_8, join.u32_8_8_6_10, join.u32_8_8_5_10


@kernel
def decode_fields_u8(
    table: Array, tree: Array, base: int, states: Array, words: Array, starts: Array, out: Array
) -> int:
    """Fields of up to 8 bits."""
    if tree.size != TREE:
        return BAD_ARGUMENT
    return decode_blocks(searched, field_u8, table, open_tree(tree), (base,), states, words, starts, (), out)


@kernel
def decode_u16_8_8(
    table: Array, tree: Array, base: int, states: Array, words: Array, starts: Array, rest: Array, out: Array
) -> int:
    """BF16 [8 raw, 8 coded]."""
    if tree.size != TREE or rest.size != out.size:
        return BAD_ARGUMENT
    return decode_blocks(searched, u16_8_8, table, open_tree(tree), (base,), states, words, starts, (rest,), out)


@kernel
def decode_u16_6_10(
    table: Array,
    tree: Array,
    base: int,
    states: Array,
    words: Array,
    starts: Array,
    nibbles: Array,
    crumbs: Array,
    out: Array,
) -> int:
    """BF16 [6 raw, 10 coded]."""
    if tree.size != TREE or nibbles.size != out.size // 2 or crumbs.size != out.size // 4:
        return BAD_ARGUMENT
    pieces = (nibbles, crumbs)
    return decode_blocks(searched, u16_6_10, table, open_tree(tree), (base,), states, words, starts, pieces, out)


@kernel
def decode_u32_8_8_8_8(
    table: Array,
    tree: Array,
    base: int,
    states: Array,
    words: Array,
    starts: Array,
    low: Array,
    mid: Array,
    high: Array,
    out: Array,
) -> int:
    """FP32 [8, 8, 8 raw, 8 coded]."""
    if tree.size != TREE or low.size != out.size or mid.size != out.size or high.size != out.size:
        return BAD_ARGUMENT
    pieces = (low, mid, high)
    return decode_blocks(searched, u32_8_8_8_8, table, open_tree(tree), (base,), states, words, starts, pieces, out)


@kernel
def decode_u32_8_8_6_10(
    table: Array,
    tree: Array,
    base: int,
    states: Array,
    words: Array,
    starts: Array,
    low: Array,
    mid: Array,
    nibbles: Array,
    crumbs: Array,
    out: Array,
) -> int:
    """FP32 [8, 8, 6 raw, 10 coded]."""
    if low.size != out.size or mid.size != out.size or nibbles.size != out.size // 2 or crumbs.size != out.size // 4:
        return BAD_ARGUMENT
    if tree.size != TREE:
        return BAD_ARGUMENT
    pieces = (low, mid, nibbles, crumbs)
    return decode_blocks(searched, u32_8_8_6_10, table, open_tree(tree), (base,), states, words, starts, pieces, out)


@kernel
def decode_u32_8_8_5_10(
    table: Array,
    tree: Array,
    base: int,
    states: Array,
    words: Array,
    starts: Array,
    low: Array,
    mid: Array,
    nibbles: Array,
    ones: Array,
    out: Array,
) -> int:
    """FP32 without a sign [8, 8, 5 raw, 10 coded]."""
    if tree.size != TREE or low.size != out.size or mid.size != out.size or nibbles.size != out.size // 2:
        return BAD_ARGUMENT
    if ones.size != LANES * ((out.size + 255) // 256):
        return BAD_ARGUMENT
    pieces = (low, mid, nibbles, ones)
    return decode_blocks(searched, u32_8_8_5_10, table, open_tree(tree), (base,), states, words, starts, pieces, out)
