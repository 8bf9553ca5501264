"""The pipeline by itself: order, overlap, back-pressure, errors, stops."""

from __future__ import annotations

import os
import threading
import time

import numpy as np
import pytest

from slimtensors import threads as threads_module
from slimtensors.errors import UsageError
from slimtensors.threads import Pipeline, Pool, in_order, run_in_order, thread_count


def ours() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("slimtensors")]


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("more", [0, 3])
def test_every_job_is_done_once(threads: int, more: int) -> None:
    done: list[int] = []
    most = threads + more
    Pipeline(range(1000), lambda job: job + 1, lambda job, got: done.append(got - job), threads, most=most).run()
    assert done == [1] * 1000
    assert ours() == []


def test_a_slow_source_is_never_idle() -> None:
    """A disk that serves one request at a time, and decoding that takes two thirds of its time, in one thread."""
    disk, decoding, at_once = threading.Lock(), threading.Lock(), []

    def fetch(_job: int) -> None:
        with disk:
            time.sleep(0.006)

    def decode(_job: int, _data: None) -> None:
        at_once.append(decoding.acquire(blocking=False))
        time.sleep(0.004)
        decoding.release()

    began = time.perf_counter()
    Pipeline(range(60), fetch, decode, 1, most=4).run()
    assert all(at_once)  # never two at a time
    assert time.perf_counter() - began < 0.85 * 60 * 0.010
    assert ours() == []


def test_a_fast_source_needs_no_more_threads() -> None:
    names = set()

    def decode(_job: int, _data: None) -> None:
        names.add(threading.current_thread().name)
        time.sleep(0.001)

    Pipeline(range(100), lambda _: None, decode, 2, most=10).run()
    assert len(names) <= 4  # a busy machine may stop a thread just there


def test_what_computes_while_it_fetches_is_no_slow_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy out of the page cache: more threads would only be in each other's way."""
    monkeypatch.setattr(threads_module, "thread_time", time.perf_counter)  # all of it is computing
    names = set()

    def decode(_job: int, _data: None) -> None:
        names.add(threading.current_thread().name)

    Pipeline(range(100), lambda _: time.sleep(0.001), decode, 2, most=10).run()
    assert len(names) <= 4  # as above


@pytest.mark.parametrize("where", ["fetch", "decode", "jobs"])
@pytest.mark.parametrize("threads", [1, 4])
def test_an_error_stops_it_at_once(where: str, threads: int) -> None:
    done: list[int] = []

    def fail(at: str, job: int) -> None:
        if at == where and job == 50:
            raise OSError("as injected")

    def jobs():  # type: ignore[no-untyped-def]
        for job in range(1_000_000):
            fail("jobs", job)
            yield job

    def decode(job: int, _: None) -> None:
        fail("decode", job)
        done.append(job)

    with pytest.raises(OSError, match="as injected"):
        Pipeline(jobs(), lambda job: fail("fetch", job), decode, threads, most=threads + 2).run()
    assert len(done) < 100_000
    assert ours() == []


def test_back_pressure_and_a_stop_while_all_wait() -> None:
    done: list[int] = []
    allowed = 10
    work = Pipeline(range(1000), lambda _: None, lambda job, _: done.append(job), 3, admit=lambda job: job < allowed)
    work.start()
    time.sleep(0.1)
    assert sorted(done) == list(range(10))
    with work.lock:
        allowed = 25
        work.changed.notify_all()
    time.sleep(0.1)
    assert sorted(done) == list(range(25))
    work.stop()
    work.wait()
    work.wait()  # again does no harm
    assert ours() == []
    assert sorted(done) == list(range(25))


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The threads that are started; the system gives no more than six."""
    names: list[str] = []
    start = threading.Thread.start

    def counted(thread: threading.Thread) -> None:
        if len(names) == 6:
            raise RuntimeError("can't start new thread")
        names.append(thread.name)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", counted)
    return names


def test_no_more_threads_than_jobs(started: list[str]) -> None:
    done: list[int] = []
    Pipeline(iter([1]), lambda _: None, lambda job, _: done.append(job), 5000).run()
    assert done == [1]
    assert len(started) <= 1  # which finds no job
    started.clear()
    run_in_order(lambda job: job, done.append, iter([2, 3, 4]), 5000)
    assert done == [1, 2, 3, 4]
    assert len(started) <= 3


@pytest.mark.parametrize("started_first", [True, False])
def test_it_goes_on_with_the_threads_that_it_gets(started: list[str], started_first: bool) -> None:
    at_once, done, most = 0, list[int](), 0

    def decode(job: int, _data: None) -> None:
        nonlocal at_once, most
        with work.lock:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.005)
        with work.lock:
            at_once -= 1
            done.append(job)

    work = Pipeline(range(100), lambda _: None, decode, 5000)
    if started_first:
        work.start()
        work.wait()
    else:
        work.run()
    assert sorted(done) == list(range(100))
    assert work.errors == []
    assert len(started) == 6
    assert most == (6 if started_first else 7)  # with the caller's own
    assert ours() == []


def test_pieces_in_order_by_the_threads_that_there_are(started: list[str]) -> None:
    with Pool(50) as pool:
        assert list(in_order(lambda job: time.sleep(0.001) or job, range(200), 50, pool)) == list(range(200))
    assert len(started) == 6
    with Pool(50) as pool, pytest.raises(RuntimeError, match="new thread"):
        pool.submit(print)


def test_threads_asked_for_are_bounded() -> None:
    assert thread_count(200) == 200
    assert thread_count(100_000) == max(256, os.cpu_count() or 1)


def test_what_is_no_number_of_threads() -> None:
    assert thread_count(np.int64(3)) == 3  # type: ignore[arg-type] # as tested
    for wrong in ("2", 1.5, 0, -1):
        with pytest.raises(UsageError, match="threads is"):
            thread_count(wrong)  # type: ignore[arg-type] # as tested
