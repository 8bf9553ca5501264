"""How far logarithms lie from what their rows' and columns' scales let expect (detect/classes.py)."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from slimtensors.kernels._jit import kernel
from slimtensors.kernels.status import BAD_ARGUMENT, OK

Array = npt.NDArray[Any]


@kernel
def add_rests(logs: Array, rows: Array, columns: Array, least: int, of_rows: Array, of_columns: Array) -> int:
    """Sums over each row, and over each column, of rest[i, j] = max(logs[i, j] - rows[i] - columns[j], least).

    logs        int16[rows.size * columns.size]
    rows        int32[R]
    columns     int32[C]
    of_rows     int64[R]        filled
    of_columns  int64[C]        filled
    """
    length = columns.size
    if logs.size != rows.size * length or of_rows.size != rows.size or of_columns.size != length:
        return BAD_ARGUMENT
    for j in range(length):
        of_columns[j] = 0
    for i in range(rows.size):
        sum_of_row = 0
        for j in range(length):
            rest = max(logs[i * length + j] - rows[i] - columns[j], least)
            sum_of_row += rest
            of_columns[j] += rest
        of_rows[i] = sum_of_row
    return OK
