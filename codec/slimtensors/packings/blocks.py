"""Numbers that each stand for a block of a tensor of any dimensions."""

from __future__ import annotations

import math

import numpy as np

from slimtensors.packings.weight import Array, Floats, Shape, UnfitError

__all__ = ["Blocks", "as_matrix"]


def as_matrix(array: Array) -> Array:
    """A view in two dimensions: all but the last are one."""
    return array.reshape(-1, array.shape[-1])


class Blocks:
    """One number for each block, in row-major order, whatever their array's shape. Raises UnfitError.

    shape: of the tensor. block: of a block; divides it.
    """

    def __init__(self, numbers: Floats, shape: Shape, block: Shape, what: str) -> None:
        grid = tuple(of // n for of, n in zip(shape, block, strict=True))
        if any(of % n for of, n in zip(shape, block, strict=True)) or numbers.size != math.prod(grid):
            raise UnfitError(f"{what} has {numbers.size} numbers for blocks of {list(block)} of {list(shape)}")
        self._numbers: Floats = numbers.reshape(-1, grid[-1])
        self._across = np.arange(shape[-1]) // block[-1]
        self._down = list(zip(shape[:-1], block[:-1], grid[:-1], strict=True))[::-1]

    def multiply(self, factors: Floats) -> None:
        """By one number, or by one for each index of the first dimension, which blocks do not cut: [n, 1]."""
        matrix = self._numbers.reshape(len(factors), -1) * factors
        self._numbers = matrix.reshape(self._numbers.shape)

    def rows(self, low: int, high: int) -> Floats:
        """float32[high - low, shape[-1]]: for rows of the tensor as a matrix."""
        left = np.arange(low, high)
        at, stride = np.zeros_like(left), 1
        for of, n, blocks in self._down:
            at += left % of // n * stride
            left //= of
            stride *= blocks
        found: Floats = self._numbers[at]
        return found if found.shape[1] == 1 else found[:, self._across]
