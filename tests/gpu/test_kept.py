"""Segments that are kept between fills, and what their kernels leave, in the runner."""

from __future__ import annotations

import numpy as np
import pytest

from gpu.backend import Runner
from slimtensors.bases.resolving import open_with
from slimtensors.device import loader, loading, results
from slimtensors.device.loading import Kept, Resident, begin_fill, fill_device
from slimtensors.device.results import digests_of, launch_digests, list_digests
from slimtensors.device.segments import bundled
from slimtensors.device.tasks import Segment, Task
from slimtensors.digests import decoded_digest
from slimtensors.errors import BaseError, ChecksumError
from slimtensors.kernels.cuda import rows
from slimtensors.numpy import save_file
from slimtensors.reading.tensors import open_file


@pytest.fixture
def file(tmp_path, monkeypatch):
    """Two kinds of tensors that kernels decode, in several segments of several, and one that the CPU decodes."""
    monkeypatch.setattr(loading, "SEGMENT_BYTES", 2500)
    monkeypatch.setattr("slimtensors.planning.building.PACK_TENSOR_BYTES", 512)
    monkeypatch.setattr("slimtensors.planning.chunking.CHUNK_BYTES", 2 * 1024)
    rng, path = np.random.default_rng(0), tmp_path / "a.slimtensors"
    given = {f"w{i}": (rng.standard_normal(700 + 600 * i) * 0.02).astype(np.float16) for i in range(3)}
    pruned = np.where(rng.random(1100) < 0.5, 0, rng.standard_normal(1100)).astype(np.float32)
    save_file({**given, "pruned": pruned, "scalars": pruned[:20]}, path)
    with open_file(path) as opened:
        yield opened


def targets_of(file, backend, gap):
    """Buffers that lie in an order and at distances that `gap` says."""
    found = {}
    for i in np.random.default_rng(gap).permutation(len(file.header.tensors)).tolist():
        found[i] = backend.fresh(file.header.tensors[i].nbytes)
        backend.fresh(1 + 256 * gap)
    return {i: found[i] for i in range(len(found))}


def holds(file, targets):
    return all(target.tobytes() == file.read(i, 1).tobytes() for i, target in targets.items())


@pytest.mark.parametrize(("on_device", "share"), [(False, 1000), (True, 0)])
def test_later_fills_read_and_list_nothing(file, monkeypatch, on_device, share):
    """share: of stored bytes, that lists on the device may take."""
    monkeypatch.setattr(loader, "LIST_SHARE", share)
    backend, kept = Runner(1 << 21), Kept(on_device)
    first, second, apart = (targets_of(file, backend, gap) for gap in (0, 0, 2))
    expected = {i: file.read(i, 1).tobytes() for i in first}
    begin_fill(file, first, backend, 2, kept=kept).check()
    assert len(kept.segments) > 2
    assert {each.split("_")[0] for each in backend.launched} >= {"decode", "scatter"}
    assert kept.decoded
    monkeypatch.setattr("slimtensors.container.reader.Reader.stored", None)
    begin_fill(file, apart, backend, 2, kept=kept).check()  # listed for this once
    monkeypatch.setattr(loader, "list_segment", None)
    monkeypatch.setattr(loader, "list_planes", None)
    begin_fill(file, second, backend, 2, kept=kept).check()
    for targets in (first, apart, second):
        assert {i: target.tobytes() for i, target in targets.items()} == expected


@pytest.mark.parametrize("reach", [rows.NOWHERE, 0])
def test_bases_on_the_device(tmp_path, monkeypatch, reach):
    """Lists are good while bases lie as they did to one another; what lies there is looked at each time."""
    monkeypatch.setattr(loading, "SEGMENT_BYTES", 1500)
    monkeypatch.setattr(results, "MOST_WORDS", reach)
    monkeypatch.setattr("slimtensors.planning.building.PACK_TENSOR_BYTES", 512)
    monkeypatch.setattr("slimtensors.planning.chunking.CHUNK_BYTES", 2 * 1024)
    rng, path = np.random.default_rng(0), tmp_path / "a.slimtensors"
    base = {f"w{i}": (rng.standard_normal(700 + 601 * i) * 0.02).astype(np.float16) for i in range(2)}
    tuned = {name: each + (rng.standard_normal(each.shape) * 1e-4).astype(np.float16) for name, each in base.items()}
    save_file(tuned, path, base=base)
    backend, kept = Runner(1 << 20), Kept()

    def resident(order, gap):
        memory = {}
        for name in order:
            memory[name] = backend.upload(base[name].view(np.uint8))
            backend.fresh(1 + gap)
        return {name: Resident("F16", base[name].shape, each) for name, each in memory.items()}

    with open_with(path, base) as opened:
        targets = targets_of(opened, backend, 0)
        there, again, apart = (resident(*given) for given in ((base, 0), (base, 0), ([*base][::-1], 4096)))

        def load(bases):
            for each in targets.values():
                each[:] = 0
            begin_fill(opened, targets, backend, 1, resident=bases, kept=kept).check()
            names = [tensor.name for tensor in opened.header.tensors]
            return all(target.tobytes() == tuned[names[i]].tobytes() for i, target in targets.items())

        assert load(there)
        assert len(kept.segments) > 1
        assert any(each.startswith("finish") for each in backend.launched)
        assert all(held.lists is not None for held in kept.segments.values())
        assert load(apart)  # listed for this once
        assert load({})  # by the CPU
        monkeypatch.setattr(loader, "list_planes", None)
        assert load(there)
        assert load(again)
        again["w1"].memory[0] ^= 1
        with pytest.raises((BaseError, ChecksumError), match=r"the GPU does not|it is another base"):
            load(again)
        assert load(there)


@pytest.mark.parametrize("which", ["status", "digests"])
def test_a_fault_of_a_later_fill_is_seen(file, monkeypatch, which):
    backend, kept = Runner(1 << 21), Kept()
    targets = targets_of(file, backend, 0)
    begin_fill(file, targets, backend, 1, kept=kept).check()
    decoded = targets[next(iter(kept.segments)).tasks[0].tensor]
    launch, wrong = backend.launch, decoded[100] ^ 1

    def faulty(kernel, blocks, buffers):
        if kernel == "plain_u64" and which == "digests":  # what takes ends for digests
            decoded[100] = wrong
        launch(kernel, blocks, buffers)
        if kernel.startswith("decode") and which == "status":
            buffers[-1][0] |= rows.BAD_END

    monkeypatch.setattr(backend, "launch", faulty)
    with pytest.raises(ChecksumError, match="the GPU does not"):
        begin_fill(file, targets, backend, 1, kept=kept).check()


@pytest.mark.parametrize("reach", [rows.NOWHERE, 0])
def test_digests(monkeypatch, reach):
    """Of chunks of all lengths, whose ends a kernel copies, or lie too far apart for one."""
    monkeypatch.setattr(results, "MOST_WORDS", reach)
    rng, backend = np.random.default_rng(1), Runner(1 << 20)
    sizes = np.array([5, 9 * 16384, 16384 - 2, 16384 + 1])
    buffers = [backend.upload(rng.integers(0, 256, size).astype(np.uint8)) for size in sizes]
    out, places = backend.window(buffers)
    digesting, arrays = list_digests(np.array(places), sizes)
    here = bundled(backend, arrays)
    lists = here.there(backend.upload(here.host))
    into = backend.fresh(digesting.length)
    launch_digests(backend, digesting, lists, out, into, buffers.__getitem__)
    expected = [decoded_digest(memoryview(bytes(buffer))) for buffer in buffers]
    assert digests_of(digesting, backend.fetch(into)) == expected
    assert ("plain_u64" in backend.launched) == (reach != 0)


def test_a_file_whose_tensors_lie_far_apart(file, monkeypatch):
    monkeypatch.setattr(results, "MOST_WORDS", 0)
    backend = Runner(1 << 21)
    targets = targets_of(file, backend, 1)
    fill_device(file, targets, backend, 1)
    assert holds(file, targets)


def test_what_is_read_at_once():
    """Neighbours of one stream, up to so many bytes."""
    chunks = [(3, 0, 64), (3, 1, 128), (3, 2, 64), (3, 4, 64), (4, 5, 64), (4, 6, 640), (4, 7, 64)]
    segment = Segment(None, [Task(0, stream, chunk, length, 10, 0, 0) for stream, chunk, length in chunks])
    assert segment.runs(192) == [range(2), range(2, 3), range(3, 4), range(4, 5), range(5, 6), range(6, 7)]
    assert segment.runs(256) == [range(3), range(3, 4), range(4, 5), range(5, 6), range(6, 7)]
    assert segment.runs(1 << 20) == [range(3), range(3, 4), range(4, 7)]


def test_neighbours_are_read_by_one_read(tmp_path, monkeypatch):
    monkeypatch.setattr("slimtensors.planning.building.PACK_TENSOR_BYTES", 512)
    monkeypatch.setattr("slimtensors.planning.chunking.CHUNK_BYTES", 1024)
    given = np.random.default_rng(3).integers(0, 256, 5000).astype(np.uint8)
    save_file({"w": given}, tmp_path / "a")
    backend, reads = Runner(1 << 18), []
    with open_file(tmp_path / "a") as file:
        read, target = file.reader.source.read, backend.fresh(5000)
        file.reader.read_table()
        file.reader.source.read = lambda *asked: reads.append(asked) or read(*asked)
        fill_device(file, {0: target}, backend, 2)
        assert len(file.reader.records(0)[0]) == 5
    assert len(reads) == 1
    assert target.tobytes() == given.tobytes()
