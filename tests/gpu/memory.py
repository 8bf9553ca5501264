"""Memory that kernels see in the runner: refuses what a GPU would do in silence.

Two accesses of one cell by different threads, one of them a write, need something between them: `syncthreads` if the
threads are of one block, `syncwarp` if of one warp. Collectives such as `ballot_sync` are not enough.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class KernelError(Exception):
    """A kernel did what is undefined, or would hang, on a GPU."""


class Stamp(NamedTuple):
    """Who, and when."""

    block: int
    thread: int
    barriers: int  # that the block has passed
    warp_barriers: int  # that the warp has passed

    def is_before(self, later: Stamp) -> bool:
        """Whether `later` certainly sees what was done then."""
        if self.block != later.block:
            return False
        if self.thread == later.thread or self.barriers < later.barriers:
            return True
        return self.thread // 32 == later.thread // 32 and self.warp_barriers < later.warp_barriers


class Clock:
    """The stamp of the thread that runs."""

    def __init__(self) -> None:
        self.now = Stamp(0, 0, 0, 0)


class Memory:
    """An array whose cells remember who touched them.

    before: what the cells hold that no thread has written to, as many of them; without it they are not to be read.
    """

    def __init__(
        self, name: str, size: int, kind: np.dtype, clock: Clock, *, constant: bool, before: np.ndarray | None = None
    ) -> None:
        self.size, self._name, self._kind, self._clock = size, name, kind, clock
        self._constant, self._before = constant, before
        self.cells: dict[int, int] = {}  # that were written to
        self._writes: dict[int, Stamp] = {}
        self._reads: dict[int, tuple[Stamp, Stamp]] = {}  # the last, and the last by another thread

    def __getitem__(self, index: Any) -> Any:
        if type(index) is not int or not 0 <= index < self.size:
            if isinstance(index, slice):
                assert index.stop is None
                assert index.step is None
                return From(self, index.start)
            self._check_index(index)
        if self._constant and self._before is not None:
            return self._before.item(index)
        now = self._clock.now
        written = self._writes.get(index)
        if written is not None and not written.is_before(now):
            raise KernelError(f"race: {self._name}[{index}] read by {now}, written by {written}")
        last, other = self._reads.get(index, (now, now))
        self._reads[index] = (now, other if last.thread == now.thread else last)
        return self._held(index)

    def __setitem__(self, index: int, value: int) -> None:
        self._check_index(index)
        now = self._clock.now
        if self._constant:
            raise KernelError(f"{self._name}[{index}] is written; it is an input")
        for before in (self._writes.get(index), *self._reads.get(index, ())):
            if before is not None and not before.is_before(now):
                raise KernelError(f"race: {self._name}[{index}] written by {now}, touched by {before}")
        self._writes[index] = now
        self.cells[index] = self._stored(value)

    def update(self, index: int, value: int) -> None:
        """By an atomic operation, which races with no other."""
        self._check_index(index)
        self.cells[index] = self._stored(value)

    def peek(self, index: int) -> int:
        self._check_index(index)
        return self._held(index)

    def _held(self, index: int) -> int:
        value = self.cells.get(index)
        if value is None:
            if self._before is None:
                raise KernelError(f"{self._name}[{index}] is read before it is written")
            value = int(self._before.item(index))
        return value

    def _check_index(self, index: int) -> None:
        if not isinstance(index, int):
            raise KernelError(f"{self._name} indexed with {index!r}")
        if not 0 <= index < self.size:
            raise KernelError(f"{self._name}[{index}] is out of range, there are {self.size}")

    def _stored(self, value: int) -> int:
        """Cut to the array's type, as a store does."""
        if not isinstance(value, int):
            raise KernelError(f"{value!r} stored in {self._name}")
        value &= (1 << 8 * self._kind.itemsize) - 1
        signed = self._kind.kind == "i" and value >> 8 * self._kind.itemsize - 1
        return value - (1 << 8 * self._kind.itemsize) if signed else value


class From:
    """An array from some index on."""

    def __init__(self, memory: Memory, start: int) -> None:
        self._memory, self._start = memory, start

    def __getitem__(self, index: int) -> int:
        self._check_sign(index)
        found: int = self._memory[self._start + index]
        return found

    def __setitem__(self, index: int, value: int) -> None:
        self._check_sign(index)
        self._memory[self._start + index] = value

    @staticmethod
    def _check_sign(index: int) -> None:
        if index < 0:
            raise KernelError(f"index {index} from the end")
