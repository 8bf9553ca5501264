"""A base's units as a tensor needs them: in its dtype, 0 beyond the base's end (expressions.md, section 8)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.codecs.casts import cast_units
from slimtensors.container.header import Base
from slimtensors.dtypes import DType
from slimtensors.errors import BaseError

__all__ = ["base_units"]

Units = npt.NDArray[Any]


def base_units(base: Base, read: Callable[[int, int], Units], dtype: DType, start: int, count: int) -> Units:
    """Units [start, start + count) for a tensor of this dtype; `read` gives units of the base. Raises BaseError."""
    held = max(0, min(count, base.units - start))
    if held == 0:
        return np.zeros(count, dtype.unit)
    units = read(start, held)
    if units.dtype != base.dtype.unit or units.size != held:
        raise BaseError(f"a base gave {units.size} units of {units.dtype} where {held} of {base.dtype.unit} are needed")
    units = cast_units(units, base.dtype, dtype)
    if held < count:
        units = np.concatenate([units, np.zeros(count - held, dtype.unit)])
    return units
