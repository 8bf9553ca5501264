"""Rows and columns of a matrix by their scale, in quarter octaves, where that tells a float's exponent better.

Whole numbers only, in a fixed order: the classes, and so the file's bytes, are the same on every machine.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slimtensors.codecs import layouts
from slimtensors.codecs.chunk import encode_chunk
from slimtensors.codecs.place import NOWHERE, Place
from slimtensors.dtypes import DType
from slimtensors.expression import Bits, ClassContext, Part
from slimtensors.inputs import Input, unit_count

__all__ = ["Classes", "find_classes", "with_classes"]

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
SCALE = 64  # of means, so that they round late
ROUNDS = 3  # of fitting rows and columns by turns
COLUMN_SAMPLE = 1 << 20  # units from whose rows the columns' scales are taken
PIECE = 1 << 18  # units
MOST = 255  # of a row's and a column's class together
WORTH = 0.003  # of the field's bytes, for what decodes with four tables and not one


class Classes(NamedTuple):
    """Of each row and each column, as side planes hold them; and what they bought."""

    rows: npt.NDArray[np.uint8]
    columns: npt.NDArray[np.uint8]
    why: str


def with_classes(bits: Bits, dtype: DType, first_side: int) -> Bits:
    """The field on top given the classes in side planes `first_side` (rows) and the next (columns)."""
    field = bits.parts[-1]
    # The sign is not in the field, and an octave is one in the exponent.
    octave = 1 << MANTISSA[dtype.name] - (dtype.unit_bits - 1 - field.width)
    context = ClassContext(first_side, first_side + 1, octave)
    return Bits((*bits.parts[:-1], Part(field.width, field.side, context)), bits.rotate)


def find_classes(tensor: Input, preset: str, chunk: int) -> Classes | None:
    """Classes that make one of the tensor's chunks (of `chunk` units) smaller, by more than they take."""
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
    if int(sides[0].max()) + int(sides[1].max()) > MOST:
        return None
    return _worth(tensor, preset, chunk, *sides)


def _worth(
    tensor: Input, preset: str, chunk: int, rows: npt.NDArray[np.uint8], columns: npt.NDArray[np.uint8]
) -> Classes | None:
    units, dtype = unit_count(tensor), tensor.dtype
    first = -(-units // chunk) // 2 * chunk
    sample = tensor.read(first, min(chunk, units - first))
    plain = layouts.floats(dtype, preset)
    place = Place(units, first, (rows, columns), dtype)
    before = len(encode_chunk(sample, plain))
    after = len(encode_chunk(sample, with_classes(plain, dtype, 0), place))
    # The side planes serve all chunks.
    sides = sum(len(encode_chunk(side, layouts.BYTES, NOWHERE, try_zstd=True)) for side in (rows, columns))
    saved = before - after - sides * sample.size / units
    field = before - sum(plain.widths[:-1]) * sample.size / 8
    if saved < WORTH * field:
        return None
    bits = 8 * saved / sample.size
    return Classes(rows, columns, f"exponents given the scales of row and column: {bits:.3f} bit per weight saved")


def _fit(tensor: Input, rows: int, columns: int) -> tuple[Numbers, Numbers]:
    """Mean logarithms of rows and columns in 1 / (SCALE * OCTAVE) octaves: log(unit) is about row + column."""
    count = min(rows, max(SHORTEST, COLUMN_SAMPLE // columns))
    picked = [i * rows // count for i in range(count)]
    if count == rows:
        sample = tensor.read(0, rows * columns)
    else:
        sample = np.concatenate([tensor.read(row * columns, columns) for row in picked])
    logs = _logs(sample, tensor.dtype).reshape(count, columns)
    middle = int(np.sort(logs, axis=None)[logs.size // 2])
    of_rows, of_columns = np.full(count, SCALE * middle), np.zeros(columns, np.int64)
    for _ in range(ROUNDS):
        of_rows = _refined(logs, of_rows, of_columns)
        of_columns = _refined(logs.T, of_columns, of_rows)
    if count == rows:
        return of_rows, of_columns
    found = np.empty(rows, np.int64)
    step = max(1, PIECE // columns)
    for low in range(0, rows, step):
        high = min(low + step, rows)
        piece = _logs(tensor.read(low * columns, (high - low) * columns), tensor.dtype).reshape(-1, columns)
        part = np.full(high - low, SCALE * middle)
        for _ in range(ROUNDS):
            part = _refined(piece, part, of_columns)
        found[low:high] = part
    return found, of_columns


def _logs(units: Units, dtype: DType) -> npt.NDArray[np.int16]:
    """Logarithms to base 2, linear between the powers of two, in 1 / OCTAVE octaves."""
    magnitudes = units & dtype.unit.type((1 << dtype.unit_bits - 1) - 1)
    shift = MANTISSA[dtype.name] - LOG_BITS
    narrow = (magnitudes >> dtype.unit.type(max(shift, 0))).astype(np.int16)
    logs: npt.NDArray[np.int16] = narrow << np.int16(max(-shift, 0))
    return logs


def _refined(logs: npt.NDArray[np.int16], mine: Numbers, others: Numbers) -> Numbers:
    """A better `mine`, for each row of `logs`.

    The logarithm of a small number says little of the scale, and varies much: at most an octave counts.
    """
    expected = ((mine + SCALE // 2) // SCALE).astype(np.int16)[:, None]
    expected = expected + ((others + SCALE // 2) // SCALE).astype(np.int16)[None, :]
    rest = np.maximum(logs - expected, np.int16(-OCTAVE))
    found: Numbers = (mine + SCALE // 2) // SCALE * SCALE + rest.sum(axis=1, dtype=np.int64) * SCALE // logs.shape[1]
    return found


def _quarters(scales: Numbers) -> npt.NDArray[np.uint8]:
    """Whole quarters of an octave, from 0. What lies far below all others, such as rows of zeros, is cut off there."""
    quarter = SCALE * OCTAVE // CLASSES
    classes = (scales + quarter // 2) // quarter
    low = max(int(np.sort(classes)[classes.size // 100]) - 4 * CLASSES, int(classes.min()))
    return np.clip(classes - low, 0, MOST).astype(np.uint8)
