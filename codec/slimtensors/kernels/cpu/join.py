"""Elements from their pieces: the raw planes below (coder.md, section 2), the coded plane on top, a rotation by one.

The rotation brings the sign, which the encoder moved below the mantissa, back to the top.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from slimtensors.kernels._jit import inlined
from slimtensors.kernels.cpu.blocks import LANES
from slimtensors.kernels.simd.lanes import Lanes, to_u8, to_u16, to_u32
from slimtensors.kernels.simd.memory import load

Array = npt.NDArray[Any]
Pieces = tuple[Array, ...]


@inlined
def packed(piece: Array, bits: int, t: int) -> Lanes:
    """Step t of a piece of 2, 4 or 8 bits, in 16-bit lanes."""
    steps = 8 // bits
    # step t lies in the 32 bytes from 32 * floor(t / (8 / p)), at bit p * (t mod (8 / p))
    lanes: Lanes = to_u16(load(piece, LANES * (t // steps))) >> bits * (t % steps) & (1 << bits) - 1
    return lanes


@inlined
def field_u8(_pieces: Pieces, _t: int, field: Lanes) -> Lanes:
    return to_u8(field)


@inlined
def field_u16(_pieces: Pieces, _t: int, field: Lanes) -> Lanes:
    return field


@inlined
def u16_8_8(pieces: Pieces, t: int, field: Lanes) -> Lanes:
    value = field << 8 | to_u16(load(pieces[0], LANES * t))
    return value >> 1 | value << 15


@inlined
def six(pieces: Pieces, t: int) -> Lanes:
    """Step t of a plane of 6 bits: a piece of 4, then a piece of 2."""
    lanes: Lanes = packed(pieces[0], 4, t) | packed(pieces[1], 2, t) << 4
    return lanes


@inlined
def u16_6_10(pieces: Pieces, t: int, field: Lanes) -> Lanes:
    value = field << 6 | six(pieces, t)
    return value >> 1 | value << 15


@inlined
def u32_8_8_8_8(pieces: Pieces, t: int, field: Lanes) -> Lanes:
    low, mid, high = load(pieces[0], LANES * t), load(pieces[1], LANES * t), load(pieces[2], LANES * t)
    value = to_u32(field) << 24 | to_u32(high) << 16 | to_u32(mid) << 8 | to_u32(low)
    return value >> 1 | value << 31


@inlined
def u32_8_8_6_10(pieces: Pieces, t: int, field: Lanes) -> Lanes:
    low, mid = load(pieces[0], LANES * t), load(pieces[1], LANES * t)
    value = to_u32(field << 6 | six(pieces[2:], t)) << 16 | to_u32(mid) << 8 | to_u32(low)
    return value >> 1 | value << 31
