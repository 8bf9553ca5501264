"""Layers that are decoded on a device while others compute there, on queues that run in any order that they may."""

from __future__ import annotations

import pytest
import torch
from bench.gpu_offload import offloading

from gpu.backend import Runner
from gpu.queued import Queued
from slimtensors import switches
from slimtensors.device import choice
from slimtensors.errors import ChecksumError, UsageError
from slimtensors.offload import hooks, offload
from slimtensors.torch import save_model


@pytest.fixture(autouse=True)
def no_packs(monkeypatch):
    """The weights are small, and kernels decode them all the same."""
    monkeypatch.setattr("slimtensors.planning.building.PACK_TENSOR_BYTES", 2048)


class Layer(torch.nn.Module):
    """Computes when its device gets to it: what it sees then is written down."""

    def __init__(self, seen=None, backend=None):
        super().__init__()
        self.up = torch.nn.Linear(24, 40)
        self.seen, self.backend = seen, backend

    def forward(self, x):
        weight, bias = self.up.weight, self.up.bias
        self.backend.ask(lambda: self.seen.append((weight.detach().clone(), bias.detach().clone())))
        return x


class Model(torch.nn.Module):
    def __init__(self, layers, seed, seen=None, backend=None):
        super().__init__()
        torch.manual_seed(seed)
        self.before = torch.nn.Linear(3, 3)
        self.layers = torch.nn.ModuleList(Layer(seen, backend) for _ in range(layers))
        self.eval()

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


@pytest.mark.parametrize("layers", [2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_each_layer_sees_its_weights(tmp_path, monkeypatch, layers, seed):
    host = "disk" if seed < 2 else "pinned"
    plain, seen, backend = Model(layers, 0), [], Queued(1 << 22, seed)
    save_model(plain, tmp_path / "x")
    monkeypatch.setattr(hooks, "backend_for", lambda _device: backend)
    model = Model(layers, 1, seen, backend)
    held = offload(model, tmp_path / "x", ahead=None if seed % 2 else True, host=host)
    assert torch.equal(model.before.weight, plain.before.weight)
    if host == "pinned":  # nothing is read any more
        monkeypatch.setattr("slimtensors.container.reader.Reader.stored", None)
        monkeypatch.setattr("slimtensors.reading.tensors.TensorFile.read", None)
    with torch.no_grad():
        for _ in range(2):
            model(torch.ones(1))
        model.layers[0](torch.ones(1))  # out of turn
    held.close()
    backend.wait(backend.mark())
    order = [*range(layers), *range(layers), 0]
    assert len(seen) == len(order)
    for (weight, bias), i in zip(seen, order, strict=True):
        assert torch.equal(weight, plain.layers[i].up.weight)
        assert torch.equal(bias, plain.layers[i].up.bias)
    assert any(each.startswith("decode") for each in backend.launched)


@pytest.mark.parametrize("forgotten", ["used", "ready"])
def test_marks_are_needed(tmp_path, monkeypatch, forgotten):
    """Without either, some order shows other weights: the queues are as adversarial as the test above needs."""
    plain = Model(3, 0)
    save_model(plain, tmp_path / "x")
    monkeypatch.setattr(hooks.DeviceMemory, forgotten, lambda _self, _slot: None)

    def sees_others(seed):
        seen, backend = [], Queued(1 << 22, seed)
        backend.late = {"used": 0, "ready": 1}[forgotten]
        monkeypatch.setattr(hooks, "backend_for", lambda _device: backend)
        model = Model(3, 1, seen, backend)
        held = offload(model, tmp_path / "x", verify="none")
        with torch.no_grad():
            model(torch.ones(1))
            model(torch.ones(1))
        held.close()
        backend.wait(backend.mark())
        expected = [(layer.up.weight, layer.up.bias) for layer in (*plain.layers, *plain.layers)]
        return any(
            not torch.equal(found, given)
            for pair, other in zip(seen, expected, strict=True)
            for found, given in zip(pair, other, strict=True)
        )

    assert any(sees_others(seed) for seed in range(4))


def offloaded(folder, monkeypatch, backend, **options):
    save_model(Model(3, 0), folder / "x")
    monkeypatch.setattr(hooks, "backend_for", lambda _device: backend)
    model = Model(3, 1, [], backend)
    return model, offload(model, folder / "x", **options)


def test_hooks_only_ask(tmp_path, monkeypatch):
    """A layer's forward begins though nothing of the layer is decoded yet."""
    backend, waiting = Queued(1 << 22, 3), []
    backend.late = 1
    model, held = offloaded(tmp_path, monkeypatch, backend)
    for layer in model.layers:
        layer.register_forward_hook(lambda *_: waiting.append(len(backend._queues[1])), prepend=True)
    with torch.no_grad():
        model(torch.ones(1))
    held.close()
    assert all(waiting)


def breaking(backend, turn):
    """A device whose kernels find the layer of the so manieth decoding damaged."""
    launch, seen = backend.launch, []

    def broken(kernel, blocks, buffers):
        if kernel.startswith("decode"):
            seen.append(kernel)
            if len(seen) == turn:
                return
        launch(kernel, blocks, buffers)

    backend.launch = broken


@pytest.mark.parametrize(("turn", "late"), [(1, None), (2, 0), (3, 1), (3, None)])
def test_no_output_before_the_verdict(tmp_path, monkeypatch, turn, late):
    backend = Queued(1 << 22, turn)
    backend.late = late
    breaking(backend, turn)
    model, held = offloaded(tmp_path, monkeypatch, backend)
    with torch.no_grad():
        with pytest.raises(ChecksumError, match=r"chunk 0: the CPU decodes it, the GPU does not"):
            model(torch.ones(1))
        model(torch.ones(1))  # all of it is decoded again
    held.close()
    backend.wait(backend.mark())
    assert "forward" not in vars(model)
    for (weight, _bias), layer in zip(model.layers[0].seen[-3:], Model(3, 0).layers, strict=True):
        assert torch.equal(weight, layer.up.weight)


def test_a_layer_by_itself_is_checked_at_its_end(tmp_path, monkeypatch):
    backend = Queued(1 << 22, 1)
    model, held = offloaded(tmp_path, monkeypatch, backend, ahead=False)

    def interrupted(*_):
        raise KeyboardInterrupt

    handle = model.layers[0].register_forward_pre_hook(interrupted)
    with torch.no_grad(), pytest.raises(KeyboardInterrupt):
        model(torch.ones(1))
    handle.remove()
    breaking(backend, 1)
    with torch.no_grad(), pytest.raises(ChecksumError, match="the GPU does not"):
        model.layers[1](torch.ones(1))
    held.close()


def test_pinned_bytes_are_checked_as_they_are_read(tmp_path, monkeypatch):
    backend = Runner(1 << 22)
    breaking(backend, 2)
    with pytest.raises(ChecksumError, match="the GPU does not"):
        offloaded(tmp_path, monkeypatch, backend, host="pinned")
    monkeypatch.undo()
    with pytest.raises(UsageError, match="host='memory'"):
        offload(Model(3, 1), tmp_path / "x", host="pinned")


@pytest.mark.filterwarnings("error::slimtensors.DecodedOnCpuWarning")  # nothing is
def test_a_device_that_cannot_decode(tmp_path, monkeypatch):
    """Layers cannot be copied there instead."""
    save_model(Model(2, 0), tmp_path / "x")
    monkeypatch.setattr(choice, "why_not", lambda _index: "the driver is broken")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    for asked, reason in (("auto", "the driver is broken"), ("cuda", "the driver is broken"), ("cpu", "DECODE is cpu")):
        monkeypatch.setenv(switches.DECODE, asked)
        with pytest.raises(UsageError, match=f"device 'cuda': such layers have to be decoded there, but .*{reason}$"):
            offload(Model(2, 0), tmp_path / "x", device="cuda")
    with pytest.raises(UsageError, match="on the CPU and on CUDA devices only"):
        offload(Model(2, 0), tmp_path / "x", device="xpu")


@pytest.mark.parametrize("asked", [None, "auto", "cuda"])
def test_a_device_that_can(monkeypatch, asked):
    made = []
    monkeypatch.setattr(choice, "why_not", lambda _index: None)
    monkeypatch.setattr("slimtensors.device.torch_cuda.TorchCuda", lambda device: made.append(device) or Runner(256))
    monkeypatch.delenv(switches.DECODE, raising=False)
    if asked is not None:
        monkeypatch.setenv(switches.DECODE, asked)
    assert isinstance(hooks.compressed_backend("cuda:0"), Runner)
    assert made == [torch.device("cuda:0")]
    assert hooks.compressed_backend("cpu") is None


class Tiny(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(30, 30) for _ in range(3))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def test_the_part_of_gpu_check(tmp_path, monkeypatch):
    backend = Runner(1 << 24)
    monkeypatch.setattr(hooks, "backend_for", lambda _device: backend)
    monkeypatch.setattr("bench.gpu_offload.REPEATS", 1)
    found = offloading(tmp_path, lambda _filled: Tiny(), {"one": torch.ones(1, 30)}, "cpu", 1e9)
    assert found["wrong"] == []
    assert all(found["one"][kind]["s"] > 0 for kind in ("memory", "pinned", "compressed on the device"))
    assert any(each.startswith("decode") for each in backend.launched)
