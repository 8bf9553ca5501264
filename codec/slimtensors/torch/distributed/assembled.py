"""The tensors of a checkpoint of ours as whole ones, a few chunks of a few files in memory at a time."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.bases.tensors import StoredInput
from slimtensors.checkpoint.ledger import find_checkpoint
from slimtensors.checkpoint.manifest import Entry
from slimtensors.checkpoint.opening import check_parts, find_part, open_rank, parts_by_file, read_objects
from slimtensors.checkpoint.places import StorePlace
from slimtensors.container.lossy import Lossy
from slimtensors.dtypes import DTYPES, units_of
from slimtensors.reading.slicing import read_slice
from slimtensors.reading.tensors import TensorFile

__all__ = ["AssembledInput", "OpenCheckpoint"]

OPEN_FILES = 16

Units = npt.NDArray[Any]


class OpenCheckpoint:
    """A checkpoint whose files are opened as they are needed."""

    def __init__(self, place: StorePlace) -> None:
        self.place, self.manifest = find_checkpoint(place)
        self._files: OrderedDict[int, TensorFile] = OrderedDict()

    def file(self, number: int) -> TensorFile:
        """One of its files; the one used longest ago is closed for it if there are many."""
        if number not in self._files:
            while len(self._files) >= OPEN_FILES:
                self._files.popitem(last=False)[1].close()
            self._files[number] = open_rank(self.place, self.manifest, number)
        self._files.move_to_end(number)
        return self._files[number]

    def inputs(self) -> list[AssembledInput]:
        """Its tensors. Raises FormatError unless all of their parts are in its files."""
        for number, parts in enumerate(parts_by_file(self.manifest)):
            check_parts(self.file(number), self.manifest, parts)
        return [AssembledInput(self, name, entry) for name, entry in self.manifest.tensors.items()]

    def objects(self) -> dict[str, Any]:
        """What is no tensor, encoded."""
        found: dict[str, Any] = {}
        for number in sorted(set(self.manifest.objects.values())):
            names = [name for name, at in self.manifest.objects.items() if at == number]
            found |= read_objects(self.file(number), names, 1)
        return found

    def close(self) -> None:
        while self._files:
            self._files.popitem()[1].close()


class AssembledInput:
    """A tensor put together from its parts, some rows of the first dimension at a time."""

    encoding: str | None = None
    lossy: Lossy | None = None

    def __init__(self, checkpoint: OpenCheckpoint, name: str, entry: Entry) -> None:
        self.name, self.dtype, self.shape = name, DTYPES[entry.dtype], entry.shape
        self._checkpoint, self._entry = checkpoint, entry

    @property
    def place(self) -> Hashable:
        return None

    def read(self, start: int, count: int) -> Units:
        if not count:  # a row may have no units
            return units_of(np.empty(0, self.dtype.numpy()), self.dtype)
        if isinstance(self._entry.told, int):  # of elements that are no whole bytes, too
            part = self._entry.parts[0]
            file = self._checkpoint.file(part[0])
            return StoredInput(file, file.find(find_part(file, self.name, self._entry, part))).read(start, count)
        each = self.dtype.bits // self.dtype.unit_bits
        row = math.prod(self.shape[1:]) * each
        first, end = start // row, -(-(start + count) // row)
        rows = self._rows(first, end)
        return units_of(rows, self.dtype)[start - first * row : start - first * row + count]

    def _rows(self, first: int, end: int) -> Units:
        out = np.empty((end - first, *self.shape[1:]), self.dtype.numpy())
        for part in self._entry.parts:
            _, offsets, sizes = self._entry.split(part)
            low, high = max(first, offsets[0]), min(end, offsets[0] + sizes[0])
            if low < high and 0 not in sizes:
                inner = tuple(slice(o, o + n) for o, n in zip(offsets[1:], sizes[1:], strict=True))
                box = (slice(low - first, high - first), *inner)
                out[box] = self._part(part, slice(low - offsets[0], high - offsets[0]))
        return out

    def _part(self, part: list[int], index: Any) -> Units:
        file = self._checkpoint.file(part[0])
        return read_slice(file, find_part(file, self.name, self._entry, part), index, 1)
