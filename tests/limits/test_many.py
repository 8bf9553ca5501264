"""Many tensors, many chunks, many damaged files: time in proportion, and no memory kept."""

from __future__ import annotations

import gc
import struct
import sys
import time
from itertools import pairwise

import numpy as np
import pytest

import slimtensors
from faults import files, processes
from slimtensors import limits
from slimtensors.numpy import apply_delta, load, save


def seconds(work):
    """Processor time; not that of collecting what other tests left, which takes a second late in a run of all."""
    gc.collect()
    gc.freeze()
    try:
        start = time.process_time()
        work()
        return time.process_time() - start
    finally:
        gc.unfreeze()


def one_byte_each(count):
    """A file of so many tensors, in packs of 4096."""
    tensors = [{"dtype": "U8", "name": f"layers.{i}.bias", "pack": i // 4096, "shape": [1]} for i in range(count)]
    data = bytes(i % 256 for i in range(4096))
    chunk, identities = files.literal(data), [files.digest(data[i : i + 1]) for i in range(256)]
    head = files.header(tensors, packs=[{"dtype": "U8", "expression": 0}] * (count // 4096))
    return files.build(head, [[chunk]] * (count // 4096), [identities[i % 256] for i in range(count)])


def assert_in_proportion(work, sizes):
    """Twice as many may take three times as long, and a moment."""
    taken = [seconds(work(size)) for size in sizes]
    for less, more in pairwise(taken):
        assert more < 3 * less + 0.5, taken
    return taken[-1]


def test_opening_takes_time_in_proportion_to_the_tensors():
    made = {count: one_byte_each(count) for count in (2**15, 2**16, limits.MAX_TENSORS)}
    longest = assert_in_proportion(lambda count: lambda: slimtensors.safe_open(made[count]), made)
    assert longest < 8  # seconds; 2 on an idle machine
    assert_in_proportion(lambda count: lambda: load(made[count], threads=1), list(made)[:2])
    arrays = load(made[limits.MAX_TENSORS])
    assert len(arrays) == limits.MAX_TENSORS
    assert all(arrays[f"layers.{i}.bias"][0] == i % 256 for i in range(0, limits.MAX_TENSORS, 997))


def test_saving_takes_time_in_proportion_to_the_tensors():
    def work(count):
        arrays = {f"layers.{i}.bias": np.full(4, i, np.float32) for i in range(count)}
        return lambda: save(arrays, threads=1, self_check=False)

    work(2**13)()  # kernels may have to be compiled
    assert_in_proportion(work, (2**11, 2**12, 2**13))


def test_applying_a_difference_takes_little_longer_than_loading_it():
    count = 2**11
    base = {f"layers.{i}.bias": np.linspace(i, i + 1, 160, dtype=np.float32) for i in range(count)}
    data = save({name: array * np.float32(1.001) for name, array in base.items()}, base=base, self_check=False)
    loading = seconds(lambda: load(data, base=base, threads=1))
    assert seconds(lambda: apply_delta(data, base, threads=1)) < 3 * loading + 0.5


def test_verifying_decodes_a_pack_once():
    """Else 2^17 tensors of 128 bytes, all in one pack of 16 MiB, take 2 TiB of decoding."""
    count, size = 2**8, 2**16
    tensors = [{"dtype": "U8", "name": str(i), "pack": 0, "shape": [size]} for i in range(count)]
    head = files.header(tensors, packs=[{"dtype": "U8", "expression": 0}])
    data = bytes(size * count)
    made = files.build(head, [[files.literal(data)]], [files.digest(bytes(size))] * count)
    assert seconds(lambda: slimtensors.verify(made, threads=1)) < 0.7


def test_a_name_that_is_not_there_is_found_missing_at_once():
    names = [f"layer.{i}.".ljust(100, "x") + str(i) for i in range(2**11)]
    tensors = [{"dtype": "U8", "name": name, "shape": [0]} for name in names]
    with slimtensors.safe_open(files.build(files.header(tensors), [], [files.EMPTY] * len(names))) as file:
        start = time.process_time()
        with pytest.raises(slimtensors.TensorNotFoundError):
            file.get_tensor("layer.1".ljust(100, "x") + "7")
        assert time.process_time() - start < 0.3


def test_more_tensors_than_a_file_may_have_are_not_saved():
    array = np.zeros(0)
    with pytest.raises(slimtensors.UsageError, match="at most 131072"):
        save({str(i): array for i in range(limits.MAX_TENSORS + 1)})


def test_many_chunks_of_one_unit():
    """As small as chunks can be; a table record and 64 stored bytes for each."""
    count = 20_000
    chunks = [files.literal(bytes([i % 256])) for i in range(256)]
    tensor = {"chunk": 1, "dtype": "U8", "expression": 0, "name": "t", "shape": [count]}
    expected = bytes(i % 256 for i in range(count))
    made = files.build(files.header([tensor]), [[chunks[i % 256] for i in range(count)]], [files.digest(expected)])
    start = time.process_time()
    assert load(made, threads=1)["t"].tobytes() == expected
    assert time.process_time() - start < 8


DAMAGED = """
import gc, json, random
import numpy as np
from faults.measured import status
import slimtensors
from slimtensors.numpy import apply_delta, load, save
generator, choose = np.random.default_rng(1), random.Random(1)
rows = np.where(np.arange(40)[:, None] % 3, generator.normal(size=(40, 500)), 1.0).astype(np.float32)
made = [bytearray(save({"a": array, "b": np.arange(5)}, threads=1)) for array in (
    generator.normal(size=5_000).astype(np.float32), generator.normal(size=10_000).astype(np.float16), rows,
    generator.integers(0, 50_000, 5_000), np.frombuffer(b"all work and no play " * 1000, np.uint8),
)]
fine = refused = 0
for i in range(11_000):
    if i == 1000:
        gc.collect()
        before = status("VmRSS")
    data = made[i % len(made)]
    # Behind the header and the table, which have digests; those of the chunks are not looked at.
    start = 64 + int.from_bytes(data[24:28], "little") + int.from_bytes(data[28:32], "little") + 192
    at = choose.randrange(start, len(data))
    good, data[at] = data[at], choose.randrange(256)
    try: load(data, verify="none", threads=1 + i % 2)
    except slimtensors.FormatError: refused += 1
    else: fine += 1
    data[at] = good
gc.collect()
print(json.dumps([fine, refused, status("VmRSS") - before]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="measured by /proc")
def test_10_000_damaged_chunks_leave_nothing_behind():
    fine, refused, grown = processes.run(DAMAGED)
    assert fine + refused == 11_000
    assert min(fine, refused) > 200  # without digests some damage is not noticed
    assert grown < 8  # MiB


def test_a_short_read_costs_no_memory():
    """The lengths of a prefix are compared with the file before anything is made of them."""
    for length in (0, 1, 63, 64, 65, 1000):
        front = struct.pack("<8sIIQII", b"\x89SLM\r\n\x1a\n", 0, 0, length, 2**24, 2**32 - 1) + bytes(32)
        with pytest.raises(slimtensors.FormatError):
            load(front.ljust(length, b"\0"))
