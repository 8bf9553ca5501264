"""Chunks of a fused kernel's layout, some of which have planes in modes that it lacks: these go plane by plane."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slimtensors.device.backend import Backend, Buffer
from slimtensors.device.segments import Work

__all__ = ["split"]

Array = npt.NDArray[Any]

APART = "apart "  # before the names of lists of what goes plane by plane


class _Split(NamedTuple):
    fused: Work
    apart: Work
    numbers: Array  # of the chunks of `apart`, in the segment

    @property
    def left(self) -> list[int]:
        found: list[int] = self.numbers[self.apart.left].tolist()
        return found

    @property
    def owners(self) -> Array:
        return np.concatenate([self.fused.owners, self.numbers[self.apart.owners]])

    def launch(
        self, backend: Backend, stored: Buffer, lists: Mapping[str, Buffer], out: Buffer, bases: Buffer, status: Buffer
    ) -> None:
        end = 4 * self.fused.owners.size
        self.fused.launch(backend, stored, lists, out, bases, status[:end])
        theirs = {name[len(APART) :]: each for name, each in lists.items() if name.startswith(APART)}
        self.apart.launch(backend, stored, theirs, out, bases, status[end:])


def split(
    fused: tuple[Work, dict[str, Array]], apart: tuple[Work, dict[str, Array]], numbers: Sequence[int]
) -> tuple[Work, dict[str, Array]]:
    """Both, as one segment's work and lists. numbers: of the chunks that are apart."""
    lists = fused[1] | {APART + name: array for name, array in apart[1].items()}
    return _Split(fused[0], apart[0], np.array(numbers, np.int64)), lists
