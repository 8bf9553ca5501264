"""Memory that is used again for each chunk, because touching fresh pages costs as much as coding them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from slimtensors.limits import MAX_CHUNK_BYTES

__all__ = ["Buffers", "own", "work_space"]

T = TypeVar("T")

KEPT_BYTES = 4 * 1024 * 1024  # larger requests, for chunks of other writers, are not kept


class _Local(threading.local):
    def __init__(self) -> None:
        self.buffers: dict[str, npt.NDArray[np.uint8]] = {}


_local = _Local()


def work_space(name: str, size: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """An uninitialised array, valid until this thread asks for the same name again."""
    dtype = np.dtype(dtype)
    length = size * dtype.itemsize
    assert length <= 4 * MAX_CHUNK_BYTES
    if length > KEPT_BYTES:
        return np.empty(size, dtype)
    buffers = _local.buffers
    buffer = buffers.get(name)
    if buffer is None or buffer.size < length:
        buffer = buffers[name] = np.empty(max(length, 2 * (0 if buffer is None else buffer.size)), np.uint8)
    return buffer[:length].view(dtype)


def own(name: str, make: Callable[[], T]) -> T:
    """What `make` made for this thread, at its first call."""
    found: T | None = getattr(_local, name, None)
    if found is None:
        found = make()
        setattr(_local, name, found)
    return found


class Buffers:
    """Memory for chunks that one thread makes and another one is done with."""

    def __init__(self) -> None:
        self._free: deque[npt.NDArray[np.uint8]] = deque()

    def take(self, length: int) -> npt.NDArray[np.uint8]:
        """At least so many bytes, uninitialised."""
        with suppress(IndexError):  # none is free
            buffer = self._free.pop()
            if buffer.size >= length:
                return buffer
        return np.empty(length, np.uint8)

    def give_back(self, data: bytes | memoryview) -> None:
        """What lies in memory that was taken; anything else is left alone. Nobody may look at it any more."""
        buffer = data.obj.base if isinstance(data, memoryview) and isinstance(data.obj, np.ndarray) else None
        if isinstance(buffer, np.ndarray):
            self._free.append(buffer)
