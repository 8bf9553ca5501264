"""Rows of a matrix over their scales in whole numbers, whose products are the same in any order, and quick."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slimtensors.detect.subspace import DEAD, MOST_RANK, iterated, widened
from slimtensors.kernels.cpu import directions
from slimtensors.kernels.cpu import whole_directions as kernels
from slimtensors.kernels.status import must

__all__ = ["MOST_COLUMNS", "WholeRows", "whole_directions", "whole_energies", "whole_rows", "whole_times"]

Units = npt.NDArray[Any]
Numbers = npt.NDArray[Any]  # float32
Words = npt.NDArray[np.uint32]
Factors = npt.NDArray[np.uint8]
Form = tuple[tuple[int, int, int], np.float32]  # as subspace.form_of gives it

FAR = 6.0  # scales: what lies beyond counts as that
STEP = FAR / kernels.MOST  # a whole number, in scales
MOST_COLUMNS = 1 << 18  # so that sums of products fit 32 bits


class WholeRows(NamedTuple):
    """Some rows, in bytes as the kernels take them."""

    rows: int
    columns: int
    numbers: npt.NDArray[np.uint8]  # by rows, filled up to whole words

    @property
    def words(self) -> Words:
        """Of the rows alone."""
        width = -(-self.columns // kernels.FOUR)
        return self.numbers.view(np.uint32)[: self.rows * width]


def whole_rows(units: Units, form: Form, rows: Numbers, columns: Numbers) -> WholeRows:
    """Units [rows.size, columns.size] times these numbers, in steps of STEP."""
    n, m = rows.size, columns.size
    numbers = np.empty(-(-n // kernels.FOUR) * -(-m // kernels.FOUR) * kernels.FOUR**2, np.uint8)
    with np.errstate(over="ignore"):  # what lies far out counts as FAR
        rows = rows / np.float32(STEP)
    most = int(np.float32(kernels.MOST).view(np.uint32))
    must(kernels.whole_over_scales(units, *form, rows, columns.view(np.uint32), most, numbers))
    return WholeRows(n, m, numbers)


def whole_directions(sample: WholeRows, start: Numbers | None, rounds: int) -> Numbers:
    """[columns, rank]: orthonormal directions along which rows are longest, iterated from `start`."""
    fours = np.empty(-(-sample.rows // kernels.FOUR) * sample.columns, np.uint32)
    must(kernels.by_fours(sample.numbers, sample.columns, fours))

    def turn(right: Numbers) -> Numbers:
        along, _scales = _bytes(_products(sample, _bytes(right)[0]))
        turned = np.empty((sample.columns, MOST_RANK), np.int32)
        must(kernels.turn(fours, along, turned.reshape(-1).view(np.uint32)))
        return turned.astype(np.float32)

    return iterated(turn, (sample.rows, sample.columns), start, rounds)


def whole_energies(sample: WholeRows, right: Numbers) -> tuple[npt.NDArray[np.float64], float]:
    """(of each direction, of all) the mean square of a row, in squares of scales."""
    words, scales = _bytes(right)
    along, sums = _products(sample, words), np.zeros(MOST_RANK)
    must(directions.add_squares(along.reshape(-1), sums))
    unit = STEP * STEP / sample.rows
    energies = sums * unit / (scales.astype(np.float64) ** 2)
    return energies[: right.shape[1]], kernels.sum_squares(sample.numbers) * unit


def whole_times(sample: WholeRows, right: Numbers, scales: npt.NDArray[np.float64], most: int, out: Factors) -> None:
    """Their product in whole numbers up to `most` either way, each column a row of `out`, with 128 for 0.

    right: whole numbers up to 127 either way, float32[columns, rank]; scales: of the product, for each column
    """
    ones = np.ones(MOST_RANK, np.float32)
    along = _products(sample, _words(right, ones)).reshape(-1)
    must(kernels.round_rows(along, (scales * STEP).astype(np.float32), np.float32(DEAD), most, out))


def _bytes(numbers: npt.NDArray[Any]) -> tuple[Words, Numbers]:
    """(words, what each column was multiplied with: its largest number became 127). numbers: int32 or float32
    [n, up to 32]
    """
    most, wide = np.empty(MOST_RANK, np.float32), widened(numbers)
    must(kernels.largest(wide.reshape(-1), most))
    scales = np.float32(kernels.LARGEST) / np.where(most > 0, most, np.float32(1))
    return _words(wide, scales), scales


def _words(numbers: npt.NDArray[Any], scales: Numbers) -> Words:
    words = np.empty(-(-len(numbers) // kernels.FOUR) * MOST_RANK, np.uint32)
    must(kernels.to_bytes(widened(numbers).reshape(-1), scales, words))
    return words


def _products(sample: WholeRows, right: Words) -> npt.NDArray[np.int32]:
    out = np.empty((sample.rows, MOST_RANK), np.int32)
    must(kernels.products(sample.words, right, out.reshape(-1).view(np.uint32)))
    return out
