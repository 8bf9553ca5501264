"""What is wanted of which tensor: whole, a range of rows, or a part of another dimension, as ranks of a
tensor-parallel model take them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy.typing as npt

from slimtensors.container.source import aligned_empty
from slimtensors.errors import UsageError
from slimtensors.reading.scheduling import Destination, Piece, Range
from slimtensors.reading.tensors import TensorFile

__all__ = ["Columns", "Plan", "Wanted", "plan_items", "want"]

Units = npt.NDArray[Any]
Part = slice | tuple[slice, ...] | None
Plan = Mapping[str, Part]


class Columns(NamedTuple):
    """A part of every row: of each `row` units those from `low` on, as many as `out` is wide."""

    tensor: int
    row: int
    low: int
    out: Units  # two-dimensional

    @property
    def wanted(self) -> Range:
        return Range(self.tensor, 0, self.out.shape[0] * self.row)

    def memory(self, _start: int, _units: int) -> None:
        return None

    def put(self, start: int, found: Units) -> None:
        at = 0
        while at < found.size:
            first, skip = divmod(start + at, self.row)
            if skip or found.size - at < self.row:
                count = min(self.row - skip, found.size - at)
                self._put_part(first, skip, found[at : at + count])
            else:
                rows = (found.size - at) // self.row
                count = rows * self.row
                whole = found[at : at + count].reshape(rows, self.row)
                self.out[first : first + rows] = whole[:, self.low : self.low + self.out.shape[1]]
            at += count

    def _put_part(self, row: int, skip: int, found: Units) -> None:
        """Units of one row, from its `skip`th on."""
        a, b = max(self.low, skip), min(self.low + self.out.shape[1], skip + found.size)
        if a < b:
            self.out[row, a - self.low : b - self.low] = found[a - skip : b - skip]


class Wanted(NamedTuple):
    """One tensor, or a part of it, to be handed out."""

    file: TensorFile
    name: str
    tensor: int
    shape: tuple[int, ...]
    dimension: int = 0  # that is cut
    start: int = 0  # on that dimension

    @property
    def nbytes(self) -> int:
        return self.file.header.tensors[self.tensor].dtype.bytes_of(self.shape)

    @property
    def range(self) -> Range:
        """The units of the tensor that are needed for it."""
        tensor = self.file.header.tensors[self.tensor]
        if self.dimension:
            return Range(self.tensor, 0, tensor.nbytes // tensor.dtype.unit_bytes if self.nbytes else 0)
        each = 1 if tensor.dtype.packed else tensor.dtype.bits // tensor.dtype.unit_bits
        first = self.start * math.prod(tensor.shape[1:]) * each
        return Range(self.tensor, first, self.nbytes // tensor.dtype.unit_bytes)

    def place(self) -> tuple[Units, Destination]:
        """Fresh memory, and how it is filled."""
        tensor = self.file.header.tensors[self.tensor]
        out: Units = aligned_empty(self.nbytes).view(tensor.dtype.unit)
        each = 1 if tensor.dtype.packed else tensor.dtype.bits // tensor.dtype.unit_bits
        inner = math.prod(tensor.shape[self.dimension + 1 :]) * each
        if self.dimension == 0:
            return out, Piece(self.tensor, self.start * inner, out)
        row = tensor.shape[self.dimension] * inner
        width = self.shape[self.dimension] * inner
        return out, Columns(self.tensor, row, self.start * inner, out.reshape(-1, width) if width else out[:0, None])


def plan_items(file: TensorFile, plan: Plan | None) -> list[Wanted]:
    """What a plan asks of a file, in the plan's order; everything, in the file's order, if there is none."""
    if plan is None:
        return [want(file, name, None) for name in file.index]
    if not isinstance(plan, Mapping):
        raise UsageError(f"the plan is a {type(plan).__name__}; a dict from names to None or slices is needed")
    return [want(file, name, part) for name, part in plan.items()]


def want(file: TensorFile, name: str, part: Part) -> Wanted:
    """part: None for the whole tensor; a slice of the first dimension; or one for each of the first dimensions, of
    which only one leaves something out. Steps other than 1 raise UsageError.
    """
    index = file.find(name)
    tensor = file.header.tensors[index]
    shape = tensor.shape
    parts = () if part is None else part if isinstance(part, tuple) else (part,)
    if not all(isinstance(each, slice) for each in parts):
        raise UsageError(f"tensor {name!r}: the plan has {part!r}; None, a slice or a tuple of slices are understood")
    if len(parts) > len(shape):
        raise UsageError(f"tensor {name!r} has {len(shape)} dimensions, the plan has slices for {len(parts)}")
    cuts = [each.indices(size) for each, size in zip(parts, shape, strict=False)]
    if any(step != 1 for _, _, step in cuts):
        raise UsageError(f"tensor {name!r}: a slice in a plan has a step other than 1")
    ranges = [(start, max(0, stop - start)) for start, stop, _ in cuts]
    narrowed = [i for i, (start, count) in enumerate(ranges) if (start, count) != (0, shape[i])]
    if not narrowed:
        return Wanted(file, name, index, shape)
    if len(narrowed) > 1:
        raise UsageError(f"tensor {name!r}: a plan can cut one dimension, this one cuts {len(narrowed)}; use get_slice")
    if tensor.dtype.packed:
        raise UsageError(f"tensor {name!r}: {tensor.dtype.name} packs elements into bytes; take it whole")
    cut = narrowed[0]
    start, count = ranges[cut]
    return Wanted(file, name, index, (*shape[:cut], count, *shape[cut + 1 :]), cut, start)
