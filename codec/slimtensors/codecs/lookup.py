"""Units that come from codes: palettes, scaled palettes, decimals (format_spec/expressions.md, section 7)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.codecs.casts import cast_units, round_to_bf16
from slimtensors.codecs.place import Place
from slimtensors.dtypes import DTYPES, DType
from slimtensors.errors import FormatError
from slimtensors.expression import Bits, Decimal, Gather, Mul
from slimtensors.kernels.cpu import lookup as kernels
from slimtensors.kernels.status import BAD_STREAM, OK

__all__ = ["code_dtype", "decode", "encode", "numbers_of", "rounded"]

Array = npt.NDArray[Any]


def code_dtype(bits: Bits) -> np.dtype[Any]:
    """The smallest unit that holds the codes."""
    width = sum(bits.widths)
    return np.dtype(f"<u{next(size for size in (1, 2, 4, 8) if width <= 8 * size)}")


def decode(expression: Gather | Mul | Decimal, codes: Array, out: Array, place: Place) -> None:
    """Fill `out` with the units that codes stand for. Raises FormatError."""
    if isinstance(expression, Gather):
        _pick(place.sides[expression.palette], codes, out, place)
    elif isinstance(expression, Mul):
        table = numbers_of(place.sides[expression.gather.palette]).view(np.uint32)
        scales = place.sides[expression.scale].view(np.float32)
        kernel = _SCALED[_dtype(place).name]
        _check(kernel(table, scales, place.units // scales.size, place.first, codes, out), codes, table.size)
    else:
        _decimals(codes, float(10**expression.power), out, _dtype(place))


_SCALED = {"F32": kernels.scaled_f32, "BF16": kernels.scaled_bf16, "F16": kernels.scaled_f16}


def _pick(palette: Array, codes: Array, out: Array, place: Place) -> None:
    entries = palette.shape[-1]
    if palette.ndim == 1:
        rows, length, first = palette, max(place.units, 1), 0
    else:
        length, first = place.units // palette.shape[0], place.first
        rows = palette[first // length : -(-(first + codes.size) // length)].reshape(-1)
    if palette.itemsize == 8:
        # No gather of 64 bits: as two halves, it would take as long.
        if int(codes.max(initial=0)) >= entries:
            _check(BAD_STREAM, codes, entries)
        index = (np.arange(codes.size) + first % length) // length * entries + codes
        np.take(rows, index, out=out, mode="clip")
        return
    _check(kernels.pick(rows.astype(np.uint32), entries, length, first, codes, out), codes, entries)


def _check(status: int, codes: Array, entries: int) -> None:
    if status == BAD_STREAM:
        raise FormatError(f"a code of {int(codes.max())} for a palette of {entries}")
    assert status == OK


def _decimals(codes: Array, divisor: float, out: Array, dtype: DType) -> None:
    if dtype.name == "F32":
        status = kernels.decimals_f32(codes, divisor, out)
    elif dtype.name == "F64":
        status = kernels.decimals_f64(codes, divisor, out)
    else:
        exact = np.empty(codes.size, np.uint64)
        status = kernels.decimals_f64(codes, divisor, exact)
        out[:] = cast_units(exact, DTYPES["F64"], dtype)
    assert status == OK


def numbers_of(palette: Array) -> Array:
    """The entries of a scaled palette, from its units: I8, I16 or F32, told by their size."""
    if palette.itemsize == 4:
        return palette.view("<f4")
    return palette.view(f"<i{palette.itemsize}").astype(np.float32)


def rounded(numbers: Array, dtype: DType) -> Array:
    """F32 numbers, none of them NaN, as units of a dtype."""
    units = numbers.view("<u4")
    return round_to_bf16(units) if dtype.name == "BF16" else cast_units(units, DTYPES["F32"], dtype)


def _dtype(place: Place) -> DType:
    assert place.dtype is not None
    return place.dtype


def _runs(place: Place, runs: int, units: int) -> Array:
    """The run that each unit of a chunk's body lies in: floor((first + i) / length)."""
    length = place.units // runs
    return (np.arange(place.first, place.first + units, dtype=np.int64)) // length


def _scales(scales: Array, place: Place, units: int) -> Array:
    """The scale of each unit."""
    length = place.units // scales.size
    first, end = place.first // length, -(-(place.first + units) // length)
    starts = np.arange(first, end, dtype=np.int64) * length
    # Of a run only the units that lie in the chunk: runs may be far longer than chunks.
    counts = np.minimum(starts + length, place.first + units) - np.maximum(starts, place.first)
    found: Array = np.repeat(scales.view("<f4")[first:end], counts)
    return found


# ---- encoding


def encode(expression: Gather | Mul | Decimal, body: Array, place: Place) -> Array | None:
    """The codes of units; None if there are none for some of them."""
    if isinstance(expression, Gather):
        codes = _find(body, place.sides[expression.palette], place)
    elif isinstance(expression, Mul):
        codes = _divide(expression, body, place)
    else:
        codes = _scale_up(expression.power, body, _dtype(place))
    if codes is None or int(codes.max(initial=0)) >> sum(expression.bits.widths):
        return None
    return codes.astype(code_dtype(expression.bits))


def _find(body: Array, palette: Array, place: Place) -> Array | None:
    if palette.ndim == 1:
        return _find_in(body, palette)
    codes = np.empty(body.size, np.int64)
    runs = _runs(place, palette.shape[0], body.size)
    cuts = [0, *(np.flatnonzero(np.diff(runs)) + 1).tolist(), body.size]
    for low, high in pairwise(cuts):
        found = _find_in(body[low:high], palette[runs[low]])
        if found is None:
            return None
        codes[low:high] = found
    return codes


def _find_in(body: Array, palette: Array) -> Array | None:
    order = np.argsort(palette, kind="stable")
    at = np.minimum(np.searchsorted(palette[order], body), palette.size - 1)
    codes: Array = order[at]
    return codes if np.array_equal(palette[codes], body) else None


def _divide(expression: Mul, body: Array, place: Place) -> Array | None:
    """The code whose product is the unit: that of the entry nearest to unit / scale, or of its neighbours."""
    dtype = _dtype(place)
    table = numbers_of(place.sides[expression.gather.palette])
    scales = _scales(place.sides[expression.scale], place, body.size)
    order = np.argsort(table, kind="stable")
    ranked = table[order].astype(np.float64)
    with np.errstate(all="ignore"):
        numbers = cast_units(body, dtype, DTYPES["F64"]).view("<f8") / np.where(scales == 0, 1, scales)
        at = np.searchsorted((ranked[1:] + ranked[:-1]) / 2, numbers)
        wrong = np.flatnonzero(rounded(table[order[at]] * scales, dtype) != body)
        for step in (-1, 1) if wrong.size else ():
            other = np.clip(at[wrong] + step, 0, table.size - 1)
            right = rounded(table[order[other]] * scales[wrong], dtype) == body[wrong]
            at[wrong[right]] = other[right]
            wrong = wrong[~right]
    codes: Array = order[at]
    return None if wrong.size else codes


def _scale_up(power: int, body: Array, dtype: DType) -> Array | None:
    numbers = cast_units(body, dtype, DTYPES["F64"]).view("<f8")
    with np.errstate(all="ignore"):
        whole = np.rint(np.abs(numbers) * float(10**power))
        if not (whole < 2.0**52).all():
            return None
        back = cast_units((whole / float(10**power)).view("<u8"), DTYPES["F64"], dtype)
    top = body.dtype.type(dtype.bits - 1)
    sign = body >> top
    if not np.array_equal(back | sign << top, body):
        return None
    codes: Array = whole.astype(np.uint64) << np.uint64(1) | sign.astype(np.uint64)
    return codes
