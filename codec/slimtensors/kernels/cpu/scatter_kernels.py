"""Kernels of scatter.py: one for each layout of the values, with look-ups and with searches.

    table, tree, base, states, words, starts   as in decode_kernels.py and search_kernels.py
    pieces                                     uint8[...]   those of the values' raw planes
    positions, fields, bits, cursors, values, out   as in scatter.py

They return OK, BAD_ARGUMENT if the lengths disagree, or BAD_STREAM for what a sound chunk does not have: too many or
too few values for the mask, an escape where the field is not 0, values after the last that are not 0.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from slimtensors.kernels._jit import kernel
from slimtensors.kernels.cpu import join
from slimtensors.kernels.cpu.blocks import LANES
from slimtensors.kernels.cpu.decode import one_table
from slimtensors.kernels.cpu.scatter import decode_scattered
from slimtensors.kernels.cpu.search import TREE, open_tree, searched
from slimtensors.kernels.status import BAD_ARGUMENT

Array = npt.NDArray[Any]

u16_8_8, u16_6_10, u16_4_12 = join.u16_8_8, join.u16_6_10, join.u16_4_12


@kernel
def decode_u16_8_8(
    table: Array, base: int, states: Array, words: Array, starts: Array, rest: Array,
    positions: Array, fields: Array, bits: Array, cursors: Array, values: Array, out: Array,
) -> int:  # fmt: skip
    n = values.size - LANES
    if rest.size != n:
        return BAD_ARGUMENT
    return decode_scattered(
        one_table, u16_8_8, 7, 8, table, (), (base,), states, words, starts, (rest,),
        positions, fields, bits, cursors, values, out,
    )  # fmt: skip


@kernel
def search_u16_8_8(
    table: Array, tree: Array, base: int, states: Array, words: Array, starts: Array, rest: Array,
    positions: Array, fields: Array, bits: Array, cursors: Array, values: Array, out: Array,
) -> int:  # fmt: skip
    n = values.size - LANES
    if tree.size != TREE or rest.size != n:
        return BAD_ARGUMENT
    return decode_scattered(
        searched, u16_8_8, 7, 8, table, open_tree(tree), (base,), states, words, starts, (rest,),
        positions, fields, bits, cursors, values, out,
    )  # fmt: skip


@kernel
def decode_u16_6_10(
    table: Array, base: int, states: Array, words: Array, starts: Array, nibbles: Array, crumbs: Array,
    positions: Array, fields: Array, bits: Array, cursors: Array, values: Array, out: Array,
) -> int:  # fmt: skip
    n = values.size - LANES
    if nibbles.size != n // 2 or crumbs.size != n // 4:
        return BAD_ARGUMENT
    return decode_scattered(
        one_table, u16_6_10, 5, 10, table, (), (base,), states, words, starts, (nibbles, crumbs),
        positions, fields, bits, cursors, values, out,
    )  # fmt: skip


@kernel
def search_u16_6_10(
    table: Array, tree: Array, base: int, states: Array, words: Array, starts: Array, nibbles: Array, crumbs: Array,
    positions: Array, fields: Array, bits: Array, cursors: Array, values: Array, out: Array,
) -> int:  # fmt: skip
    n = values.size - LANES
    if tree.size != TREE or nibbles.size != n // 2 or crumbs.size != n // 4:
        return BAD_ARGUMENT
    return decode_scattered(
        searched, u16_6_10, 5, 10, table, open_tree(tree), (base,), states, words, starts, (nibbles, crumbs),
        positions, fields, bits, cursors, values, out,
    )  # fmt: skip


@kernel
def decode_u16_4_12(
    table: Array, base: int, states: Array, words: Array, starts: Array, nibbles: Array,
    positions: Array, fields: Array, bits: Array, cursors: Array, values: Array, out: Array,
) -> int:  # fmt: skip
    n = values.size - LANES
    if nibbles.size != n // 2:
        return BAD_ARGUMENT
    return decode_scattered(
        one_table, u16_4_12, 3, 12, table, (), (base,), states, words, starts, (nibbles,),
        positions, fields, bits, cursors, values, out,
    )  # fmt: skip


@kernel
def search_u16_4_12(
    table: Array, tree: Array, base: int, states: Array, words: Array, starts: Array, nibbles: Array,
    positions: Array, fields: Array, bits: Array, cursors: Array, values: Array, out: Array,
) -> int:  # fmt: skip
    n = values.size - LANES
    if tree.size != TREE or nibbles.size != n // 2:
        return BAD_ARGUMENT
    return decode_scattered(
        searched, u16_4_12, 3, 12, table, open_tree(tree), (base,), states, words, starts, (nibbles,),
        positions, fields, bits, cursors, values, out,
    )  # fmt: skip
