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

from slimtensors.codecs.casts import cast_units
from slimtensors.detect.codes import Structure, codes
from slimtensors.dtypes import DTYPES, DType
from slimtensors.expression import Gather, Mul
from slimtensors.kernels.cpu import bounds, trellis
from slimtensors.kernels.status import must
from slimtensors.limits import MAX_PALETTE
from slimtensors.quantise.quantiser import Floats, Quantised, floats_of, side
from slimtensors.sources.inputs import Input

__all__ = ["Bounded", "absolute", "relative"]

Array = npt.NDArray[Any]

FEW, MOST_BUCKETS = 2, 1 << 17  # limits that are looked at one after another; of a table
_MULTIPLES = {"F32": trellis.levels_f32, "BF16": trellis.levels_bf16, "F16": trellis.levels_f16}
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
    weights, dtype = floats_of(tensor), tensor.dtype
    peak, _least = _magnitudes(weights)
    if not np.isfinite(peak):
        return None
    steps = [2 * bound * share for share in SHARES]
    # Of a power of two all multiples that a float is near to are floats of the dtype.
    steps.append(2.0 ** (np.frexp(2 * bound)[1] - 1))
    found = np.zeros(weights.size + -weights.size % trellis.LANES, np.uint16)
    ends = np.empty(2, np.int64)
    for asked in steps:
        step = np.float32(asked)
        if not 0 < peak / float(step) < MAX_PALETTE // 2 - 1:
            continue
        must(bounds.multiples(weights, float(step), found[: weights.size], ends))
        units = np.empty(found.size, dtype.unit)
        must(_MULTIPLES[dtype.name](found, bounds.MIDDLE, 1, step, units))
        units = units[: weights.size]
        if bounds.too_far(weights, cast_units(units, dtype, DTYPES["F32"]).view("<f4"), bound) == 0:
            palette = np.arange(ends[0], ends[1] + 1).astype("<i2")
            tables = (side(0, "I16", (palette.size,)), side(1, "F32", (1,)))
            expression = Mul(Gather(0, codes(palette.size)), 1)
            structure = Structure(expression, tables, f"no further than {bound:g} from the source")
            return _Found(structure, (palette.view("<u2"), np.array([step]).view("<u4")), units)
    return None


def relative(tensor: Input, bound: float) -> _Found | None:
    """|found - source| <= bound * |source|, for every element; zeros stay zeros."""
    weights = floats_of(tensor)
    peak, least = _magnitudes(weights)
    if not np.isfinite(peak) or peak == 0:
        return None
    for share in SHARES:
        factor = 1 + share * 2 * bound / (1 - bound)
        levels = _powers(least * (1 + share * bound / 2), factor, peak)
        if levels is None:
            continue
        positive = np.unique(_narrowed(levels, tensor.dtype))
        units = _nearest(weights, peak, least, positive, bound, tensor.dtype)
        if units is not None:
            palette = np.concatenate([-positive[::-1], [0.0], positive])
            table = side(0, tensor.dtype.name, (palette.size,))
            why = f"no further than {100 * bound:g} % of itself from the source"
            structure = Structure(Gather(0, codes(palette.size)), (table,), why)
            return _Found(structure, (_as_units(palette, tensor.dtype),), units)
    return None


def _magnitudes(weights: Floats) -> tuple[float, float]:
    """The largest magnitude and the least above 0; of zeros both 0."""
    found = np.empty(2, np.int64)
    must(bounds.magnitudes(weights.view(np.uint32), found))
    largest, least = found.astype(np.uint32).view(np.float32).tolist()
    return largest, least


def _nearest(weights: Floats, peak: float, least: float, positive: Array, bound: float, dtype: DType) -> Array | None:
    """The nearest of the positive numbers to each weight's magnitude, with its sign; None if one breaks the bound."""
    middles = positive[:-1] + np.diff(positive) / 2
    limits = _cut(middles).view(np.uint32)
    firsts, shift, most = _buckets(limits, peak, least)
    limits = np.append(limits, np.uint32(0xFFFFFFFF))
    out = np.empty(weights.size, dtype.unit)
    units = _as_units(positive, dtype)
    wrong = bounds.nearest(weights.view(np.uint32), shift, firsts, limits, most, positive, units, bound, out)
    assert wrong >= 0
    return out if wrong == 0 else None


def _cut(numbers: Array) -> Floats:
    """The largest float32s that are not above."""
    with np.errstate(over="ignore"):
        near = numbers.astype(np.float32)
    found: Floats = np.where(near > numbers, np.nextafter(near, np.float32(0)), near)
    return found


def _buckets(limits: Array, peak: float, least: float) -> tuple[Array, int, int]:
    """Of magnitudes by their first bits: (the first bucket, and how many limits lie below each one; the bits left out;
    how many limits one bucket has). Few enough to look at one after another.
    """
    low, high = np.array([least, peak], np.float32).view(np.uint32).astype(np.int64).tolist()
    for shift in range(23, -1, -1):
        starts = np.arange(low >> shift, (high >> shift) + 2) << shift
        below = np.searchsorted(limits, starts)
        most = int(np.diff(below).max())
        if most <= FEW or high - low >> shift >= MOST_BUCKETS // 2:
            break
    return np.concatenate([[low >> shift], below[:-1]]), shift, most


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


def _numbers(units: Array, dtype: DType) -> Array:
    return cast_units(units, dtype, DTYPES["F64"]).view("<f8")


def _as_units(numbers: Array, dtype: DType) -> Array:
    return cast_units(np.ascontiguousarray(numbers).view("<u8"), DTYPES["F64"], dtype)


def _narrowed(numbers: Array, dtype: DType) -> Array:
    """Rounded to the dtype."""
    return _numbers(_as_units(numbers, dtype), dtype)
