"""Fields that only some rows of a matrix have: picked out, and put back."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from slimtensors.kernels._jit import inlined, kernel
from slimtensors.kernels.cpu.blocks import LANES
from slimtensors.kernels.simd.lanes import as_in
from slimtensors.kernels.simd.memory import load, store
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
def join_rows(compact: Array, present: Array, length: int, first: int, shift: int, out: Array) -> int:
    """out |= field << shift, for the elements that lie in present rows; `compact` holds their fields.

    compact  uint8 or uint16 [m]   m is how many elements of `out` lie in present rows
    present  uint8[rows]           not zero: the row is there
    out      uint8, 16, 32 or 64 [n]   element i lies in row floor((first + i) / length)

    Returns OK, or BAD_ARGUMENT if the lengths disagree or the shift leaves the element.
    """
    if not 0 <= shift < out.itemsize * 8 or elements_present(present, length, first, out.size) != compact.size:
        return BAD_ARGUMENT
    row, at, taken = first // length, 0, 0
    while at < out.size:
        end = min((row + 1) * length - first, out.size)
        if present[row] != 0:
            if end - at >= LANES:
                for i in range(0, end - at, LANES):
                    # The last vector begins early, so that it ends with the row; what is put in twice is the same.
                    i = min(i, end - at - LANES)
                    fields = as_in(out, load(compact, taken + i))
                    store(out, at + i, load(out, at + i) | fields << shift)
            else:
                for i in range(end - at):
                    out[at + i] |= out.dtype.type(compact[taken + i]) << out.dtype.type(shift)
            taken += end - at
        at = end
        row += 1
    return OK


@kernel
def compact_rows(src: Array, present: Array, length: int, first: int, compact: Array) -> int:
    """The elements that lie in present rows. src uint8[n] or wider, compact like src [m]."""
    if elements_present(present, length, first, src.size) != compact.size:
        return BAD_ARGUMENT
    row, at, put = first // length, 0, 0
    while at < src.size:
        end = min((row + 1) * length - first, src.size)
        if present[row] != 0:
            if end - at >= LANES:
                for i in range(0, end - at, LANES):
                    i = min(i, end - at - LANES)
                    store(compact, put + i, load(src, at + i))
            else:
                for i in range(end - at):
                    compact[put + i] = src[at + i]
            put += end - at
        at = end
        row += 1
    return OK


@kernel
def spread_rows(compact: Array, others: Array, present: Array, length: int, first: int, out: Array) -> int:
    """out = the elements of `compact` in present rows, those of `others` elsewhere.

    compact as join_rows takes it, others and out uint8[n] or wider, all of one dtype.
    """
    if others.size != out.size or elements_present(present, length, first, out.size) != compact.size:
        return BAD_ARGUMENT
    row, at, taken = first // length, 0, 0
    while at < out.size:
        here = present[row] != 0
        end = at
        # Rows alike that follow each other are one run.
        while end < out.size and (present[row] != 0) == here:
            end = min((row + 1) * length - first, out.size)
            row += 1
        if here:
            copy(compact[taken : taken + end - at], out[at:end])
            taken += end - at
        else:
            copy(others[at:end], out[at:end])
        at = end
    return OK


@inlined
def copy(src: Array, out: Array) -> None:
    """Arrays of one length."""
    if out.size >= LANES:
        for i in range(0, out.size, LANES):
            i = min(i, out.size - LANES)
            store(out, i, load(src, i))
    else:
        for i in range(out.size):
            out[i] = src[i]
