"""Threads, forks and Ctrl-C."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from safetensors.numpy import save as save_safetensors

import slimtensors
from faults import processes
from slimtensors import threads as library_threads
from slimtensors.numpy import load_file, save, save_file

GENERATOR = np.random.default_rng(1)
ARRAYS = {
    **{f"large.{i}": GENERATOR.normal(size=(300, 1000)).astype(np.float32) for i in range(4)},
    "rows": np.where(np.arange(400)[:, None] % 3, GENERATOR.normal(size=(400, 500)), 1.0).astype(np.float32),
    "tokens": GENERATOR.integers(0, 50_000, 300_000),
    **{f"small.{i}": np.arange(10 * i, 10 * i + 10) for i in range(20)},
}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("threads") / "model"
    save_file(ARRAYS, path)
    return path


# ---- sharing


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("inner", [1, 2])
def test_16_threads_share_a_handle(path, mmap, inner):
    def work(seed):
        choose = np.random.default_rng(seed)
        for name in choose.permutation(list(ARRAYS)):
            array = ARRAYS[name]
            assert np.array_equal(file.get_tensor(name), array)
            start = int(choose.integers(0, len(array)))
            assert np.array_equal(file.get_slice(name)[start:], array[start:])
        return True

    with slimtensors.safe_open(path, threads=inner, mmap=mmap) as file, ThreadPoolExecutor(16) as pool:
        assert all(pool.map(work, range(32)))


def test_threads_save_and_load_at_once(tmp_path):
    expected = save(ARRAYS)

    def work(number):
        own = tmp_path / f"model-{number}"
        save_file(ARRAYS, own)
        return own.read_bytes() == expected and load_file(own).keys() == ARRAYS.keys()

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(16)))


def test_a_first_use_by_many_threads_at_once(path):
    """Nobody has imported, compiled or loaded anything yet."""
    script = """
import json, sys, threading
from concurrent.futures import ThreadPoolExecutor
import slimtensors
barrier = threading.Barrier(8)
def work(_):
    barrier.wait()
    return slimtensors.verify(sys.argv[1]).file_id
with ThreadPoolExecutor(8) as pool: print(json.dumps(sorted(set(pool.map(work, range(8))))))
"""
    assert processes.run(script, path) == [slimtensors.verify(path).file_id]


# ---- the same bytes


def test_the_same_bytes_with_any_number_of_threads():
    source = save_safetensors(ARRAYS, {"key": "value"})
    for preset in ("fast", "balanced"):
        saved = {save(ARRAYS, threads=threads, preset=preset) for threads in (1, 2, 3, 4, 4, 1)}
        assert len(saved) == 1
        compressed = set()
        for threads in (1, 2, 3, 4):
            slimtensors.compress(source, target := io.BytesIO(), threads=threads, preset=preset)
            compressed.add(target.getvalue())
        assert len(compressed) == 1


def test_the_same_file_id_in_another_process(path):
    script = """
import json, sys
import numpy as np, slimtensors
from slimtensors.numpy import load_file, save
print(json.dumps(slimtensors.verify(save(load_file(sys.argv[1]))).file_id))
"""
    expected = slimtensors.verify(path).file_id
    for seed in ("0", "1"):
        assert processes.run(script, path, PYTHONHASHSEED=seed) == expected


# ---- forks


FORK = """
import json, os, sys
import numpy as np, slimtensors
from slimtensors.numpy import load_file, save
path = sys.argv[1]
expected = load_file(path, threads=4)
data = save(expected, threads=4)
file = slimtensors.safe_open(path, threads=2)
file.get_tensor("rows")
children = []
for number in range(4):
    if (child := os.fork()) == 0:
        try:
            assert save(load_file(path, threads=4), threads=4) == data
            for name, array in expected.items():
                assert np.array_equal(file.get_tensor(name), array)
            os._exit(0)
        except BaseException:
            import traceback; traceback.print_exc()
        finally:
            os._exit(1)
    children.append(child)
for name, array in expected.items(): assert np.array_equal(file.get_tensor(name), array)
print(json.dumps([os.waitpid(child, 0)[1] for child in children]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_forks_after_use(path):
    assert processes.run(FORK, path, timeout=60) == [0, 0, 0, 0]


FORKED_LOADERS = """
import json, os, sys
import slimtensors
from slimtensors.numpy import stream_tensors
path = sys.argv[1]
file = slimtensors.safe_open(path, threads=2)
loader, stream = file.prefetch(), stream_tensors(path, threads=2)
next(stream)
found = []
for use in (list, lambda loader: loader.take("rows"), lambda loader: loader.close(), lambda _: list(stream)):
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        try: said = str(use(loader))
        except slimtensors.UsageError as error: said = str(error)
        os.write(write, said.encode()[:4000])
        sys.exit(0)  # and lets go of both
    os.close(write)
    with open(read, "rb") as pipe: found.append(pipe.read().decode())
    assert os.waitpid(child, 0)[1] == 0
assert len(list(loader)) == len(file.keys()) and len(list(stream)) == len(file.keys()) - 1
print(json.dumps(found))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_loaders_made_before_a_fork(path):
    """Their threads are not in the child, which waits for none of them and says so."""
    whole, one, closed, stream = processes.run(FORKED_LOADERS, path, timeout=60)
    assert closed == "None"
    for said in (whole, one, stream):
        assert "the loader was made before this process was forked" in said


# ---- the end of the interpreter


AT_THE_END = """
import atexit, json, sys, threading
import slimtensors
how, path, target = sys.argv[1:]

def work():
    from slimtensors.numpy import load_file, save_file
    if how != "atexit": threading.main_thread().join()
    arrays = load_file(path, threads=2)
    save_file(arrays, target, threads=2)
    slimtensors.decompress(target, target + ".safetensors", threads=2)
    print(json.dumps(len(arrays)), flush=True)

if how == "thread": slimtensors.verify(path, threads=2)
if how == "atexit": atexit.register(work)
else: threading.Thread(target=work).start()
"""


@pytest.mark.parametrize("how", ["thread", "thread, first use", "atexit"])
def test_a_save_when_the_main_thread_has_ended(path, tmp_path, how):
    """As of a checkpoint in the background, or of what is saved in any case: pools take nothing then."""
    target = tmp_path / "target"
    assert processes.run(AT_THE_END, how, path, target, timeout=60) == len(ARRAYS)
    assert target.read_bytes() == save(ARRAYS)


FINALIZED = """
import sys
from slimtensors.numpy import load_file
class Dropped:
    def __del__(self, load=load_file, path=sys.argv[1]):
        load(path, threads=2)
dropped = Dropped()
load_file(sys.argv[1], threads=2)
print(1, flush=True)
"""


def test_a_load_while_the_interpreter_is_finalized(path):
    """It need not succeed, since nothing can be imported any more; but no thread would ever start."""
    assert processes.run(FINALIZED, path, timeout=30) == 1


# ---- Ctrl-C, and errors


INTERRUPTED = """
import json, os, signal, sys, threading, time
import numpy as np, slimtensors
from slimtensors.numpy import load_file, save
threads, how = int(sys.argv[1]), sys.argv[2]
generator = np.random.default_rng(1)
data = save({str(i): generator.normal(size=30_000).astype(np.float32) for i in range(100)})
reads, after = 0, 0
class Slow:
    def size(self): return len(data)
    def read_range(self, offset, length):
        global reads, after
        reads += 1
        if interrupted: after += 1
        if reads == 60:
            interrupted.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        return data[offset : offset + length]
interrupted = []
try:
    if how == "load": load_file(Slow(), threads=threads)
    elif how == "verify": slimtensors.verify(Slow(), threads=threads)
    else: slimtensors.decompress(Slow(), sys.argv[3], threads=threads)
except KeyboardInterrupt: took = time.monotonic() - interrupted[0]
while threading.active_count() > 1: time.sleep(0.001)  # a thread may have to end yet
print(json.dumps([after, took, os.listdir(os.path.dirname(sys.argv[3]))]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="os.kill ends the process there")
@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("how", ["load", "verify", "decompress"])
def test_ctrl_c_ends_it_soon(threads, how, tmp_path):
    after, took, left = processes.run(INTERRUPTED, threads, how, tmp_path / "target")
    assert after <= 8 * threads  # of some 140 more reads
    assert took < 2
    assert left == []


def test_the_first_error_stops_the_other_threads():
    done = []

    def work(job):
        if job == 10:
            raise OSError("as injected")
        done.append(job)

    for threads in (1, 2, 8):
        done.clear()
        with pytest.raises(OSError, match="as injected"):
            library_threads.run_all(work, range(1_000_000), threads)
        assert len(done) < 500_000
    assert not [t for t in threading.enumerate() if t.name.startswith("slimtensors")]


def test_no_more_threads_to_be_had(monkeypatch):
    start, started = threading.Thread.start, []

    def refuse(thread):
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    done = []
    library_threads.run_all(done.append, range(100_000), 8)  # by those that there are
    assert sorted(done) == list(range(100_000))
    assert len(started) == 2
    assert not any(thread.is_alive() for thread in started)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signals to threads here")
def test_ctrl_c_while_waiting_for_the_other_threads():
    main, interrupted, ended = threading.main_thread(), threading.Event(), []
    begun, waiting = threading.Semaphore(0), threading.Event()

    def interrupt():
        waiting.wait(30)
        time.sleep(0.3)
        signal.pthread_kill(main.ident, signal.SIGINT)
        interrupted.set()

    def work(_job):
        if threading.current_thread() is main:
            for _ in range(2):  # so that the others have a job each, and then there are no more
                begun.acquire(timeout=30)
            waiting.set()
        else:
            begun.release()
            interrupted.wait(30)
            ended.append(time.sleep(0.1))

    timer = threading.Thread(target=interrupt)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        library_threads.run_all(work, range(3), 3)
    assert len(ended) == 2  # what was begun is brought to an end
    timer.join()


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signals to threads here")
def test_ctrl_c_while_a_loader_is_closed(path):
    data, main, held = path.read_bytes(), threading.main_thread().ident, threading.Event()

    class Held:
        def size(self):
            return len(data)

        def read_range(self, offset, length):
            if threading.get_ident() != main:
                held.wait(30)
            return data[offset : offset + length]

    def interrupt():
        time.sleep(0.3)
        signal.pthread_kill(main, signal.SIGINT)
        time.sleep(0.1)
        held.set()

    with slimtensors.safe_open(Held(), threads=2) as file:
        loader = file.prefetch()
        timer = threading.Thread(target=interrupt)
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            loader.close()
        timer.join()
    assert not [t for t in threading.enumerate() if t.name.startswith("slimtensors")]
