"""What is expected of a float given its row and column: a matrix product of small integers, fitted to a tensor over
its scales. It tells most of its signs, and a little of its magnitudes.

Everything is in a fixed order, with operations that are rounded alike everywhere: the file's bytes are the same on
every machine.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slimtensors.codecs.mean import scaled_columns
from slimtensors.container.lossy import Lossy
from slimtensors.detect.classes import MANTISSA, MOST, Classes, fit_classes, upper_median, with_classes
from slimtensors.detect.subspace import ERROR, form_of, picked_rows, picked_runs, worthy_rank
from slimtensors.detect.whole_rows import (
    MOST_COLUMNS,
    WholeRows,
    whole_directions,
    whole_energies,
    whole_rows,
    whole_times,
)
from slimtensors.dtypes import DTYPES, DType
from slimtensors.expression import MAX_GROUPS, MAX_STEP, Bits, ClassContext, Mean, Part, SignContext
from slimtensors.kernels.cpu import directions
from slimtensors.kernels.cpu.mean import ZERO
from slimtensors.kernels.status import must
from slimtensors.sources.inputs import Input

__all__ = ["Means", "fit_means", "with_mean"]

Units = npt.NDArray[Any]
Numbers = npt.NDArray[Any]  # float32

DTYPES_WITH_MEANS = frozenset({"F16", "BF16", "F32", "F8_E4M3", "F8_E5M2"})
# Rows from which directions are taken, rounds of the subspace's iteration, and bits that the directions must promise:
# side planes and tables take about 800 bytes.
GLANCE, FIRST, THEN = (192, 1, 8 * 400), (1024, 1, 8 * 800), (8192, 3, 0)
FARTHEST = 127  # factor
STEPS = 16  # quarters of an octave that a mean lifts a class by, at most
TABLES = 16  # of signs, half an octave of their odds each
LEAST = -5  # octaves of odds below which a sign is as good as raw
MEDIAN_SAMPLE = 1 << 13  # units, about
LARGEST = int(np.float32(np.finfo(np.float32).max).view(np.uint32))
LOW_BITS = 19  # of an F32 number: below its exponent and four bits of its mantissa
PIECE = 1 << 18  # units


class Means(NamedTuple):
    """Factors as a side plane holds them, uint8[rank, rows + columns], and the expression's numbers."""

    factors: npt.NDArray[np.uint8]
    classes: Classes  # of what it leaves
    groups: tuple[int, ...]
    steps: tuple[int, ...]
    sign: SignContext
    unit: float  # of the product, over the power of two that the classes stand for


def with_mean(bits: Bits, dtype: DType, first_side: int, means: Means) -> Bits:
    """As with_classes, with the factors in the side plane after the classes'; the sign in a plane of its own."""
    *rest, top = with_classes(bits, dtype, first_side).parts
    assert isinstance(top.context, ClassContext)
    classes = top.context
    mean = Mean(first_side + 2, means.groups, means.steps)
    context = ClassContext(classes.rows, classes.columns, classes.octave, mean)
    if rest[0].width > 1:
        # Sign and mantissa share planes: whole bytes, then what remains.
        below = sum(part.width for part in rest) - 1
        rest = [Part(1), *[Part(8)] * (below // 8), *([Part(below % 8)] if below % 8 else [])]
    return Bits((Part(1, None, means.sign), *rest[1:], Part(top.width, None, context)), bits.rotate)


def fit_means(tensor: Input, classes: Classes) -> Means | None:
    """Factors that tell something of the tensor's signs, and the classes of what they leave."""
    if tensor.dtype.name not in DTYPES_WITH_MEANS or classes.columns.size > MOST_COLUMNS:
        return None
    matrix = _Matrix(tensor, classes)
    directions = _directions(matrix, None, *GLANCE)
    if directions is not None:
        directions = _directions(matrix, directions.right, *FIRST)
    if directions is None:
        return None
    left = fit_classes(_Rest(matrix, _quantised(matrix, directions)))
    if left is None or int(left.rows.max()) + int(left.columns.max()) + STEPS > MOST:
        return None
    matrix = _Matrix(tensor, left)
    directions = _directions(matrix, directions.right, *THEN)
    return None if directions is None else _quantised(matrix, directions)


class _Directions(NamedTuple):
    """Of rows over their scales, along which they are longest."""

    right: Numbers  # [columns, rank], orthonormal
    energies: npt.NDArray[np.float64]  # of each, in a row's mean square
    whole: float  # mean square of a row
    scale: float  # what the numbers were divided by


def _directions(matrix: _Matrix, start: Numbers | None, rows: int, rounds: int, least: int) -> _Directions | None:
    """From some rows; None where no mean of them is worth its factors and `least` bits."""
    picked = picked_rows(matrix.rows, rows)
    units = matrix.read(picked_runs(matrix.rows, rows))
    scale = matrix.scale(units, picked)
    if not scale:
        return None
    sample = matrix.whole(units, picked, scale)
    right = whole_directions(sample, start, rounds)
    energies, whole = whole_energies(sample, right)
    order = np.argsort(-energies, kind="stable")
    rank = worthy_rank(energies[order].tolist(), whole, matrix.rows, matrix.columns, least=least)
    if not rank:
        return None
    return _Directions(np.ascontiguousarray(right[:, order[:rank]]), energies[order[:rank]], whole, scale)


def _quantised(matrix: _Matrix, directions: _Directions) -> Means:
    """Both sides in whole numbers."""
    right, energies, whole, scale = directions
    # What is left of a unit, over its scale, in the mean square.
    rest = max(whole - float(np.cumsum(energies)[-1]), whole * 1e-3) / matrix.columns
    # A step of `left` moves each row's mean by step^2 / 12, one of `right` by step^2 / 12 * energy * rows in all.
    left_step = math.sqrt(12 * ERROR * rest)
    steps = np.sqrt(12 * ERROR * rest / (matrix.rows * energies))
    # The product has one step for all factors, but for powers of two.
    groups = [min(max(math.frexp(float(step / steps[0]) * math.sqrt(0.5))[1], 0), MAX_GROUPS - 1) for step in steps]
    units = steps[0] * np.ldexp(1.0, np.array(groups))
    whole_right = np.clip(np.rint(right / units), -FARTHEST, FARTHEST)
    rounded = whole_right * units
    lengths = np.cumsum(rounded * rounded, axis=0)[-1]
    factors = np.empty((len(groups), matrix.rows + matrix.columns), np.uint8)
    solved = units / np.where(lengths > 0, lengths, 1) / left_step
    for low, high, piece in matrix.pieces(scale):
        whole_times(piece, whole_right.astype(np.float32), solved, FARTHEST, factors[:, low:high])
    factors[:, matrix.rows :] = (whole_right.T + ZERO).astype(np.uint8)
    unit = left_step * float(steps[0])  # of the product, over the scale
    counts = tuple(groups.count(g) for g in range(max(groups) + 1))
    sign = _sign(matrix.tensor.dtype, rest, unit, scale)
    return Means(factors, matrix.classes, counts, _steps(math.sqrt(rest) / unit), sign, unit * scale)


class _Matrix:
    """A tensor over its scales."""

    def __init__(self, tensor: Input, classes: Classes) -> None:
        self.tensor, self.classes = tensor, classes
        self.rows, self.columns = classes.rows.size, classes.columns.size
        self.form = form_of(tensor.dtype)
        self._of_rows, self._of_columns = _powers()[classes.rows], _powers()[classes.columns]

    def read(self, runs: list[tuple[int, int]]) -> Units:
        """The rows of these runs, which are (first, count)."""
        parts = [self._units(*run) for run in runs]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _units(self, first: int, rows: int) -> Units:
        return self.tensor.read(first * self.columns, rows * self.columns)

    def scale(self, units: Units, rows: npt.NDArray[np.int64]) -> float:
        """About that of the rest: 1.5 times the median of some of these rows."""
        every = 1 + units.size // MEDIAN_SAMPLE
        some, units = rows[::every], np.ascontiguousarray(units.reshape(rows.size, -1)[::every]).reshape(-1)
        out = np.empty(units.size, np.float32)
        columns = self._of_columns.view(np.uint32)
        given = units, *self.form, self._of_rows[some], columns, LARGEST
        must(directions.over_scales(*given, out.view(np.uint32)))
        np.abs(out, out=out)
        return 1.5 * float(np.uint32(upper_median(out.view(np.uint32), LOW_BITS)).view(np.float32))

    def whole(self, units: Units, rows: npt.NDArray[np.int64], scale: float) -> WholeRows:
        """Units of these rows over `scale` in whole numbers."""
        with np.errstate(over="ignore"):  # what lies far out counts as the farthest
            of_rows = self._of_rows[rows] / np.float32(scale)
        return whole_rows(units, self.form, of_rows, self._of_columns)

    def pieces(self, scale: float) -> Iterator[tuple[int, int, WholeRows]]:
        """All rows, a block at a time: (first, end, the rows)."""
        step = max(1, PIECE // self.columns)
        for low in range(0, self.rows, step):
            high = min(low + step, self.rows)
            yield low, high, self.whole(self._units(low, high - low), np.arange(low, high), scale)


class _Rest:
    """A tensor less its mean, as F32."""

    name, dtype, place = "", DTYPES["F32"], None
    encoding: str | None = None
    lossy: Lossy | None = None

    def __init__(self, matrix: _Matrix, means: Means) -> None:
        self.shape: tuple[int, ...] = (matrix.rows, matrix.columns)
        self._matrix = matrix
        self._factors = means.factors.reshape(-1)
        self._scaled = scaled_columns(means.factors, means.groups, matrix.columns).reshape(-1)
        powers = 1 / _powers()
        self._of_rows = powers[matrix.classes.rows] * np.float32(means.unit)
        self._of_columns = powers[matrix.classes.columns].view(np.uint32)

    def read(self, start: int, count: int) -> Units:
        """Whole rows."""
        matrix = self._matrix
        low, high = start // matrix.columns, (start + count) // matrix.columns
        units, out = matrix.tensor.read(start, count), np.empty(count, np.uint32)
        scales = self._of_rows[low:high], self._of_columns
        must(directions.leave_rests(units, *matrix.form, *scales, self._factors, low, self._scaled, out))
        return out


@cache
def _powers() -> Numbers:
    """2^(-k / 4) for all classes."""
    half = math.sqrt(0.5)
    quarters = (1.0, math.sqrt(half), half, half * math.sqrt(half))
    return np.array([math.ldexp(quarters[k % 4], -(k // 4)) for k in range(MOST + 1)], np.float32)


def _steps(scale: float) -> tuple[int, ...]:
    """From which logarithms of the product on a class is lifted by one more: a unit has the scale sqrt(1 + mean^2).

    scale: products to the unit's own scale.
    """
    means = (math.sqrt(2 ** ((m + 0.5) / 2) - 1) * scale for m in range(STEPS))
    steps = (max(0, math.ceil(_logarithm(mean))) if mean > 1 else 0 for mean in means)
    return tuple(step for step in steps if step <= MAX_STEP)


def _logarithm(number: float) -> float:
    """To base 2, linear between the powers of two, in quarters."""
    mantissa, exponent = math.frexp(number)
    return 4 * (exponent - 1) + 4 * (2 * mantissa - 1)


def _sign(dtype: DType, rest: float, unit: float, scale: float) -> SignContext:
    """The first table is for odds of 2^LEAST and less: log odds = 2 |x| mean / rest, x and mean over the scale."""
    bias = (1 << dtype.unit_bits - 2 - MANTISSA[dtype.name]) - 1
    # 4 log2 |x| = 4 field / octave - 4 bias - k - 4 log2 scale, and 4 log2 mean = l + 4 log2 unit
    first = 256 + 4 * (bias + LEAST) + round(_logarithm(rest) - _logarithm(unit) + _logarithm(scale))
    return SignContext(max(0, first), TABLES)
