"""Along which directions the rows of a matrix are longest, and how many of them are worth their factors. Every sum is
in a fixed order: the same on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.detect.classes import MANTISSA
from slimtensors.dtypes import DType
from slimtensors.kernels.cpu import directions
from slimtensors.kernels.status import must

__all__ = [
    "DEAD", "ERROR", "MOST_RANK", "RUN", "form_of", "iterated", "picked_rows", "picked_runs", "runs_of", "squares",
    "subspace", "times", "widened", "worthy_rank",
]  # fmt: skip

Numbers = npt.NDArray[Any]  # float32

MOST_RANK = 32
ERROR = 1.2  # of the factors' rounding, in squares of what is left of a unit: coarser ones save less than they lose
DEAD = 0.4  # factors are rounded up from 1 - DEAD on, since zeros are cheap
COSTLY = 1.15  # a factor takes more than its information
RUN = 32  # rows that are read at once


def form_of(dtype: DType) -> tuple[tuple[int, int, int], np.float32]:
    """How the kernels make numbers of units."""
    mantissa = MANTISSA[dtype.name]
    exponents = dtype.unit_bits - 1 - mantissa
    infinity = (1 << exponents) - 1 << mantissa
    finite = 1 << dtype.unit_bits - 1 if dtype.name == "F8_E4M3" else infinity  # whose NaN counts as the next number
    return (dtype.unit_bits - 1, 23 - mantissa, finite), np.float32(2.0 ** (128 - (1 << exponents - 1)))


@lru_cache(8)
def picked_rows(rows: int, count: int) -> npt.NDArray[np.int64]:
    """So many rows, in runs spread evenly over all of them; kept for matrices of one height, and not to be changed."""
    picked = np.arange(rows)
    if rows > count:
        starts = np.linspace(0, rows - RUN, count // RUN).astype(np.int64)
        picked = np.unique((starts[:, None] + np.arange(RUN)).reshape(-1))
    picked.flags.writeable = False
    return picked


@lru_cache(8)
def picked_runs(rows: int, count: int) -> list[tuple[int, int]]:
    """The runs that these are."""
    return runs_of(picked_rows(rows, count))


def runs_of(picked: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """(first, count) of rows that follow one another."""
    ends = np.append(np.flatnonzero(np.diff(picked) != 1) + 1, picked.size)
    starts = np.append(0, ends[:-1])
    return [(int(picked[low]), int(high - low)) for low, high in zip(starts, ends, strict=True)]


def squares(matrix: Numbers) -> npt.NDArray[np.float64]:
    """Sums of squares of each column."""
    sums = np.zeros(matrix.shape[1])
    must(directions.add_squares(np.ascontiguousarray(matrix).reshape(-1), sums))
    return sums


def times(matrix: Numbers, right: Numbers) -> Numbers:
    """Their product, of a right side of up to 32 columns."""
    out = np.empty((matrix.shape[0], MOST_RANK), np.float32)
    wide = widened(right).reshape(-1).view(np.uint32)
    must(directions.products(matrix.reshape(-1), wide, out.reshape(-1).view(np.uint32)))
    return out[:, : right.shape[1]]


def widened(right: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """With zeros for columns up to 32, which are a vector."""
    if right.shape[1] == MOST_RANK:
        return right
    wide = np.zeros((right.shape[0], MOST_RANK), right.dtype)
    wide[:, : right.shape[1]] = right
    return wide


@lru_cache(4)
def _noise(columns: int, rank: int) -> Numbers:
    """What an iteration starts from, in 32 columns; kept for matrices of one shape."""
    noise = np.random.PCG64(1).random_raw(columns * rank) >> np.uint64(40)
    return widened((noise.astype(np.float32) - np.float32(2.0**23)).reshape(columns, rank))


@lru_cache(4)
def _straight_noise(columns: int, rank: int) -> Numbers:
    right: Numbers = _noise(columns, rank).copy()
    _straighten(right)
    return right


def _straighten(right: Numbers) -> None:
    flat = right.reshape(-1)
    must(directions.straighten(flat.view(np.uint32), flat, np.empty(MOST_RANK, np.float32)))


def subspace(sample: Numbers, start: Numbers | None, rounds: int) -> Numbers:
    """[columns, rank]: orthonormal directions along which rows are longest, iterated from `start`."""
    work = np.empty(directions.ROWS * MOST_RANK, np.uint32)

    def turn(right: Numbers) -> Numbers:
        turned = np.empty_like(right)
        bits = right.reshape(-1).view(np.uint32), work, turned.reshape(-1).view(np.uint32)
        must(directions.turn(sample.reshape(-1), *bits))
        return turned

    return iterated(turn, sample.shape, start, rounds)


def iterated(turn: Callable[[Numbers], Numbers], shape: tuple[int, int], start: Numbers | None, rounds: int) -> Numbers:
    """The same of a sample of this shape. turn: gives the sample, transposed, times the sample times what it is given,
    which is orthonormal: [columns, 32].
    """
    rank = min(MOST_RANK, min(shape) // 4)
    if start is None:
        right = _straight_noise(shape[1], rank)
    else:
        right = _noise(shape[1], rank).copy()
        right[:, : start.shape[1]] = start
        _straighten(right)
    for _ in range(rounds):
        right = turn(right)
        _straighten(right)
    right = right.copy()
    _straighten(right)  # again, for what rounding left
    return np.ascontiguousarray(right[:, :rank])


def worthy_rank(
    energies: list[float], whole: float, rows: int, columns: int, more: float = 0.0, least: float = 0.0
) -> int:
    """How many directions are worth their factors, if all is about normal. more: bits that each factor takes on top;
    least: bits that all of them must save together.
    """
    best, gain = 0, least
    taken = cost = 0.0
    for t, energy in enumerate(energies):
        taken += energy
        error = ERROR * (whole - taken) / columns
        if error <= 0:
            break
        # (1 / 2) log2(1 + energy / error) bits for each factor
        cost += 0.5 * rows * math.log2(1 + energy / error)
        cost += 0.5 * columns * math.log2(1 + rows * energy / (columns * error))
        # (1 / 2) log2(before / after) bits for each unit, after the factors' rounding too
        after = whole - taken + (t + 1) * error * (1 + columns / rows)
        saved = 0.5 * rows * columns * math.log2(whole / after) - COSTLY * cost - (t + 1) * (rows + columns) * more
        if saved > gain:
            best, gain = t + 1, saved
    return best
