"""Units that come from codes: palettes, scaled palettes, decimals (format_spec/expressions.md, section 7)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.codecs.casts import cast_units, round_to_bf16
from slimtensors.codecs.head import LANES
from slimtensors.codecs.place import Place
from slimtensors.codecs.workspace import work_space
from slimtensors.dtypes import DTYPES, DType
from slimtensors.errors import FormatError
from slimtensors.expression import Bits, Decimal, Gather, Mul
from slimtensors.kernels.cpu import find_codes as finding
from slimtensors.kernels.cpu import lookup as kernels
from slimtensors.kernels.status import BAD_STREAM, OK, must

__all__ = ["code_dtype", "decode", "encode", "multiplied", "numbers_of", "rounded", "scaled"]

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
        table = numbers_of(place.sides[expression.gather.palette])
        scales, offsets, length, first = _per_run(expression, place, codes.size)
        scaled(table, scales, length, first, codes, out, _dtype(place), offsets)
    else:
        _decimals(codes, float(10**expression.power), out, _dtype(place))


def multiplied(factors: tuple[int, ...], sides: tuple[Array, ...], low: int = 0, high: int | None = None) -> Array:
    """The numbers of runs [low, high): of one side plane, or products of two, rounded to F32."""
    first = sides[factors[0]].view(np.float32)
    runs, part = first.size, first[low:high]
    if len(factors) == 1:
        return part
    second = sides[factors[1]].view(np.float32)
    each = runs // second.size
    begin, end = low // each, -(-(low + part.size) // each)
    edges = np.clip(np.arange(begin, end + 1) * each, low, low + part.size)
    with np.errstate(all="ignore"):
        found: Array = part * np.repeat(second[begin:end], np.diff(edges))
    return found


def _per_run(expression: Mul, place: Place, units: int) -> tuple[Array, Array | None, int, int]:
    """Scales and offsets of a chunk's runs, the units of a run, and the chunk's first unit, counted from these runs."""
    length = place.units // place.sides[expression.factors[0][0]].size
    low, high = place.first // length, -(-(place.first + units) // length)
    scales, *offsets = [multiplied(factors, place.sides, low, high) for factors in expression.factors]
    return scales, offsets[0] if offsets else None, length, place.first - low * length


def scaled(
    table: Array, scales: Array, length: int, first: int, codes: Array, out: Array, dtype: DType,
    offsets: Array | None = None,
) -> None:  # fmt: skip
    """out[i] = table[codes[i]] * scales[run] + offsets[run], rounded to the dtype; run = (first + i) // length.

    table, scales, offsets: float32. Raises FormatError.
    """
    if offsets is None:
        status = _SCALED[dtype.name](table.view(np.uint32), scales, length, first, codes, out)
    else:
        status = _SHIFTED[dtype.name](table.view(np.uint32), scales, offsets, length, first, codes, out)
    _check(status, codes, table.size)


_SCALED = {"F32": kernels.scaled_f32, "BF16": kernels.scaled_bf16, "F16": kernels.scaled_f16}
_SHIFTED = {"F32": kernels.shifted_f32, "BF16": kernels.shifted_bf16, "F16": kernels.shifted_f16}


def _pick(palette: Array, codes: Array, out: Array, place: Place) -> None:
    entries = palette.shape[-1]
    rows, length, first = _rows(palette, codes.size, place)
    if palette.itemsize < 8:
        table = rows.astype(np.uint32).reshape(-1)
        _check(kernels.pick(table, entries, length, first, codes, out), codes, entries)
        return
    # No gather of 64 bits: as two halves, it would take as long.
    if int(codes.max(initial=0)) >= entries:
        _check(BAD_STREAM, codes, entries)
    index = (np.arange(codes.size) + first % length) // length * entries + codes
    np.take(rows.reshape(-1), index, out=out, mode="clip")


def _rows(palette: Array, units: int, place: Place) -> tuple[Array, int, int]:
    """The palettes of a chunk's runs, the units of a run, and the chunk's first unit."""
    if palette.ndim == 1:
        return palette, units, 0
    length, first = place.units // palette.shape[0], place.first
    return palette[first // length : -(-(first + units) // length)], length, first


def _check(status: int, codes: Array, entries: int) -> None:
    if status == BAD_STREAM:
        raise FormatError(f"a code of {int(codes.max())} for a palette of {entries}")
    must(status)


def _decimals(codes: Array, divisor: float, out: Array, dtype: DType) -> None:
    if dtype.name == "F32":
        status = kernels.decimals_f32(codes, divisor, out)
    elif dtype.name == "F64":
        status = kernels.decimals_f64(codes, divisor, out)
    else:
        exact = np.empty(codes.size, np.uint64)
        status = kernels.decimals_f64(codes, divisor, exact)
        out[:] = cast_units(exact, DTYPES["F64"], dtype)
    must(status)


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


# ---- encoding


def encode(expression: Gather | Mul | Decimal, body: Array, place: Place) -> Array | None:
    """The codes of units; None if there are none for some of them."""
    dtype = np.uint64 if isinstance(expression, Decimal) else np.uint16
    codes = work_space("found codes", body.size, dtype)
    if isinstance(expression, Gather):
        status = _find(place.sides[expression.palette], body, codes, place)
    elif isinstance(expression, Mul):
        status = _divide(expression, body, codes, place)
    else:
        status = _scale_up(expression.power, body, codes, _dtype(place))
    if status == BAD_STREAM or int(codes.max(initial=0)) >> sum(expression.bits.widths):
        return None
    must(status)
    return codes.astype(code_dtype(expression.bits))


def _find(palette: Array, body: Array, codes: Array, place: Place) -> int:
    rows, length, first = _rows(palette, body.size, place)
    order = np.argsort(rows, axis=-1, kind="stable")
    ranked, entries = np.take_along_axis(rows, order, -1).reshape(-1), palette.shape[-1]
    order = order.reshape(-1)
    if body.itemsize < 8:
        return finding.find_entries(
            ranked.astype(np.uint32), order.astype(np.uint32), entries, length, first, body, codes
        )
    for run in range(ranked.size // entries):
        units = slice(max(run * length - first % length, 0), (run + 1) * length - first % length)
        here = ranked[run * entries : (run + 1) * entries]
        at = np.minimum(np.searchsorted(here, body[units]), entries - 1)
        if not np.array_equal(here[at], body[units]):
            return BAD_STREAM
        codes[units] = order[run * entries + at]
    return OK


_FIND = {"F32": finding.find_f32, "BF16": finding.find_bf16, "F16": finding.find_f16}
_FIND_SHIFTED = {
    "F32": finding.find_shifted_f32, "BF16": finding.find_shifted_bf16, "F16": finding.find_shifted_f16,
}  # fmt: skip


def _divide(expression: Mul, body: Array, codes: Array, place: Place) -> int:
    table = numbers_of(place.sides[expression.gather.palette])
    scales, offsets, length, first = _per_run(expression, place, body.size)
    # By the bits, so that -0 comes before 0.
    bits = table.view(np.int32).astype(np.int64)
    order = np.argsort(np.where(bits < 0, -1 - (bits & 0x7FFFFFFF), bits), kind="stable").astype(np.uint32)
    order = np.concatenate([order, np.repeat(order[-1:], -order.size % LANES)])
    room = work_space("ranked", order.size, np.uint32)
    ranked = table[order].view(np.uint32), order, table.size, scales
    if offsets is None:
        return _FIND[_dtype(place).name](*ranked, length, first, body, room, codes)
    return _FIND_SHIFTED[_dtype(place).name](*ranked, offsets, length, first, body, room, codes)


def _scale_up(power: int, body: Array, codes: Array, dtype: DType) -> int:
    if dtype.name in ("F32", "F64"):
        return finding.find_decimals(body.view(f"<f{body.itemsize}"), body, float(10**power), codes)
    # What narrower floats hold, F64 holds as well; whether it comes back is up to their own rounding.
    exact = cast_units(body, dtype, DTYPES["F64"])
    numbers = exact.view(np.float64)
    with np.errstate(all="ignore"):
        whole = np.rint(np.abs(numbers) * float(10**power))
        if not (whole < finding.LARGEST).all():
            return BAD_STREAM
        codes[:] = whole.astype(np.uint64) << np.uint64(1) | exact >> np.uint64(63)
    back = np.empty_like(body)
    _decimals(codes, float(10**power), back, dtype)
    return OK if np.array_equal(back, body) else BAD_STREAM
