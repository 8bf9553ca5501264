"""Elements to raw pieces and symbols: the inverse of join.py, for the encoder.

Each kernel returns the number of escapes: fields other than 0 that do not lie in the window base + 1 ... last. They are
coded as symbol 0. It returns -1 if the lengths disagree, or the window holds more than 255 fields; SIGNED if an element
is negative where none may be.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from slimtensors.kernels._jit import inlined, kernel
from slimtensors.kernels.cpu.blocks import GROUP, LANES, STEPS
from slimtensors.kernels.simd.lanes import Lanes, count, select, to_u8, to_u16
from slimtensors.kernels.simd.memory import load, store

Array = npt.NDArray[Any]

SIGNED = -2


@inlined
def is_window(base: int, last: int) -> bool:
    """Whether symbols can stand for the fields base + 1 to last."""
    return 0 <= base <= last < 1 << 16 and last - base < 256


@inlined
def put_symbols(symbols: Array, t: int, base: int, last: int, field: Lanes) -> int:
    """Step t's symbols from their fields (16 bits); returns the number of escapes."""
    offset = field - base
    # Field `base` itself gets symbol 0, like all that the window does not hold.
    symbol = select((field >= base) & (offset < last - base + 1), offset, field & 0)
    store(symbols, LANES * t, to_u8(symbol))
    return count((symbol == 0) & (field != 0))


@inlined
def put_six(nibbles: Array, crumbs: Array, group: int, v0: Lanes, v1: Lanes, v2: Lanes, v3: Lanes) -> None:
    """A group's low six bits: a piece of 4 and a piece of 2 (coder.md, section 2)."""
    store(nibbles, GROUP // 2 * group, to_u8(v0 & 15 | v1 << 4))
    store(nibbles, GROUP // 2 * group + LANES, to_u8(v2 & 15 | v3 << 4))
    crumb = v0 >> 4 & 3 | v1 >> 2 & 12 | v2 & 0x30 | v3 << 2 & 0xC0
    store(crumbs, GROUP // 4 * group, to_u8(crumb))


@inlined
def put_five(nibbles: Array, ones: Array, group: int, v0: Lanes, v1: Lanes, v2: Lanes, v3: Lanes) -> None:
    """A group's low five bits: a piece of 4 and a piece of 1, of which two groups share a vector."""
    store(nibbles, GROUP // 2 * group, to_u8(v0 & 15 | v1 << 4))
    store(nibbles, GROUP // 2 * group + LANES, to_u8(v2 & 15 | v3 << 4))
    one = to_u8(v0 >> 4 & 1 | v1 >> 3 & 2 | v2 >> 2 & 4 | v3 >> 1 & 8)
    at = LANES * (group // 2)
    if group % 2 == 0:
        store(ones, at, one)
    else:
        store(ones, at, load(ones, at) | one << 4)


@inlined
def u16_at(src: Array, t: int) -> Lanes:
    """Step t, rotated left by 1: the sign to the bottom."""
    value = load(src, LANES * t)
    return value << 1 | value >> 15


@inlined
def u32_at(src: Array, low: Array, mid: Array, t: int) -> Lanes:
    """Step t, rotated left by 1, its low 16 bits put away, its high 16 returned."""
    value = load(src, LANES * t)
    value = value << 1 | value >> 31
    store(low, LANES * t, to_u8(value))
    store(mid, LANES * t, to_u8(value >> 8))
    return to_u16(value >> 16)


@kernel
def split_u16_8_8(src: Array, base: int, last: int, rest: Array, symbols: Array) -> int:
    """src uint16[n]; rest, symbols uint8[n]."""
    if src.size % GROUP != 0 or rest.size != src.size or symbols.size != src.size or not is_window(base, last):
        return -1
    escapes = 0
    for t in range(src.size // LANES):
        value = u16_at(src, t)
        store(rest, LANES * t, to_u8(value))
        escapes += put_symbols(symbols, t, base, last, value >> 8)
    return escapes


@kernel
def split_u16_6_10(src: Array, base: int, last: int, nibbles: Array, crumbs: Array, symbols: Array) -> int:
    """src uint16[n]; nibbles uint8[n / 2], crumbs uint8[n / 4], symbols uint8[n]."""
    if src.size % GROUP != 0 or symbols.size != src.size or not is_window(base, last):
        return -1
    if nibbles.size != src.size // 2 or crumbs.size != src.size // 4:
        return -1
    escapes = 0
    for group in range(src.size // GROUP):
        t = group * STEPS
        v0, v1, v2, v3 = u16_at(src, t), u16_at(src, t + 1), u16_at(src, t + 2), u16_at(src, t + 3)
        put_six(nibbles, crumbs, group, v0, v1, v2, v3)
        escapes += put_symbols(symbols, t, base, last, v0 >> 6) + put_symbols(symbols, t + 1, base, last, v1 >> 6)
        escapes += put_symbols(symbols, t + 2, base, last, v2 >> 6) + put_symbols(symbols, t + 3, base, last, v3 >> 6)
    return escapes


@kernel
def split_u32_8_8_8_8(src: Array, base: int, last: int, low: Array, mid: Array, high: Array, symbols: Array) -> int:
    """src uint32[n]; low, mid, high, symbols uint8[n]."""
    if src.size % GROUP != 0 or high.size != src.size or symbols.size != src.size or not is_window(base, last):
        return -1
    if low.size != src.size or mid.size != src.size:
        return -1
    escapes = 0
    for t in range(src.size // LANES):
        value = u32_at(src, low, mid, t)
        store(high, LANES * t, to_u8(value))
        escapes += put_symbols(symbols, t, base, last, value >> 8)
    return escapes


@kernel
def split_u32_8_8_6_10(
    src: Array, base: int, last: int, low: Array, mid: Array, nibbles: Array, crumbs: Array, symbols: Array
) -> int:
    """src uint32[n]; low, mid uint8[n], nibbles uint8[n / 2], crumbs uint8[n / 4], symbols uint8[n]."""
    if src.size % GROUP != 0 or symbols.size != src.size or not is_window(base, last):
        return -1
    if low.size != src.size or mid.size != src.size or nibbles.size != src.size // 2 or crumbs.size != src.size // 4:
        return -1
    escapes = 0
    for group in range(src.size // GROUP):
        t = group * STEPS
        v0, v1 = u32_at(src, low, mid, t), u32_at(src, low, mid, t + 1)
        v2, v3 = u32_at(src, low, mid, t + 2), u32_at(src, low, mid, t + 3)
        put_six(nibbles, crumbs, group, v0, v1, v2, v3)
        escapes += put_symbols(symbols, t, base, last, v0 >> 6) + put_symbols(symbols, t + 1, base, last, v1 >> 6)
        escapes += put_symbols(symbols, t + 2, base, last, v2 >> 6) + put_symbols(symbols, t + 3, base, last, v3 >> 6)
    return escapes


@inlined
def positive_u32_at(src: Array, low: Array, mid: Array, t: int) -> Lanes:
    """Step t, its low 16 bits put away, its high 16 returned."""
    value = load(src, LANES * t)
    store(low, LANES * t, to_u8(value))
    store(mid, LANES * t, to_u8(value >> 8))
    return to_u16(value >> 16)


@kernel
def split_u32_8_8_5_10(
    src: Array, base: int, last: int, low: Array, mid: Array, nibbles: Array, ones: Array, symbols: Array
) -> int:
    """Not rotated: all signs have to be 0. src uint32[n]; low, mid uint8[n], nibbles uint8[n / 2],
    ones uint8[32 * ceil(n / 256)], symbols uint8[n].
    """
    if src.size % GROUP != 0 or symbols.size != src.size or not is_window(base, last):
        return -1
    if low.size != src.size or mid.size != src.size or nibbles.size != src.size // 2:
        return -1
    if ones.size != LANES * ((src.size + 2 * GROUP - 1) // (2 * GROUP)):
        return -1
    escapes, signs = 0, 0
    for group in range(src.size // GROUP):
        t = group * STEPS
        v0, v1 = positive_u32_at(src, low, mid, t), positive_u32_at(src, low, mid, t + 1)
        v2, v3 = positive_u32_at(src, low, mid, t + 2), positive_u32_at(src, low, mid, t + 3)
        put_five(nibbles, ones, group, v0, v1, v2, v3)
        escapes += put_symbols(symbols, t, base, last, v0 >> 5) + put_symbols(symbols, t + 1, base, last, v1 >> 5)
        escapes += put_symbols(symbols, t + 2, base, last, v2 >> 5) + put_symbols(symbols, t + 3, base, last, v3 >> 5)
        signs += count((v0 | v1 | v2 | v3) >= 1 << 15)
    return escapes if signs == 0 else SIGNED


@kernel
def symbols_of(fields: Array, base: int, last: int, symbols: Array) -> int:
    """fields uint8[n] or uint16[n], symbols uint8[n]."""
    if fields.size % LANES != 0 or symbols.size != fields.size or not is_window(base, last):
        return -1
    escapes = 0
    for t in range(fields.size // LANES):
        escapes += put_symbols(symbols, t, base, last, to_u16(load(fields, LANES * t)))
    return escapes
