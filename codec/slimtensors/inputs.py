"""Tensors on their way into a file: arrays in memory, or ranges of a source file."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Protocol

import numpy.typing as npt

from slimtensors.container.source import ByteSource, aligned_empty
from slimtensors.dtypes import DType, from_numpy, units_of

__all__ = ["ArrayInput", "FileInput", "Input"]

Units = npt.NDArray[Any]


class Input(Protocol):
    """A named tensor that can be read piece by piece, more than once."""

    name: str
    dtype: DType
    shape: tuple[int, ...]

    @property
    def place(self) -> Hashable:
        """Where the bytes are, if two inputs can be known to share them without reading; else None."""

    def read(self, start: int, count: int) -> Units:
        """Units [start, start + count), contiguous; not to be written to."""


def unit_count(tensor: Input) -> int:
    """The tensor's units."""
    return tensor.dtype.bytes_of(tensor.shape) // tensor.dtype.unit_bytes


class ArrayInput:
    """An array in memory."""

    def __init__(
        self, name: str, array: npt.NDArray[Any], dtype: DType | None = None, shape: tuple[int, ...] | None = None
    ) -> None:
        self.name = name
        self.dtype = dtype or from_numpy(array.dtype)
        self.shape = array.shape if shape is None else shape
        self._units = units_of(array, self.dtype)

    @property
    def place(self) -> Hashable:
        return self._units.ctypes.data, self._units.nbytes

    def read(self, start: int, count: int) -> Units:
        return self._units[start : start + count]


class FileInput:
    """A range of a source file."""

    def __init__(self, name: str, dtype: DType, shape: tuple[int, ...], source: ByteSource, offset: int) -> None:
        self.name = name
        self.dtype = dtype
        self.shape = shape
        self.offset = offset
        self._source = source

    @property
    def place(self) -> Hashable:
        return None

    def read(self, start: int, count: int) -> Units:
        size = self.dtype.unit_bytes
        data = self._source.read(self.offset + start * size, count * size, aligned_empty(count * size))
        return data.view(self.dtype.unit)
