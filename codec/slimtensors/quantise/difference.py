"""Differences from a base, quantised: what is stored are codes of the difference, and readers add it to the base.

A fine-tune's difference is small beside its weights, so one bit of it says more than one bit of them. `bitdelta` has
its sign; any other quantiser does with it as it does with weights.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.codecs.casts import cast_units
from slimtensors.codecs.sums import on_base
from slimtensors.container.lossy import Lossy
from slimtensors.detect.codes import Structure, codes
from slimtensors.dtypes import DTYPES, DType
from slimtensors.expression import Gather, Mul, Sum, Trellis
from slimtensors.planning.differing import MatchedBase
from slimtensors.quantise.blocks import units_of_codes
from slimtensors.quantise.grid import Grid, power_of
from slimtensors.quantise.quantiser import Quantised, Quantiser, floats_of, side
from slimtensors.sources.inputs import Input, unit_count

__all__ = ["BitDelta", "Difference", "OfDifference"]

Units = npt.NDArray[Any]

F32 = DTYPES["F32"]
TRIES = 12  # of errors, until sums have the one that is asked for
SIGNS = np.array([-1, 1], np.int8)


class Difference:
    """F32(tensor) - F32(base), rounded to F32, as an input."""

    dtype: DType = F32
    encoding: str | None = None
    lossy: Lossy | None = None
    place: Hashable = None

    def __init__(self, tensor: Input, base: MatchedBase) -> None:
        self.name: str = tensor.name
        self.shape: tuple[int, ...] = tuple(tensor.shape)
        self._tensor, self._base = tensor, base

    def base(self, start: int, count: int) -> Units:
        """The base's units, in the tensor's dtype."""
        return self._base.units(self._tensor.dtype, start, count)

    def read(self, start: int, count: int) -> Units:
        dtype = self._tensor.dtype
        here, there = (
            cast_units(units, dtype, F32).view(np.float32)
            for units in (self._tensor.read(start, count), self.base(start, count))
        )
        with np.errstate(all="ignore"):  # what is not finite is found by its error
            found: Units = (here - there).view(F32.unit)
        return found


@dataclass(frozen=True)
class OfDifference:
    """Another quantiser, of differences from a base. bound: whether the error that a grid has is kept by sums, too,
    which their dtype rounds.
    """

    quantiser: Quantiser
    base: MatchedBase
    bound: bool = False

    @property
    def name(self) -> str:
        return self.quantiser.name

    def structure(self, tensor: Input) -> Structure | None:
        difference, quantiser = Difference(tensor, self.base), self.quantiser
        for _ in range(TRIES):
            found = quantiser.structure(difference)
            if found is None or not isinstance(found.expression, Mul | Trellis):
                return None
            # Which base that is among a file's is known to whoever plans the file.
            why = f"its difference from the base {found.why}"
            summed = found._replace(expression=Sum(found.expression, 0), why=why)
            if not (self.bound and isinstance(self.quantiser, Grid) and isinstance(quantiser, Grid)):
                return summed
            if not quantiser.error:
                return summed
            error, asked = self._error(tensor, difference, summed), self.quantiser.error
            if error <= asked:
                return summed
            quantiser = replace(quantiser, error=quantiser.error * 0.98 * asked / error)
        return None

    def _error(self, tensor: Input, difference: Difference, structure: Structure) -> float:
        """Of sums, as NMSE of the difference."""
        made = cast_units(self.quantise(tensor, structure).units, tensor.dtype, F32).view(np.float32)
        return power_of(made - floats_of(tensor)) / power_of(floats_of(difference))

    def quantise(self, tensor: Input, structure: Structure) -> Quantised:
        assert isinstance(structure.expression, Sum)
        difference = Difference(tensor, self.base)
        made = self.quantiser.quantise(difference, structure._replace(expression=structure.expression.values))
        units = np.empty(unit_count(tensor), tensor.dtype.unit)
        on_base(difference.base(0, units.size), made.units, tensor.dtype, units)
        return Quantised(made.sides, units, made.units)


@dataclass(frozen=True)
class BitDelta:
    """The sign of each difference, times the mean of their magnitudes.

    Source: J. Liu and others, BitDelta: Your Fine-Tune May Only Be Worth One Bit (2024), before its scales are trained.
    """

    name: str = "bitdelta"

    def structure(self, tensor: Input) -> Structure | None:
        if not isinstance(tensor, Difference) or not floats_of(tensor).any():
            return None
        tables = (side(0, "I8", (2,)), side(1, "F32", (1,)))
        return Structure(Mul(Gather(0, codes(2)), 1), tables, "quantised to bitdelta: its sign, and one scale")

    def quantise(self, tensor: Input, _structure: Structure) -> Quantised:
        weights = floats_of(tensor)
        with np.errstate(all="ignore"):  # what is not finite is found by its error
            # One after another: the same sum on every machine.
            mean = np.cumsum(np.abs(weights), dtype=np.float64)[-1] / weights.size
            scale = np.array([mean]).astype(np.float32)
            units = units_of_codes(SIGNS, scale, (weights > 0).astype(np.uint8), weights.size, F32)
        return Quantised((SIGNS.view(np.uint8), scale.view("<u4")), units)
