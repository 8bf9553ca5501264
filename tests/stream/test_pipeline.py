"""The pipeline by itself: order, overlap, back-pressure, errors, stops."""

from __future__ import annotations

import threading
import time

import pytest

from slimtensors import threads as threads_module
from slimtensors.threads import Pipeline


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
    assert len(names) <= 2


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
