"""A low-rank prediction of what a base is moved by: the product of two matrices of small integers, fitted to a tensor.

A merged LoRA is one, but for rounding, whether or not its adapter is given; of other fine-tunes it tells a part. Rows
are read from the tensor and its base a block at a time, once for each round. Everything is in a fixed order with
operations that are rounded alike everywhere, so the factors, and the file's bytes, are the same on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slimtensors.codecs.casts import cast_units
from slimtensors.codecs.chunk import encode_chunk
from slimtensors.codecs.place import NOWHERE, Place
from slimtensors.dtypes import DTYPES
from slimtensors.expression import MAX_PRODUCT_SHIFT, Bits, Delta, LowRank, Part
from slimtensors.kernels.cpu import fit
from slimtensors.kernels.status import must
from slimtensors.sources.inputs import Input, unit_count

__all__ = ["Factors", "find_factors"]

Units = npt.NDArray[Any]
Numbers = npt.NDArray[np.float64]
BaseReader = Callable[[int, int], Units]  # units [start, start + count) of the base, in the tensor's dtype

MANTISSA = {"F16": 10, "BF16": 7, "F32": 23}
SMALLEST = 64  # rows and columns
RANKS = (4, 8, 16, 32)
TRAIN, TEST = 256, 96  # rows from which a subspace is taken, and rows on which it is tried
STEPS = 5  # of the subspace's iteration
ROUNDS = 12  # of fitting both sides by turns, at most
STALLED = 0.98  # of what was left the round before: more rounds are not worth their time
PIECE = 1 << 18  # units
MOST_EQUATIONS = 1 << 22  # numbers; those of all columns are held at once
MOST_SAMPLED = 1 << 21  # units
BELOW = 1  # octaves below a typical move from where smaller weights do not count more
OUTLIER = 8  # times what is left of the row in the middle: a row of which more is left counts less
FINENESS = (1.0, 0.25, 0.125, 0.0625, 0.03)  # of the step of the factors, to what is not predicted
DOUBLED = 0.98  # of the bytes with half the rank: a product takes as long as it has ranks
WORTH = 0.97  # of the bytes without it: decoding takes a product


class Factors(NamedTuple):
    """Units of two side planes, I16 or I32: [rows, rank] and [rank, columns]; and how each is stored."""

    left: Units
    right: Units
    shift: int
    left_bits: Bits
    right_bits: Bits
    bits: Bits  # the planes of what is left
    why: str


class _Sample(NamedTuple):
    """Whole rows: the tensor's units, the base's, by how much they differ, and what each difference counts."""

    units: Units
    base: Units
    moves: Numbers  # [rows, columns]
    weights: Numbers


class _Trial(NamedTuple):
    """What a sample takes, with its share of the factors."""

    size: float  # bytes
    shift: int
    bits: Bits


class _Matrix(NamedTuple):
    tensor: Input
    base: BaseReader
    rows: int
    columns: int

    def sample(self, low: int, high: int, floor: int | None = None) -> _Sample:
        """Rows [low, high). floor: the exponent below which weights count no more; None: all count the same."""
        first, count = low * self.columns, (high - low) * self.columns
        return self._sample(self.tensor.read(first, count), self.base(first, count), floor)

    def rows_at(self, rows: npt.NDArray[np.int64], floor: int | None = None) -> _Sample:
        """These rows."""
        reads = [(int(row) * self.columns, self.columns) for row in rows]
        units = np.concatenate([self.tensor.read(*read) for read in reads])
        return self._sample(units, np.concatenate([self.base(*read) for read in reads]), floor)

    def _sample(self, units: Units, base: Units, floor: int | None) -> _Sample:
        dtype, shape = self.tensor.dtype, (-1, self.columns)
        with np.errstate(all="ignore"):  # what is not finite does not count
            wide = (cast_units(every, dtype, DTYPES["F64"]).view(np.float64) for every in (units, base))
            moves = np.subtract(*wide).reshape(shape)
        finite = np.isfinite(moves)
        moves[~finite] = 0
        weights = finite.astype(np.float64)
        if floor is not None:
            # 4^-e: what is rounded at an exponent one higher is twice as uncertain
            exponents = np.maximum(_exponents(units, dtype.name), _exponents(base, dtype.name)).reshape(shape)
            weights *= np.ldexp(1.0, -2 * np.maximum(exponents - floor, 0))
        return _Sample(units, base, moves, weights)

    def pieces(self, floor: int) -> Iterator[tuple[int, int, _Sample]]:
        """All rows, a block at a time."""
        step = max(1, PIECE // self.columns)
        for low in range(0, self.rows, step):
            high = min(low + step, self.rows)
            yield low, high, self.sample(low, high, floor)


def find_factors(tensor: Input, base: BaseReader, tried: Sequence[Bits]) -> Factors | None:
    """The factors that make the tensor's difference from its base smallest, or None where none make it much smaller.

    tried: planes of differences to choose from, whose contexts need no side plane.
    """
    matrix = _matrix(tensor, base)
    if matrix is None:
        return None
    count = min(matrix.rows, TRAIN + TEST, MOST_SAMPLED // matrix.columns)
    picked = np.unique(np.linspace(0, matrix.rows - 1, count).astype(np.int64))
    apart = np.zeros(picked.size, bool)
    apart[:: max(2, picked.size // TEST)] = True  # spread over the tensor, as the others are
    train, test = matrix.rows_at(picked[~apart]), matrix.rows_at(picked[apart])
    if not test.moves.any() or not train.moves.any():
        return None
    fitting = (rank for rank in RANKS if 2 * rank <= min(train.moves.shape))
    subspace = _subspace(train.moves, max(rank for rank in fitting if matrix.columns * rank**2 <= MOST_EQUATIONS))
    along = np.zeros(test.moves.shape[0] * subspace.shape[1])
    must(fit.add_product(test.moves.reshape(-1), subspace.reshape(-1), subspace.shape[1], along))
    left = along.reshape(-1, subspace.shape[1])
    before = min(len(encode_chunk(test.units, Delta(bits, 0), _place(matrix, test))) for bits in tried)
    best: tuple[float, int] | None = None
    for rank in RANKS:
        if rank > subspace.shape[1]:
            break
        size = _best_shift(matrix, test, left[:, :rank], subspace[:, :rank], tried, FINENESS[1:2]).size
        if best is None or size < DOUBLED * best[0]:
            best = size, rank
    if best is None or best[0] > WORTH * before:
        return None
    rank = best[1]
    floor = _typical_exponent(test.moves, tensor.dtype.name) - BELOW
    right = _fitted(matrix, np.ascontiguousarray(subspace[:, :rank]), floor)
    weighted = test._replace(weights=matrix.rows_at(picked[apart], floor).weights)
    trial = _best_shift(matrix, weighted, _solved(weighted, right), right, tried, FINENESS)
    if trial.size > WORTH * before:
        return None
    saved = 8 * (before - trial.size) / test.units.size
    return _quantised(matrix, right, trial, floor, f"a product of rank {rank} predicts {saved:.2f} bits of a unit")


def _matrix(tensor: Input, base: BaseReader) -> _Matrix | None:
    if tensor.dtype.name not in MANTISSA or len(tensor.shape) < 2:
        return None
    rows = tensor.shape[0]
    columns = unit_count(tensor) // max(rows, 1)
    if min(rows, columns) < SMALLEST or SMALLEST * columns > MOST_SAMPLED:  # rows too long to hold a few
        return None
    return _Matrix(tensor, base, rows, columns)


def _exponents(units: Units, name: str) -> npt.NDArray[np.int64]:
    magnitudes = units & units.dtype.type((1 << 8 * units.itemsize - 1) - 1)
    exponents: npt.NDArray[np.int64] = (magnitudes >> units.dtype.type(MANTISSA[name])).astype(np.int64)
    return exponents


def _typical_exponent(moves: Numbers, name: str) -> int:
    """The biased exponent of what is moved at all, in the middle, in the dtype."""
    middle = float(np.median(np.abs(moves[moves != 0])))
    return math.frexp(middle)[1] + (15 if name == "F16" else 127)


def _subspace(moves: Numbers, rank: int) -> Numbers:
    """[columns, rank]: orthonormal, the directions along which rows are longest, the longest first (about)."""
    rows, columns = moves.shape
    # A row tells as much whatever its length, so that a few that changed altogether do not decide.
    lengths = np.sqrt(np.cumsum(moves * moves, axis=1)[:, -1:])
    moves = moves / np.where(lengths > 0, lengths, 1)
    noise = np.random.PCG64(1).random_raw(columns * rank) >> np.uint64(11)
    right = noise.astype(np.float64) - 2.0**52
    flipped = np.ascontiguousarray(moves.T).reshape(-1)
    for _ in range(STEPS):
        must(fit.orthonormalise(right, rank))
        left = np.zeros(rows * rank)
        must(fit.add_product(moves.reshape(-1), right, rank, left))
        must(fit.orthonormalise(left, rank))
        right[:] = 0
        must(fit.add_product(flipped, left, rank, right))
    must(fit.orthonormalise(right, rank))
    found: Numbers = right.reshape(columns, rank)
    return found


def _fitted(matrix: _Matrix, right: Numbers, floor: int) -> Numbers:
    """The right side after some rounds of weighted least squares, left and right by turns."""
    columns, rank = right.shape
    before = math.inf
    for _ in range(ROUNDS):
        squares, products, totals = np.zeros(columns * rank * rank), np.zeros(columns * rank), np.zeros(columns)
        rests = []
        for _low, _high, piece in matrix.pieces(floor):
            left, rest = _solve(piece, right)
            weighted = (piece.weights * _trust(rest)[:, None]).T
            moves, weights = (np.ascontiguousarray(side).reshape(-1) for side in (piece.moves.T, weighted))
            must(fit.add_equations(moves, weights, left.reshape(-1), rank, squares, products, totals))
            rests.append(rest)
        must(fit.solve(squares, products, rank))
        right = products.reshape(columns, rank)
        middle = float(np.median(np.concatenate(rests)))
        if middle > STALLED * before:
            break
        before = middle
    return right


def _trust(rest: Numbers) -> Numbers:
    """How much each row counts, up to 1: one of which much is left was not moved as the others were."""
    middle = float(np.median(rest))
    return np.minimum(1, OUTLIER * middle / np.maximum(rest, 1e-300)) if middle > 0 else np.ones(rest.size)


def _solved(sample: _Sample, right: Numbers) -> Numbers:
    """[rows, rank]: the left side that goes best with this right side."""
    return _solve(sample, right)[0]


def _solve(sample: _Sample, right: Numbers) -> tuple[Numbers, Numbers]:
    """That, and the weighted mean square of what is left of each row."""
    rows, rank = sample.moves.shape[0], right.shape[1]
    squares, products, totals = np.zeros(rows * rank * rank), np.zeros(rows * rank), np.zeros(rows)
    moves, weights = sample.moves.reshape(-1), sample.weights.reshape(-1)
    must(fit.add_equations(moves, weights, right.reshape(-1), rank, squares, products, totals))
    given = products.copy()
    must(fit.solve(squares, products, rank))
    explained = np.cumsum((given * products).reshape(rows, rank), axis=1)[:, -1]
    counted = np.maximum(np.cumsum(sample.weights, axis=1)[:, -1], 1e-300)
    return products.reshape(rows, rank), np.maximum(totals - explained, 0) / counted


def _best_shift(
    matrix: _Matrix, sample: _Sample, left: Numbers, right: Numbers, tried: Sequence[Bits], finenesses: Sequence[float]
) -> _Trial:
    """The best of some finenesses."""
    rest = sample.moves.copy()
    for p in range(right.shape[1]):
        rest -= left[:, p : p + 1] * right[:, p]
    scales = _scales(left, right)
    left, right = left / scales, np.ascontiguousarray(right * scales)
    size = max(sum(_typical_square(left[:, p]) for p in range(left.shape[1])), 1e-300)  # and of the right side
    # A step of both sides moves a number by step^2 (left^2 + right^2) / 12 of mean square.
    each = size * 2 / 12
    trials: dict[int, _Trial] = {}
    for fineness in finenesses:
        aim = fineness**2 * max(_typical_square(rest), _rounding(sample, matrix))
        # frexp and not a logarithm, whose last digit is not the same everywhere
        shift = min(max(math.frexp(each / aim)[1], 0), MAX_PRODUCT_SHIFT)
        if shift not in trials:
            trials[shift] = _trial(matrix, sample, left, right, shift, tried)
    return min(trials.values(), key=lambda trial: (trial.size, trial.shift))


def _rounding(sample: _Sample, matrix: _Matrix) -> float:
    """The mean square of what a number typically is rounded by."""
    name = matrix.tensor.dtype.name
    middle = int(np.median(_exponents(sample.base, name)))
    step = 2.0 ** (middle - (15 if name == "F16" else 127) - MANTISSA[name])
    return step * step / 12


def _typical_square(numbers: Numbers) -> float:
    """About the mean square, which a few large numbers would carry away."""
    return 2 * float(np.median(numbers * numbers))


def _scales(left: Numbers, right: Numbers) -> Numbers:
    """What makes each column of the right side, times it, as large as the left one's divided by it."""
    scales = []
    for p in range(right.shape[1]):
        of_left, of_right = _typical_square(left[:, p]), _typical_square(right[:, p])
        scales.append(math.sqrt(math.sqrt(of_left / of_right)) if of_left and of_right else 1.0)
    return np.array(scales)


def _whole(numbers: Numbers, shift: int) -> Numbers:
    """In steps of 2^-(shift / 2), to the nearest."""
    return np.rint(numbers * math.sqrt(2.0**shift))


def _trial(
    matrix: _Matrix, sample: _Sample, left: Numbers, right: Numbers, shift: int, tried: Sequence[Bits]
) -> _Trial:
    """With both sides rounded to steps."""
    left, right = _whole(left, shift), _whole(right, shift)
    dtype = _factor_dtype(left, right)
    if dtype is None:
        return _Trial(math.inf, shift, tried[0])
    left_units, right_units = _units(left, dtype), _units(np.ascontiguousarray(right.T), dtype)
    place = _place(matrix, sample, (left_units, right_units))
    moved = LowRank(0, 1, shift)
    sizes = [len(encode_chunk(sample.units, Delta(bits, 0, moved), place)) for bits in tried]
    factors = [len(encode_chunk(units.reshape(-1), _usual_bits(units), NOWHERE)) for units in (left_units, right_units)]
    share = left.shape[0] / matrix.rows
    return _Trial(min(sizes) + factors[0] + share * factors[1], shift, tried[sizes.index(min(sizes))])


def _factor_dtype(left: Numbers, right: Numbers) -> str | None:
    most = max(float(np.abs(left).max()), float(np.abs(right).max()))
    return "I16" if most < 1 << 15 else "I32" if most < 1 << 31 else None


def _units(whole: Numbers, dtype: str) -> Units:
    unit = DTYPES[dtype].unit
    units: Units = whole.astype(np.int64).astype(f"<i{unit.itemsize}").view(unit)
    return units


def _place(matrix: _Matrix, sample: _Sample, sides: tuple[Units, ...] = ()) -> Place:
    return Place(sample.units.size, 0, sides, matrix.tensor.dtype, sample.base)


def _split(itemsize: int, low: int) -> Bits:
    """The lowest bits of factors, which are noise, apart."""
    parts = [*[8] * (low // 8), low % 8, 8 * itemsize - low]
    return Bits(tuple(Part(width) for width in parts if width))


def _usual_bits(units: Units) -> Bits:
    """About the best way to store factors, at a look."""
    middle = int(np.median(np.abs(units.view(f"<i{units.itemsize}").astype(np.int64))))
    return _split(units.itemsize, max(8 * units.itemsize - 16, middle.bit_length() - 3, 0))


def _best_bits(units: Units) -> Bits:
    lows = range(8 * units.itemsize - 16, 8 * units.itemsize - 7)
    sizes = {low: len(encode_chunk(units.reshape(-1), _split(units.itemsize, low), NOWHERE)) for low in lows}
    return _split(units.itemsize, min(sizes, key=lambda low: (sizes[low], low)))


def _quantised(matrix: _Matrix, right: Numbers, trial: _Trial, floor: int, why: str) -> Factors | None:
    """The factors in whole numbers: the right side rounded, the left one fitted to that and then rounded."""
    shift = trial.shift
    first = matrix.sample(0, min(matrix.rows, max(1, PIECE // matrix.columns)), floor)
    whole = _whole(right * _scales(_solved(first, right), right), shift)
    scaled = whole / math.sqrt(2.0**shift)
    left = np.empty((matrix.rows, right.shape[1]))
    for low, high, piece in matrix.pieces(floor):
        left[low:high] = _whole(_solved(piece, scaled), shift)
    dtype = _factor_dtype(left, whole)
    if dtype is None:
        return None
    units = _units(left, dtype), _units(np.ascontiguousarray(whole.T), dtype)
    return Factors(*units, shift, _best_bits(units[0]), _best_bits(units[1]), trial.bits, why)
