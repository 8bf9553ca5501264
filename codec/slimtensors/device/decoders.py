"""Queues that decode beside each other: one segment alone leaves most of a device idle, as coded blocks are serial."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from slimtensors.device.backend import Backend

__all__ = ["DECODERS", "Decoders"]

DECODERS = 4


class Decoders:
    """For one fill, of a thread that uses one queue. They begin behind what that queue was asked for before, and it
    goes on behind them after `end`. Turns begin with the same one, so that a segment that is kept is always decoded by
    the queue that its lists were uploaded in.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend, self._queues = backend, backend.helpers(1 + DECODERS)[1:]  # the first one uploads
        self._begin = backend.mark()
        self._turn = 0

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Inside, this thread uses the next of them."""
        queue = self._queues[self._turn % DECODERS]
        with self._backend.using(queue):
            if self._turn < DECODERS:
                self._follow(self._begin)
            self._turn += 1
            yield

    def end(self) -> None:
        """What the thread's queue is asked for from now on comes after all that they have been asked for."""
        for mark in self._marks():
            self._follow(mark)

    def wait(self) -> None:
        """Until they have done all that they have been asked for."""
        for mark in self._marks():
            self._backend.wait(mark)

    def _marks(self) -> Iterator[Any]:
        for queue in self._queues[: self._turn]:
            with self._backend.using(queue):
                mark = self._backend.mark()
            yield mark

    def _follow(self, mark: Any) -> None:
        self._backend.follow(mark)
