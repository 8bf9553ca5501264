"""The scales of runs, found with NumPy: the slow twin of kernels/cpu/find_scales.py, step by step."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.codecs.casts import cast_units
from slimtensors.codecs.lookup import rounded
from slimtensors.detect.lattice import Numbers
from slimtensors.dtypes import DTYPES, DType

Array = npt.NDArray[Any]

ROUNDS = 6  # of narrowing


def scales_of(units: Array, dtype: DType, numbers: Numbers, tops: tuple[float, ...]) -> tuple[Array, Array]:
    """(scales as F32 units, the top each was found with: -1 where there is none, 0 where all are zeros)."""
    low, high, negative = _intervals(units, dtype)
    scales = np.zeros(len(units), "<u4")
    used = np.where((low > 0).any(axis=1), -1.0, 0.0)
    for top in tops:
        left = np.flatnonzero(used < 0)
        if not left.size:
            break
        few = low[left, :64], high[left, :64], negative[left, :64]  # narrows at once for most of a run
        start = _at_top(low[left], high[left], negative[left], numbers, top)
        lows, highs = _narrow(*few, numbers, start)
        kept = lows <= highs
        left, start = left[kept], np.stack([lows[kept], highs[kept]], axis=1)
        if not left.size:
            continue
        lows, highs = _narrow(low[left], high[left], negative[left], numbers, start)
        for shrink in (0, 1, 2):
            found = _simplest(lows, highs, shrink)
            right = _gives(units[left], dtype, numbers, found.view("<f4"), low[left], negative[left])
            right &= used[left] < 0
            scales[left[right]] = found[right]
            used[left[right]] = top
    return scales, used


def _intervals(units: Array, dtype: DType) -> tuple[Array, Array, Array]:
    """Of each unit's magnitude, the products that round to it, as [low, high]; and whether it is negative."""
    top = dtype.bits - 1
    magnitude = units & units.dtype.type((1 << top) - 1)

    def value(bits: Array) -> Array:
        wide: Array = cast_units(bits.reshape(-1), dtype, DTYPES["F64"]).view("<f8").reshape(bits.shape)
        return wide

    exact = value(magnitude)
    with np.errstate(all="ignore"):
        low = (exact + value(magnitude - (magnitude > 0))) / 2
        high = (exact + value(magnitude + units.dtype.type(1))) / 2
    low[magnitude == 0] = 0
    wrong = ~np.isfinite(high)  # infinities, NaNs and the largest number have no scale
    low[wrong], high[wrong] = np.inf, np.inf
    return low, high, units >> units.dtype.type(top) != 0


def _at_top(low: Array, high: Array, negative: Array, numbers: Numbers, top: float) -> Array:
    """[runs, 2]: the scales with which each run's largest magnitude is `top`; none (1, 0) if it cannot be."""
    at = np.argmax(low, axis=1)[:, None]
    below, above = np.take_along_axis(low, at, 1)[:, 0], np.take_along_axis(high, at, 1)[:, 0]
    minus = np.take_along_axis(negative, at, 1)[:, 0]
    there = np.where(minus, top in numbers.negative, top in numbers.positive) & np.isfinite(below) & (below > 0)
    out: Array = np.stack([np.where(there, below / top, 1.0), np.where(there, above / top, 0.0)], axis=1)
    return out


def _narrow(low: Array, high: Array, negative: Array, numbers: Numbers, start: Array) -> tuple[Array, Array]:
    """The scales within `start` that give every float of a run a number; lows above highs where there are none."""
    lows, highs = start[:, 0].copy(), start[:, 1].copy()
    nonzero = low > 0
    for _ in range(ROUNDS):
        ok = lows <= highs
        safe_low, safe_high = np.where(ok, lows, 1.0)[:, None], np.where(ok, highs, 1.0)[:, None]
        from_, to = low / safe_high, high / safe_low
        first, second = np.empty_like(low), np.empty_like(low)
        for signs, magnitudes in ((~negative, numbers.positive), (negative, numbers.negative)):
            more = np.concatenate([magnitudes, [np.inf, np.inf]])
            at = np.searchsorted(magnitudes, from_[signs] * (1 - 1e-12))
            first[signs], second[signs] = more[at], more[at + 1]
        impossible = ((first > to * (1 + 1e-12)) & nonzero).any(axis=1)
        certain = nonzero & (second > to) & np.isfinite(first)
        with np.errstate(all="ignore"):
            new_low = np.maximum(lows, np.where(certain, low / first, 0).max(axis=1))
            new_high = np.minimum(highs, np.where(certain, high / first, np.inf).min(axis=1))
        new_high[impossible | ~ok], new_low[impossible | ~ok] = 0.0, 1.0
        if np.array_equal(new_low, lows) and np.array_equal(new_high, highs):
            break
        lows, highs = new_low, new_high
    return lows, highs


def _simplest(lows: Array, highs: Array, shrink: int) -> Array:
    """Of the F32 numbers in an interval, as units, the one that ends in the most zeros; 0 if there is none.

    shrink: 0 takes the interval as it is, 1 without its outer eighths, 2 only its middle.
    """
    ok = (lows <= highs) & (lows > 0)
    lows, highs = np.where(ok, lows, 1.0), np.where(ok, highs, 1.0)
    cut = (highs - lows) * (0.0, 0.125, 0.5)[shrink]
    first, last = (lows + cut).astype("<f4"), (highs - cut).astype("<f4")
    a, b = first.view("<u4"), last.view("<u4")
    if shrink == 0:
        a += first.astype(np.float64) < lows
        b -= last.astype(np.float64) > highs
    a = np.minimum(a, b)
    out = b.copy()
    for zeros in range(1, 24):
        short = b >> np.uint32(zeros) << np.uint32(zeros)
        out = np.where(short >= a, short, out)
    out[~ok] = 0
    simplest: Array = out.astype("<u4")
    return simplest


def _gives(units: Array, dtype: DType, numbers: Numbers, scales: Array, low: Array, negative: Array) -> Array:
    """Of each run, whether its floats are numbers times the scale, rounded."""
    with np.errstate(all="ignore"):
        about = low / np.where(scales == 0, 1, scales).astype(np.float64)[:, None]
    right = low == 0
    for signs, magnitudes in ((~negative, numbers.positive), (negative, numbers.negative)):
        signs = signs & ~right
        if not magnitudes.size:
            continue
        each = np.broadcast_to(scales[:, None], units.shape)[signs]
        have = units[signs]
        sign = have & have.dtype.type(1 << (dtype.bits - 1))
        at = np.searchsorted(magnitudes, about[signs] * (1 - 1e-6))
        good = np.zeros(have.size, bool)
        for step in (0, 1):
            number = magnitudes[np.minimum(at + step, magnitudes.size - 1)].astype(np.float32)
            with np.errstate(all="ignore"):
                good |= rounded(number * each, dtype) | sign == have
        right[signs] = good
    found: Array = right.all(axis=1) & (scales > 0)
    return found
