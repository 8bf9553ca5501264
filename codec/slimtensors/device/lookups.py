"""What the kernels that look codes up are told: palettes, scales, and which run a unit is in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slimtensors.codecs.lookup import multiplied, numbers_of
from slimtensors.device.chunks import Chunk
from slimtensors.device.items import pieces
from slimtensors.device.joined import Joined
from slimtensors.expression import Gather, Mul

__all__ = ["CODE_BYTES", "WIDE_CODE_BYTES", "LookedUp", "divided", "looked_up"]

Array = npt.NDArray[Any]

CODE_BYTES, WIDE_CODE_BYTES = 2, 8  # of a code, on the device; of a decimal's
DIVISOR_BITS = 53


class LookedUp(NamedTuple):
    """Items, one for up to ITEM_UNITS units, the chunk of each, and what they look up."""

    items: Array
    owners: Array
    palettes: Array
    scales: Array


def looked_up(
    chunks: Sequence[Chunk],
    bodies: list[int],
    places: list[int],
    codes: list[int],
    listed: list[int],
    unit_bytes: int,
    made: Any,
) -> LookedUp:
    """For the bodies of the chunks listed, whose units go to `places` and whose codes are at `codes`; of what has no
    palette, nothing. made: the expression of these codes.
    """
    kind = np.dtype(f"<u{unit_bytes if isinstance(made, Gather) else 4}")
    palettes, scales = Joined(kind), Joined(np.dtype("<u4"))
    items: list[tuple[int, ...]] = []
    owners: list[int] = []
    for i in listed if isinstance(made, Gather | Mul) else []:
        gather = made.gather if isinstance(made, Mul) else made
        palette, low, scale_at, offset_at = chunks[i].sides[gather.palette], 0, 0, 0
        if isinstance(made, Mul):
            runs, each = chunks[i].sides[made.factors[0][0]].size, 0
            # Those of the chunk's own runs; two factors are multiplied here, once for each run.
            length = chunks[i].units // runs
            low, high = chunks[i].first // length, -(-(chunks[i].first + bodies[i]) // length)
            scale_at, *offsets = (
                scales.append(multiplied(factors, chunks[i].sides, low, high)) for factors in made.factors
            )
            offset_at = offsets[0] if offsets else 0
            first = palettes.add(palette, numbers_of)
        else:
            runs = palette.shape[0] if palette.ndim == 2 else 1
            each = palette.shape[-1] if palette.ndim == 2 else 0
            length, first = chunks[i].units // runs, palettes.add(palette)
        for done, words in pieces(bodies[i], places[i], codes[i]):
            run, column = divmod(chunks[i].first + done, length)
            of_runs = scale_at, each, offset_at, 0
            items.append((*words, run - low, column, length, 0, 0, first, palette.shape[-1], *of_runs))
            owners.append(i)
    listing = np.array(items, np.uint32).reshape(-1)
    return LookedUp(listing, np.array(owners, np.int64), palettes.array(), scales.array())


def divided(bodies: list[int], places: list[int], codes: list[int], listed: list[int], power: int) -> Array:
    """Items for decimals over 10^power = 5^power * 2^power; no code can be wrong."""
    five = 5**power
    up = DIVISOR_BITS - five.bit_length()
    divisor = five << up
    # code / (five * 2^power) = code / divisor * 2^(up - power)
    numbers = divisor & 0xFFFFFFFF, divisor >> 32, power + DIVISOR_BITS - 1 - up
    items: list[tuple[int, ...]] = []
    for i in listed:
        items += [(*words, *numbers, *(0,) * 8) for _, words in pieces(bodies[i], places[i], codes[i])]
    return np.array(items, np.uint32).reshape(-1)
