"""Rows and columns of a matrix by their scale, in quarter octaves, where that tells a float's exponent better.

Whole numbers only, in a fixed order: the classes, and so the file's bytes, are the same on every machine.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slimtensors.dtypes import DType
from slimtensors.expression import Bits, ClassContext, Part
from slimtensors.kernels.cpu import scales
from slimtensors.kernels.cpu.scales import SCALE
from slimtensors.kernels.status import must
from slimtensors.sources.inputs import Input, unit_count

__all__ = ["MANTISSA", "Classes", "fit_classes", "upper_median", "with_classes"]

Units = npt.NDArray[Any]
Numbers = npt.NDArray[np.int64]

# Mantissa bits of the dtypes that have a sign, an exponent and a mantissa, in this order.
MANTISSA = {
    "F8_E4M3": 3, "F8_E5M2": 2, "F8_E4M3FNUZ": 3, "F8_E5M2FNUZ": 2,
    "F16": 10, "BF16": 7, "F32": 23, "C64": 23, "F64": 52,
}  # fmt: skip
SHORTEST = 32  # row; and fewest rows
FEWEST = 1 << 14  # units; tables and classes cost more than they save in smaller tensors
LOG_BITS = 3  # bits after the point of a logarithm
OCTAVE, CLASSES = 1 << LOG_BITS, 4  # an octave in such a logarithm, and in classes
ROUNDS = 3  # of fitting rows and columns by turns
COLUMN_SAMPLE = 1 << 20  # units from whose rows the columns' scales are taken
RUNS = 256  # of rows, that such a sample is made of
PIECE = 1 << 18  # units
MEDIAN_SAMPLE = 1 << 14  # units, about
MOST = 255  # of a row's and a column's class together


class Classes(NamedTuple):
    """Of each row and each column, as side planes hold them."""

    rows: npt.NDArray[np.uint8]
    columns: npt.NDArray[np.uint8]


def with_classes(bits: Bits, dtype: DType, first_side: int) -> Bits:
    """The field on top given the classes in side planes `first_side` (rows) and the next (columns)."""
    field = bits.parts[-1]
    # The sign is not in the field, and an octave is one in the exponent.
    octave = 1 << MANTISSA[dtype.name] - (dtype.unit_bits - 1 - field.width)
    context = ClassContext(first_side, first_side + 1, octave)
    return Bits((*bits.parts[:-1], Part(field.width, field.side, context)), bits.rotate)


def fit_classes(tensor: Input) -> Classes | None:
    """Classes for a matrix that is large enough for them."""
    units = unit_count(tensor)
    if tensor.dtype.name not in MANTISSA or units < FEWEST or len(tensor.shape) < 2:
        return None
    rows = math.prod(tensor.shape[:-1])
    if units // rows < SHORTEST:  # a convolution's taps
        rows = tensor.shape[0]
    if rows < SHORTEST or units // rows < SHORTEST:
        return None
    of_rows, of_columns = _fit(tensor, rows, units // rows)
    sides = _quarters(of_rows), _quarters(of_columns)
    return Classes(*sides) if int(sides[0].max()) + int(sides[1].max()) <= MOST else None


def _fit(tensor: Input, rows: int, columns: int) -> tuple[Numbers, Numbers]:
    """Mean logarithms of rows and columns in 1 / (SCALE * OCTAVE) octaves: log(unit) is about row + column."""
    count = min(rows, max(SHORTEST, COLUMN_SAMPLE // columns))
    if count == rows:
        sample = tensor.read(0, rows * columns)
    else:
        each, runs = max(1, count // RUNS), min(RUNS, count)
        starts = [rows * i // runs for i in range(runs)]
        sample = np.concatenate([tensor.read(start * columns, each * columns) for start in starts])
        count = each * runs
    logs = _logs(sample, tensor.dtype)
    some = logs[:: 1 + logs.size // MEDIAN_SAMPLE]
    middle = SCALE * upper_median(some)
    of_rows, of_columns = np.full(count, middle), np.zeros(columns, np.int64)
    _refine(logs, of_rows, of_columns, both=True)
    if sample.size == rows * columns:
        return of_rows, of_columns
    found = np.empty(rows, np.int64)
    step = max(1, PIECE // columns)
    for low in range(0, rows, step):
        high = min(low + step, rows)
        piece = _logs(tensor.read(low * columns, (high - low) * columns), tensor.dtype)
        found[low:high] = middle
        _refine(piece, found[low:high], of_columns, both=False)
    return found, of_columns


def upper_median(numbers: npt.NDArray[np.unsignedinteger], low: int = 0) -> int:
    """The number in the middle of uint16 or uint32 [n], by counting; where only `low` bits differ, by selection."""
    high = numbers >> numbers.dtype.type(low) if low else numbers
    ends = np.cumsum(np.bincount(high))
    at = int(np.searchsorted(ends, numbers.size // 2, side="right"))
    if not low:
        return at
    near, place = numbers[high == at], numbers.size // 2 - (int(ends[at - 1]) if at else 0)
    return int(np.partition(near, place)[place])


def _logs(units: Units, dtype: DType) -> npt.NDArray[np.uint16]:
    """Logarithms to base 2, linear between the powers of two, in 1 / OCTAVE octaves."""
    logs = np.empty(units.size, np.uint16)
    must(scales.logarithms(units, dtype.unit_bits - 1, MANTISSA[dtype.name] - LOG_BITS, logs))
    return logs


def _refine(logs: npt.NDArray[np.uint16], of_rows: Numbers, of_columns: Numbers, *, both: bool) -> None:
    """Better rows if the columns are right, and if `both` better columns, by turns.

    The logarithm of a small number says little of the scale, and varies much: at most an octave counts.
    """
    work = np.empty(of_columns.size, np.uint16), np.empty(of_columns.size, np.uint32)
    must(scales.fit_scales(logs, ROUNDS, -OCTAVE, both, of_rows, of_columns, *work))


def _quarters(means: Numbers) -> npt.NDArray[np.uint8]:
    """Whole quarters of an octave, from 0. What lies far below all others, such as rows of zeros, is cut off there."""
    quarter = SCALE * OCTAVE // CLASSES
    classes = (means + quarter // 2) // quarter
    rare = classes.size // 100
    low = max(int(np.partition(classes, rare)[rare]) - 4 * CLASSES, int(classes.min()))
    return np.clip(classes - low, 0, MOST).astype(np.uint8)
