"""Files that are replaced or cut off while somebody reads them."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest

import slimtensors
from faults import processes
from slimtensors.numpy import load_file, save_file

VERSIONS = 200
READER = """
import json, sys
from pathlib import Path
import numpy as np
from slimtensors.numpy import load_file
path, stop, mmap = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "mmap"
reads, versions = 0, set()
while reads == 0 or not stop.exists():
    arrays = load_file(path, mmap=mmap, threads=1)
    version = int(arrays["version"])
    assert (arrays["ones"] == version).all()
    assert (arrays["noise"] == np.random.default_rng(version).normal(size=30_000).astype(np.float32)).all()
    versions.add(version)
    reads += 1
print(json.dumps([reads, len(versions)]))
"""


def version(number):
    noise = np.random.default_rng(number).normal(size=30_000).astype(np.float32)
    return {"version": np.array(number), "ones": np.full(50_000, number, np.int16), "noise": noise}


@pytest.mark.skipif(os.name != "posix", reason="open files cannot be replaced on Windows")
def test_readers_see_whole_versions_while_a_writer_replaces_them(tmp_path):
    path, stop = tmp_path / "model", tmp_path / "stop"
    save_file(version(0), path)
    readers = [processes.start(READER, path, stop, how) for how in ("read", "mmap")]
    try:
        for number in range(VERSIONS):
            save_file(version(number), path, threads=1, self_check=False, durable=number % 10 == 0)
            time.sleep(0.005)
    finally:
        stop.touch()
        counts = [processes.result(reader) for reader in readers]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "stop"]
    for reads, versions in counts:
        assert reads >= versions > 10


def test_writers_of_one_path_do_not_meet(tmp_path):
    """Each has its own temporary file; the last one to finish wins."""
    path = tmp_path / "model"
    script = """
import json, sys
import numpy as np
from slimtensors.numpy import save_file
for i in range(20):
    save_file({"who": np.full(20_000, int(sys.argv[2]) * 100 + i)}, sys.argv[1], threads=1)
print("null")
"""
    for writer in [processes.start(script, path, number) for number in range(2)]:
        processes.result(writer)
    who = load_file(path)["who"]
    assert len(set(who.tolist())) == 1
    assert who[0] % 100 == 19
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


@pytest.fixture
def path(tmp_path):
    generator = np.random.default_rng(1)
    path = tmp_path / "model"
    save_file({name: generator.normal(size=400_000).astype(np.float32) for name in "abc"}, path)
    return path


def read_all(file):
    for name in file.offset_keys():
        file.get_tensor(name)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_file_that_is_cut_off_while_it_is_open(path, threads):
    size = path.stat().st_size
    for left in (size - 1, size // 2, 200, 0):
        data = path.read_bytes()
        with slimtensors.safe_open(path, threads=threads) as file:
            os.truncate(path, left)
            with pytest.raises(slimtensors.TruncatedError, match=r"model: .*cut off or has changed"):
                read_all(file)
        with pytest.raises(slimtensors.FormatError):
            load_file(path)
        path.write_bytes(data)


def test_a_file_that_is_written_over_while_it_is_open(path):
    data = path.read_bytes()
    with slimtensors.safe_open(path) as file:
        file.get_tensor("a")
        with path.open("r+b") as other:
            other.seek(len(data) // 2)
            other.write(bytes(1000))
        with pytest.raises(slimtensors.ChecksumError):
            read_all(file)


@pytest.mark.skipif(os.name != "posix", reason="open files cannot be replaced on Windows")
@pytest.mark.parametrize("mmap", [False, True])
def test_a_file_that_is_replaced_while_it_is_open(path, mmap):
    expected = load_file(path)
    with slimtensors.safe_open(path, mmap=mmap) as file:
        save_file({"a": np.zeros(3)}, path)
        assert all(np.array_equal(file.get_tensor(name), array) for name, array in expected.items())
        path.unlink()
        assert np.array_equal(file.get_tensor("b"), expected["b"])


def test_a_file_that_is_longer_or_shorter_than_it_says(path):
    data = path.read_bytes()
    for changed in (data + b"\0", data + bytes(64), data[:-1], data[:-64], data[:64], data[:63], data[:8], b""):
        path.write_bytes(changed)
        for mmap in (False, True):
            with pytest.raises(slimtensors.FormatError):
                load_file(path, mmap=mmap)
