"""Decode a chunk's body: one kernel for each layout that has a loop of its own.

All take

    table   uint32[4096]          from build_table
    base               coder.md, section 5; 0 to 65535
    states  uint32[blocks * 32]   each block's initial states
    words   uint16[...]           the blocks' words, and 32 more that are read but not used
    starts  int64[blocks + 1]     index in `words` of each block's first word, and of the end
    pieces  uint8[...]            the raw planes' pieces, low planes first, as they are stored
    out     uint[n]               n is a multiple of 128

and return OK; BAD_ARGUMENT if the lengths or parameters disagree, with nothing written; or BAD_STREAM, with `out`
filled by noise. Every access is in bounds for any content of the arrays.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from slimtensors.kernels._jit import kernel
from slimtensors.kernels.cpu import join
from slimtensors.kernels.cpu.blocks import LANES
from slimtensors.kernels.cpu.decode import decode_blocks, one_table
from slimtensors.kernels.status import BAD_ARGUMENT

Array = npt.NDArray[Any]

field_u8, field_u16 = join.field_u8, join.field_u16
u16_8_8, u16_6_10 = join.u16_8_8, join.u16_6_10
u8_1_7, u32_8_8_8_8, u32_8_8_6_10 = join.u8_1_7, join.u32_8_8_8_8, join.u32_8_8_6_10
u32_8_8_5_10 = join.u32_8_8_5_10


@kernel
def decode_fields_u8(table: Array, base: int, states: Array, words: Array, starts: Array, out: Array) -> int:
    """The low 8 bits of the fields; out uint8[n]."""
    return decode_blocks(one_table, field_u8, table, (), (base,), states, words, starts, (), out)


@kernel
def decode_fields_u16(table: Array, base: int, states: Array, words: Array, starts: Array, out: Array) -> int:
    """The fields; out uint16[n]."""
    return decode_blocks(one_table, field_u16, table, (), (base,), states, words, starts, (), out)


@kernel
def decode_u16_8_8(table: Array, base: int, states: Array, words: Array, starts: Array, rest: Array, out: Array) -> int:
    """Planes [8 raw, 8 coded], rotated by 1: BF16 with coded exponents. rest uint8[n], out uint16[n]."""
    if rest.size != out.size:
        return BAD_ARGUMENT
    return decode_blocks(one_table, u16_8_8, table, (), (base,), states, words, starts, (rest,), out)


@kernel
def decode_u16_6_10(
    table: Array,
    base: int,
    states: Array,
    words: Array,
    starts: Array,
    nibbles: Array,
    crumbs: Array,
    out: Array,
) -> int:
    """Planes [6 raw, 10 coded], rotated by 1. nibbles uint8[n / 2], crumbs uint8[n / 4], out uint16[n]."""
    if nibbles.size != out.size // 2 or crumbs.size != out.size // 4:
        return BAD_ARGUMENT
    return decode_blocks(one_table, u16_6_10, table, (), (base,), states, words, starts, (nibbles, crumbs), out)


@kernel
def decode_u32_8_8_8_8(
    table: Array,
    base: int,
    states: Array,
    words: Array,
    starts: Array,
    low: Array,
    mid: Array,
    high: Array,
    out: Array,
) -> int:
    """Planes [8, 8, 8 raw, 8 coded], rotated by 1: FP32, coded exponents. low, mid, high uint8[n], out uint32[n]."""
    if low.size != out.size or mid.size != out.size or high.size != out.size:
        return BAD_ARGUMENT
    return decode_blocks(one_table, u32_8_8_8_8, table, (), (base,), states, words, starts, (low, mid, high), out)


@kernel
def decode_u32_8_8_6_10(
    table: Array,
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
    """Planes [8, 8, 6 raw, 10 coded], rotated by 1; arrays as above, out uint32[n]."""
    if low.size != out.size or mid.size != out.size or nibbles.size != out.size // 2 or crumbs.size != out.size // 4:
        return BAD_ARGUMENT
    pieces = (low, mid, nibbles, crumbs)
    return decode_blocks(one_table, u32_8_8_6_10, table, (), (base,), states, words, starts, pieces, out)


@kernel
def decode_u32_8_8_5_10(
    table: Array,
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
    """Planes [8, 8, 5 raw, 10 coded], no sign and not rotated; ones uint8[32 * ceil(n / 256)], arrays as above."""
    if low.size != out.size or mid.size != out.size or nibbles.size != out.size // 2:
        return BAD_ARGUMENT
    if ones.size != LANES * ((out.size + 255) // 256):
        return BAD_ARGUMENT
    pieces = (low, mid, nibbles, ones)
    return decode_blocks(one_table, u32_8_8_5_10, table, (), (base,), states, words, starts, pieces, out)


@kernel
def decode_u8_1_7(table: Array, base: int, states: Array, words: Array, starts: Array, signs: Array, out: Array) -> int:
    """Planes [1 raw, 7 coded], rotated by 1: FP8. signs uint8[32 * ceil(n / 256)], out uint8[n]."""
    if signs.size != LANES * ((out.size + 255) // 256):
        return BAD_ARGUMENT
    return decode_blocks(one_table, u8_1_7, table, (), (base,), states, words, starts, (signs,), out)
