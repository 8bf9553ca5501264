"""Side planes of several chunks, one after another in one array for the device."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Joined"]

Array = npt.NDArray[Any]


class Joined:
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

    def append(self, numbers: Array) -> int:
        """Where the first of these is, which nobody else asks for."""
        begin = self._size
        self._parts.append(numbers.view(self._kind))
        self._size += numbers.size
        return begin

    def array(self) -> Array:
        """All of them; of none, one zero."""
        return np.concatenate(self._parts) if self._parts else np.zeros(1, self._kind)
