"""Threads over kernels that release the GIL: a bounded number, in order where that matters, stopped by the first
error.
"""

from __future__ import annotations

import operator
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from contextvars import copy_context
from time import perf_counter, thread_time
from types import TracebackType
from typing import Any, Generic, TypeVar

from slimtensors.container.system import usable_processors
from slimtensors.errors import UsageError

__all__ = ["Pipeline", "Pool", "given_up", "in_order", "pool_of", "run_all", "run_in_order", "submit", "thread_count"]

T = TypeVar("T")
R = TypeVar("R")
D = TypeVar("D")

MAX_DEFAULT_THREADS = 16  # more rarely helps: memory is then the limit
MAX_THREADS = 256  # of those asked for
WAITING = 1 / 4  # of the time that decoding takes, from where on one more thread is worth having
_END = object()


def thread_count(threads: int | None) -> int:
    """`threads`, else SLIMTENSORS_NUM_THREADS, else the processors this process may use, at most 16.

    At most 256, or as many as there are processors: what is decoded and waits for its turn takes memory for each.
    """
    if threads is None:
        text = os.environ.get("SLIMTENSORS_NUM_THREADS", "")
        if not text:
            return min(usable_processors(), MAX_DEFAULT_THREADS)
        if not text.strip().isdecimal() or int(text) < 1:
            raise UsageError(f"SLIMTENSORS_NUM_THREADS is {text!r}; it can be a whole number, 1 or more")
        threads = int(text)
    try:
        threads = operator.index(threads)
    except TypeError:
        raise UsageError(f"threads is {threads!r}; a whole number is needed") from None
    if threads < 1:
        raise UsageError(f"threads is {threads}; at least 1 is needed")
    return min(threads, max(MAX_THREADS, os.cpu_count() or 1))


_GIVEN_UP = "slimtensors_given_up"  # an attribute of threads


def given_up() -> bool:
    """Whether nobody waits for this thread's work any more: what it waits for, as for a network, it need not get."""
    return hasattr(threading.current_thread(), _GIVEN_UP)


def _give_up(threads: Iterable[threading.Thread]) -> None:
    for thread in threads:
        setattr(thread, _GIVEN_UP, True)


def run_all(work: Callable[[T], object], jobs: Iterable[T], threads: int) -> None:
    """Do `work(job)` for every job, in no particular order. The first error stops the rest and is raised."""
    Pipeline(jobs, lambda job: job, lambda job, _: work(job), threads).run()


class Pipeline(Generic[T, D]):
    """Threads that take jobs in their order, fetch what each needs and decode it: until all is done, an error, a stop.

    fetch(job) waits for a source; decode(job, fetched) computes, in at most `threads` threads at a time. Where fetching
    is seen to wait, further threads are started, `most` in all: they fetch while others decode, so that the source is
    never idle; `begin` of them at once, where that is known beforehand. What a processor does for fetching, such as a
    copy out of the page cache, is no waiting: more threads would not help. waits(job) is asked after a job was fetched:
    if it is false, it was not the source that was waited for, but other threads. admit(job): back-pressure. It is asked
    under `lock`; a job that it turns away waits, and all those after it, until `changed` is notified.
    """

    def __init__(
        self,
        jobs: Iterable[T],
        fetch: Callable[[T], D],
        decode: Callable[[T, D], object],
        threads: int,
        *,
        most: int = 0,
        begin: int = 0,
        waits: Callable[[T], bool] = lambda _: True,
        admit: Callable[[T], bool] | None = None,
    ) -> None:
        self.lock = threading.RLock()  # a loader that is dropped may be stopped by whoever holds it
        self.changed = threading.Condition(self.lock)
        self.errors: list[BaseException] = []
        self.stopped = False
        self._jobs = iter(jobs)
        self._fetch, self._decode, self._admit, self._waits = fetch, decode, admit, waits
        self._threads, self._most = threads, max(threads, most, begin)
        self._wanted = max(threads, begin)  # threads to begin with, one for each job
        self._turns = threading.Semaphore(threads)
        self._ahead: list[T] = []  # the job that was turned away
        self._workers: list[threading.Thread] = []
        self._live = 0
        self._process = os.getpid()

    def run(self) -> None:
        """Until all is done, in the caller's thread too. Raises the first error, when all threads have ended."""
        if self._threads == 1 and self._most == 1:
            for job in self._jobs:
                self._decode(job, self._fetch(job))
            return
        self._wanted -= 1
        try:
            self._work()
        except BaseException as error:  # of a job, or Ctrl-C
            self.stop(error)
        self.wait()
        if self.errors:
            raise self.errors[0]

    def start(self) -> None:
        """Begin, in threads of its own; whoever calls this calls `stop` and `wait` in the end."""
        try:
            with self.lock:
                self._begin()
        except BaseException as error:  # no thread to be had, or Ctrl-C
            self.stop(error)
            self.wait()
            raise

    @property
    def left_behind(self) -> bool:
        """Whether this is the copy that a forked process has: its threads, and who holds the lock, are not there."""
        return os.getpid() != self._process

    def stop(self, error: BaseException | None = None) -> None:
        """No further jobs. Those in hand are brought to their end, or given up, which `wait` waits for."""
        if self.left_behind:
            return
        with self.lock:
            if error is not None:
                self.errors.append(error)
            self.stopped = True
            _give_up(self._workers)
            self.changed.notify_all()

    def wait(self) -> None:
        """Until all threads have ended, whatever interrupts this: they finish the job in hand and see the error. Raises
        KeyboardInterrupt then, in the end.

        Not by Thread.join: once interrupted, that of Python 3.10 to 3.12 takes a running thread for one that has ended.
        """
        if self.left_behind:
            return
        interrupted: KeyboardInterrupt | None = None
        while True:
            try:
                with self.lock:
                    while self._live:
                        self.changed.wait()
                break
            except KeyboardInterrupt as interrupt:
                interrupted = interrupt
                self.stop(interrupt)
        for worker in self._workers:  # at their last instruction by now
            worker.join()
        if interrupted is not None:
            raise interrupted

    def _begin(self) -> None:
        """One thread more. Called under the lock. Raises RuntimeError if there is none to be had."""
        if sys.is_finalizing():  # none would run any more, and up to Python 3.11 its start is waited for, for ever
            raise RuntimeError("can't start new thread: the interpreter ends")
        name = f"slimtensors-{len(self._workers)}"
        worker = threading.Thread(target=copy_context().run, args=(self._help,), name=name, daemon=True)
        worker.start()
        self._workers.append(worker)
        self._live += 1

    def _help(self) -> None:
        try:
            self._work()
        except BaseException as error:  # handed to the caller
            self.stop(error)
        finally:
            with self.lock:
                self._live -= 1
                self.changed.notify_all()

    def _work(self) -> None:
        while (job := self._next()) is not _END:
            began, computed = perf_counter(), thread_time()
            fetched = self._fetch(job)  # type: ignore[arg-type] # the sentinel ends the loop
            # Clocks take a tenth of what is done for a job here: they are read where an answer can follow.
            slow = self._most > self._threads and self._waits(job)  # type: ignore[arg-type] # as above
            waited = perf_counter() - began - (thread_time() - computed) if slow else 0.0
            while not self._turns.acquire(timeout=1):
                if self.stopped:  # Ctrl-C may have lost a turn
                    return
            try:
                if self.stopped:
                    return
                if slow:
                    began, computed = perf_counter(), thread_time()
                self._decode(job, fetched)  # type: ignore[arg-type] # as above
            finally:
                self._turns.release()
            if slow:
                took = perf_counter() - began
                # Decoding waits for a processor and for the interpreter, and for nothing else; fetching for these, too.
                waited -= took - (thread_time() - computed)
                if waited > WAITING * took:
                    self._grow()

    def _next(self) -> T | object:
        with self.lock:
            while not self.stopped:
                if not self._ahead:
                    job = next(self._jobs, _END)
                    if job is _END:
                        return job
                    self._ahead.append(job)  # type: ignore[arg-type] # not the sentinel
                if self._admit is None or self._admit(self._ahead[0]):
                    if len(self._workers) < self._wanted:
                        try:
                            self._begin()  # for the next job, if there is one
                        except RuntimeError:  # no more threads to be had: then it takes longer
                            self._wanted = 0
                    return self._ahead.pop()
                self.changed.wait()
            return _END

    def _grow(self) -> None:
        """The source is waited for: one thread more that does so, if there may be more."""
        with self.lock:
            if not self.stopped and self._wanted <= len(self._workers) < self._most:
                with suppress(RuntimeError):  # no more threads to be had: then it takes longer
                    self._begin()


def run_in_order(work: Callable[[T], R], finish: Callable[[R], object], jobs: Iterable[T], threads: int) -> None:
    """finish(work(job)) for every job: `work` in threads, `finish` one at a time and in the jobs' order.

    The thread that has what is next finishes it, from its own cache, and then what others have ready. At most two jobs
    for each thread are begun and not finished. Jobs are drawn one at a time too, in any of the threads. The first error
    stops the rest and is raised.
    """
    if threads == 1:
        for job in jobs:
            finish(work(job))
        return
    ready: dict[int, R] = {}
    turn, finishing = 0, False

    def done(numbered: tuple[int, T], _fetched: object) -> None:
        nonlocal turn, finishing
        result = work(numbered[1])
        with pipeline.lock:
            ready[numbered[0]] = result
            if finishing:
                return
            finishing = True
        del result
        while True:
            with pipeline.lock:
                if turn not in ready or pipeline.stopped:
                    finishing = False
                    return
                following = ready.pop(turn)
            finish(following)
            with pipeline.lock:
                turn += 1
                pipeline.changed.notify_all()

    pipeline: Pipeline[tuple[int, T], object] = Pipeline(
        enumerate(jobs), lambda _: None, done, threads, admit=lambda numbered: numbered[0] < turn + 2 * threads
    )
    pipeline.run()


class Pool(ThreadPoolExecutor):
    """One that goes on with the threads that it has, when there are no more to be had."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads, "slimtensors")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        if kind is not None:
            _give_up(self._threads)
            self.shutdown(wait=False, cancel_futures=True)
        return super().__exit__(kind, error, trace)

    def _adjust_thread_count(self) -> None:
        try:
            super()._adjust_thread_count()
        except RuntimeError:
            if not self._threads:
                raise


def submit(pool: ThreadPoolExecutor, work: Callable[..., R], *arguments: Any) -> Future[R]:
    """As the pool's. When the main thread has ended, pools take nothing any more, and other threads may still have to
    save what was trained: it is done here and now.
    """
    try:
        return pool.submit(work, *arguments)
    except RuntimeError as error:
        if "interpreter shutdown" not in str(error):
            raise
        done: Future[R] = Future()
        try:
            done.set_result(work(*arguments))
        except Exception as error:
            done.set_exception(error)
        return done


def pool_of(threads: int) -> AbstractContextManager[Pool | None]:
    """A pool for `in_order`; none for one thread, which is the caller's own."""
    return Pool(threads) if threads > 1 else nullcontext()


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
            waiting.append(submit(pool, work, job))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
