"""Scales found again: runs of floats that are numbers from a known palette, each times one scale, and rounded.

kernels/cpu/find_scales.py finds them; here is which palettes are tried, and what a sample must show.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slimtensors.codecs.casts import cast_units
from slimtensors.dtypes import DTYPES, DType
from slimtensors.kernels.cpu.find_scales import find_scales
from slimtensors.kernels.status import must

__all__ = ["FAMILIES", "Fit", "Numbers", "distinct", "fit", "possible", "scales_of", "trailing_zeros"]

Array = npt.NDArray[Any]

PROBE = 256
NEAR = 64  # floats about the largest of a run that are tried first
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
    return distinct(magnitudes) <= (245 if dtype.bits == 32 else 160)


def distinct(units: Array) -> int:
    """How many values there are, of a few thousand units: several times as fast as numpy.unique. At least one unit."""
    some = np.sort(units)
    return 1 + int(np.count_nonzero(some[1:] != some[:-1]))


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
    """Whether the largest of a run, and those near it, are numbers times the scale that makes it `top`."""
    at = int(np.argmax(run & run.dtype.type((1 << dtype.bits - 1) - 1))) // NEAR * NEAR
    return bool(scales_of(run[None, at : at + NEAR], dtype, numbers, (top,))[1][0] > 0)


def scales_of(units: Array, dtype: DType, numbers: Numbers, tops: tuple[float, ...]) -> tuple[Array, Array]:
    """(scales as F32 units, the top each was found with: -1 where there is none, 0 where all are zeros)."""
    runs, length = units.shape
    scales, used = np.zeros(runs, "<u4"), np.zeros(runs)
    status = find_scales(
        np.ascontiguousarray(units).reshape(-1), dtype.name == "F16", length, numbers.positive, numbers.negative,
        np.array(tops, np.float64), np.empty(length, np.int64), scales, used,
    )  # fmt: skip
    must(status)
    return scales, used


def trailing_zeros(scales: Array) -> int:
    """Zeros that all of the F32 units end in."""
    every = int(np.bitwise_or.reduce(scales))
    return (every & -every).bit_length() - 1 if every else 23
