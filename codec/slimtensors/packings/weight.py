"""A quantised weight: which tensors it is made of, and its numbers, piece by piece."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.codecs.casts import cast_units
from slimtensors.codecs.environment import as_usual
from slimtensors.dtypes import DTYPES, DType
from slimtensors.errors import LimitError, UsageError

__all__ = ["Array", "Floats", "PackedWeight", "Parts", "Pieces", "Room", "Rule", "Shape", "UnfitError"]

Array = npt.NDArray[Any]
Floats = npt.NDArray[Any]  # float32
Parts = Mapping[str, Array]  # by what they are in the weight
Shape = tuple[int, ...]

PIECE = 1 << 17  # numbers at a time, so that what lies between stays in the cache


class UnfitError(Exception):
    """Parts that make no weight: what is wrong with them, without the weight's name."""


@dataclass(frozen=True)
class Pieces:
    """The numbers of a weight, to be asked for by rows.

    shape: of the weight. rows, columns: of a matrix in row-major order that begins with all of the weight's numbers.
    numbers: float32[high - low, columns], of these rows.
    """

    shape: Shape
    rows: int
    columns: int
    numbers: Callable[[int, int], Floats]


Rule = Callable[[Parts], Pieces]  # raises UnfitError; memory for numbers is had once it has looked at the parts


class Room:
    """Bytes that numbers may take: as many as the file's tensors, of which they can be a thousand times as large."""

    def __init__(self, allowed: int) -> None:
        self._allowed, self._taken = allowed, 0
        self._lock = threading.Lock()

    def take(self, name: str, count: int) -> None:
        """Raises LimitError, before memory is had, if there are not so many left."""
        with self._lock:
            self._taken += count
            if self._taken > self._allowed:
                raise LimitError(
                    f"tensor {name!r} takes {count} bytes as numbers, with those before it {self._taken}; "
                    f"{self._allowed} are allowed for this file. If you trust it, pass max_bytes"
                )


@dataclass(frozen=True)
class PackedWeight:
    """A weight of the unquantised model, and the tensors that stand for it."""

    name: str
    format: str
    parts: Mapping[str, str]  # what each is in the weight, and the tensor's name
    rule: Rule

    @as_usual
    def numbers(self, parts: Parts, dtype: DType, room: Room) -> Array:
        """The weight in a dtype: F32, F16 or BF16. Raises UsageError, and LimitError where there is no room for it."""
        with np.errstate(all="ignore"):  # scales may be anything
            try:
                _check_sizes(parts)
                pieces = self.rule(parts)
                room.take(self.name, pieces.rows * pieces.columns * dtype.unit_bytes)
                return _filled(pieces, dtype)
            except UnfitError as error:
                raise UsageError(
                    f"tensor {self.name!r}, packed as by {self.format}: {error}; load it as it is, without dequantise"
                ) from None


def _check_sizes(parts: Parts) -> None:
    """Nothing stored may be any number of rows."""
    for part, array in parts.items():
        if array.ndim > 1 and not array.size:
            raise UnfitError(f"{part} of shape {list(array.shape)} holds nothing")


def _filled(pieces: Pieces, dtype: DType) -> Array:
    count = math.prod(pieces.shape)
    out = np.empty((pieces.rows, pieces.columns), dtype.unit)
    if out.size < count:
        raise UnfitError(f"{out.size} numbers for the shape {list(pieces.shape)}")
    step = max(1, PIECE // max(1, pieces.columns))
    for low in range(0, pieces.rows, step):
        high = min(low + step, pieces.rows)
        found = np.ascontiguousarray(pieces.numbers(low, high), np.float32)
        units = found.view("<u4").reshape(-1)
        out[low:high] = cast_units(units, DTYPES["F32"], dtype).reshape(high - low, pieces.columns)
    return out.reshape(-1)[:count].view(dtype.numpy()).reshape(pieces.shape)
