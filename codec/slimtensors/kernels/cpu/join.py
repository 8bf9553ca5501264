"""Elements from their pieces: the raw planes below (coder.md, section 2), the coded plane on top, a rotation by one.

The rotation brings the sign, which the encoder moved below the mantissa, back to the top.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from slimtensors.kernels._jit import inlined
from slimtensors.kernels.cpu.blocks import LANES
from slimtensors.kernels.simd.lanes import Lanes, cut, pair, rotate_right, select, to_u8, to_u16
from slimtensors.kernels.simd.memory import load

Array = npt.NDArray[Any]
Pieces = tuple[Array, ...]
Entry = tuple[Lanes, Lanes]
Window = tuple[int, ...]  # base; with classes also octave


@inlined
def symbol_at(shift: int, entry: Entry) -> Lanes:
    """The symbols of entries, `shift` (0 to 8) bits up in 16."""
    high, low = entry
    # bits 12 to 19 of the entry
    return (high << 4 + shift | low >> 12 - shift) & 0xFF << shift


@inlined
def field_at(shift: int, base: int, entry: Entry) -> Lanes:
    """The fields of entries, `shift` bits up in 16. Symbols count from a base; symbol 0 is field 0."""
    symbol = symbol_at(shift, entry)
    return select(symbol != 0, symbol + (base << shift), symbol)


@inlined
def moved_field_at(shift: int, width: int, window: Window, k: Lanes, entry: Entry) -> Lanes:
    """As field_at, an octave higher for each four of the classes k, round about the plane."""
    base, octave = window
    symbol = symbol_at(0, entry)
    # v = base + s + octave * floor(k / 4), less 2^w - 1 if it is 2^w or more; the caller knows that this is enough
    v = symbol + base + (k >> 2) * octave
    v = select(v >= 1 << width, v - ((1 << width) - 1), v)
    return select(symbol != 0, v, symbol) << shift


@inlined
def class_field_at(shift: int, width: int, pieces: Pieces, t: int, window: Window, entry: Entry) -> Lanes:
    """The same; the last piece holds the contexts."""
    found: Lanes = moved_field_at(shift, width, window, to_u16(load(pieces[-1], LANES * t)), entry)
    return found


@inlined
def packed(piece: Array, bits: int, t: int) -> tuple[Lanes, int]:
    """Step t of a piece of 2 or 4 bits: where it is in 16-bit lanes, from which bit on."""
    steps = 8 // bits
    # step t lies in the 32 bytes from 32 * floor(t / (8 / p)), at bit p * (t mod (8 / p))
    return to_u16(load(piece, LANES * (t // steps))), bits * (t % steps)


@inlined
def field_u8(_pieces: Pieces, _t: int, _window: Window, entry: Entry) -> Lanes:
    return to_u8(symbol_at(0, entry))


@inlined
def field_u16(_pieces: Pieces, _t: int, window: Window, entry: Entry) -> Lanes:
    return field_at(0, window[0], entry)


@inlined
def u16_8_8(pieces: Pieces, t: int, _window: Window, entry: Entry) -> Lanes:
    return symbol_at(7, entry) | rotate_right(to_u16(load(pieces[0], LANES * t)), 1)


@inlined
def six(pieces: Pieces, t: int) -> Lanes:
    """Step t of a plane of 6 bits in 16: a piece of 4, then a piece of 2."""
    four, two = load(pieces[0], LANES * (t // 2)), load(pieces[1], LANES * (t // 4))
    return to_u16(cut(four, 4 * (t % 2), 4, 0) | cut(two, 2 * (t % 4), 2, 4))


@inlined
def u16_6_10(pieces: Pieces, t: int, window: Window, entry: Entry) -> Lanes:
    return field_at(5, window[0], entry) | rotate_right(six(pieces, t), 1)


@inlined
def u16_4_12(pieces: Pieces, t: int, window: Window, entry: Entry) -> Lanes:
    four, low = packed(pieces[0], 4, t)
    found: Lanes = field_at(3, window[0], entry) | rotate_right(four, low + 1) & 0x8007  # 0xF, rotated right by one
    return found


@inlined
def top_bit(pieces: Pieces, t: int) -> Lanes:
    """Step t of a plane of 1 bit, seven bits up."""
    bits, at = packed(pieces[0], 1, t)
    return bits << 7 - at & 0x80


@inlined
def u8_1_7(pieces: Pieces, t: int, _window: Window, entry: Entry) -> Lanes:
    return to_u8(symbol_at(0, entry) | top_bit(pieces, t))


@inlined
def rotated_u32(high: Lanes, low: Lanes) -> Lanes:
    """The elements whose halves these are, rotated by one."""
    return pair(high >> 1 | low << 15, low >> 1 | high << 15)


@inlined
def u32_8_8_8_8(pieces: Pieces, t: int, _window: Window, entry: Entry) -> Lanes:
    low, mid, high = load(pieces[0], LANES * t), load(pieces[1], LANES * t), load(pieces[2], LANES * t)
    return rotated_u32(symbol_at(8, entry) | to_u16(high), pair(mid, low))


@inlined
def u32_8_8_6_10(pieces: Pieces, t: int, window: Window, entry: Entry) -> Lanes:
    low, mid = load(pieces[0], LANES * t), load(pieces[1], LANES * t)
    return rotated_u32(field_at(6, window[0], entry) | six(pieces[2:], t), pair(mid, low))


@inlined
def five(pieces: Pieces, t: int) -> Lanes:
    """Step t of a plane of 5 bits in 16: a piece of 4, then a piece of 1."""
    four, low = packed(pieces[0], 4, t)
    one, high = packed(pieces[1], 1, t)
    return four >> low & 0xF | (one >> high & 1) << 4


@inlined
def u32_8_8_5_10(pieces: Pieces, t: int, window: Window, entry: Entry) -> Lanes:
    """No sign, and no rotation."""
    low, mid = load(pieces[0], LANES * t), load(pieces[1], LANES * t)
    return pair(field_at(5, window[0], entry) | five(pieces[2:], t), pair(mid, low))


# ---- with classes of rows and columns


@inlined
def classes_u8_1_7(pieces: Pieces, t: int, window: Window, entry: Entry) -> Lanes:
    return to_u8(class_field_at(0, 7, pieces, t, window, entry) | top_bit(pieces, t))


@inlined
def classes_u16_8_8(pieces: Pieces, t: int, window: Window, entry: Entry) -> Lanes:
    return class_field_at(7, 8, pieces, t, window, entry) | rotate_right(to_u16(load(pieces[0], LANES * t)), 1)


@inlined
def classes_u16_6_10(pieces: Pieces, t: int, window: Window, entry: Entry) -> Lanes:
    return class_field_at(5, 10, pieces, t, window, entry) | rotate_right(six(pieces, t), 1)


@inlined
def classes_u32_8_8_6_10(pieces: Pieces, t: int, window: Window, entry: Entry) -> Lanes:
    low, mid = load(pieces[0], LANES * t), load(pieces[1], LANES * t)
    return rotated_u32(class_field_at(6, 10, pieces, t, window, entry) | six(pieces[2:], t), pair(mid, low))


# ---- with a mean: all but the sign, which is put on top when all else is known


@inlined
def unsigned_u8_7(_pieces: Pieces, _t: int, window: Window, k: Lanes, entry: Entry) -> Lanes:
    return to_u8(moved_field_at(0, 7, window, k, entry))


@inlined
def unsigned_u16_7_8(pieces: Pieces, t: int, window: Window, k: Lanes, entry: Entry) -> Lanes:
    four, low = packed(pieces[0], 4, t)
    two, mid = packed(pieces[1], 2, t)
    one, high = packed(pieces[2], 1, t)
    seven = four >> low & 0xF | (two >> mid & 3) << 4 | (one >> high & 1) << 6
    found: Lanes = moved_field_at(7, 8, window, k, entry) | seven
    return found


@inlined
def unsigned_u16_5_10(pieces: Pieces, t: int, window: Window, k: Lanes, entry: Entry) -> Lanes:
    return moved_field_at(5, 10, window, k, entry) | five(pieces, t)


@inlined
def unsigned_u32_8_8_5_10(pieces: Pieces, t: int, window: Window, k: Lanes, entry: Entry) -> Lanes:
    low, mid = load(pieces[0], LANES * t), load(pieces[1], LANES * t)
    return pair(moved_field_at(5, 10, window, k, entry) | five(pieces[2:], t), pair(mid, low))
