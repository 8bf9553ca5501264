"""How far a tensor lies from its source (format_spec/lossy.md, section 2)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.codecs.casts import cast_units
from slimtensors.dtypes import DTYPES, DType
from slimtensors.kernels.cpu.errors import LANES, add_errors
from slimtensors.kernels.status import must

__all__ = ["Errors", "nmse_of"]

PIECE = 1 << 16  # units at a time, whole lanes


def nmse_of(error: float, power: float) -> float:
    """The error's share of the source's power; the error itself where there is none."""
    return error / power if error and power else error


class Errors:
    """Sums over a tensor's elements, in order."""

    def __init__(self) -> None:
        self._error, self._power, self._largest = np.zeros(LANES), np.zeros(LANES), np.zeros(1)

    def add(self, source: npt.NDArray[Any], found: npt.NDArray[Any], dtype: DType) -> None:
        """Units of a float dtype; all but the last call's are a multiple of 32."""
        for at in range(0, source.size, PIECE):
            both = [_numbers(each[at : at + PIECE], dtype) for each in (source, found)]
            must(add_errors(both[0], both[1], self._error, self._power, self._largest))

    @property
    def error(self) -> float:
        """The squared differences' sum."""
        return _total(self._error)

    @property
    def power(self) -> float:
        """The sum of the source's squares."""
        return _total(self._power)

    @property
    def nmse(self) -> float:
        return nmse_of(self.error, self.power)

    @property
    def max(self) -> float:
        return float(self._largest[0])

    @property
    def finite(self) -> bool:
        return math.isfinite(self.nmse) and math.isfinite(self.max)


def _numbers(units: npt.NDArray[Any], dtype: DType) -> npt.NDArray[np.float64]:
    wide = units if dtype.name == "F64" else cast_units(units, dtype, DTYPES["F64"])
    return np.ascontiguousarray(wide).view("<f8")


def _total(lanes: npt.NDArray[np.float64]) -> float:
    total = float(lanes[0])
    for each in lanes[1:].tolist():
        total += each
    return total
