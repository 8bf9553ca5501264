"""`slimtensors.torch` and `safe_open` with a device that decodes: the runner stands in for it."""

from __future__ import annotations

import pytest
import torch

import slimtensors
import slimtensors.on_torch.ahead
import slimtensors.reading.tensors
import slimtensors.torch
from gpu.backend import Runner
from slimtensors.device import telling
from slimtensors.dtypes import DTYPES
from slimtensors.errors import BaseError, ChecksumError
from slimtensors.on_torch import tensors as torch_tensors


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    w = torch.randn(60, 100, generator=generator) * 0.02
    return {
        "half": w.to(torch.bfloat16), "whole": w, "flags": w > 0, "counts": torch.arange(5), "none": torch.zeros(0, 3),
        "scalar": torch.tensor(1.5), "complex": torch.complex(w[0], w[1]), "pruned": w * (w.abs() > 0.02),
    }  # fmt: skip


def test_load_file(tmp_path, monkeypatch):
    monkeypatch.setattr("slimtensors.planning.building.PACK_TENSOR_BYTES", 2048)
    monkeypatch.setattr(telling, "_told", set())
    backend = Runner(1 << 19)
    monkeypatch.setattr(slimtensors.torch, "backend_for", lambda _device: backend)
    given, path = tensors(), tmp_path / "a.slimtensors"
    slimtensors.torch.save_file(given, path)
    found = slimtensors.torch.load_file(path, device="cpu")
    assert list(found) == list(given)
    for name, tensor in given.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(found[name], tensor), name
    assert {each.split("_")[0] for each in backend.launched} >= {"decode", "scatter"}


@pytest.fixture
def backend(monkeypatch):
    """The runner, as the device that decodes whatever is asked for."""
    made = Runner(1 << 21)
    monkeypatch.setattr("slimtensors.planning.building.PACK_TENSOR_BYTES", 2048)
    monkeypatch.setattr("slimtensors.planning.chunking.CHUNK_BYTES", 8 * 1024)
    monkeypatch.setattr(telling, "_told", set())
    for place in ("slimtensors.torch", "slimtensors.device.choice", "slimtensors.on_torch.modules"):
        monkeypatch.setattr(f"{place}.backend_for", lambda _device: made)
    return made


def matrix():
    return torch.randn(70, 100, generator=torch.Generator().manual_seed(2)) * 0.02


def test_stream_tensors(tmp_path, monkeypatch, backend):
    monkeypatch.setattr(slimtensors.on_torch.ahead, "BATCH_BYTES", 20_000)
    given = {"w": matrix(), "half": matrix()[:40].to(torch.bfloat16), "tie": matrix(), "n": torch.tensor(3)}
    slimtensors.torch.save_file(given, tmp_path / "a.slimtensors")
    seen: list[int] = []
    found = list(slimtensors.torch.stream_tensors(tmp_path / "a.slimtensors", progress=seen.append))
    assert [name for name, _ in found] == list(given)
    assert all(torch.equal(tensor, given[name]) for name, tensor in found)
    assert sum(seen) == sum(tensor.nbytes for tensor in given.values())
    plan = {"half": (slice(None), slice(3, 50)), "w": slice(11, 60), "n": None}
    parts = dict(slimtensors.torch.stream_tensors(tmp_path / "a.slimtensors", plan=plan))
    assert torch.equal(parts["half"], given["half"][:, 3:50])
    assert torch.equal(parts["w"], given["w"][11:60])
    assert any(each.startswith("decode") for each in backend.launched)


@pytest.mark.parametrize("index", [slice(3, 9), (slice(60, 2, -7), 5), (..., slice(1, 90, 3)), 69, slice(4, 4)])
def test_safe_open(tmp_path, backend, index):
    w = matrix()
    slimtensors.torch.save_file({"w": w}, tmp_path / "a.slimtensors")
    with slimtensors.safe_open(tmp_path / "a.slimtensors", "pt") as file:
        assert torch.equal(file.get_tensor("w"), w)
        del backend.launched[:]
        expected = torch.from_numpy(w.numpy()[index].copy())
        assert torch.equal(file.get_slice("w")[index], expected)
        assert len([each for each in backend.launched if each.startswith("decode")]) <= 1
        del backend.launched[:]
        with file.prefetch({"w": slice(2, 50)}) as loader:
            assert torch.equal(loader.take("w"), w[2:50])
        assert any(each.startswith("decode") for each in backend.launched)


@pytest.mark.parametrize(
    "index", [[69, 2, 3, -1], torch.tensor([[5], [60]]), ([1, 40], slice(60, 2, -7)), [], ([3], 5)]
)
def test_rows_by_their_numbers(tmp_path, backend, index):
    w = matrix()
    slimtensors.torch.save_file({"w": w, "tie": w}, tmp_path / "a.slimtensors")
    numpy_index = index.numpy() if isinstance(index, torch.Tensor) else index
    expected = torch.from_numpy(w.numpy()[numpy_index].copy()) if index != [] else w[:0]
    with slimtensors.safe_open(tmp_path / "a.slimtensors", "pt") as file:
        for name in ("w", "tie"):
            found = file.get_slice(name)[index]
            assert found.is_contiguous()
            assert torch.equal(found, expected), name
        assert bool(backend.launched) == (index != [])
        with pytest.raises(IndexError, match="index 70 is out of range for dimension 0 of size 70"):
            file.get_slice("w")[[0, 70]]


@pytest.mark.parametrize("wrong", [False, True])
def test_a_base_on_the_device(tmp_path, monkeypatch, backend, wrong):
    """It is read where it is, and checked there."""
    base = {"w": matrix().to(torch.bfloat16)}
    tuned = {"w": base["w"] + (matrix()[torch.randperm(70)] * 0.02).to(torch.bfloat16)}
    slimtensors.torch.save_file(tuned, tmp_path / "a.slimtensors", base=base)
    there = torch.as_tensor(backend.fresh(base["w"].nbytes)).view(torch.bfloat16).reshape(70, 100)
    there.copy_(base["w"])
    if wrong:
        there[69, 99] += 1
        with pytest.raises(BaseError, match="it is another base"):
            slimtensors.torch.load_file(tmp_path / "a.slimtensors", base={"w": there})
        return
    monkeypatch.setattr(slimtensors.reading.tensors.TensorFile, "base_of", None)  # the CPU is not asked
    found = slimtensors.torch.load_file(tmp_path / "a.slimtensors", base={"w": there})
    assert torch.equal(found["w"], tuned["w"])
    assert "finish_u16" in backend.launched


@pytest.mark.parametrize("wrong", [False, True])
def test_a_base_in_a_file(tmp_path, monkeypatch, backend, wrong):
    """It is decoded on the device, and checked there; chunks of the two files do not coincide."""
    base = {"w": matrix().to(torch.bfloat16)}
    tuned = {"w": base["w"][:69] + (matrix()[torch.randperm(70)][:69] * 0.02).to(torch.bfloat16)}
    slimtensors.torch.save_file(tuned, tmp_path / "a.slimtensors", base=base)
    if wrong:
        base["w"][-4, 99] += 1
    monkeypatch.setattr("slimtensors.planning.chunking.CHUNK_BYTES", 5 * 1024)
    slimtensors.torch.save_file({"other": matrix() * 1.5, **base}, tmp_path / "base.slimtensors")
    if wrong:  # by name it would be found, but its identity is stated
        with pytest.raises(BaseError, match="holds another one of that name"):
            slimtensors.torch.load_file(tmp_path / "a.slimtensors", base=tmp_path / "base.slimtensors")
        return
    monkeypatch.setattr(slimtensors.reading.tensors.TensorFile, "base_of", None)  # the CPU is not asked
    found = slimtensors.torch.load_file(tmp_path / "a.slimtensors", base=tmp_path / "base.slimtensors")
    assert torch.equal(found["w"], tuned["w"])
    assert backend.launched.count("finish_u16") == 1
    part = {"w": slice(40, 60)}
    files = tmp_path / "a.slimtensors", tmp_path / "base.slimtensors"
    found = dict(slimtensors.torch.stream_tensors(files[0], plan=part, base=files[1]))
    assert torch.equal(found["w"], tuned["w"][40:60])


def test_a_base_is_copied_as_far_as_it_is_read():
    w = matrix()
    there = torch_tensors._There("w", w.reshape(-1).view(torch.uint8), DTYPES["F32"], (70, 100))
    assert there.read(5, 9).tobytes() == w.reshape(-1)[5:14].numpy().tobytes()
    assert there.place == ("cpu", w.data_ptr(), w.nbytes)


def test_load_model(tmp_path, backend):
    """Into parameters that are in the device's memory, in place; what is of another dtype, beside it."""
    model = torch.nn.Sequential(torch.nn.Linear(64, 40), torch.nn.Linear(40, 30))
    slimtensors.torch.save_model(model, tmp_path / "a.slimtensors")
    there = torch.nn.Sequential(torch.nn.Linear(64, 40), torch.nn.Linear(40, 30).to(torch.float64))
    for parameter in there.parameters():
        memory = torch.as_tensor(backend.fresh(parameter.nbytes)).view(parameter.dtype)
        parameter.data = memory.reshape(parameter.shape)
    places = [parameter.data_ptr() for parameter in there.parameters()]
    assert slimtensors.torch.load_model(there, tmp_path / "a.slimtensors") == ([], [])
    assert [parameter.data_ptr() for parameter in there.parameters()] == places
    for ours, theirs in zip(there.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs.to(ours.dtype))
    assert any(each.startswith("decode") for each in backend.launched)


def test_load_model_says_what_is_not_whole(tmp_path, monkeypatch, backend):
    model = torch.nn.Linear(64, 40)
    slimtensors.torch.save_model(model, tmp_path / "a.slimtensors")
    for parameter in model.parameters():
        parameter.data = torch.as_tensor(backend.fresh(parameter.nbytes)).view(torch.float32).reshape(parameter.shape)
    monkeypatch.setattr(backend, "launch", lambda *_: None)
    with pytest.raises(ChecksumError, match=r"GPU does not.*Incomplete, and noise in part: 'weight'"):
        slimtensors.torch.load_model(model, tmp_path / "a.slimtensors")
