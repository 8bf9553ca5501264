"""Stored bytes on their way to a device, in a queue of their own, while what came before them is decoded."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from slimtensors.device.backend import Backend, Buffer
from slimtensors.device.decoders import DECODERS

__all__ = ["SLOTS", "STAGED", "Uploads"]

Array = npt.NDArray[Any]

STAGED = 3  # segments in the host's memory at once: read, listed, uploaded
SLOTS = DECODERS + 2  # on the device: decoded, and uploaded meanwhile


class _Staged:
    def __init__(self) -> None:
        self.memory: Array | None = None
        self.sent: Any = None  # a mark behind the upload


class _Slot:
    def __init__(self) -> None:
        self.memory: Buffer = None
        self.free: Any = None  # a mark behind what reads it


class Uploads:
    """Slots in turns, for one fill after another that a queue is asked for, one at a time; memory is that queue's.

    A segment's turn: `staging` where it is read to memory of here; then, asked of the queue that decodes it, `send`,
    and `done` when all that reads it has been asked for. The first segment of a fill is uploaded while the last ones of
    the fill before are decoded.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend, self._queue = backend, backend.helpers(1)[0]
        self._staged, self._slots = [_Staged() for _ in range(STAGED)], [_Slot() for _ in range(SLOTS)]
        self._room = 0  # of any of them
        self._read, self._sent, self._turn = 0, 0, 0  # segments that had host memory; of these, sent; that had a slot

    def reserve(self, room: int, count: int) -> None:
        """So many segments follow, none longer than this. To be called for each fill, in the queue that is asked for
        it.
        """
        self._room = max(self._room, room)
        for turn in range(self._turn, self._turn + min(count, SLOTS)):
            slot = self._slots[turn % SLOTS]
            if slot.memory is None or len(slot.memory) < room:
                slot.memory = self._backend.fresh(self._room)
                self._mark(slot)  # what this queue did before with the memory comes first

    def staging(self, length: int) -> Array:
        """Host memory that no upload reads from any more, for the next segment; for up to STAGED that are not sent."""
        staged = self._staged[self._read % STAGED]
        self._read += 1
        self._wait_for(staged)
        if staged.memory is None or staged.memory.size < length:
            staged.memory = self._backend.staging(self._room)
        return staged.memory[:length]

    def send(self, data: Array, staged: bool) -> Buffer:
        """Memory on the device that holds it for whatever this thread's queue is asked for from now on, until `done`.
        `data` is read later: it stays as it is until that queue has got past this. staged: whether it is the first that
        `staging` gave and was not sent.
        """
        slot = self._slots[self._turn % SLOTS]
        there = slot.memory[: data.size]
        with self._backend.using(self._queue):
            self._follow_free(slot)
            self._backend.send(there, data)
            sent = self._backend.mark()
        if staged:
            self._staged[self._sent % STAGED].sent = sent
            self._sent += 1
        self._follow_sent(sent)
        return there

    def done(self) -> None:
        """All that reads this turn's segment has been asked for."""
        self._mark(self._slots[self._turn % SLOTS])
        self._turn += 1

    def wait(self) -> None:
        """Until nothing is uploaded any more. What has host memory and was not sent is given up."""
        self._read = self._sent
        with self._backend.using(self._queue):
            mark = self._backend.mark()
        self._backend.wait(mark)

    # Each wait by itself, for a test that leaves it out.

    def _mark(self, slot: _Slot) -> None:
        slot.free = self._backend.mark()

    def _wait_for(self, staged: _Staged) -> None:
        if staged.sent is not None:
            self._backend.wait(staged.sent)

    def _follow_free(self, slot: _Slot) -> None:
        self._backend.follow(slot.free)

    def _follow_sent(self, sent: Any) -> None:
        self._backend.follow(sent)
