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

__all__ = ["code_dtype", "decode", "encode", "numbers_of", "rounded"]

Array = npt.NDArray[Any]


def code_dtype(bits: Bits) -> np.dtype[Any]:
    """The smallest unit that holds the codes."""
    width = sum(bits.widths)
    return np.dtype(f"<u{next(size for size in (1, 2, 4, 8) if width <= 8 * size)}")


def decode(expression: Gather | Mul | Decimal, codes: Array, out: Array, place: Place) -> None:
    """Fill `out` with the units that codes stand for. Raises FormatError."""
    if isinstance(expression, Gather):
        _pick(place.sides[expression.palette], codes, place, out)
    elif isinstance(expression, Mul):
        table = numbers_of(place.sides[expression.gather.palette])
        numbers = np.empty(codes.size, np.float32)
        _pick(table, codes, place, numbers)
        with np.errstate(all="ignore"):  # overflow to infinity is meant
            numbers *= _scales(place.sides[expression.scale], place, codes.size)
        out[:] = rounded(numbers, _dtype(place))
    else:
        dtype = _dtype(place)
        # number = floor(code / 2) / 10^power, negative where the code is odd
        numbers = (codes >> codes.dtype.type(1)).astype(np.float64)
        numbers /= float(10**expression.power)
        out[:] = cast_units(numbers.view("<u8"), DTYPES["F64"], dtype)
        sign = (codes & codes.dtype.type(1)).astype(out.dtype)
        sign <<= out.dtype.type(dtype.bits - 1)
        out |= sign


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


def _pick(palette: Array, codes: Array, place: Place, out: Array) -> None:
    size = palette.shape[-1]
    if int(codes.max(initial=0)) >= size:
        raise FormatError(f"a code of {int(codes.max())} for a palette of {size}")
    if palette.ndim == 1:
        np.take(palette, codes, out=out, mode="clip")
        return
    index = _runs(place, palette.shape[0], codes.size)
    index *= size
    index += codes
    np.take(palette.reshape(-1), index, out=out, mode="clip")


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
