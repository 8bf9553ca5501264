"""Rows that lack a field: which units of a chunk have it (format_spec/expressions.md, section 3)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from slimtensors.codecs.head import GROUP, Bytes, up

__all__ = ["Rows"]


class Rows(NamedTuple):
    """The side plane of a tensor, as one of its chunks sees it."""

    present: Bytes  # uint8[rows], 1 or 0
    length: int  # units of a row
    first: int  # the chunk's first unit, counted from the tensor's

    def mask(self, units: int) -> npt.NDArray[np.bool_]:
        """For each of the chunk's first `units` units, whether its row has the field."""
        # row = floor((first + i) / length)
        low, high = self.first // self.length, -(-(self.first + units) // self.length)
        mask = np.repeat(self.present[low:high] != 0, self.length)
        skip = self.first - low * self.length
        return mask[skip : skip + units]

    def count(self, units: int) -> int:
        """How many of them have it."""
        low, high = self.first, self.first + units
        first, last = low // self.length, (high - 1) // self.length
        whole = int(np.count_nonzero(self.present[first : last + 1])) * self.length
        cut_front = (low - first * self.length) * int(self.present[first] != 0)
        cut_back = ((last + 1) * self.length - high) * int(self.present[last] != 0)
        return whole - cut_front - cut_back

    def compact(self, fields: npt.NDArray[np.integer]) -> npt.NDArray[np.integer]:
        """The fields of rows that have one, followed by zeros up to whole groups."""
        kept = fields[self.mask(fields.size)]
        out = np.zeros(up(kept.size, GROUP), fields.dtype)
        out[: kept.size] = kept
        return out

    def expand(self, compact: npt.NDArray[np.integer], units: int) -> npt.NDArray[np.integer]:
        """The inverse of `compact`; 0 for rows without the field."""
        out = np.zeros(units, compact.dtype)
        mask = self.mask(units)
        out[mask] = compact[: int(np.count_nonzero(mask))]
        return out
