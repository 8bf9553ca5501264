"""Operations in a library's own dtype: computed in F32, rounded after each."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from slimtensors.codecs.casts import cast_units
from slimtensors.dtypes import DTYPES, from_numpy
from slimtensors.errors import UsageError
from slimtensors.packings.weight import Array, Floats, UnfitError

__all__ = ["Rounding", "dtype_name", "floats", "rounding"]

Rounding = Callable[[Floats], Floats]


def dtype_name(array: Array) -> str:
    """safetensors' name."""
    return from_numpy(array.dtype).name


def floats(array: Array, what: str) -> Floats:
    """Floats of at most 32 bits, in F32."""
    try:
        dtype = from_numpy(array.dtype)
    except UsageError:  # of an array that no file of ours holds
        raise UnfitError(f"{what} are {array.dtype}, not floats") from None
    if not dtype.is_float or dtype.bits > 32:
        raise UnfitError(f"{what} are {dtype.name}, not floats of at most 32 bits")
    return np.ascontiguousarray(array).astype(np.float32)


def rounding(name: str, what: str = "scales") -> Rounding:
    """To a dtype and back to F32: what turns the result of an operation in F32 into that of the dtype's own.

    Sums and products of two numbers of F16 or BF16, rounded to F32 first, round to the same numbers of these.
    """
    if name == "F32":
        return lambda numbers: numbers
    if name not in ("F16", "BF16"):
        raise UnfitError(f"{what} are {name}; F32, F16 and BF16 are known")
    own, wide = DTYPES[name], DTYPES["F32"]

    def rounded(numbers: Floats) -> Floats:
        units = np.ascontiguousarray(numbers, np.float32).view("<u4").reshape(-1)
        found: Floats = cast_units(cast_units(units, wide, own), own, wide).view("<f4").reshape(numbers.shape)
        return found

    return rounded
