"""Threads over kernels that release the GIL: a bounded number, in order where that matters, stopped by the first
error.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from slimtensors.errors import UsageError

__all__ = ["in_order", "run_all", "thread_count"]

T = TypeVar("T")
R = TypeVar("R")

MAX_DEFAULT_THREADS = 16  # more rarely helps: memory is then the limit


def thread_count(threads: int | None) -> int:
    """`threads`, else SLIMTENSORS_NUM_THREADS, else the processors this process may use, at most 16."""
    if threads is None:
        text = os.environ.get("SLIMTENSORS_NUM_THREADS", "")
        if not text:
            usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            return min(usable, MAX_DEFAULT_THREADS)
        if not text.isdecimal():
            raise UsageError(f"SLIMTENSORS_NUM_THREADS is {text!r}, not a number")
        threads = int(text)
    if threads < 1:
        raise UsageError(f"threads is {threads}; at least 1 is needed")
    return threads


def run_all(work: Callable[[T], object], jobs: Iterable[T], threads: int) -> None:
    """Do `work(job)` for every job, in no particular order. The first error stops the rest and is raised."""
    if threads == 1:
        for job in jobs:
            work(job)
        return
    iterator, lock = iter(jobs), threading.Lock()
    errors: list[BaseException] = []
    ended = threading.Semaphore(0)  # one for each worker that has come to its end

    def loop() -> None:
        try:
            while not errors:
                with lock:
                    job = next(iterator, lock)
                if job is lock:
                    return
                work(job)  # type: ignore[arg-type] # the sentinel has been handled
        except BaseException as error:  # handed to the caller
            errors.append(error)

    def help_out() -> None:
        try:
            loop()
        finally:
            ended.release()

    workers = [threading.Thread(target=help_out, name=f"slimtensors-{i}", daemon=True) for i in range(threads - 1)]
    started: list[threading.Thread] = []
    try:
        for worker in workers:
            worker.start()
            started.append(worker)
        loop()
    except BaseException as error:  # no more threads to be had, or Ctrl-C
        errors.append(error)
    finally:
        _wait(ended, len(started), errors)
        for worker in started:  # at their last instruction by now
            worker.join()
    if errors:
        raise errors[0]


def _wait(ended: threading.Semaphore, workers: int, errors: list[BaseException]) -> None:
    """Until all workers have ended, whatever interrupts this: they finish the job in hand and see the error.

    Not by Thread.join: once interrupted, that of Python 3.10 to 3.12 takes a running thread for one that has ended.
    """
    waited = 0
    while waited < workers:
        try:
            ended.acquire()
            waited += 1
        except KeyboardInterrupt as interrupt:  # noqa: PERF203 # it waits; what that costs is nothing
            errors.append(interrupt)


def in_order(work: Callable[[T], R], jobs: Iterable[T], threads: int, pool: ThreadPoolExecutor | None) -> Iterator[R]:
    """work(job) for every job, in the jobs' order, with at most two jobs per thread under way or waiting.

    Jobs are drawn in the caller's thread, so an iterator that reads a file reads just ahead of what is worked on.
    """
    if pool is None:
        for job in jobs:
            yield work(job)
        return
    waiting: deque[Future[R]] = deque()
    try:
        for job in jobs:
            waiting.append(pool.submit(work, job))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
