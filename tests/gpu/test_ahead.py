"""Tensors of a plan, decoded ahead on queues that run in any order that they may."""

from __future__ import annotations

import threading

import pytest
import torch

from gpu.backend import Runner
from gpu.queued import Queued
from slimtensors.errors import ChecksumError, UsageError
from slimtensors.on_torch import ahead as torch_ahead
from slimtensors.on_torch.ahead import AheadThere, as_decoded, source_there
from slimtensors.reading.tensors import open_file
from slimtensors.stream.loader import PrefetchLoader
from slimtensors.stream.plan import plan_items
from slimtensors.torch import save_file

SIZE = 1536  # numbers of a tensor


@pytest.fixture(autouse=True)
def one_tensor_a_batch(monkeypatch):
    monkeypatch.setattr("slimtensors.planning.building.PACK_TENSOR_BYTES", 2048)
    monkeypatch.setattr(torch_ahead, "BATCH_BYTES", 1)


def saved(folder, count):
    """A file, and what it holds."""
    generator = torch.Generator().manual_seed(3)
    given = {f"w{i}": (torch.randn(SIZE, generator=generator) * 0.02).to(torch.bfloat16) for i in range(count)}
    save_file(given, folder / "a.slimtensors")
    return folder / "a.slimtensors", given


class Recycling(Queued):
    """Gives the memory of what was handed out before the last tensor out again, as torch's allocator does."""

    def __init__(self, length, seed, late=None):
        super().__init__(length, seed)
        self.late = late
        self._ring = [Runner.fresh(self, 2 * SIZE) for _ in range(torch_ahead.UNDER_WAY + 1)]
        self.given = 0

    def fresh(self, length):
        if length != 2 * SIZE:
            return super().fresh(length)
        self.given += 1
        return self._ring[self.given % len(self._ring)]


def loader(file, backend):
    return PrefetchLoader(plan_items(file, None), 1, as_decoded, source=source_there(backend, 1, 1 << 20, None))


def seen(path, backend):
    """What the work on each tensor sees, which is asked for as the tensor is handed out, and done who knows when."""
    found = []
    with open_file(path, verify="none") as file:
        with loader(file, backend) as tensors:
            for _name, tensor in tensors:
                backend.ask(lambda tensor=tensor: found.append(tensor.clone()))
        backend.wait(backend.mark())
    return found


@pytest.mark.parametrize("late", [None, 0, 1])
def test_work_sees_its_tensor(tmp_path, late):
    path, given = saved(tmp_path, 5)
    backend = Recycling(1 << 21, 5, late)
    found = seen(path, backend)
    assert all(torch.equal(a, b) for a, b in zip(found, given.values(), strict=True))
    assert backend.given == len(given)
    assert any(each.startswith("decode") for each in backend.launched)


def test_the_mark_is_needed(tmp_path, monkeypatch):
    """Without it, some order decodes into memory that is still worked on: the queues are as adversarial as that."""
    path, given = saved(tmp_path, 5)
    decode = AheadThere._decode
    monkeypatch.setattr(AheadThere, "_decode", lambda self, items, tensors, _free: decode(self, items, tensors, (0, 0)))

    def sees_others(seed):
        found = seen(path, Recycling(1 << 21, seed, late=0))
        return not all(torch.equal(a, b) for a, b in zip(found, given.values(), strict=True))

    assert any(sees_others(seed) for seed in range(4))


def test_taken_out_of_turn_and_once(tmp_path):
    path, given = saved(tmp_path, 3)
    backend = Runner(1 << 21)
    with open_file(path) as file:
        tensors = loader(file, backend)
        assert torch.equal(tensors.take("w1"), given["w1"])
        with pytest.raises(UsageError, match="taken already"):
            tensors.take("w1")
        assert [name for name, _ in tensors] == ["w0", "w2"]
        tensors.close()
        late = loader(file, backend)
        late.close()
        with pytest.raises(UsageError, match="closed"):
            late.take("w2")


def test_an_error_stops_it(tmp_path):
    path, given = saved(tmp_path, 4)
    data = bytearray(path.read_bytes())
    with open_file(path) as file:
        lengths = [file.reader.records(i)[0][0].stored_length for i in range(4)]
    data[len(data) - sum(lengths[2:]) + 200] ^= 1  # of the third
    path.write_bytes(data)
    with open_file(path) as file:
        tensors = loader(file, Runner(1 << 21))
        assert torch.equal(tensors.take("w0"), given["w0"])
        assert torch.equal(tensors.take("w1"), given["w1"])
        for _ in range(2):
            with pytest.raises(ChecksumError, match="tensor 'w2', chunk 0"):
                tensors.take("w3")
        tensors.close()


def test_what_is_ahead_is_bounded(tmp_path):
    path, given = saved(tmp_path, 5)
    backend, made = Runner(1 << 21), []
    fresh = backend.fresh
    backend.fresh = lambda length: made.append(length) or fresh(length)
    with open_file(path) as file:
        tensors = loader(file, backend)
        tensors.take("w0")
        assert made.count(2 * SIZE) == 1 + torch_ahead.UNDER_WAY
        assert torch.equal(tensors.take("w1"), given["w1"])
        tensors.close()


class Full(Runner):
    """Has room for so many tensors."""

    def __init__(self, room):
        super().__init__(1 << 21)
        self._room = room

    def fresh(self, length):
        if length == 2 * SIZE:
            self._room -= 1
            if self._room < 0:
                raise MemoryError("full")
        return super().fresh(length)


def test_a_device_without_room_for_the_first_ones(tmp_path):
    path, _given = saved(tmp_path, 4)
    with open_file(path) as file:
        with pytest.raises(MemoryError) as told:
            loader(file, Full(1))
        assert not [each for each in threading.enumerate() if "slimtensors-device" in each.name], told


def test_a_device_without_room_for_a_later_one(tmp_path):
    path, given = saved(tmp_path, 4)
    with open_file(path) as file:
        tensors = loader(file, Full(3))
        assert torch.equal(tensors.take("w0"), given["w0"])
        for name in ("w1", "w2", "w3"):
            with pytest.raises(MemoryError, match="full"):
                tensors.take(name)
        tensors.close()
