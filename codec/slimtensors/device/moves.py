"""What the kernel that moves a base is told: factors, and which row and column a unit is in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slimtensors.device.chunks import Chunk
from slimtensors.device.items import pieces
from slimtensors.expression import LowRank

__all__ = ["Moves", "factors_of", "moves_of"]

Array = npt.NDArray[Any]


class Moves(NamedTuple):
    """Items, one for up to ITEM_UNITS units, and the factors of all tensors."""

    items: Array
    factors: Array  # int32


def moves_of(
    chunks: Sequence[Chunk],
    bodies: list[int],
    places: list[int],
    bases: list[int],
    listed: list[int],
    by: LowRank | None,
) -> Moves:
    """For the bodies of the chunks listed, whose bases begin at `bases` and go to `places` when they are moved."""
    factors, starts = factors_of([chunks[i] for i in listed], by)
    items: list[tuple[int, ...]] = []
    for i in [] if by is None else listed:
        assert by is not None
        left, right = chunks[i].sides[by.left], chunks[i].sides[by.right]
        rank, length = right.shape
        numbers = starts[id(left)], starts[id(right)], rank, by.shift, int(left.itemsize == 2), 0, 0, 0
        for done, words in pieces(bodies[i], places[i], bases[i]):
            items.append((*words, *divmod(chunks[i].first + done, length), length, *numbers))
    return Moves(np.array(items, np.uint32).reshape(-1), factors)


def factors_of(chunks: Sequence[Chunk], by: LowRank | None) -> tuple[Array, dict[int, int]]:
    """Those of all chunks' tensors, each array once, and where they begin, by the array's id."""
    wanted = () if by is None else (by.left, by.right)
    found = {id(chunk.sides[side]): chunk.sides[side] for chunk in chunks for side in wanted}
    ends = np.cumsum([0, *(side.size for side in found.values())]).tolist()
    parts = [side.reshape(-1).view(f"<i{side.itemsize}").astype(np.int32) for side in found.values()]
    return np.concatenate([*parts, np.zeros(1, np.int32)]), dict(zip(found, ends, strict=False))
