"""Units that are levels of a uniform grid (format_spec/expressions.md, section 7.5)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.codecs import straight
from slimtensors.codecs.casts import cast_units
from slimtensors.codecs.coded import NOT_ZERO
from slimtensors.codecs.grids import float_step
from slimtensors.codecs.place import Place
from slimtensors.codecs.planes import check_status
from slimtensors.codecs.workspace import work_space
from slimtensors.dtypes import DTYPES, DType
from slimtensors.errors import FormatError
from slimtensors.expression import Trellis
from slimtensors.kernels.cpu import level_kernels
from slimtensors.kernels.cpu import trellis as kernels
from slimtensors.kernels.status import BAD_STREAM, OK, must

__all__ = ["codes_near", "decode", "decode_straight", "encode"]

Array = npt.NDArray[Any]

_LEVELS = {"F32": kernels.levels_f32, "BF16": kernels.levels_bf16, "F16": kernels.levels_f16}
_SCALED = {"F32": kernels.scaled_f32, "BF16": kernels.scaled_bf16, "F16": kernels.scaled_f16}
_STRAIGHT = {
    "F32": (level_kernels.decode_f32, level_kernels.search_f32),
    "BF16": (level_kernels.decode_bf16, level_kernels.search_bf16),
    "F16": (level_kernels.decode_f16, level_kernels.search_f16),
}
# A number of the dtype lies within this share of what was rounded to it, if it is a normal one.
_ROUNDING = {"F32": 2.0**-24, "BF16": 2.0**-8, "F16": 2.0**-11}
_LEAST = {"F32": 0.0, "BF16": 0.0, "F16": 2.0**-25}  # and half the distance of subnormal numbers


def decode(expression: Trellis, codes: Array, out: Array, place: Place) -> None:
    """Fill `out` with the units that codes stand for."""
    dtype, grid = _dtype(place), (expression.zero, expression.states, np.float32(float_step(expression)))
    if expression.rows is not None and expression.columns is not None:
        rows, columns = place.sides[expression.rows], place.sides[expression.columns]
        row, first = divmod(place.first, columns.size)
        room = np.empty(kernels.LANES, np.uint32)
        status = _SCALED[dtype.name](codes, *grid, rows.view(np.float32)[row:], columns, first, room, out)
    elif dtype.name == "BF16" and codes.itemsize == 1 and expression.zero < 1 << 8:
        status = kernels.narrow_bf16(codes, *grid, out)
    else:
        status = _LEVELS[dtype.name](codes, *grid, out)
    must(status)


def decode_straight(expression: Trellis, codes: straight.Codes, place: Place) -> bool:
    """Make levels of codes as they are decoded, if they have neither states nor scales; else nothing was done. Raises
    FormatError.
    """
    if expression.states != 1 or expression.rows is not None:
        return False
    zero, step, dtype = expression.zero, np.float32(float_step(expression)), _dtype(place)
    positions, fields = codes.escapes
    if positions.size:
        # Of codes 0 and 1, which must differ, so that an escape for code 0 is told; then of the fields.
        some = np.zeros(-(-(2 + fields.size) // kernels.LANES) * kernels.LANES, np.uint8)
        some[1], some[2 : 2 + fields.size] = 1, fields
        made = np.empty(some.size, codes.body.dtype)
        must(_LEVELS[dtype.name](some, zero, 1, step, made))
        if made[0] == made[1]:
            return False
    plain, searching = _STRAIGHT[dtype.name]
    if codes.tree is None:
        check_status(plain(codes.table, zero, step, *codes.stream, codes.body))
    else:
        check_status(searching(codes.table, codes.tree, zero, step, *codes.stream, codes.body))
    if positions.size:
        if (codes.body[positions] != made[0]).any():
            raise FormatError(NOT_ZERO)
        codes.body[positions] = made[2 : 2 + fields.size]
    return True


def _steps(expression: Trellis, place: Place, units: int) -> Array:
    """Of each unit: step * row, rounded to F32, times column, rounded likewise."""
    step = np.float32(float_step(expression))
    if expression.rows is None or expression.columns is None:
        return np.full(units, step, np.float32)
    rows, columns = (place.sides[side].view(np.float32) for side in (expression.rows, expression.columns))
    low, high = place.first // columns.size, -(-(place.first + units) // columns.size)
    begin = place.first - low * columns.size
    with np.errstate(all="ignore"):
        made = (step * rows[low:high])[:, None] * columns
    part: Array = made.reshape(-1)[begin : begin + units]
    return part


def _dtype(place: Place) -> DType:
    assert place.dtype is not None
    return place.dtype


# ---- encoding


def codes_near(expression: Trellis, floats: Array, place: Place, slack: Array | None = None) -> Array:
    """The codes whose levels are nearest to float32s, all of them together: uint16[n]."""
    steps: Any = np.float32(float_step(expression))
    if expression.rows is not None:
        steps = _steps(expression, place, floats.size)
    with np.errstate(all="ignore"):
        x = floats / steps
    codes = work_space("trellis codes", x.size, np.uint16)
    most = (1 << expression.bits.width) - 1
    if expression.states == 1:
        must(kernels.nearest(x, expression.zero, most, codes))
        return codes
    chosen = work_space("trellis", x.size, np.uint8)
    within = np.empty(0, np.float32) if slack is None else (slack / steps).astype(np.float32)
    must(kernels.search(x, within, expression.zero, most, chosen, codes))
    return codes


def encode(expression: Trellis, body: Array, place: Place) -> Array | None:
    """The codes of units; None if there are none for some of them."""
    dtype = _dtype(place)
    floats = cast_units(body, dtype, DTYPES["F32"]).view(np.float32)
    if not np.isfinite(floats).all():
        return None
    tries = [codes_near] if expression.states == 1 else [_at_once, _by_search]
    for attempt in tries:
        codes = attempt(expression, floats, place)
        if codes is None:
            continue
        made = np.empty_like(body)
        decode(expression, codes, made, place)
        if np.array_equal(made, body):
            return codes.astype(np.uint8 if expression.bits.width <= 8 else np.uint16)
    return None


def _at_once(expression: Trellis, floats: Array, place: Place) -> Array | None:
    """Where each unit tells its level."""
    with np.errstate(all="ignore"):
        x = floats / _steps(expression, place, floats.size)
    codes = work_space("trellis codes", x.size, np.uint16)
    status = kernels.codes_of(x, expression.zero, (1 << expression.bits.width) - 1, codes)
    assert status in (OK, BAD_STREAM)
    return codes if status == OK else None


def _by_search(expression: Trellis, floats: Array, place: Place) -> Array | None:
    """Where large levels were rounded to numbers that several levels have: what follows tells which it was."""
    name = _dtype(place).name
    slack = np.maximum(np.abs(floats) * np.float32(_ROUNDING[name]), np.float32(_LEAST[name]))
    return codes_near(expression, floats, place, slack)
