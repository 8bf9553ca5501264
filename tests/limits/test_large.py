"""Files beyond 4 GiB and tensors of more than 2^31 elements, made of holes and zeros."""

from __future__ import annotations

import json
import os
import struct

import numpy as np
import pytest

import slimtensors
from faults import files
from slimtensors.container import system
from slimtensors.container.system import RandomAccessFile
from slimtensors.numpy import load, save

GIBIBYTE = 1 << 30
BEYOND = 2**32 + 2**24 + 7  # bytes or elements
MARKS = (0, 2**31 - 1, 2**31, 2**32 - 1, 2**32, BEYOND - 1)


def has_holes(folder):
    """Whether a large file takes little room there."""
    path = folder / "trial"
    with path.open("wb") as file:
        file.truncate(GIBIBYTE)
    found = getattr(path.stat(), "st_blocks", 1 << 40) * 512 < GIBIBYTE
    path.unlink()
    return found


def memory():
    """Bytes that are free, as far as the system tells."""
    names = getattr(os, "sysconf_names", {})
    if "SC_AVPHYS_PAGES" not in names:
        return 0
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def folder(tmp_path):
    if not has_holes(tmp_path):
        pytest.skip("files here have no holes: this would take 5 GiB of disk")
    return tmp_path


def test_a_source_beyond_4_gib(folder):
    """Offsets in the source, elements of a tensor and decoded bytes are all beyond 2^32."""
    source, path = folder / "source", folder / "model"
    last = np.arange(100_000, dtype=np.float32)
    header = {
        "large": {"dtype": "U8", "shape": [BEYOND], "data_offsets": [0, BEYOND]},
        "last": {"dtype": "F32", "shape": [100_000], "data_offsets": [BEYOND, BEYOND + last.nbytes]},
    }
    text = json.dumps(header).encode()
    start = 8 + len(text)
    with source.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for mark in MARKS:
            file.seek(start + mark)
            file.write(b"\x07")
        file.seek(start + BEYOND)
        file.write(last.tobytes())
    slimtensors.compress(source, path, durable=False, self_check=False)
    source.unlink()
    slimtensors.verify(path)  # the SHA-256 of the source, which was taken when it was read
    with slimtensors.safe_open(path) as file:
        assert np.array_equal(file.get_tensor("last"), last)
        large = file.get_slice("large")
        assert large[-BEYOND] == large[-1] == 7
        for mark in MARKS:
            around = large[max(0, mark - 2) : mark + 3]
            expected = [7 if at in MARKS else 0 for at in range(max(0, mark - 2), min(BEYOND, mark + 3))]
            assert around.tolist() == expected
        assert large[5 : BEYOND : 2**30].tolist() == [0] * 5


def test_a_compressed_file_beyond_4_gib(folder):
    """Literal chunks of zeros, which are holes but for their heads; a small tensor behind them."""
    path, size, count = folder / "model", 1 << 24, (BEYOND >> 24) + 1
    stored, zeros = files.literal(bytes(size))
    last = files.literal(bytes(range(256)) * 10)
    tensors = [
        {"chunk": size, "dtype": "U8", "expression": 0, "name": "large", "shape": [count * size]},
        {"chunk": 2560, "dtype": "U8", "expression": 0, "name": "last", "shape": [2560]},
    ]

    record = struct.pack("<II32sQ", len(stored), size, files.digest(stored), files.decoded_digest(zeros))
    of_last = struct.pack("<II32sQ", len(last[0]), 2560, files.digest(last[0]), files.decoded_digest(last[1]))
    head = files.canonical(files.header(tensors))
    index = struct.pack("<Q32s", count * len(stored), files.digest(record * count))
    index += struct.pack("<Q32s", len(last[0]), files.digest(of_last))
    index += bytes(32) + files.digest(last[1])  # nobody looks at the first
    table = record * count + of_last
    chunks_at = 64 + len(head) + len(index) + len(table)
    chunks_at += -chunks_at % 64
    length = chunks_at + count * len(stored) + len(last[0])
    assert chunks_at + (count - 1) * len(stored) > 2**32
    with path.open("wb") as file:
        file.write(files.sealed(head, index, table, file_length=length))
        for chunk in range(count):
            file.seek(chunks_at + chunk * len(stored))
            file.write(stored[:16])
        file.seek(length - len(last[0]))
        file.write(last[0])
    for mmap in (False, True):
        with slimtensors.safe_open(path, mmap=mmap) as file:
            assert file.get_tensor("last").tobytes() == last[1]
            large = file.get_slice("large")
            for at in (0, 2**31 - 2, 2**32 - 2, count * size - 4):
                assert large[at : at + 4].tolist() == [0] * 4


def test_more_than_2_31_elements_in_memory():
    count = 2**31 + 7
    if memory() < 5 * GIBIBYTE:
        pytest.skip("takes 4 GiB of memory")
    array = np.zeros(count, np.uint8)
    marks = [0, 2**31 - 2, 2**31 - 1, 2**31, count - 1]
    array[marks] = 9
    data = save({"a": array}, self_check=False)
    del array
    assert len(data) < 4 << 20
    loaded = load(data)["a"]
    assert loaded.shape == (count,)
    assert np.count_nonzero(loaded) == len(marks)
    assert loaded[marks].tolist() == [9] * len(marks)


def test_long_reads_are_made_of_several(tmp_path, monkeypatch):
    """Systems read at most 2 GiB less a page at once, and some refuse to be asked for more."""
    data = bytes(range(256)) * 10
    (tmp_path / "data").write_bytes(data)
    asked = []
    source = RandomAccessFile(tmp_path / "data")
    monkeypatch.setattr(system, "_MOST_AT_ONCE", 100)
    read_some = source._read_some
    monkeypatch.setattr(source, "_read_some", lambda *given: asked.append(len(given[-1])) or read_some(*given))
    target = bytearray(2000)
    try:
        assert source.read_into(7, memoryview(target)) == 2000
    finally:
        source.close()
    assert target == data[7:2007]
    assert max(asked) == 100
