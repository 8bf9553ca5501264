"""Floats converted from one dtype to another, the same on every machine (format_spec/expressions.md, section 4.1)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.codecs.environment import as_usual
from slimtensors.dtypes import DTYPES, DType

__all__ = ["cast_units"]

Units = npt.NDArray[Any]

# Bits of the mantissa. The exponent has what the sign and these leave of the unit.
_MANTISSA = {"F64": 52, "F32": 23, "F16": 10, "BF16": 7}


def cast_units(units: Units, source: DType, target: DType) -> Units:
    """The elements converted, rounded to the nearest and ties to even; too large ones become infinite.

    A NaN keeps its sign and the upper bits of its mantissa, and becomes quiet. units: of dtype `source`, one of
    CASTABLE as `target` is; another array is returned unless the dtypes are the same.
    """
    return units if source == target else _cast(units, source, target)


@as_usual
def _cast(units: Units, source: DType, target: DType) -> Units:
    with np.errstate(all="ignore"):  # overflow is meant, and so is what NaNs do before they are put right
        out = _convert(units, source.name, target.name)
    nan = _is_nan(units, source)
    if nan.any():
        out[nan] = _nans(units[nan], source, target)
    return out


def _convert(units: Units, source: str, target: str) -> Units:
    """What cast_units does, for elements that are not NaN."""
    if source == "BF16":
        wide = units.astype("<u4") << np.uint32(16)
        return wide if target == "F32" else _convert(wide, "F32", target)
    if target == "BF16":
        # To F32 first: without rounding from F16, and from F64 in a way that leaves the second rounding right.
        if source == "F64":
            units = _to_odd(units)
        elif source == "F16":
            units = _convert(units, "F16", "F32")
        return round_to_bf16(units)
    # Conversions between F16, F32 and F64 are IEEE operations, each rounded once.
    numbers = units.view(f"<f{units.itemsize}")
    size = DTYPES[target].unit_bytes
    out: Units = numbers.astype(f"<f{size}").view(f"<u{size}")
    return out


def round_to_bf16(units: Units) -> Units:
    """F32 to BF16, of elements that are not NaN."""
    # bf16 = floor((x + 7FFF + (bit 16 of x)) / 2^16): to nearest, ties to even; the carry runs into the exponent
    low = (units >> np.uint32(16)) & np.uint32(1)
    low += np.uint32(0x7FFF)
    low += units
    low >>= np.uint32(16)
    out: Units = low.astype("<u2")
    return out


def _to_odd(units: Units) -> Units:
    """F64 to F32, cut towards zero, with the last bit set if anything was cut off: another rounding after it is as if
    it were the first.
    """
    exact = np.abs(units.view("<f8"))
    near = exact.astype("<f4")
    out: Units = near.view("<u4")
    out -= near.astype("<f8") > exact  # rounded away from zero: one back; from infinity to the largest number
    out |= near.astype("<f8") != exact
    sign = (units >> np.uint64(63)).astype("<u4") << np.uint32(31)
    out |= sign
    return out


def _is_nan(units: Units, dtype: DType) -> npt.NDArray[np.bool_]:
    mantissa, top = _MANTISSA[dtype.name], dtype.unit_bits - 1
    infinity = ((1 << (top - mantissa)) - 1) << mantissa
    found: npt.NDArray[np.bool_] = (units & units.dtype.type((1 << top) - 1)) > infinity
    return found


def _nans(units: Units, source: DType, target: DType) -> Units:
    """NaNs: sign, all ones, quiet bit, and the upper bits of the mantissa that was."""
    wide = units.astype("<u8")
    have, want = _MANTISSA[source.name], _MANTISSA[target.name]
    payload = wide & np.uint64((1 << have) - 1)
    payload = payload << np.uint64(want - have) if want > have else payload >> np.uint64(have - want)
    top = target.unit_bits - 1
    sign = (wide >> np.uint64(source.unit_bits - 1)) << np.uint64(top)
    quiet = np.uint64(((1 << (top - want)) - 1) << want | 1 << (want - 1))
    out: Units = (sign | quiet | payload).astype(target.unit)
    return out
