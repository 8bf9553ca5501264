"""Clocks. One thread: pinned, process CPU time, because other jobs move wall time. More threads: wall time."""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

Record = dict[str, Any]


@dataclass
class Case:
    """One thing timed again and again: `prepare` runs outside the clock and hands its result to `call`."""

    labels: Record
    call: Callable[[Any], Any]
    prepare: Callable[[], Any] = lambda: None
    nbytes: int = 0  # uncompressed, for GB/s
    seconds: list[float] = field(default_factory=list)

    def record(self) -> Record:
        """Labels, median, spread, and every sample."""
        median = statistics.median(self.seconds)
        found = self.labels | {"seconds": median, "samples": [round(s, 6) for s in self.seconds]}
        if self.nbytes:
            found["gbps"] = self.nbytes / median / 1e9
        return found


@contextmanager
def pinned(core: int | None) -> Iterator[None]:
    """Runs on one core; on none in particular with None or where the system has no such call."""
    if core is None or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def clock(threads_wall: bool) -> Callable[[], float]:
    """Wall time, or the CPU time of the process."""
    return time.perf_counter if threads_wall else time.process_time


def interleave(cases: list[Case], repeats: int, wall: bool) -> list[Record]:
    """One round warms up, then every round times every case once, so that drift hits all alike."""
    now = clock(wall)
    for turn in range(repeats + 1):
        for case in cases:
            argument = case.prepare()
            gc.collect()
            begin = now()
            result = case.call(argument)
            elapsed = now() - begin
            del result, argument
            if turn:
                case.seconds.append(elapsed)
    return [case.record() for case in cases]
