"""Stored bytes of segments, read in their order by threads that are ahead of whoever takes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType

from slimtensors.device.kept import Held
from slimtensors.device.tasks import Segment
from slimtensors.device.uploads import STAGED
from slimtensors.threads import Pipeline

__all__ = ["ReadAhead"]

RUN_BYTES = 4 << 20  # by one read: eight threads share a segment
MOST_THREADS = 8  # more of them wait for the interpreter, and whoever takes segments with them


class ReadAhead:
    """A context; at its end no thread reads any more.

    room(segment): memory for one. It is asked for in the taker's thread, for the segment that is taken and those after
    it, STAGED in all. read(segment, run, held): some of its chunks into its memory.
    """

    def __init__(
        self,
        segments: Sequence[Segment],
        room: Callable[[Segment], Held],
        read: Callable[[Segment, range, Held], object],
        threads: int,
    ) -> None:
        self._segments, self._room, self._read = segments, room, read
        self._held: list[Held] = []
        jobs = [(i, run) for i, segment in enumerate(segments) for run in segment.runs(RUN_BYTES)]
        self._left = [0] * len(segments)  # runs to be read
        for i, _run in jobs:
            self._left[i] += 1
        self._started = len(jobs) > 1
        self._taken = 0
        self._pipeline = Pipeline(
            jobs,
            lambda job: job,
            self._work,
            max(1, min(threads, MOST_THREADS, len(jobs))),
            admit=lambda job: job[0] < len(self._held),
        )

    def __enter__(self) -> ReadAhead:  # noqa: PYI034 # Self is of Python 3.11
        if self._started:
            self._pipeline.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self._pipeline.stop()
        self._pipeline.wait()

    def take(self) -> Held:
        """The next segment. Raises the first error of reading."""
        while len(self._held) < min(self._taken + STAGED, len(self._segments)):
            held = self._room(self._segments[len(self._held)])
            with self._pipeline.changed:
                self._held.append(held)
                self._pipeline.changed.notify_all()
        if not self._started:
            self._pipeline.run()  # one read, by this thread
        with self._pipeline.changed:
            while self._left[self._taken] and not self._pipeline.errors:
                self._pipeline.changed.wait()
            if self._pipeline.errors:
                raise self._pipeline.errors[0]
        self._taken += 1
        return self._held[self._taken - 1]

    def _work(self, job: tuple[int, range], _fetched: object) -> None:
        i, run = job
        self._read(self._segments[i], run, self._held[i])
        with self._pipeline.changed:
            self._left[i] -= 1
            if not self._left[i]:
                self._pipeline.changed.notify_all()
