"""What the kernel that puts zeros back is told: masks, and how many values come before each piece of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slimtensors.device.chunks import Chunk
from slimtensors.kernels.cpu.sparse import count_each
from slimtensors.kernels.cuda import rows
from slimtensors.kernels.status import must

__all__ = ["Scattered", "scattered", "values_of"]

Array = npt.NDArray[Any]

GROUP = 128
WORD_BITS = 32
RANKED_WORDS = rows.RANKED_UNITS // WORD_BITS


class Scattered(NamedTuple):
    """Items, the chunk of each, masks and ranks one after another."""

    items: Array
    owners: Array
    masks: Array
    ranks: Array


def values_of(mask: Array) -> tuple[Array, int]:
    """(how many values come before each 1024 units, and behind the last)."""
    counts = np.empty(-(-mask.size // RANKED_WORDS), np.uint32)
    must(count_each(mask, RANKED_WORDS, counts))
    ranks = np.zeros(counts.size + 1, np.uint32)
    np.cumsum(counts, out=ranks[1:])
    return ranks[:-1], int(ranks[-1])


def scattered(
    chunks: Sequence[Chunk], ranks: Sequence[tuple[Array, int] | None], places: list[int], values: list[int],
    listed: list[int], over: bool,
) -> Scattered:  # fmt: skip
    """For the bodies of the chunks listed, whose units go to `places` and whose values are at `values`. over: whether
    other units are there already, and stay.
    """
    items: list[tuple[int, ...]] = []
    owners, masks, all_ranks = [], [], []
    mask_at = rank_at = 0
    for i in listed:
        mask, known = chunks[i].mask, ranks[i]
        assert mask is not None
        assert known is not None
        counted, count = known
        whole = -(-count // GROUP) * GROUP
        for done in range(0, mask.size, rows.WARPS * RANKED_WORDS):
            to = places[i] + WORD_BITS * done
            words = min(rows.WARPS * RANKED_WORDS, mask.size - done)
            where = (to & 0xFFFFFFFF, to >> 32, words, values[i] & 0xFFFFFFFF, values[i] >> 32, max(whole, 1) - 1)
            filled = (count, whole) if done == 0 else (0, 0)
            items.append((*where, mask_at + done, rank_at + done // RANKED_WORDS, *filled, int(over)))
            owners.append(i)
        masks.append(mask)
        all_ranks.append(counted)
        mask_at, rank_at = mask_at + mask.size, rank_at + counted.size
    return Scattered(
        np.array(items, np.uint32).reshape(-1),
        np.array(owners, np.int64),
        np.concatenate([np.empty(0, np.uint32), *masks]),
        np.concatenate([np.empty(0, np.uint32), *all_ranks]),
    )
