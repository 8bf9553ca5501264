"""A part of a tensor by NumPy's basic indexing, reading only the chunks that it touches."""

from __future__ import annotations

import math
import operator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slimtensors.container.header import Tensor
from slimtensors.container.source import aligned_empty
from slimtensors.errors import UsageError
from slimtensors.reading.scheduling import Piece
from slimtensors.reading.tensors import TensorFile

__all__ = ["Axis", "axes_of", "read_slice", "strides_of"]

Array = npt.NDArray[Any]

MAX_RUNS = 1 << 20  # more runs than this are not worth finding one by one


class Axis(NamedTuple):
    """What is taken of one dimension: indices start, start + step, ... (length of them)."""

    start: int
    step: int
    length: int
    drop: bool  # an integer index removes the dimension

    @property
    def low(self) -> int:
        return self.start if self.step > 0 else self.start + (self.length - 1) * self.step

    @property
    def high(self) -> int:
        return self.low + (self.length - 1) * abs(self.step) + 1


def read_slice(file: TensorFile, name: str, index: Any, threads: int) -> Array:
    """`tensor[index]` for integers, slices and an ellipsis; raises UsageError for anything else, IndexError as NumPy
    does.
    """
    position = file.find(name)
    tensor = file.header.tensors[position]
    dtype = tensor.dtype
    axes = axes_of(tensor, index, name)
    shape = tuple(axis.length for axis in axes)
    if math.prod(shape) == 0:
        return _drop(np.empty(shape, dtype.numpy()), axes)
    units_each = dtype.bits // dtype.unit_bits
    strides = strides_of(tensor.shape)
    # The elements wanted lie between these two; only the parts of chunks that are wanted are read.
    low = sum(axis.low * stride for axis, stride in zip(axes, strides, strict=True))
    high = sum((axis.high - 1) * stride for axis, stride in zip(axes, strides, strict=True)) + 1
    span = aligned_empty((high - low) * dtype.bits // 8)
    units = span.view(dtype.unit)
    pieces = [
        Piece(position, (low + a) * units_each, units[a * units_each : b * units_each])
        for a, b in _runs(axes, strides, low, high, _chunk_elements(file, position, units_each))
    ]
    file.fill(pieces, threads)
    itemsize = dtype.numpy().itemsize
    offset = sum(axis.start * stride for axis, stride in zip(axes, strides, strict=True)) - low
    steps = tuple(axis.step * stride * itemsize for axis, stride in zip(axes, strides, strict=True))
    view: Array = np.ndarray(shape, dtype.numpy(), span, offset * itemsize, steps)
    return _drop(np.ascontiguousarray(view).reshape(shape), axes)


def _drop(array: Array, axes: list[Axis]) -> Array:
    return array.reshape(tuple(axis.length for axis in axes if not axis.drop))


def strides_of(shape: tuple[int, ...]) -> list[int]:
    """Elements from one index to the next, for each dimension."""
    return [math.prod(shape[i + 1 :]) for i in range(len(shape))]


def axes_of(tensor: Tensor, index: Any, name: str) -> list[Axis]:
    """What is taken of each dimension."""
    if tensor.dtype.packed:
        raise UsageError(f"tensor {name!r}: {tensor.dtype.name} packs elements into bytes; use get_tensor, not a slice")
    return _axes(index, tensor.shape, name)


def _axes(index: Any, shape: tuple[int, ...], name: str) -> list[Axis]:
    items = list(index) if isinstance(index, tuple) else [index]
    if sum(item is Ellipsis for item in items) > 1:
        raise UsageError(f"tensor {name!r}: an index can have only one ellipsis")
    if any(item is Ellipsis for item in items):
        at = next(i for i, item in enumerate(items) if item is Ellipsis)
        items[at : at + 1] = [slice(None)] * (len(shape) - len(items) + 1)
    if len(items) > len(shape):
        raise IndexError(f"tensor {name!r} has {len(shape)} dimensions, the index has {len(items)}")
    items += [slice(None)] * (len(shape) - len(items))
    return [_axis(item, size, name, i) for i, (item, size) in enumerate(zip(items, shape, strict=True))]


def _axis(item: Any, size: int, name: str, dimension: int) -> Axis:
    if isinstance(item, slice):
        start, stop, step = item.indices(size)
        return Axis(start, step, len(range(start, stop, step)), False)
    number = _integer(item)
    if number is None:
        raise UsageError(f"tensor {name!r}: {item!r} is no index; integers, slices and ... are understood")
    if not -size <= number < size:
        raise IndexError(f"tensor {name!r}: index {number} is out of range for dimension {dimension} of size {size}")
    return Axis(number % size, 1, 1, True)


def _integer(item: Any) -> int | None:
    """An integer, of Python, or of NumPy or torch without dimensions: others of theirs mean lists or masks."""
    dimensions = getattr(item, "ndim", 0)
    if isinstance(item, bool) or "bool" in str(getattr(item, "dtype", "")) or dimensions:
        return None
    try:
        return operator.index(item)
    except TypeError:
        return None


def _chunk_elements(file: TensorFile, position: int, units_each: int) -> int:
    stream = file.header.tensor_stream[file.header.holder(position)]
    assert stream is not None
    return max(1, file.header.streams[stream].chunk // units_each)


def _runs(axes: list[Axis], strides: list[int], low: int, high: int, chunk: int) -> list[tuple[int, int]]:
    """Ranges, from `low`, that cover the elements wanted; gaps shorter than a chunk are not worth leaving out."""
    # Trailing dimensions whose gaps lie within a chunk make one run; the dimensions before them enumerate the runs.
    outer = len(axes)
    while outer and (axes[outer - 1].length == 1 or abs(axes[outer - 1].step) * strides[outer - 1] < chunk):
        outer -= 1
    if math.prod(axis.length for axis in axes[:outer]) > MAX_RUNS:
        return [(0, high - low)]
    starts = np.zeros(1, np.int64)
    for axis, stride in zip(axes[:outer], strides[:outer], strict=True):
        steps = (axis.low + np.arange(axis.length, dtype=np.int64) * abs(axis.step)) * stride
        starts = (starts[:, None] + steps).reshape(-1)
    inner = sum(axis.low * stride for axis, stride in zip(axes[outer:], strides[outer:], strict=True))
    length = sum((axis.high - 1 - axis.low) * s for axis, s in zip(axes[outer:], strides[outer:], strict=True)) + 1
    firsts = np.sort(starts + inner - low)
    return [(int(first), int(first) + length) for first in firsts]
