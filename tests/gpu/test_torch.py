"""`slimtensors.torch.load_file` with SLIMTENSORS_DECODE=cuda: the runner stands in for the device."""

from __future__ import annotations

import pytest
import torch

import slimtensors.torch
from gpu.backend import Runner
from slimtensors.device import loading
from slimtensors.errors import UsageError


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    w = torch.randn(60, 100, generator=generator) * 0.02
    return {
        "half": w.to(torch.bfloat16), "whole": w, "flags": w > 0, "counts": torch.arange(5), "none": torch.zeros(0, 3),
        "scalar": torch.tensor(1.5), "complex": torch.complex(w[0], w[1]), "pruned": w * (w.abs() > 0.02),
    }  # fmt: skip


def test_load_file(tmp_path, monkeypatch):
    monkeypatch.setattr("slimtensors.planner.PACK_TENSOR_BYTES", 2048)
    monkeypatch.setattr(loading, "_told", set())
    backend = Runner(1 << 19)
    monkeypatch.setattr(slimtensors.torch, "backend_for", lambda _device: backend)
    given, path = tensors(), tmp_path / "a.slimtensors"
    slimtensors.torch.save_file(given, path)
    with pytest.warns(loading.DecodedOnCpuWarning):
        found = slimtensors.torch.load_file(path, device="cpu")
    assert list(found) == list(given)
    for name, tensor in given.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(found[name], tensor), name
    assert any(each.startswith("decode") for each in backend.launched)


@pytest.mark.skipif(torch.cuda.is_available(), reason="it says why there is none")
def test_a_gpu_that_is_asked_for_and_not_there(tmp_path, monkeypatch):
    slimtensors.torch.save_file({"w": torch.zeros(3)}, tmp_path / "a.slimtensors")
    monkeypatch.setenv("SLIMTENSORS_DECODE", "cuda")
    with pytest.raises(UsageError, match=r"SLIMTENSORS_DECODE=cuda, but torch .* sees no CUDA device"):
        slimtensors.torch.load_file(tmp_path / "a.slimtensors", device="cuda")
    assert slimtensors.torch.load_file(tmp_path / "a.slimtensors")["w"].tolist() == [0, 0, 0]
    monkeypatch.setenv("SLIMTENSORS_DECODE", "gpu")
    with pytest.raises(UsageError, match="auto, cpu, cuda"):
        slimtensors.torch.load_file(tmp_path / "a.slimtensors", device="cuda")
