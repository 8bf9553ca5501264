"""What the kernels that look codes up are told: palettes, scales, and which run a unit is in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from slimtensors.codecs.lookup import numbers_of
from slimtensors.device.items import pieces
from slimtensors.device.segments import Chunk
from slimtensors.expression import Decimal, Gather, Mul

__all__ = ["CODE_BYTES", "WIDE_CODE_BYTES", "LookedUp", "divided", "looked_up"]

Array = npt.NDArray[Any]

CODE_BYTES, WIDE_CODE_BYTES = 2, 8  # of a code, on the device; of a decimal's
DIVISOR_BITS = 53


class _Layout(Protocol):
    @property
    def unit_bytes(self) -> int: ...

    @property
    def codes(self) -> Gather | Mul | Decimal | None: ...


class LookedUp(NamedTuple):
    """Items, one for up to ITEM_UNITS units, the chunk of each, and what they look up."""

    items: Array
    owners: Array
    palettes: Array
    scales: Array


def looked_up(
    chunks: Sequence[Chunk], bodies: list[int], places: list[int], codes: list[int], listed: list[int], layout: _Layout
) -> LookedUp:
    """For the bodies of the chunks listed, whose units go to `places` and whose codes are at `codes`."""
    kind = np.dtype(f"<u{layout.unit_bytes if isinstance(layout.codes, Gather) else 4}")
    palettes, scales = _Joined(kind), _Joined(np.dtype("<u4"))
    items: list[tuple[int, ...]] = []
    owners: list[int] = []
    for i in [] if layout.codes is None or isinstance(layout.codes, Decimal) else listed:
        assert isinstance(layout.codes, Gather | Mul)
        gather = layout.codes.gather if isinstance(layout.codes, Mul) else layout.codes
        assert gather is not None
        palette, scale_at, each = chunks[i].sides[gather.palette], 0, 0
        if isinstance(layout.codes, Mul):
            assert isinstance(layout.codes.scale, int)
            scale = chunks[i].sides[layout.codes.scale]
            runs, scale_at = scale.size, scales.add(scale)
            first = palettes.add(palette, numbers_of)
        else:
            runs = palette.shape[0] if palette.ndim == 2 else 1
            each = palette.shape[-1] if palette.ndim == 2 else 0
            first = palettes.add(palette)
        length = chunks[i].units // runs
        for done, words in pieces(bodies[i], places[i], codes[i]):
            run, column = divmod(chunks[i].first + done, length)
            items.append((*words, run, column, length, 0, 0, first, palette.shape[-1], scale_at, each, 0, 0))
            owners.append(i)
    made = np.array(items, np.uint32).reshape(-1)
    return LookedUp(made, np.array(owners, np.int64), palettes.array(), scales.array())


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


class _Joined:
    """Arrays one after another, each once."""

    def __init__(self, kind: np.dtype[Any]) -> None:
        self._kind, self._size = kind, 0
        self._found: dict[int, int] = {}
        self._parts: list[Array] = []

    def add(self, side: Array, numbers: Any = None) -> int:
        """Where its first entry is. numbers: what makes it of the kind, if it is not."""
        if id(side) not in self._found:
            self._found[id(side)] = self._size
            part = (side if numbers is None else numbers(side)).reshape(-1).view(self._kind)
            self._parts.append(part)
            self._size += part.size
        return self._found[id(side)]

    def array(self) -> Array:
        return np.concatenate(self._parts) if self._parts else np.zeros(1, self._kind)
