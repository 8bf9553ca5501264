"""Chapter `expressions.md`, section 4.1 and what rests on it: floats as fractions. Quotations are from that text."""

from __future__ import annotations

from fractions import Fraction

FLOATS = {"F64": (64, 52), "F32": (32, 23), "F16": (16, 10), "BF16": (16, 7)}  # bits, of these the mantissa


def value(unit: int, dtype: str) -> tuple[int, Fraction | None]:
    """The sign, and the magnitude of a finite number or None."""
    bits, mantissa = FLOATS[dtype]
    exponent_bits = bits - 1 - mantissa
    sign, exponent = unit >> bits - 1, unit >> mantissa & (1 << exponent_bits) - 1
    fraction = unit & (1 << mantissa) - 1
    if exponent == (1 << exponent_bits) - 1:
        return sign, None
    bias = (1 << exponent_bits - 1) - 1
    if exponent:
        fraction += 1 << mantissa
    return sign, fraction * Fraction(2) ** (max(exponent, 1) - bias - mantissa)


def nearest(magnitude: Fraction, dtype: str) -> int:
    """ "rounded to the nearest number of the dtype, ties to even; too large a one becomes infinite" """
    bits, mantissa = FLOATS[dtype]
    exponent_bits = bits - 1 - mantissa
    bias = (1 << exponent_bits - 1) - 1
    if magnitude == 0:
        return 0
    power = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()  # one too large, or right
    power = max(power - (magnitude < Fraction(2) ** power), 1 - bias)
    # Units of the last place; Python's round() of a Fraction is to even. A carry runs into the exponent.
    steps = round(magnitude / Fraction(2) ** (power - mantissa))
    unit = (power + bias - 1 << mantissa) + steps
    return min(unit, (1 << exponent_bits) - 1 << mantissa)


def cast(unit: int, source: str, target: str) -> int:
    bits, mantissa = FLOATS[target]
    source_mantissa = FLOATS[source][1]
    sign, magnitude = value(unit, source)
    infinity = (1 << bits - 1 - mantissa) - 1 << mantissa
    payload = unit & (1 << source_mantissa) - 1
    if magnitude is not None:
        out = nearest(magnitude, target)
    elif payload:
        # "its sign, and the upper bits of its mantissa (zeros below them where there are more), of which the highest is
        # set"
        more = mantissa - source_mantissa
        out = infinity | 1 << mantissa - 1 | (payload << more if more > 0 else payload >> -more)
    else:
        out = infinity
    return sign << bits - 1 | out


def number(unit: int, dtype: str) -> Fraction | None:
    """With its sign; None if it is not finite."""
    sign, magnitude = value(unit, dtype)
    return magnitude and (-magnitude if sign else magnitude)


def rounded(exact: Fraction, dtype: str) -> int:
    """The nearest unit; +0 for 0."""
    return (exact < 0) << FLOATS[dtype][0] - 1 | nearest(abs(exact), dtype)


def moved(unit: int, dtype: str, total: int, shift: int) -> int:
    """Section 8.1: "`delta = F32(s) * 2^-shift`", "`moved = dtype(F32(base) + delta)`"; `total` is `s`."""
    # A sum of zeros is +0 here: `delta` is never -0.
    return sum_with(unit, dtype, delta(total, shift))


def delta(total: int, shift: int) -> int:
    """ "`delta = F32(s) * 2^-shift`" """
    return rounded(number(rounded(Fraction(total), "F32"), "F32") / 2**shift, "F32")


def sum_with(unit: int, dtype: str, addend: int) -> int:
    """Section 8.2: "`dtype(F32(base) + number)`"; the addend is an F32."""
    base, more = number(unit, dtype), number(addend, "F32")
    if base is None:
        return unit  # "A base unit that is infinite or not a number stays as it is."
    if more is None:
        return cast(addend, "F32", dtype)
    # "A sum of two zeros is -0 if both are, else +0"
    negative_zeros = base == more == 0 and unit >> FLOATS[dtype][0] - 1 and addend >> 31
    # The base is a number of F32 already: F16 and BF16 have fewer bits.
    return cast(1 << 31 if negative_zeros else rounded(base + more, "F32"), "F32", dtype)
