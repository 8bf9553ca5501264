"""Scales and codes of each format, from its definition; F32, one rounding for each operation, in the order of whoever
defined it.

Sources: gguf-py (q8_0, q5_0, q4_0), bitsandbytes (nf4), compressed-tensors (int8, int4, fp8), the OCP Microscaling
specification 1.0 (mxfp8, mxfp4), block floating point as in MSFP (bfp6).
"""

from __future__ import annotations

import numpy as np

from slimtensors.codecs.casts import cast_units
from slimtensors.dtypes import DTYPES, DType
from slimtensors.kernels.cpu import quantise as kernels
from slimtensors.kernels.status import must
from slimtensors.quantise.blocks import Codes, Rule
from slimtensors.quantise.quantiser import Floats

__all__ = [
    "bfp", "float_codes", "floats", "half", "integers", "inverse", "legacy", "mx", "nf4", "peaks", "q8_0",
    "small_floats",
]  # fmt: skip


def peaks(weights: Floats, length: int) -> Floats:
    """Of each run the number of the largest magnitude, with its sign; of several the first."""
    out = np.empty(weights.size // length, np.float32)
    must(kernels.peaks(weights, length, out))
    return out


def half(numbers: Floats) -> Floats:
    """Rounded to F16."""
    return numbers.astype(np.float16).astype(np.float32)


def _rounded(numbers: Floats, dtype: DType) -> Floats:
    """To a tensor's own dtype."""
    if dtype.name == "F32":
        return numbers
    units = cast_units(numbers.view("<u4"), DTYPES["F32"], dtype)
    return cast_units(units, dtype, DTYPES["F32"]).view("<f4")


def inverse(numbers: Floats) -> Floats:
    """One over each, but 0 of 0."""
    found: Floats = np.where(numbers == 0, np.float32(0), np.float32(1) / numbers)
    return found


def _codes(weights: Floats) -> Codes:
    return np.empty(weights.size, np.uint8)


def q8_0(weights: Floats, length: int, _dtype: DType) -> tuple[Floats, Codes]:
    """d = |peak| / 127; codes are weight * (1 / d), rounded, halves away from 0; then d becomes F16."""
    d, found = abs(peaks(weights, length)) / np.float32(127), _codes(weights)
    must(kernels.round_away(weights, inverse(d), length, 127, found))
    return half(d), found


def legacy(most: int) -> Rule:
    """q4_0, q5_0: d = peak / -most, so that the peak is the lowest code; codes floor(weight * (1 / d) + most + 1/2)."""

    def rule(weights: Floats, length: int, _dtype: DType) -> tuple[Floats, Codes]:
        d, found = peaks(weights, length) / np.float32(-most), _codes(weights)
        must(kernels.round_down(weights, inverse(d), length, np.float32(most + 0.5), 2 * most - 1, found))
        return half(d), found

    return rule


def integers(low: int, high: int) -> Rule:
    """int8, int4: scale = |peak| / ((high - low) / 2), in the tensor's dtype; codes weight / scale, halves to even."""

    def rule(weights: Floats, length: int, dtype: DType) -> tuple[Floats, Codes]:
        scales = _rounded(abs(peaks(weights, length)) / np.float32((high - low) / 2), dtype)
        found = _codes(weights)
        must(kernels.round_even(weights, scales, length, low, high, found))
        return scales, found

    return rule


def nf4(table: Floats) -> Rule:
    """The scale is |peak|; codes the nearest of the table to weight * (1 / scale), of two the lower."""
    middles = (table[:-1] + table[1:]) / np.float32(2)

    def rule(weights: Floats, length: int, _dtype: DType) -> tuple[Floats, Codes]:
        scales, found = abs(peaks(weights, length)), _codes(weights)
        inverses = np.float32(1) / np.maximum(scales, np.float32(1e-38))
        must(kernels.nearest(weights, inverses, length, middles, found))
        return scales, found

    return rule


# ---- small floats: the numbers 0, a, -a, b, -b, ... with 0 < a < b < ...; there is no -0


def small_floats(mantissa: int, bias: int, count: int) -> Floats:
    """The first `count` magnitudes of a float with so many bits of mantissa, subnormal ones too, and negatives."""
    exponent, rest = np.divmod(np.arange(1, count), 1 << mantissa)
    whole = np.where(exponent == 0, rest, rest + (1 << mantissa))
    magnitudes = whole * 2.0 ** (np.maximum(exponent, 1) - bias - mantissa)
    both = np.stack([magnitudes, -magnitudes], axis=1).reshape(-1)
    return np.concatenate([[0.0], both]).astype(np.float32)


def float_codes(weights: Floats, scales: Floats, length: int, mantissa: int, bias: int, palette: Floats) -> Codes:
    """Codes of weight / scale, rounded, halves to even, too large ones the largest of the palette."""
    found = _codes(weights)
    count = (palette.size + 1) // 2
    must(kernels.round_floats(weights, scales, length, mantissa, bias, count - 1, palette[-2], found))
    return found


def floats(mantissa: int, bias: int, palette: Floats) -> Rule:
    """fp8: scale = |peak| / largest number, in the tensor's dtype; codes weight / scale, halves to even."""

    def rule(weights: Floats, length: int, dtype: DType) -> tuple[Floats, Codes]:
        scales = _rounded(abs(peaks(weights, length)) / palette[-2], dtype)
        return scales, float_codes(weights, scales, length, mantissa, bias, palette)

    return rule


def _powers(weights: Floats, length: int, less: int) -> Floats:
    """2^(floor(log2 |peak|) - less) of each run, from 2^-127 to 2^127; of 0 the least."""
    bits = abs(peaks(weights, length)).view(np.int32)
    exponent = np.where(bits < 0x00800000, -127, (bits >> 23) - 127)  # subnormal peaks give the least anyway
    power = np.clip(exponent - less, -127, 127)
    # the exponent's bits of a normal number; 2^-127 is subnormal
    found: Floats = np.where(power == -127, np.int32(0x00400000), power + 127 << 23).astype(np.int32).view(np.float32)
    return found


def mx(mantissa: int, bias: int, emax: int, palette: Floats) -> Rule:
    """mxfp8, mxfp4: scale = 2^(floor(log2 |peak|) - emax), emax the exponent of the largest number; codes
    weight / scale, halves to even, too large ones the largest.
    """

    def rule(weights: Floats, length: int, _dtype: DType) -> tuple[Floats, Codes]:
        scales = _powers(weights, length, emax)
        return scales, float_codes(weights, scales, length, mantissa, bias, palette)

    return rule


def bfp(bits: int) -> Rule:
    """Sign and `bits` bits of magnitude under the peak's exponent: scale = 2^(floor(log2 |peak|) - bits + 1), codes
    weight / scale, halves to even, too large ones the largest.
    """

    def rule(weights: Floats, length: int, _dtype: DType) -> tuple[Floats, Codes]:
        scales, found = _powers(weights, length, bits - 1), _codes(weights)
        most = (1 << bits) - 1
        must(kernels.round_even(weights, scales, length, -most, most, found))
        return scales, found

    return rule
