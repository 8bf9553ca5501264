"""What the kernel is told that adds numbers from codes to a base, or to a matrix product."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from slimtensors.device.chunks import Chunk
from slimtensors.device.items import pieces
from slimtensors.device.moves import Moves, factors_of
from slimtensors.expression import LowRank

__all__ = ["summed"]


def summed(
    chunks: Sequence[Chunk],
    bodies: list[int],
    places: list[int],
    numbers: list[int],
    bases: list[int],
    listed: list[int],
    product: LowRank | None,
) -> Moves:
    """For the bodies of the chunks listed, whose numbers are at `numbers` and whose bases at `bases`, if there is no
    product to add to; the sums go to `places`.
    """
    factors, starts = factors_of([chunks[i] for i in listed], product)
    items: list[tuple[int, ...]] = []
    for i in listed:
        length, of_factors = 1, (0, 0, 0, 0, 0)
        if product is not None:
            left, right = chunks[i].sides[product.left], chunks[i].sides[product.right]
            rank, length = right.shape
            of_factors = starts[id(left)], starts[id(right)], rank, product.shift, int(left.itemsize == 2)
        for done, words in pieces(bodies[i], places[i], bases[i]):
            at = numbers[i] + done
            where = (*divmod(chunks[i].first + done, length), length) if product is not None else (0, 0, 1)
            items.append((*words, *where, *of_factors, at & 0xFFFFFFFF, at >> 32, int(product is None)))
    return Moves(np.array(items, np.uint32).reshape(-1), factors)
