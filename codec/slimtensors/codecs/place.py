"""Where a chunk lies in its stream, and the side planes that it needs."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slimtensors.codecs.rows import Rows
from slimtensors.dtypes import DType

__all__ = ["NOWHERE", "Counted", "Place"]


class Counted(NamedTuple):
    """How often symbols occur in a plane of mode coded."""

    base: int
    escaped: int
    counts: npt.NDArray[np.uint32]  # [room, 256]


class Place(NamedTuple):
    """A chunk's place. Side planes are those of the tensor, decoded and checked, in their shapes."""

    units: int  # of the stream
    first: int = 0  # the chunk's first unit, counted from the stream's
    sides: tuple[npt.NDArray[Any], ...] = ()
    dtype: DType | None = None  # of the tensor, where the units alone do not tell what is wanted
    base: npt.NDArray[Any] | None = None  # the base's units in the chunk's range, for an expression that has a base
    # To encode a chunk: what codes make of it, before it is added to something (F32) or outliers are put over it.
    numbers: npt.NDArray[Any] | None = None
    # To encode the only chunk of a stream: how often the symbols of its last plane occur, if that is known.
    counted: Counted | None = None

    def rows(self, side: int) -> Rows:
        """A side plane of flags, one for each row."""
        flags = self.sides[side]
        return Rows(flags, self.units // flags.size, self.first)


NOWHERE = Place(0)  # for expressions that need no side planes
