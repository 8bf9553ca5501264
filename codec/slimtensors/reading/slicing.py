"""A part of a tensor by NumPy's basic indexing, or rows by their numbers, reading only the chunks that it touches."""

from __future__ import annotations

import math
import operator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slimtensors.container.header import Tensor
from slimtensors.container.source import aligned_empty
from slimtensors.dtypes import DType
from slimtensors.errors import UsageError
from slimtensors.reading.scheduling import Piece
from slimtensors.reading.tensors import TensorFile

__all__ = ["Axis", "axes_of", "items_of", "read_slice", "rows_of", "span_of", "strides_of"]

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

    @property
    def item(self) -> int | slice:
        """What takes this of a dimension."""
        if self.drop:
            return self.start
        if not self.length:
            return slice(0, 0)
        stop = self.start + self.length * self.step
        return slice(self.start, stop if stop >= 0 else None, self.step)


def read_slice(file: TensorFile, name: str, index: Any, threads: int) -> Array:
    """`tensor[index]` for integers, slices and an ellipsis, and of the first dimension a list, an array or a tensor of
    integers; raises UsageError for anything else, IndexError as NumPy does.
    """
    position = file.find(name)
    tensor = file.header.tensors[position]
    dtype = tensor.dtype
    rows = rows_of(tensor, index, name)
    if rows is not None:
        return _read_rows(file, position, *rows, threads)
    axes = axes_of(tensor, index, name)
    shape = tuple(axis.length for axis in axes)
    if math.prod(shape) == 0:
        return _drop(np.empty(shape, dtype.numpy()), axes)
    units_each = dtype.bits // dtype.unit_bits
    strides = strides_of(tensor.shape)
    # The elements wanted lie between these two; only the parts of chunks that are wanted are read.
    low, high = span_of(axes, strides)
    span = aligned_empty((high - low) * dtype.bits // 8)
    units = span.view(dtype.unit)
    pieces = [
        Piece(position, (low + a) * units_each, units[a * units_each : b * units_each])
        for a, b in _runs(axes, strides, low, high, _chunk_elements(file, position, units_each))
    ]
    file.fill(pieces, threads)
    view = _views(span, dtype, 1, axes, strides)[0]
    return _drop(np.ascontiguousarray(view).reshape(shape), axes)


def _read_rows(file: TensorFile, position: int, numbers: Array, axes: list[Axis], threads: int) -> Array:
    """Rows, each read once, in the order and as often as they are asked for."""
    dtype = file.header.tensors[position].dtype
    row, *strides = strides_of(file.header.tensors[position].shape)
    kept = tuple(axis.length for axis in axes if not axis.drop)
    rows, places = np.unique(numbers, return_inverse=True)
    if rows.size * math.prod(axis.length for axis in axes) == 0:
        return np.empty((*numbers.shape, *kept), dtype.numpy())
    low, high = span_of(axes, strides)
    units_each, width = dtype.bits // dtype.unit_bits, high - low
    span = aligned_empty(rows.size * width * dtype.bits // 8)
    lines = span.view(dtype.unit).reshape(rows.size, -1)
    # Whole rows that lie side by side make one piece.
    ends = [*(np.flatnonzero((np.diff(rows) > 1) | (width < row)) + 1), rows.size]
    pieces = [
        Piece(position, (int(rows[a]) * row + low) * units_each, lines[a:b].reshape(-1))
        for a, b in zip([0, *ends], ends, strict=False)
    ]
    file.fill(pieces, threads)
    found = _views(span, dtype, rows.size, axes, strides)[places.reshape(-1)]
    return np.ascontiguousarray(found).reshape((*numbers.shape, *kept))


def _views(span: Array, dtype: DType, count: int, axes: list[Axis], strides: list[int]) -> Array:
    """What is taken of each of `count` spans of elements, one behind the other."""
    low, high = span_of(axes, strides)
    itemsize = dtype.numpy().itemsize
    offset = sum(axis.start * stride for axis, stride in zip(axes, strides, strict=True)) - low
    steps = (axis.step * stride * itemsize for axis, stride in zip(axes, strides, strict=True))
    shape = (count, *(axis.length for axis in axes))
    made: Array = np.ndarray(shape, dtype.numpy(), span, offset * itemsize, ((high - low) * itemsize, *steps))
    return made


def span_of(axes: list[Axis], strides: list[int]) -> tuple[int, int]:
    """Between which elements those wanted lie, if there are any."""
    low = sum(axis.low * stride for axis, stride in zip(axes, strides, strict=True))
    return low, sum((axis.high - 1) * stride for axis, stride in zip(axes, strides, strict=True)) + 1


def _drop(array: Array, axes: list[Axis]) -> Array:
    return array.reshape(tuple(axis.length for axis in axes if not axis.drop))


def strides_of(shape: tuple[int, ...]) -> list[int]:
    """Elements from one index to the next, for each dimension."""
    return [math.prod(shape[i + 1 :]) for i in range(len(shape))]


def rows_of(tensor: Tensor, index: Any, name: str) -> tuple[Array, list[Axis]] | None:
    """Numbers of rows, and what is taken of each of a row's dimensions, where an index begins with a list, an array or
    a tensor.
    """
    items = list(index) if isinstance(index, tuple) else [index]
    if not items or not (isinstance(items[0], list) or getattr(items[0], "ndim", 0) > 0):
        return None
    axes = axes_of(tensor, (slice(None), *items[1:]), name)[1:]
    numbers, size = _numbers(items[0], name), tensor.shape[0]
    wrong = numbers[(numbers < -size) | (numbers >= size)]
    if wrong.size:
        raise IndexError(f"tensor {name!r}: index {wrong[0]} is out of range for dimension 0 of size {size}")
    return numbers.astype(np.int64) % max(size, 1), axes


def _numbers(item: Any, name: str) -> Array:
    try:
        found = np.asarray(item.cpu() if hasattr(item, "cpu") else item)
    except (TypeError, ValueError):  # of a tensor with a dtype that NumPy lacks; of lists of unlike lengths
        raise _no_index(item, name) from None
    if isinstance(item, list) and not found.size:
        return found.astype(np.int64)
    if found.dtype.kind not in "iu" or str(getattr(item, "dtype", "")) == "torch.uint8":  # to torch that is a mask
        raise _no_index(item, name)
    return found


def items_of(tensor: Tensor, index: Any, name: str) -> list[Any]:
    """For each dimension an integer, a slice, or an array of integers."""
    numbers, axes = rows_of(tensor, index, name) or (None, axes_of(tensor, index, name))
    return ([] if numbers is None else [numbers]) + [axis.item for axis in axes]


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
        raise _no_index(item, name)
    if not -size <= number < size:
        raise IndexError(f"tensor {name!r}: index {number} is out of range for dimension {dimension} of size {size}")
    return Axis(number % size, 1, 1, True)


def _no_index(item: Any, name: str) -> UsageError:
    return UsageError(
        f"tensor {name!r}: {' '.join(repr(item).split()):.60} is no index here: integers, slices, ... and, of the "
        f"first dimension, lists and arrays of integers are understood; get_tensor({name!r})[index] takes others"
    )


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
