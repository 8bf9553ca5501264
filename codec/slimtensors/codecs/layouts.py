"""Which planes each dtype is cut into (informative in format_spec/codecs/)."""

from __future__ import annotations

from functools import cache

from slimtensors.dtypes import DType
from slimtensors.expression import Bits, Part, bits

__all__ = ["BYTES", "FLAGS", "finer", "floats", "halves", "most_tail", "unsigned", "usual", "whole_bytes"]

BYTES = bits(8)
FLAGS = bits(1)
# Sign apart, so that half as many symbols share the slots of a table.
SIGNED_BYTES = bits(1, 7, rotate=1)

# Bits of exponent and leading mantissa that make a symbol, by dtype and preset. The top two mantissa bits are the
# only ones that are not noise, and only jointly with the exponent; three of FP16 make a byte.
_FIELD = {
    "fast": {"F16": 8, "BF16": 8, "F32": 8, "C64": 8, "F64": 11},
    "balanced": {"F16": 8, "BF16": 10, "F32": 10, "C64": 10, "F64": 13},
}
_FIELD["small"] = _FIELD["balanced"]  # one mantissa bit more, given the classes, was 0.04 points larger on BF16


@cache
def usual(dtype: DType, preset: str) -> Bits:
    """The planes of a dtype when nothing else is known."""
    if dtype.is_float:
        return floats(dtype, preset)
    return FLAGS if dtype.name == "BOOL" else whole_bytes(dtype)


def whole_bytes(dtype: DType) -> Bits:
    return bits(*[8] * dtype.unit_bytes)


def halves(dtype: DType) -> Bits:
    """16-bit planes, for integers whose size varies."""
    return bits(*[16] * (dtype.unit_bytes // 2))


@cache
def floats(dtype: DType, preset: str, tail: int = 0, by_row: bool = False) -> Bits:
    """Sign, mantissa and a field of exponent and leading mantissa, from the lowest bit of the rotated unit.

    tail: lowest mantissa bits kept apart because they are zero everywhere or (by_row) in some rows.
    """
    if dtype.unit_bits == 8:
        return SIGNED_BYTES
    width = _FIELD[preset][dtype.name]
    mantissa = dtype.unit_bits - 1 - width
    if not tail:
        return bits(*_split(mantissa + 1), width, rotate=1)
    side = 0 if by_row else None
    parts = [Part(1), *(Part(w, side) for w in _split(tail)), *(Part(w) for w in _split(mantissa - tail)), Part(width)]
    return Bits(tuple(parts), rotate=1)


@cache
def unsigned(dtype: DType, preset: str) -> Bits:
    """`floats` for those of which none is negative, such as second moments: the sign in a plane of its own."""
    if dtype.unit_bits == 8:
        return SIGNED_BYTES
    width = _FIELD[preset][dtype.name]
    return bits(1, *_split(dtype.unit_bits - 1 - width), width, rotate=1)


def finer(dtype: DType) -> Bits:
    """Floats whose field has two mantissa bits more than usual.

    Where the smallest are pruned, the numbers end at a threshold within a binade, and near it more bits than usual are
    not noise. Worth 0.02 bit per weight.
    """
    width = _FIELD["balanced"][dtype.name] + 2
    return bits(*_split(dtype.unit_bits - width), width, rotate=1)


def most_tail(dtype: DType, preset: str) -> int:
    """The mantissa bits outside the field."""
    return 0 if dtype.unit_bits == 8 else dtype.unit_bits - 1 - _FIELD[preset][dtype.name]


def _split(width: int) -> list[int]:
    """Whole bytes, then what remains."""
    return [8] * (width // 8) + ([width % 8] if width % 8 else [])
