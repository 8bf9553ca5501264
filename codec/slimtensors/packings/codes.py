"""Codes of a few bits out of the bytes or words that they are packed into."""

from __future__ import annotations

import numpy as np

from slimtensors.packings.weight import Array

__all__ = ["E2M1", "E4M3", "E5M2", "nibbles", "unpacked"]

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def _float8(exponent_bits: int, bias: int, infinite: bool) -> Array:
    """The 256 numbers of an FP8 dtype: E4M3 without infinities, E5M2 with them."""
    codes = np.arange(128)
    mantissa_bits = 7 - exponent_bits
    exponent, mantissa = codes >> mantissa_bits, codes & ((1 << mantissa_bits) - 1)
    fraction = mantissa / 2.0**mantissa_bits
    numbers = np.where(exponent == 0, fraction * 2.0 ** (1 - bias), (1 + fraction) * 2.0 ** (exponent - bias))
    if infinite:
        numbers[exponent == (1 << exponent_bits) - 1] = np.nan
        numbers[codes == 0x7C] = np.inf
    else:
        numbers[codes == 0x7F] = np.nan
    return np.concatenate([numbers, -numbers]).astype(np.float32)


E4M3, E5M2 = _float8(4, 7, False), _float8(5, 15, True)


def unpacked(rows: Array, width: int, columns: int) -> Array:
    """uint8[..., columns]: codes of `width` bits that fill the bytes of a row densely, from the lowest bit on.

    rows: [..., bytes or little-endian words]; the last ones may be filled in part.
    """
    data = np.ascontiguousarray(rows).view(np.uint8)
    if width == 8:
        return data[..., :columns]
    if 8 % width == 0:
        shifts = np.arange(0, 8, width, dtype=np.uint8)
        codes = data[..., None] >> shifts & np.uint8((1 << width) - 1)
        whole: Array = codes.reshape(*data.shape[:-1], -1)
        return whole[..., :columns]
    bits = np.unpackbits(data, axis=-1, bitorder="little", count=columns * width)
    found: Array = np.packbits(bits.reshape(*data.shape[:-1], columns, width), axis=-1, bitorder="little")[..., 0]
    return found


def nibbles(data: Array, upper_first: bool) -> Array:
    """uint8[2 n], from n bytes."""
    out = np.empty((data.size, 2), np.uint8)
    out[:, 1 if upper_first else 0] = data.reshape(-1) & 15
    out[:, 0 if upper_first else 1] = data.reshape(-1) >> 4
    return out.reshape(-1)
