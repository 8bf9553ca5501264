"""A box of a stored tensor, put into memory that may be a part of something larger."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy.typing as npt

from slimtensors.reading.scheduling import Destination, Piece, Range
from slimtensors.stream.plan import Columns

__all__ = ["Box", "lay_out"]

Units = npt.NDArray[Any]


class Box(NamedTuple):
    """Rows of a tensor, from row `first` on, of each of which some columns are wanted."""

    columns: Columns
    first: int

    @property
    def wanted(self) -> Range:
        row = self.columns.row
        return Range(self.columns.tensor, self.first * row, self.columns.out.shape[0] * row)

    def memory(self, _start: int, _units: int) -> None:
        return None

    def put(self, start: int, found: Units) -> None:
        self.columns.put(start - self.first * self.columns.row, found)


class Layout(NamedTuple):
    """rows x width units, at `low` in rows of `row` units, from row `first` on."""

    first: int
    rows: int
    row: int
    low: int
    width: int


def lay_out(shape: tuple[int, ...], offsets: tuple[int, ...], sizes: tuple[int, ...]) -> Layout | None:
    """A box as columns of a range of rows; None if it is more broken up than that."""
    partial = [i for i, size in enumerate(shape) if sizes[i] != size]
    if not partial:
        return Layout(0, 1, math.prod(shape), 0, math.prod(shape))
    cut = partial[-1]
    inner = math.prod(shape[cut + 1 :])
    before = [i for i in partial[:-1] if math.prod(sizes[: i + 1]) != 1]
    if before and math.prod(sizes[: before[-1]]) != 1:
        return None
    first = 0
    for size, offset in zip(shape[:cut], offsets[:cut], strict=True):
        first = first * size + offset
    return Layout(first, math.prod(sizes[:cut]), shape[cut] * inner, offsets[cut] * inner, sizes[cut] * inner)


def destination(tensor: int, layout: Layout, out: Units) -> Destination:
    """How the tensor's chunks get into `out`, which has as many units as the layout, in rows."""
    if layout.rows == 1 and out.flags.c_contiguous:
        return Piece(tensor, layout.first * layout.row + layout.low, out.reshape(-1))
    return Box(Columns(tensor, layout.row, layout.low, out.reshape(layout.rows, layout.width)), layout.first)
