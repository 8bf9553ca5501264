"""A chunk to decode, with what its layout needs."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy.typing as npt

from slimtensors.device.backend import Buffer

__all__ = ["Chunk"]

Array = npt.NDArray[Any]


class Chunk(NamedTuple):
    """Its bytes' place and length in the segment, and those of its decoded bytes in the buffer that has them all.

    What follows is for layouts that are decoded plane by plane: its first unit in its stream, the stream's units, the
    tensor's side planes, its base's units, on the device, and its mask.
    """

    at: int
    length: int
    place: int
    size: int
    first: int = 0
    units: int = 0
    sides: tuple[Array, ...] = ()
    base: Buffer | None = None
    base_digest: int | None = None  # that the base must have, where the CPU has not seen it
    mask: Array | None = None  # uint32, of a chunk that leaves zeros out
