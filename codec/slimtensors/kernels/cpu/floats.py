"""Single floats of F32, BF16 and F16: their values, and F32 numbers rounded to them. A unit of 4 bytes is F32, one of 2
bytes is BF16, or F16 where `half` is set.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from slimtensors.kernels._jit import inlined


@inlined
def infinity(size: int, half: bool) -> int:
    """The unit of infinity, for units of `size` bytes; it is above those of all numbers."""
    if size == 4:
        return 0x7F800000
    return 0x7C00 if half else 0x7F80


@inlined
def value_of(magnitude: int, size: int, half: bool) -> Any:
    """The value, as float64, of a unit without its sign, up to infinity's; what is no unit, -1 too, gives any value."""
    if size == 4:
        return np.float64(np.uint32(magnitude).view(np.float32))
    if not half:
        return np.float64(np.uint32(magnitude << 16).view(np.float32))
    if magnitude < 0x400:
        return np.float64(magnitude) * 2.0**-24
    if magnitude >= 0x7C00:
        return np.inf
    # mantissa to the top of F64's, exponent moved from a bias of 15 to 1023
    return np.uint64((magnitude << 42) + (1008 << 52)).view(np.float64)


@inlined
def bits_of(number: Any) -> int:
    """The unit of a float32."""
    bits: int = np.int64(np.float32(number).view(np.uint32))
    return bits


@inlined
def rounded(number: Any, size: int, half: bool) -> int:
    """The unit nearest to a float32 that is no NaN, ties to even."""
    bits = bits_of(number)
    if size == 4:
        return bits
    if not half:
        # bf16 = floor((x + 7FFF + (bit 16 of x)) / 2^16)
        return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    sign, rest = bits >> 16 & 0x8000, bits & 0x7FFFFFFF
    if rest >= 0x47800000:  # 2^16
        return sign | 0x7C00
    if rest < 0x38800000:  # 2^-14: subnormal numbers, multiples of 2^-24 as the numbers from 0.5 to 1 are
        return sign | (bits_of(np.uint32(rest).view(np.float32) + np.float32(0.5)) - 0x3F000000)
    return sign | (rest - 0x38000000 + 0xFFF + (rest >> 13 & 1)) >> 13
