"""Stored bytes on their way to a device, in a queue of their own, while what came before them is decoded."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from slimtensors.device.backend import Backend, Buffer

__all__ = ["SLOTS", "Uploads"]

Array = npt.NDArray[Any]

SLOTS = 3  # segments on the device at once, and in the host's memory: one is decoded while the next is uploaded


class _Slot:
    def __init__(self) -> None:
        self.staging: Array | None = None
        self.there: Buffer = None
        self.sent: Any = None  # a mark behind the upload
        self.free: Any = None  # a mark behind what reads the memory on the device


class Uploads:
    """Slots in turns. All calls are of threads that use the queue that decodes, one at a time; memory is that queue's.

    A segment's turn: `staging` where it is read to memory of here, `send`, and `done` when all that reads it has been
    asked for. Slots are as large as the largest segment that `reserve` was told of; they can serve several fills, so
    that the first segment of one is uploaded while the last of the one before it is decoded.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._queue: Any = None  # made when it is needed
        self._slots, self._room = [_Slot() for _ in range(SLOTS)], 0
        self._turn, self._staged = 0, 0  # whose turn it is; segments from there on that have host memory

    def reserve(self, room: int) -> None:
        """No segment from now on is longer."""
        self._room = max(self._room, room)

    def staging(self, length: int) -> Array:
        """Host memory that no upload reads from any more, for the next segment that has none; for up to SLOTS that are
        not `done`.
        """
        slot = self._slots[(self._turn + self._staged) % SLOTS]
        self._staged += 1
        self._wait_for(slot)
        if slot.staging is None or slot.staging.size < length:
            slot.staging = self._backend.staging(self._room)
        return slot.staging[:length]

    def send(self, data: Array) -> Buffer:
        """Memory on the device that holds it for whatever this thread's queue is asked for from now on, until `done`.
        `data` is read later: it stays as it is until that queue has got past this.
        """
        slot = self._slots[self._turn]
        if self._queue is None:
            self._queue = self._backend.new_queue()
        if slot.there is None or len(slot.there) < data.size:
            slot.there = self._backend.fresh(self._room)
            self._mark(slot)  # what this queue did before with the memory comes first
        there = slot.there[: data.size]
        with self._backend.using(self._queue):
            self._follow_free(slot)
            self._backend.send(there, data)
            slot.sent = self._backend.mark()
        self._follow_sent(slot)
        return there

    def done(self) -> None:
        """All that reads this turn's segment has been asked for."""
        self._mark(self._slots[self._turn])
        self._turn, self._staged = (self._turn + 1) % SLOTS, max(self._staged - 1, 0)

    def wait(self) -> None:
        """Until nothing is uploaded any more. What has host memory and was not sent is given up."""
        self._staged = 0
        if self._queue is None:
            return
        with self._backend.using(self._queue):
            self._backend.wait(self._backend.mark())

    # Each wait by itself, for a test that leaves it out.

    def _mark(self, slot: _Slot) -> None:
        slot.free = self._backend.mark()

    def _wait_for(self, slot: _Slot) -> None:
        if slot.sent is not None:
            self._backend.wait(slot.sent)

    def _follow_free(self, slot: _Slot) -> None:
        self._backend.follow(slot.free)

    def _follow_sent(self, slot: _Slot) -> None:
        self._backend.follow(slot.sent)
