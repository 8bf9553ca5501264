"""Rows that lack a field: which units of a chunk have it (format_spec/expressions.md, section 3.1)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slimtensors.codecs.head import GROUP, Bytes, up
from slimtensors.kernels.status import must

__all__ = ["Rows"]


class Rows(NamedTuple):
    """The side plane of a tensor, as one of its chunks sees it."""

    present: Bytes  # uint8[rows], 1 or 0
    length: int  # units of a row
    first: int  # the chunk's first unit, counted from the tensor's

    def count(self, units: int) -> int:
        """How many of them have it."""
        low, high = self.first, self.first + units
        first, last = low // self.length, (high - 1) // self.length
        whole = int(np.count_nonzero(self.present[first : last + 1])) * self.length
        cut_front = (low - first * self.length) * int(self.present[first] != 0)
        cut_back = ((last + 1) * self.length - high) * int(self.present[last] != 0)
        return whole - cut_front - cut_back

    def compact(self, fields: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The fields of rows that have one, followed by zeros up to whole groups."""
        count = self.count(fields.size)
        out = np.empty(up(count, GROUP), fields.dtype)
        out[count:] = 0
        from slimtensors.kernels.cpu.rows import compact_rows  # loads Numba, which counting can do without

        must(compact_rows(fields, self.present, self.length, self.first, out[:count]))
        return out

    def join(self, compact: npt.NDArray[Any], shift: int, units: npt.NDArray[Any]) -> None:
        """Put such fields, without the zeros, into units where they belong: unit |= field << shift."""
        from slimtensors.kernels.cpu.rows import join_rows

        must(join_rows(compact, self.present, self.length, self.first, shift, units))

    def spread(self, compact: npt.NDArray[Any], others: npt.NDArray[Any], units: npt.NDArray[Any]) -> None:
        """Fill units: those in rows that have one from `compact`, the rest from `others`."""
        from slimtensors.kernels.cpu.rows import spread_rows

        must(spread_rows(compact, others, self.present, self.length, self.first, units))
