"""Decode a chunk's body whose coded plane has classes of rows and columns (coder.md, section 7).

As the kernels in decode_kernels.py, but for

    table     uint32[4096 * tables]  one after another, as build_table fills each; tables is a power of two, 16 at most
    base, octave                     a field is v = base + s + octave * floor(k / 4), less 2^width - 1 if it is 2^width
                                     or more; the caller sees to it that v < 2^(width + 1) - 1
    contexts  uint8[n]               k of each element; the table is k modulo `tables`

Without that, fields are noise, as from damaged words.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from slimtensors.kernels._jit import inlined, kernel
from slimtensors.kernels.cpu import join
from slimtensors.kernels.cpu.blocks import LANES
from slimtensors.kernels.cpu.decode import class_tables, decode_blocks
from slimtensors.kernels.status import BAD_ARGUMENT

Array = npt.NDArray[Any]

MOST_OCTAVE = 16

classes_u8_1_7, classes_u16_8_8 = join.classes_u8_1_7, join.classes_u16_8_8
classes_u16_6_10, classes_u32_8_8_6_10 = join.classes_u16_6_10, join.classes_u32_8_8_6_10


@inlined
def fit(octave: int, contexts: Array, out: Array) -> bool:
    return 0 <= octave <= MOST_OCTAVE and contexts.size == out.size


@kernel
def decode_u8_1_7(
    table: Array,
    base: int,
    octave: int,
    states: Array,
    words: Array,
    starts: Array,
    signs: Array,
    contexts: Array,
    out: Array,
) -> int:
    """FP8 [1 raw, 7 coded]."""
    if not fit(octave, contexts, out) or signs.size != LANES * ((out.size + 255) // 256):
        return BAD_ARGUMENT
    pieces = (signs, contexts)
    return decode_blocks(class_tables, classes_u8_1_7, table, (), (base, octave), states, words, starts, pieces, out)


@kernel
def decode_u16_8_8(
    table: Array,
    base: int,
    octave: int,
    states: Array,
    words: Array,
    starts: Array,
    rest: Array,
    contexts: Array,
    out: Array,
) -> int:
    """FP16 [8 raw, 8 coded]."""
    if not fit(octave, contexts, out) or rest.size != out.size:
        return BAD_ARGUMENT
    pieces = (rest, contexts)
    return decode_blocks(class_tables, classes_u16_8_8, table, (), (base, octave), states, words, starts, pieces, out)


@kernel
def decode_u16_6_10(
    table: Array,
    base: int,
    octave: int,
    states: Array,
    words: Array,
    starts: Array,
    nibbles: Array,
    crumbs: Array,
    contexts: Array,
    out: Array,
) -> int:
    """BF16 [6 raw, 10 coded]."""
    if not fit(octave, contexts, out) or nibbles.size != out.size // 2 or crumbs.size != out.size // 4:
        return BAD_ARGUMENT
    pieces = (nibbles, crumbs, contexts)
    return decode_blocks(class_tables, classes_u16_6_10, table, (), (base, octave), states, words, starts, pieces, out)


@kernel
def decode_u32_8_8_6_10(
    table: Array,
    base: int,
    octave: int,
    states: Array,
    words: Array,
    starts: Array,
    low: Array,
    mid: Array,
    nibbles: Array,
    crumbs: Array,
    contexts: Array,
    out: Array,
) -> int:
    """FP32 [8, 8, 6 raw, 10 coded]."""
    if low.size != out.size or mid.size != out.size or nibbles.size != out.size // 2 or crumbs.size != out.size // 4:
        return BAD_ARGUMENT
    if not fit(octave, contexts, out):
        return BAD_ARGUMENT
    pieces = (low, mid, nibbles, crumbs, contexts)
    return decode_blocks(
        class_tables, classes_u32_8_8_6_10, table, (), (base, octave), states, words, starts, pieces, out
    )
