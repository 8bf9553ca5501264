"""Rows of a matrix: leaving out those that are all zero, and the zero bits that a row ends in."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from slimtensors.kernels._jit import inlined, kernel
from slimtensors.kernels.status import BAD_ARGUMENT, OK

Array = npt.NDArray[Any]


@inlined
def elements_present(present: Array, length: int, first: int, elements: int) -> int:
    """How many of the elements from `first` lie in present rows; -1 if the rows do not reach so far."""
    if length < 1 or first < 0 or first + elements > present.size * length:
        return -1
    total = 0
    row, end = first // length, first + elements
    while row * length < end:
        if present[row] != 0:
            total += min((row + 1) * length, end) - max(row * length, first)
        row += 1
    return total


@kernel
def expand_rows(compact: Array, present: Array, length: int, first: int, out: Array) -> int:
    """Elements first, first + 1, ... of a matrix, from those in its present rows; zero elsewhere.

    compact  uint8[m] or wider  m is how many elements of `out` lie in present rows
    present  uint8[rows]        not zero: the row is there
    out      like compact [n]   element i lies in row floor((first + i) / length)

    Returns OK, or BAD_ARGUMENT if the lengths disagree.
    """
    if elements_present(present, length, first, out.size) != compact.size:
        return BAD_ARGUMENT
    row, at, taken = first // length, 0, 0
    while at < out.size:
        end = min((row + 1) * length - first, out.size)
        if present[row] != 0:
            for i in range(end - at):
                out[at + i] = compact[taken + i]
            taken += end - at
        else:
            for i in range(at, end):
                out[i] = 0
        at = end
        row += 1
    return OK


@kernel
def compact_rows(src: Array, present: Array, length: int, first: int, compact: Array) -> int:
    """The inverse of expand_rows: the elements of present rows. src uint8[n] or wider, compact like src [m]."""
    if elements_present(present, length, first, src.size) != compact.size:
        return BAD_ARGUMENT
    row, at, put = first // length, 0, 0
    while at < src.size:
        end = min((row + 1) * length - first, src.size)
        if present[row] != 0:
            for i in range(end - at):
                compact[put + i] = src[at + i]
            put += end - at
        at = end
        row += 1
    return OK


@kernel
def row_tail_bits(src: Array, length: int, out: Array) -> int:
    """How many low bits are zero in all elements of a row; an element's width if the row is zero.

    src uint8, 16, 32 or 64 [rows * length], out uint8[rows]. Returns OK or BAD_ARGUMENT.
    """
    if length < 1 or src.size != out.size * length:
        return BAD_ARGUMENT
    for row in range(out.size):
        seen = src[row * length]
        for i in range(row * length, (row + 1) * length):
            seen |= src[i]
        tail = 0
        while tail < src.itemsize * 8 and seen >> tail & 1 == 0:
            tail += 1
        out[row] = tail
    return OK
