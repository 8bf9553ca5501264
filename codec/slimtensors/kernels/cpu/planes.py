"""Planes one at a time, for the layouts that have no loop of their own.

Element arrays have a multiple of 128 elements, unless a docstring says otherwise. All return OK, or BAD_ARGUMENT if
lengths or parameters disagree.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from slimtensors.kernels._jit import inlined, kernel
from slimtensors.kernels.cpu.blocks import GROUP, LANES
from slimtensors.kernels.simd.lanes import Lanes, as_in, count, to_u8, to_u16
from slimtensors.kernels.simd.memory import load, store
from slimtensors.kernels.status import BAD_ARGUMENT, BAD_STREAM, OK

Array = npt.NDArray[Any]


@inlined
def packed_size(elements: int, width: int) -> int:
    """The bytes of a packed plane (coder.md, section 2); the width is 1 to 8."""
    steps = elements // LANES
    # a piece of p bits has 32 * ceil(steps / (8 / p)) bytes, and steps is a multiple of 4
    return LANES * (steps * (width // 2) // 4 + (steps + 7) // 8 * (width % 2))


@kernel
def unpack(width: int, packed: Array, out: Array) -> int:
    """The symbols of a packed plane. packed uint8[packed_size], out uint8[n].

    BAD_STREAM if bits that pad the last bytes are set.
    """
    if not 1 <= width <= 8 or out.size % GROUP != 0 or packed.size != packed_size(out.size, width):
        return BAD_ARGUMENT
    steps = out.size // LANES
    piece, below = 0, 0  # where the piece begins, and how many bits of the symbol the pieces before it hold
    for bits in (8, 4, 2, 1):
        if width & bits:
            rows = (steps * bits + 7) // 8
            for row in range(rows):
                # step t lies in the 32 bytes from 32 * floor(t / (8 / p)), at bit p * (t mod (8 / p))
                many = to_u16(load(packed, piece + LANES * row))
                for t in range(row * 8 // bits, min((row + 1) * 8 // bits, steps)):
                    symbol = to_u8((many & (1 << bits) - 1) << below)
                    store(out, LANES * t, symbol if below == 0 else load(out, LANES * t) | symbol)
                    many = many >> bits
                # What is left of the last bytes pads them.
                if row == rows - 1 and count(many != 0) > 0:
                    return BAD_STREAM
            piece += LANES * rows
            below += bits
    return OK


@kernel
def pack(width: int, symbols: Array, packed: Array) -> int:
    """The inverse of unpack; symbols are cut to the width."""
    if not 1 <= width <= 8 or symbols.size % GROUP != 0 or packed.size != packed_size(symbols.size, width):
        return BAD_ARGUMENT
    steps = symbols.size // LANES
    piece, below = 0, 0
    for bits in (8, 4, 2, 1):
        if width & bits:
            rows = (steps * bits + 7) // 8
            for row in range(rows):
                begin = row * 8 // bits
                many = to_u16(load(symbols, LANES * begin)) >> below & (1 << bits) - 1
                for t in range(begin + 1, min((row + 1) * 8 // bits, steps)):
                    many = many | (to_u16(load(symbols, LANES * t)) >> below & (1 << bits) - 1) << bits * (t - begin)
                store(packed, piece + LANES * row, to_u8(many))
            piece += LANES * rows
            below += bits
    return OK


@kernel
def join_plane(plane: Array, shift: int, out: Array) -> int:
    """out |= plane << shift, cut to the element. plane uint8 or uint16 [n], out uint8, 16, 32 or 64 [n]."""
    if out.size % LANES != 0 or plane.size != out.size or not 0 <= shift < out.itemsize * 8:
        return BAD_ARGUMENT
    for at in range(0, out.size, LANES):
        store(out, at, load(out, at) | as_in(out, load(plane, at)) << shift)
    return OK


@inlined
def rotated_left(value: Lanes, bits: int, by: int) -> Lanes:
    # for by = 0 both halves are the value itself
    return value << by | value >> (bits - by) % bits


@kernel
def rotate_right(out: Array, by: int) -> int:
    """Each element rotated right by `by` bits, in place. out uint8, 16, 32 or 64 [n]."""
    bits = out.itemsize * 8
    if out.size % LANES != 0 or not 0 <= by < bits:
        return BAD_ARGUMENT
    for at in range(0, out.size, LANES):
        store(out, at, rotated_left(load(out, at), bits, (bits - by) % bits))
    return OK


@kernel
def cut_plane(src: Array, rotate: int, shift: int, width: int, out: Array) -> int:
    """Of each element rotated left by `rotate`, the `width` bits from bit `shift`.

    src uint8, 16, 32 or 64 [n], out uint8 or uint16 [n].
    """
    bits = src.itemsize * 8
    if out.size % LANES != 0 or src.size != out.size or not 0 <= rotate < bits:
        return BAD_ARGUMENT
    if not 1 <= width <= out.itemsize * 8 or not 0 <= shift <= bits - width:
        return BAD_ARGUMENT
    for at in range(0, out.size, LANES):
        value = rotated_left(load(src, at), bits, rotate) >> shift & (1 << width) - 1
        store(out, at, as_in(out, value))
    return OK
