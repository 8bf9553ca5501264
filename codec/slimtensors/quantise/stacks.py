"""Stacks of matrices, such as the experts of a layer [experts, rows, columns], as one matrix of all their rows."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy.typing as npt

from slimtensors.container.lossy import Lossy
from slimtensors.dtypes import DType
from slimtensors.sources.inputs import Input, unit_count

__all__ = ["MIN_ELEMENTS", "Stack", "matrix_of"]

MIN_ELEMENTS = 1 << 14  # of a matrix; smaller ones save next to nothing
SHORTEST = 32  # row or column of a stack's matrices: what is shorter are a convolution's taps


def matrix_of(tensor: Input) -> Input | None:
    """The tensor itself if it is a matrix, or the matrix that a stack of them makes; None of what is neither, or small.

    Convolutions are none: weights [out, in, taps] have few taps, and those of images have four dimensions. Nor is what
    has one matrix, such as positions or tokens that are learned, [1, rows, columns].
    """
    if len(tensor.shape) == 2:
        return tensor if unit_count(tensor) >= MIN_ELEMENTS else None
    if len(tensor.shape) != 3:
        return None
    count, rows, columns = tensor.shape
    if count < 2 or min(rows, columns) < SHORTEST or rows * columns < MIN_ELEMENTS:
        return None
    return Stack(tensor)


class Stack:
    """A tensor [E, R, C] as one of [E * R, C]: the same units in the same order. stacked: E, R, C."""

    def __init__(self, source: Input) -> None:
        experts, rows, columns = source.shape
        self.stacked = (experts, rows, columns)
        self.name: str = source.name
        self.dtype: DType = source.dtype
        self.shape: tuple[int, ...] = (experts * rows, columns)
        self.encoding: str | None = source.encoding
        self.lossy: Lossy | None = source.lossy
        self._source = source

    @property
    def place(self) -> Hashable:
        return self._source.place

    def read(self, start: int, count: int) -> npt.NDArray[Any]:
        return self._source.read(start, count)
