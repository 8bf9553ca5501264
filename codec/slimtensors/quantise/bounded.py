"""Error-bounded: no element is further from the source's than a bound, absolute or relative to itself.

Absolute: multiples of one step, twice the bound or a little less. Relative: a palette of which each number is a fixed
factor above the one before, up to (1 + r) / (1 - r). Every element is looked at: a step or factor that breaks the
bound once, because numbers are rounded to the tensor's dtype, is made smaller; where none will do, or more than 65536
codes were needed, the tensor stays exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slimtensors.codecs import lookup
from slimtensors.codecs.casts import cast_units
from slimtensors.detect.codes import Structure, codes
from slimtensors.dtypes import DTYPES, DType
from slimtensors.expression import Gather, Mul
from slimtensors.inputs import Input
from slimtensors.limits import MAX_PALETTE
from slimtensors.quantise.quantiser import Floats, Quantised, floats_of, side

__all__ = ["Bounded", "absolute", "relative"]

Array = npt.NDArray[Any]

SHARES = (1.0, 0.99, 0.96, 0.9, 0.8, 0.65, 0.5)  # of the largest step, or of a factor's distance from 1, in this order


class _Found(NamedTuple):
    """How a tensor is stored, its side planes, and its units."""

    structure: Structure
    sides: tuple[Array, ...]
    units: Array


@dataclass(frozen=True)
class Bounded:
    """No element is further from the source's than a bound. find: what keeps it, if anything does."""

    name: str
    bound: float
    find: Callable[[Input, float], _Found | None]

    def structure(self, tensor: Input) -> Structure | None:
        found = self.find(tensor, self.bound)
        return None if found is None else found.structure

    def quantise(self, tensor: Input, _structure: Structure) -> Quantised:
        found = self.find(tensor, self.bound)
        assert found is not None  # there was a structure
        return Quantised(found.sides, found.units)


def absolute(tensor: Input, bound: float) -> _Found | None:
    """|found - source| <= bound, for every element."""
    weights = floats_of(tensor)
    wide = weights.astype(np.float64)
    peak = float(abs(wide).max())
    if not np.isfinite(peak):
        return None
    steps = [2 * bound * share for share in SHARES]
    # Of a power of two all multiples that a float is near to are floats of the dtype.
    steps.append(2.0 ** (np.frexp(2 * bound)[1] - 1))
    for asked in steps:
        step = np.float32(asked)
        if not 0 < peak / float(step) < MAX_PALETTE // 2 - 1:
            continue
        whole = np.rint(wide / np.float64(step))
        low, high = int(whole.min()), int(whole.max())
        palette = np.arange(low, high + 1).astype(np.float32)
        units = _units(palette, step, (whole - low).astype(np.uint16), tensor.dtype)
        if bool((abs(wide - _numbers(units, tensor.dtype)) <= bound).all()):
            tables = (side(0, "I16", (palette.size,)), side(1, "F32", (1,)))
            expression = Mul(Gather(0, codes(palette.size)), 1)
            structure = Structure(expression, tables, f"no further than {bound:g} from the source")
            return _Found(structure, (palette.astype("<i2").view("<u2"), np.array([step]).view("<u4")), units)
    return None


def relative(tensor: Input, bound: float) -> _Found | None:
    """|found - source| <= bound * |source|, for every element; zeros stay zeros."""
    wide = floats_of(tensor).astype(np.float64)
    magnitudes = abs(wide)
    peak, least = float(magnitudes.max()), float(magnitudes.min(initial=np.inf, where=magnitudes > 0))
    if not np.isfinite(peak) or peak == 0:
        return None
    for share in SHARES:
        factor = 1 + share * 2 * bound / (1 - bound)
        levels = _powers(least * (1 + share * bound / 2), factor, peak)
        if levels is None:
            continue
        positive = np.unique(_narrowed(levels, tensor.dtype))
        at = np.searchsorted(positive[:-1] + np.diff(positive) / 2, magnitudes)
        made = np.where(magnitudes > 0, np.where(wide < 0, -positive[at], positive[at]), 0)
        if bool((abs(wide - made) <= bound * magnitudes).all()):
            palette = np.concatenate([-positive[::-1], [0.0], positive])
            table = side(0, tensor.dtype.name, (palette.size,))
            why = f"no further than {100 * bound:g} % of itself from the source"
            structure = Structure(Gather(0, codes(palette.size)), (table,), why)
            return _Found(structure, (_as_units(palette, tensor.dtype),), _as_units(made, tensor.dtype))
    return None


def _powers(first: float, factor: float, last: float) -> Array | None:
    """first, first * factor, ..., from one product to the next, until one is at least `last`; None if that takes more
    than there are codes for.
    """
    found = [first]
    while found[-1] < last:
        if 2 * len(found) + 3 > MAX_PALETTE or factor <= 1:
            return None
        found.append(found[-1] * factor)
    return np.array(found)


def _units(palette: Floats, step: np.float32, found: npt.NDArray[np.uint16], dtype: DType) -> Array:
    """What a reader makes of codes."""
    short = -found.size % 32
    padded = np.concatenate([found, np.zeros(short, np.uint16)]) if short else found
    out = np.empty(padded.size, dtype.unit)
    lookup.scaled(palette, np.array([step]), max(padded.size, 1), 0, padded, out, dtype)
    return out[: found.size]


def _numbers(units: Array, dtype: DType) -> Array:
    return cast_units(units, dtype, DTYPES["F64"]).view("<f8")


def _as_units(numbers: Array, dtype: DType) -> Array:
    return cast_units(np.ascontiguousarray(numbers).view("<u8"), DTYPES["F64"], dtype)


def _narrowed(numbers: Array, dtype: DType) -> Array:
    """Rounded to the dtype."""
    return _numbers(_as_units(numbers, dtype), dtype)
