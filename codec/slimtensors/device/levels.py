"""What the kernels of a uniform grid are told: its step and zero, what the step is times, and states of a trellis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slimtensors.device.chunks import Chunk
from slimtensors.device.items import pieces
from slimtensors.device.joined import Joined
from slimtensors.expression import Trellis
from slimtensors.kernels.cuda import rows

__all__ = ["Levelled", "levelled"]

Array = npt.NDArray[Any]


class Levelled(NamedTuple):
    """Items, one for up to ITEM_UNITS units, scales of rows and columns, and how many bytes of states there are."""

    items: Array
    scales: Array  # uint32
    ends: int


def levelled(
    chunks: Sequence[Chunk], bodies: list[int], places: list[int], codes: list[int], listed: list[int], grid: Any
) -> Levelled:
    """For the bodies of the chunks listed, whose units go to `places` and whose codes are at `codes`; of what is no
    trellis, nothing. No code can be wrong.
    """
    scales, items, ends = Joined(np.dtype("<u4")), list[tuple[int, ...]](), 0
    for i in listed if isinstance(grid, Trellis) else []:
        assert isinstance(grid, Trellis)
        length, of_rows, of_columns = max(chunks[i].units, 1), rows.NOWHERE, rows.NOWHERE
        if grid.rows is not None and grid.columns is not None:
            columns = chunks[i].sides[grid.columns]
            length = columns.size
            of_rows, of_columns = scales.add(chunks[i].sides[grid.rows]), scales.add(columns)
        twice, begins = int(grid.states > 1), ends
        for done, words in pieces(bodies[i], places[i], codes[i]):
            where = (*divmod(chunks[i].first + done, length), length, of_rows, of_columns)
            segment = done // rows.SEGMENT_UNITS
            items.append((*words, *where, grid.zero, grid.step, twice, begins, segment, 0))
            ends += twice * rows.THREADS
    return Levelled(np.array(items, np.uint32).reshape(-1), scales.array(), ends)
