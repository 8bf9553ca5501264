"""Decode a chunk of codes straight to levels of a uniform grid without a trellis: no code is written and read again.

As the kernels of decode_kernels.py and, with a tree, of search_kernels.py, but for

    zero, step   as trellis.py has them; zero is below 256
    out          units of F32, BF16 or F16

A trellis has states that go on from block to block, so its levels are made of codes that have all been decoded.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.kernels._jit import inlined, kernel
from slimtensors.kernels.cpu.decode import Entry, decode_blocks, one_table
from slimtensors.kernels.cpu.join import symbol_at
from slimtensors.kernels.cpu.lookup import to_f16
from slimtensors.kernels.cpu.search import TREE, open_tree, searched
from slimtensors.kernels.simd.lanes import Lanes, to_u32
from slimtensors.kernels.simd.numbers import plus, times, times_bf16
from slimtensors.kernels.status import BAD_ARGUMENT

Array = npt.NDArray[Any]
Window = tuple[int, int, Any]  # base, which fields of 8 bits do without; zero, step

WHOLE = np.float32(2**23)


@inlined
def level_f32(_pieces: tuple[Array, ...], _t: int, window: Window, entry: Entry) -> Lanes:
    _base, zero, step = window
    # 2^23 + a whole number, by its bits, is exact, and so is the difference from 2^23 + zero.
    return times(plus(to_u32(symbol_at(0, entry)) | 0x4B000000, -(WHOLE + np.float32(zero))), step)


@inlined
def level_bf16(_pieces: tuple[Array, ...], _t: int, window: Window, entry: Entry) -> Lanes:
    _base, zero, step = window
    return times_bf16(symbol_at(0, entry) - zero, step)


@inlined
def level_f16(pieces: tuple[Array, ...], t: int, window: Window, entry: Entry) -> Lanes:
    return to_f16(level_f32(pieces, t, window, entry))


@kernel
def decode_f32(
    table: Array, zero: int, step: float, states: Array, words: Array, starts: Array, out: Array
) -> int:
    if not 0 <= zero < 1 << 8:
        return BAD_ARGUMENT
    window = 0, zero, np.float32(step)
    return decode_blocks(one_table, level_f32, table, (), window, states, words, starts, (), out)


@kernel
def decode_bf16(
    table: Array, zero: int, step: float, states: Array, words: Array, starts: Array, out: Array
) -> int:
    if not 0 <= zero < 1 << 8:
        return BAD_ARGUMENT
    window = 0, zero, np.float32(step)
    return decode_blocks(one_table, level_bf16, table, (), window, states, words, starts, (), out)


@kernel
def decode_f16(
    table: Array, zero: int, step: float, states: Array, words: Array, starts: Array, out: Array
) -> int:
    if not 0 <= zero < 1 << 8:
        return BAD_ARGUMENT
    window = 0, zero, np.float32(step)
    return decode_blocks(one_table, level_f16, table, (), window, states, words, starts, (), out)


@kernel
def search_f32(
    table: Array, tree: Array, zero: int, step: float, states: Array, words: Array, starts: Array, out: Array
) -> int:
    if tree.size != TREE or not 0 <= zero < 1 << 8:
        return BAD_ARGUMENT
    window = 0, zero, np.float32(step)
    return decode_blocks(searched, level_f32, table, open_tree(tree), window, states, words, starts, (), out)


@kernel
def search_bf16(
    table: Array, tree: Array, zero: int, step: float, states: Array, words: Array, starts: Array, out: Array
) -> int:
    if tree.size != TREE or not 0 <= zero < 1 << 8:
        return BAD_ARGUMENT
    window = 0, zero, np.float32(step)
    return decode_blocks(searched, level_bf16, table, open_tree(tree), window, states, words, starts, (), out)


@kernel
def search_f16(
    table: Array, tree: Array, zero: int, step: float, states: Array, words: Array, starts: Array, out: Array
) -> int:
    if tree.size != TREE or not 0 <= zero < 1 << 8:
        return BAD_ARGUMENT
    window = 0, zero, np.float32(step)
    return decode_blocks(searched, level_f16, table, open_tree(tree), window, states, words, starts, (), out)
