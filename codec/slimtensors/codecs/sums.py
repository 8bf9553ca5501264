"""Numbers from codes, and sums of such with a base or a matrix product (format_spec/expressions.md, section 8.2)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.codecs import delta, lookup, trellis
from slimtensors.codecs.casts import cast_units
from slimtensors.codecs.place import Place
from slimtensors.codecs.workspace import work_space
from slimtensors.dtypes import DTYPES, DType
from slimtensors.expression import Decimal, Gather, Mul, Sum, Trellis
from slimtensors.kernels.cpu.sums import add_numbers
from slimtensors.kernels.status import must

__all__ = ["F32", "FromCodes", "add", "added", "adds_up", "decode_codes", "find_codes", "on_base"]

Units = npt.NDArray[Any]
FromCodes = Gather | Mul | Decimal | Trellis

F32 = DTYPES["F32"]


def decode_codes(expression: FromCodes, codes: Units, out: Units, place: Place) -> None:
    """Fill `out` with the units that codes stand for. Raises FormatError."""
    if isinstance(expression, Trellis):
        trellis.decode(expression, codes, out, place)
    else:
        lookup.decode(expression, codes, out, place)


def find_codes(expression: FromCodes, body: Units, place: Place) -> Units | None:
    """The codes of units; None if there are none for some of them."""
    if isinstance(expression, Trellis):
        return trellis.encode(expression, body, place)
    return lookup.encode(expression, body, place)


def add(expression: Sum, numbers: Units, out: Units, place: Place) -> None:
    """Fill `out` with sums of numbers from codes, as units of F32, and what they are added to."""
    dtype = place.dtype
    assert dtype is not None
    if isinstance(expression.plus, int):
        assert place.base is not None
        on_base(place.base[: numbers.size], numbers, dtype, out)
        return
    # Sums do not mind which of the two is moved, and numbers from codes are never NaN.
    as_f32 = place._replace(dtype=F32)
    if dtype.name == "F16":
        out[:] = cast_units(delta.moved_units(numbers, expression.plus, as_f32), F32, dtype)
    else:
        delta.moved_units(numbers, expression.plus, as_f32, out)


def adds_up(expression: Sum, numbers: Units, body: Units, place: Place) -> bool:
    """Whether that gives these units."""
    made = work_space("sums of a chunk", body.size, body.dtype)
    add(expression, numbers, made, place)
    return np.array_equal(made, body)


def on_base(base: Units, numbers: Units, dtype: DType, out: Units) -> None:
    """Fill `out` with numbers added to a base, of the dtype both: infinities and NaNs of it stay as they are."""
    if dtype.name != "F16":
        with np.errstate(all="ignore"):  # overflow to infinity is meant, where kernels are not compiled
            must(add_numbers(np.ascontiguousarray(base), numbers.view(np.float32), out))
        return
    wide = cast_units(base, dtype, F32)
    out[:] = np.where(np.isfinite(wide.view(np.float32)), added(wide, numbers, dtype), base)


def added(these: Units, those: Units, dtype: DType) -> Units:
    """Units of F32 added up, rounded, and converted."""
    with np.errstate(all="ignore"):  # overflow to infinity is meant
        sums = these.view(np.float32) + those.view(np.float32)
    return cast_units(sums.view(F32.unit), F32, dtype)
