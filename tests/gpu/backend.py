"""A device that is the runner: all memory is one arena, kernels run as they are launched."""

from __future__ import annotations

import threading
import weakref
from contextlib import nullcontext

import numpy as np

from gpu.lockstep import Cuda, Fresh, Types, device, launch
from slimtensors.kernels.cuda.catalogue import KERNELS
from slimtensors.kernels.cuda.seam import Seam

POISON = 0xA5


class Buffer(np.ndarray):
    """Memory that is given back when nobody holds it, or a part of it, any more."""

    def __array_finalize__(self, source):
        self.owner = getattr(source, "owner", None)


class Owner:
    """Of a buffer and all its parts."""


class Runner:
    """`Backend`. What a kernel is to write it must not have read before."""

    def __init__(self, length: int) -> None:
        self._arena = np.full(length + 8, POISON, np.uint8)
        self._arena = self._arena[-self._arena.ctypes.data % 8 :][:length]
        self._used = 0
        self._lock = threading.RLock()
        self.launched: list[str] = []

    def fresh(self, length):
        with self._lock:
            begin = self._used
            self._used += -(-length // 256) * 256
        assert self._used <= self._arena.size
        memory = self._arena[begin : begin + length]
        buffer = memory.view(Buffer)
        buffer.owner = Owner()
        weakref.finalize(buffer.owner, self.given_back(), memory).atexit = False
        return buffer

    def given_back(self):
        """What becomes of memory that nobody holds: others write to it, not before this queue has got here."""
        return lambda memory: memory.fill(POISON)

    def zeros(self, length):
        buffer = self.fresh(length)
        buffer[:] = 0
        return buffer

    staging = staticmethod(lambda length: np.full(length, POISON, np.uint8))

    def upload(self, data):
        buffer = self.fresh(data.size)
        buffer[:] = data
        return buffer

    @staticmethod
    def write(target, data):
        np.asarray(target)[:] = np.asarray(data)

    copy = send = write

    @staticmethod
    def download(buffer):
        return np.asarray(buffer).copy()

    def fetch(self, buffer):
        return self.download(buffer)

    def window(self, targets):
        places = [np.asarray(each).ctypes.data - self._arena.ctypes.data for each in targets]
        begin = min(places) - min(places) % 8
        return self._arena[begin:], [place - begin for place in places]

    def holds(self, tensor):
        begin = self._arena.ctypes.data
        return begin <= tensor.data_ptr() < begin + self._arena.size

    def launch(self, kernel, blocks, buffers):
        self.launched.append(kernel)
        cuda, known = Cuda(), KERNELS[kernel]
        views = [buffer.view(kind) for buffer, kind in zip(buffers, known.arrays, strict=True)]
        for view in views[: -known.written]:
            view.flags.writeable = False
        launch(cuda, known.make(Seam(cuda, Types, device)), blocks, known.threads, *views)

    new_queue = mark = staticmethod(lambda: None)
    helpers = staticmethod(lambda count: [None] * count)
    follow = staticmethod(lambda _mark: None)
    using = staticmethod(lambda _queue: nullcontext())
    wait = staticmethod(lambda _mark: None)


__all__ = ["Fresh", "Runner"]
