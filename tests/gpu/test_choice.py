"""SLIMTENSORS_DECODE, with a GPU whose kernels can be used, with one whose kernels cannot, and with none."""

from __future__ import annotations

import importlib.util
import sys
from types import SimpleNamespace

import pytest
import torch

import slimtensors
import slimtensors.torch
from gpu.backend import Runner
from slimtensors import switches
from slimtensors.cli import env
from slimtensors.device import choice, telling
from slimtensors.device.torch_cuda import TorchCuda
from slimtensors.errors import DecodedOnCpuWarning, UsageError
from slimtensors.kernels.cuda import launching, machine_code
from slimtensors.on_torch import tensors as torch_tensors

BROKEN = "numba-cuda is not installed; pip install 'slimtensors[cuda13]'"


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setattr("slimtensors.planning.building.PACK_TENSOR_BYTES", 2048)
    monkeypatch.setattr(telling, "_told", set())
    slimtensors.torch.save_file(weights(), tmp_path / "a.slimtensors")
    return tmp_path / "a.slimtensors"


def weights():
    return {"w": torch.randn(70, 100, generator=torch.Generator().manual_seed(2)) * 0.02}


def ask(monkeypatch, value):
    if value is None:
        monkeypatch.delenv(switches.DECODE, raising=False)
    else:
        monkeypatch.setenv(switches.DECODE, value)


def unusable(monkeypatch, count=1):
    """torch has a GPU, to which what is copied stays here; kernels cannot be used."""
    monkeypatch.setattr(choice, "why_not", lambda _index: BROKEN)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    onto = torch_tensors.from_array

    def stays(array, dtype, device):
        assert torch.device(device).type == "cuda"
        return onto(array, dtype, "cpu")

    monkeypatch.setattr(torch_tensors, "from_array", stays)
    monkeypatch.setattr(slimtensors.torch, "from_array", stays)


def load(path, device):
    """By each verb that takes a device."""
    yield slimtensors.torch.load_file(path, device=device)
    yield dict(slimtensors.torch.stream_tensors(path, device=device))
    with slimtensors.safe_open(path, "pt", device=device) as file:
        yield {"w": file.get_tensor("w")}
        with file.prefetch() as loader:
            yield dict(loader)


@pytest.mark.parametrize("asked", [None, "", "auto", "cuda", "cpu"])
@pytest.mark.filterwarnings("error::slimtensors.DecodedOnCpuWarning")
def test_a_gpu_that_can(path, monkeypatch, asked):
    backend, devices = Runner(1 << 21), []
    unusable(monkeypatch)
    monkeypatch.setattr(choice, "why_not", lambda _index: None)
    monkeypatch.setattr("slimtensors.device.torch_cuda.TorchCuda", lambda device: devices.append(device) or backend)
    ask(monkeypatch, asked)
    for found in load(path, "cuda"):
        assert torch.equal(found["w"], weights()["w"])
        assert any(each.startswith("decode") for each in backend.launched) == (asked != "cpu")
        del backend.launched[:]
    assert set(devices) == (set() if asked == "cpu" else {torch.device("cuda")})
    for device in ("cpu", "meta"):
        assert choice.backend_for(torch.device(device)) is None


@pytest.mark.parametrize("asked", [None, "auto"])
def test_a_gpu_that_cannot_is_told_of_once(path, monkeypatch, asked):
    unusable(monkeypatch)
    ask(monkeypatch, asked)
    for device in ("cpu", "meta"):
        assert choice.backend_for(torch.device(device)) is None  # and warns of nothing, which would be an error
    with pytest.warns(DecodedOnCpuWarning) as told:
        loaded = [*load(path, "cuda"), *load(path, "cuda:0")]
    assert all(torch.equal(found["w"], weights()["w"]) for found in loaded)
    (only,) = told
    assert "decoded on the CPU and copied" in str(only.message)
    assert BROKEN in str(only.message)
    assert "SLIMTENSORS_DECODE=cpu" in str(only.message)


@pytest.mark.filterwarnings("error::slimtensors.DecodedOnCpuWarning")
def test_a_gpu_that_cannot_and_is_asked_for(path, monkeypatch):
    unusable(monkeypatch)
    ask(monkeypatch, "cpu")
    for found in load(path, "cuda"):
        assert torch.equal(found["w"], weights()["w"])
    ask(monkeypatch, "cuda")
    with pytest.raises(UsageError, match=r"=cuda, but numba-cuda is not installed.*SLIMTENSORS_DECODE=cpu"):
        slimtensors.torch.load_file(path, device="cuda")
    ask(monkeypatch, "gpu")
    with pytest.raises(UsageError, match="'gpu'; it can be auto, cpu, cuda"):
        choice.backend_for(torch.device("cpu"))
    with pytest.raises(UsageError, match="'gpu'; it can be auto, cpu, cuda"):
        slimtensors.torch.load_file(path, device="cuda")


@pytest.mark.parametrize(("device", "count"), [("cuda", 0), ("cuda:1", 1)])
@pytest.mark.filterwarnings("error::slimtensors.DecodedOnCpuWarning")
def test_torch_has_the_words_for_a_gpu_that_is_not_there(monkeypatch, device, count):
    unusable(monkeypatch, count)
    ask(monkeypatch, "auto")
    assert choice.backend_for(torch.device(device)) is None
    ask(monkeypatch, "cuda")
    with pytest.raises(UsageError, match="SLIMTENSORS_DECODE=cuda, but"):
        choice.backend_for(torch.device(device))


@pytest.mark.skipif(torch.cuda.is_available(), reason="it says why there is none")
def test_no_gpu(path, monkeypatch):
    ask(monkeypatch, "cuda")
    with pytest.raises(UsageError, match=r"device 'cuda' cannot be used: torch .* sees no CUDA device"):
        slimtensors.torch.load_file(path, device="cuda")
    assert torch.equal(slimtensors.torch.load_file(path)["w"], weights()["w"])


def broken(_index):
    raise RuntimeError("CUDA says 999")


@pytest.mark.parametrize(
    ("version", "installed", "launcher", "reason"),
    [
        (None, True, broken, "not made for CUDA"),
        ("12.8", False, broken, r"pip install 'slimtensors\[cuda12\]'"),
        ("13.0", False, broken, r"pip install 'slimtensors\[cuda13\]'"),
        ("13.0", True, broken, "the driver cannot be used: RuntimeError: CUDA says 999"),
        ("13.0", True, lambda index: SimpleNamespace(capability=70 + index), "capability is 7.1; the kernels need 7.5"),
        ("13.0", True, lambda _index: SimpleNamespace(capability=75), None),
    ],
)
def test_why_not(monkeypatch, version, installed, launcher, reason):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", version)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: object() if installed else None)
    monkeypatch.setattr(launching, "launcher", launcher)
    found = choice.why_not.__wrapped__(1)
    if reason is None:
        assert found is None
    else:
        with pytest.raises(AssertionError, match=reason):
            raise AssertionError(found)


def numba_fails(_name):
    raise LookupError("Failed in cuda mode pipeline\nmany lines more")


def test_a_kernel_that_cannot_be_compiled(monkeypatch):
    monkeypatch.setattr(machine_code, "cache_folder", lambda: None)
    monkeypatch.setattr(machine_code, "ptx_of", numba_fails)
    launcher = object.__new__(launching.Launcher)
    launcher.capability = 90
    with pytest.raises(UsageError) as raised:
        launcher._load("digest")
    assert "digest cannot be compiled for sm_90 (LookupError: Failed in cuda mode pipeline)" in str(raised.value)
    assert "SLIMTENSORS_DECODE=cpu" in str(raised.value)
    assert "many lines" not in str(raised.value)


def test_a_kernel_that_cannot_be_loaded(monkeypatch):
    monkeypatch.setattr(launching, "machine_code", lambda _kernel, _capability: b"")
    launcher = object.__new__(launching.Launcher)
    launcher.capability, launcher._driver = 90, SimpleNamespace(cuModuleLoadData=lambda _code: (209,))
    with pytest.raises(UsageError, match=r"digest cannot be loaded .CUDA says 209.; SLIMTENSORS_DECODE=cpu"):
        launcher._load("digest")


def test_no_memory_for_decoding(monkeypatch):
    def full(*_, **__):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    backend = object.__new__(TorchCuda)
    backend.device = torch.device("cpu")
    assert backend.fresh(3).nbytes == 3
    monkeypatch.setattr(torch, "empty", full)
    with pytest.raises(torch.cuda.OutOfMemoryError) as raised:
        backend.fresh(3)
    if sys.version_info >= (3, 11):  # where errors have notes
        assert "SLIMTENSORS_DECODE=cpu" in raised.value.__notes__[0]


@pytest.mark.parametrize(("reason", "shown"), [(None, "used unless SLIMTENSORS_DECODE=cpu: all but"), (BROKEN, BROKEN)])
def test_env_says_which(monkeypatch, reason, shown):
    monkeypatch.setattr(choice, "why_not", lambda: reason)
    assert env._cuda()["kernels"].startswith(shown)


def test_that_error_comes_out_of_a_load(path, monkeypatch):
    """As it is, and no thread is left waiting."""
    backend = Runner(1 << 21)
    unusable(monkeypatch)
    monkeypatch.setattr(choice, "why_not", lambda _index: None)
    monkeypatch.setattr("slimtensors.device.torch_cuda.TorchCuda", lambda _device: backend)
    monkeypatch.setattr(machine_code, "cache_folder", lambda: None)
    monkeypatch.setattr(machine_code, "ptx_of", numba_fails)
    monkeypatch.setattr(backend, "launch", lambda kernel, *_: machine_code.machine_code(kernel, 90))
    ask(monkeypatch, "auto")
    with pytest.raises(UsageError, match=r"cannot be compiled for sm_90.*SLIMTENSORS_DECODE=cpu"):
        slimtensors.torch.load_file(path, device="cuda")
    with pytest.raises(UsageError, match=r"cannot be compiled for sm_90.*SLIMTENSORS_DECODE=cpu"):
        dict(slimtensors.torch.stream_tensors(path, device="cuda"))
