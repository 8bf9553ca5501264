"""Scales found again: runs of floats that are numbers from a known palette, each times one scale, and rounded.

Rounding leaves each float an interval of products that give it. An interval over a palette's number is one of scales;
the scales that all floats of a run allow are the intersection. It is proved by rounding again before it is used.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slimtensors.codecs.casts import cast_units
from slimtensors.codecs.lookup import rounded
from slimtensors.dtypes import DTYPES, DType

__all__ = ["FAMILIES", "Fit", "Numbers", "fit", "possible", "scales_of", "trailing_zeros"]

Array = npt.NDArray[Any]

PROBE = 256
ROUNDS = 6  # of narrowing
MAX_MISSES = 0.02  # share of sampled runs that may have no scale
SMALL = tuple(float(n) for n in range(1, 17))  # tops of integers that vary from run to run

# The published levels of NF4: quantiles of a normal distribution.
NF4 = np.array([
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
], np.float32)  # fmt: skip


class Numbers(NamedTuple):
    """A palette as the search sees it: magnitudes of either sign, rising, without 0."""

    positive: Array
    negative: Array


class Family(NamedTuple):
    """Palettes tried, and which of their magnitudes the largest of a run may be, in the order tried."""

    name: str
    table: Array | None  # None: integers, as many as occur
    tops: tuple[float, ...]


class Fit(NamedTuple):
    """What a sample was found to be."""

    name: str
    dtype: DType
    table: Array  # units of `dtype`
    scales: Array  # of the sample's runs, as units
    numbers: Numbers
    tops: tuple[float, ...]  # that occurred, the most frequent first


def _e4m3() -> Array:
    """By magnitude, and then by sign: the lowest bit of a code is the sign."""
    exponent, mantissa = np.divmod(np.arange(127), 8)
    magnitude = np.where(exponent == 0, mantissa * 2.0**-9, (8 + mantissa) * 2.0 ** (exponent - 10.0))
    return np.stack([magnitude, -magnitude], axis=1).reshape(-1).astype(np.float32)


def _e2m1() -> Array:
    magnitude = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
    return np.stack([magnitude, -magnitude], axis=1).reshape(-1)


FAMILIES = (
    Family("integers", None, (127.0, 7.0, 8.0, *(float(n) for n in range(1, 256) if n not in (7, 8, 127)))),
    Family("NF4 levels", NF4, (1.0,)),
    Family("F4 numbers", _e2m1(), (6.0, 4.0)),
    Family("F8_E4M3 numbers", _e4m3(), tuple(float(n) for n in range(448, 224, -32))),
)


def possible(probe: Array, dtype: DType) -> bool:
    """Whether floats repeat as multiples of one scale do: a cheap look before a thorough one."""
    magnitudes = probe[:PROBE] & probe.dtype.type((1 << (dtype.bits - 1)) - 1)
    return np.unique(magnitudes).size <= (245 if dtype.bits == 32 else 160)


def fit(sample: Array, dtype: DType, family: Family) -> Fit | None:
    """sample: units [runs, units of each]. None unless nearly all runs have a scale."""
    if family.table is None:
        every = np.arange(1.0, 256.0)
        numbers = Numbers(every, every)
    else:
        numbers = numbers_in(family.table)
    tops = tuple(top for top in family.tops if _could_be(sample[len(sample) // 2], dtype, numbers, top))
    if not tops:
        return None
    if family.table is None:
        tops = _coarse_first((*tops, *SMALL))
    scales, used = scales_of(sample, dtype, numbers, tops)
    if (np.count_nonzero(used < 0) > MAX_MISSES * len(sample)) or not (used > 0).any():
        return None
    values, counts = np.unique(used[used > 0], return_counts=True)
    common = tuple(float(v) for v in values[np.argsort(-counts, kind="stable")])
    if family.table is None:
        table, kind = _integers(sample, dtype, scales)
        numbers = numbers_in(table.view("<f4") if kind.name == "F32" else table.view(f"<i{kind.unit_bytes}"))
        common = _coarse_first((*common, *(top for top in SMALL if top <= numbers.positive[-1])))
    else:
        table, kind = family.table.view("<u4"), DTYPES["F32"]
        common = (*common, *(top for top in family.tops if top not in common))
    return Fit(family.name, kind, table, scales, numbers, common)


def _coarse_first(tops: tuple[float, ...]) -> tuple[float, ...]:
    """Any multiple of an integer that fits also fits, with all codes larger: the least is wanted. Where some are too
    large to be such multiples by chance, they come first.
    """
    large = sorted({top for top in tops if top > SMALL[-1]})
    small = sorted({top for top in tops if top <= SMALL[-1]})
    return (*small, *large) if not large or large[0] < 4 * SMALL[-1] else (*large, *small)


def numbers_in(table: Array) -> Numbers:
    wide = table.astype(np.float64)
    return Numbers(np.unique(wide[wide > 0]), np.unique(-wide[wide < 0]))


def _integers(sample: Array, dtype: DType, scales: Array) -> tuple[Array, DType]:
    """The integers that occur, and more up to a usual range; with -0 where that occurs."""
    units = cast_units(sample.reshape(-1), dtype, DTYPES["F64"]).view("<f8").reshape(sample.shape)
    each = scales.view("<f4").astype(np.float64)
    whole = np.rint(units / np.where(each == 0, 1, each)[:, None])
    low, high = whole.min(), whole.max()
    for first, last in ((-1, 1), (-8, 7), (-8, 8), (-15, 15), (-128, 127), (-255, 255)):
        if first <= low and high <= last:
            break
    if bool(((sample << sample.dtype.type(1)) == 0).any() and (sample == 1 << (dtype.bits - 1)).any()):
        values = np.concatenate([np.arange(first, 0), [-0.0], np.arange(last + 1)]).astype("<f4")
        return values.view("<u4"), DTYPES["F32"]
    kind = DTYPES["I8" if first >= -128 else "I16"]
    return np.arange(first, last + 1).astype(f"<i{kind.unit_bytes}").view(kind.unit), kind


def _could_be(run: Array, dtype: DType, numbers: Numbers, top: float) -> bool:
    low, high, negative = _intervals(run[None], dtype)
    start = _at_top(low, high, negative, numbers, top)
    lows, highs = _narrow(low[:, :64], high[:, :64], negative[:, :64], numbers, start)
    return bool(lows[0] <= highs[0])


def scales_of(units: Array, dtype: DType, numbers: Numbers, tops: tuple[float, ...]) -> tuple[Array, Array]:
    """(scales as F32 units, the top each was found with: -1 where there is none, 0 where all are zeros)."""
    low, high, negative = _intervals(units, dtype)
    scales = np.zeros(len(units), "<u4")
    used = np.where((low > 0).any(axis=1), -1.0, 0.0)
    for top in tops:
        left = np.flatnonzero(used < 0)
        if not left.size:
            break
        few = low[left, :64], high[left, :64], negative[left, :64]
        start = _at_top(low[left], high[left], negative[left], numbers, top)
        lows, highs = _narrow(*few, numbers, start)
        kept = lows <= highs
        left, start = left[kept], start[kept]
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


def trailing_zeros(scales: Array) -> int:
    """Zeros that all of the F32 units end in."""
    every = int(np.bitwise_or.reduce(scales))
    return (every & -every).bit_length() - 1 if every else 23
