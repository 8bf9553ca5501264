"""Layers that take turns in two buffers: the same outputs, in the memory of two."""

from __future__ import annotations

import copy
import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

import slimtensors
from faults import processes
from slimtensors.offload import LazyState, keep_compressed, offload
from slimtensors.offload.slots import Slots
from slimtensors.torch import load_file, save_file, save_model
from stream.models import TOKENS, Chain, Model


@pytest.mark.parametrize("ahead", [None, True, False])
@pytest.mark.parametrize("host", ["disk", "memory"])
@pytest.mark.parametrize("layers", [2, 3, 6])
def test_the_same_outputs_bit_for_bit(tmp_path: Path, layers: int, host: Any, ahead: bool | None) -> None:
    model, other = Model(layers), Model(layers, 1)
    other.layers.to("meta")  # never in memory
    save_model(model, tmp_path / "x")
    held = offload(other, tmp_path / "x", host=host, ahead=ahead)
    if host == "memory":
        (tmp_path / "x").unlink()
    with torch.no_grad():
        for tokens in (TOKENS, TOKENS + 5, TOKENS):
            assert torch.equal(other(tokens), model(tokens))
        assert torch.equal(other.layers[1](torch.ones(1, 200)), model.layers[1](torch.ones(1, 200)))  # out of turn
        assert torch.equal(other(TOKENS), model(TOKENS))
    for i, layer in enumerate(other.layers):  # two buffers, whatever the number of layers
        places = [parameter.data_ptr() for parameter in layer.parameters()]
        assert places == [parameter.data_ptr() for parameter in other.layers[i % 2].parameters()]
    held.close()


class Scaled(torch.nn.Module):
    """A layer with buffers, one of them in no file."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.up = torch.nn.Linear(40, 40)
        self.register_buffer("scale", torch.randn(40))
        self.register_buffer("shift", torch.full((40,), 0.5), persistent=False)
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.up(x) * self.scale + self.shift


def test_buffers_of_layers_stay(tmp_path: Path) -> None:
    model, other, unset = (
        torch.nn.Sequential(torch.nn.ModuleList(Scaled(5 * s + i) for i in range(3))) for s in range(3)
    )
    save_model(model, tmp_path / "x")
    held = offload(other, tmp_path / "x")
    x = torch.ones(2, 40)
    with torch.no_grad():
        for mine, expected in zip(other[0], model[0], strict=True):
            assert torch.equal(mine(x), expected(x))
    held.close()
    unset[0][1].shift = unset[0][1].shift.to("meta")
    with pytest.raises(slimtensors.UsageError, match=r"0\.1\.shift"):
        offload(unset, tmp_path / "x")


@pytest.mark.parametrize("resident", [2, ["layers.0", "layers.3"]])
def test_layers_that_stay(tmp_path: Path, resident: Any) -> None:
    model, other = Model(6), Model(6, 1)
    save_model(model, tmp_path / "x")
    with torch.no_grad():
        held = offload(other, tmp_path / "x", resident=resident)
        assert torch.equal(other(TOKENS), model(TOKENS))
        assert torch.equal(other(TOKENS), model(TOKENS))
        held.close()
    stay = [f"layers.{i}" for i in range(2)] if resident == 2 else resident
    assert held.names == [f"layers.{i}" for i in range(6) if f"layers.{i}" not in stay]
    for wrong in (["layers.7"], "layers.1", 5, 6, -1, 1.5):
        with pytest.raises(slimtensors.UsageError, match="resident"):
            offload(Model(6), tmp_path / "x", resident=wrong)
    for named in ("nope", "layers.0", "layers.7", "head", ""):
        with pytest.raises(slimtensors.UsageError, match=r"no ModuleList or Sequential; .* are: 'layers'$"):
            offload(Model(6), tmp_path / "x", layers=named)
    with pytest.raises(slimtensors.UsageError, match="layers is a ModuleList, which names"):
        offload(other, tmp_path / "x", layers=other.layers)  # type: ignore[arg-type] # as tested
    with pytest.raises(slimtensors.UsageError, match="'disk' or 'memory'"):
        offload(Model(6), tmp_path / "x", host="tape")  # type: ignore[arg-type] # as tested
    with pytest.raises(slimtensors.UsageError, match="on the CPU use host='memory'"):
        offload(Model(6), tmp_path / "x", host="pinned")


def test_what_is_decoded_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None, until it is known how long a layer computes; then where computing takes long, or the source is slow."""
    save_model(Model(4), tmp_path / "x")
    held, ran = offload(Model(4), tmp_path / "x"), []
    assert repr(held) == f"Offloaded(4 layers, buffers of {held.nbytes} bytes)"
    monkeypatch.setattr(Slots, "_fill_quietly", lambda slots, layer: (ran.append(layer), slots._fill(layer)))
    slots = held._slots
    slots.enter(0, 7)
    slots.enter(1, 7)
    slots.join()
    assert slots._computed.keys() == {7}
    for computed, waits, expected in ((1.0, False, True), (0.1, False, False), (0.1, True, True)):
        slots._computed[7], slots._decoded, slots._waits = computed, 0.1, waits
        assert slots._looks_ahead(7) == expected
        assert not slots._looks_ahead(8)
    ran.clear()
    slots._computed[7], slots._last = 1e9, None
    slots.enter(2, 7)
    slots.join()
    assert 3 in ran
    held.close()


def test_a_state_that_is_decoded_when_asked(tmp_path: Path) -> None:
    model = Model(3)
    save_model(model, tmp_path / "x")
    with LazyState(tmp_path / "x", host="memory") as state:
        assert repr(state) == f"LazyState({len(state)} tensors)"
        assert state.keys() == model.state_dict().keys()
        assert len(state) == len(model.state_dict())
        for name, tensor in model.state_dict().items():
            assert torch.equal(state[name], tensor)
        with pytest.raises(KeyError):
            state["no such"]


PEAK = """
import json, sys
import torch
from slimtensors.offload import offload
from slimtensors.torch import load_file, save_file, save_model

def peak():
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmHWM"))

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(2048, 1024) for _ in range(16))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x).repeat(1, 2)
        return x

with torch.device("meta"):
    model = Model().eval()
held = offload(model, sys.argv[1], host=sys.argv[2])
x = torch.ones(1, 2048)
with torch.no_grad():
    held._slots.enter(0)  # kernels
    torch.nn.functional.linear(x, torch.ones(1024, 2048))
    before = peak()
    model(x)
    model(x)
print(json.dumps([held.nbytes, peak() - before]))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no VmHWM")
@pytest.mark.parametrize("host", ["disk", "memory"])
def test_peak_memory_is_two_layers(tmp_path: Path, host: str) -> None:
    model = torch.nn.Module()
    model.layers = torch.nn.ModuleList(torch.nn.Linear(2048, 1024) for _ in range(16))  # 128 MiB
    save_model(model, tmp_path / "x")
    buffers, above = processes.run(PEAK, str(tmp_path / "x"), host)
    layer = sum(parameter.nbytes for parameter in model.layers[0].parameters())
    assert buffers < 2 * layer + 1024
    assert above < 2 * layer + (16 << 20), above


class Tied(torch.nn.Module):
    """A layer that uses one weight twice."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = torch.nn.Linear(40, 40), torch.nn.Linear(40, 40)
        self.down.weight = self.up.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(torch.relu(self.up(x)))


@pytest.mark.parametrize("lacks", ["up.weight", "down.weight", "nothing"])
def test_weights_that_a_layer_has_twice(tmp_path: Path, lacks: str) -> None:
    """Files may have them by either name."""
    model, other = (Chain(*(Tied() for _ in range(3))) for _ in range(2))
    save_file({n: t for n, t in model.state_dict().items() if not n.endswith(lacks)}, tmp_path / "x")
    x = torch.ones(2, 40)
    with torch.no_grad():
        held = offload(other, tmp_path / "x")
        for _ in range(2):
            assert torch.equal(other(x), model(x))
        held.close()
        with pytest.raises(slimtensors.UsageError, match="closed"):
            other(x)
        held = offload(other, tmp_path / "x")
        assert torch.equal(other(x), model(x))
        held.close()
    assert len(other.layers[0]._forward_pre_hooks) == 1, "what refuses, once"


@pytest.mark.parametrize("resident", [0, 2])
def test_a_layer_without_weights_that_is_there_twice(tmp_path: Path, resident: int) -> None:
    relu = torch.nn.ReLU()
    model = Chain(*(each for _ in range(4) for each in (torch.nn.Linear(40, 40), relu)))
    other = copy.deepcopy(model)
    save_model(model, tmp_path / "x")
    x = torch.ones(2, 40)
    with torch.no_grad():
        held = offload(other, tmp_path / "x", resident=resident)
        for _ in range(3):
            assert torch.equal(other(x), model(x))
        held.close()
    twice = Chain(*[torch.nn.Linear(40, 40)] * 2, torch.nn.Linear(40, 40))
    save_model(twice, tmp_path / "x")
    with pytest.raises(slimtensors.UsageError, match="is shared"):
        offload(twice, tmp_path / "x")


def test_after_close_there_are_no_weights_until_they_are_put_back(tmp_path: Path) -> None:
    model, other = Model(4), Model(4, 1)
    save_model(model, tmp_path / "x")
    with torch.no_grad():
        for again in (True, False):
            held = offload(other, tmp_path / "x", resident=1)
            assert torch.equal(other(TOKENS), model(TOKENS))
            buffers = [weakref.ref(held._slots), *(weakref.ref(each.base) for each in held._slots._memory)]
            held.close()
            held.close()  # nothing more
            gc.collect()
            assert not any(each() for each in buffers)
            assert "forward" not in vars(other)
            with pytest.raises(slimtensors.UsageError, match=r"closed: call that again, or model\."):
                other(TOKENS)
            with pytest.raises(slimtensors.UsageError, match="closed"):
                other.layers[2](torch.ones(1, 200))
            if not again:
                other.load_state_dict(load_file(tmp_path / "x"), strict=False, assign=True)
        assert torch.equal(other(TOKENS), model(TOKENS))
        other.double()  # as any model
    assert other.state_dict()["layers.3.up.weight"].dtype == torch.float64


def test_compiled(tmp_path: Path) -> None:
    model, other = Model(3), Model(3, 1)
    save_model(model, tmp_path / "x")
    held = offload(other, tmp_path / "x")
    compiled = torch.compile(other, backend="eager")
    with torch.no_grad():
        for _ in range(2):
            assert torch.equal(compiled(TOKENS), model(TOKENS))
    held.close()


@pytest.mark.parametrize("listed", [torch.nn.Sequential, torch.nn.ModuleList])
def test_a_model_that_is_a_list_itself(tmp_path: Path, listed: Any) -> None:
    model, other = (
        (listed(layers) if listed is torch.nn.ModuleList else listed(*layers)).eval()
        for layers in ([torch.nn.Linear(40, 40) for _ in range(4)] for _ in range(2))
    )
    save_model(model, tmp_path / "x")
    x = torch.ones(2, 40)
    for layers, resident, names in ((None, 0, "0123"), ("", 1, "123"), (None, ["2"], "013")):
        with offload(other, tmp_path / "x", layers=layers, resident=resident) as held, torch.no_grad():  # type: ignore[arg-type] # of two kinds
            assert held.names == list(names)
            for mine, expected in zip(other, model, strict=True):
                assert torch.equal(mine(x), expected(x))
            if listed is torch.nn.Sequential:
                assert torch.equal(other(x), model(x))
    with pytest.raises(slimtensors.UsageError, match="the model has 0 layers"):
        offload(other, tmp_path / "x", resident=4)
    around = torch.nn.Module()
    around.body = torch.nn.Sequential(torch.nn.Linear(40, 40))
    with pytest.raises(slimtensors.UsageError, match="layers=, of which it has 'body'"):
        offload(around, tmp_path / "x")


@pytest.mark.parametrize("opened", [offload, keep_compressed])
def test_the_bits_of_weights_that_require_gradients(tmp_path: Path, opened: Any) -> None:
    """Torch multiplies otherwise with others, if it does not compute gradients, too."""
    torch.manual_seed(0)
    model = torch.nn.TransformerDecoder(torch.nn.TransformerDecoderLayer(64, 4, 128, batch_first=True), 3).eval()
    frozen = copy.deepcopy(model).requires_grad_(False)
    x = torch.randn(2, 10, 64)
    save_model(model, tmp_path / "x")
    for plain in (model, frozen):
        other = copy.deepcopy(plain)
        with opened(other, tmp_path / "x"), torch.no_grad():
            assert torch.equal(other(x, x), plain(x, x))


@pytest.mark.parametrize("opened", [offload, keep_compressed])
def test_autocast_keeps_no_copies(tmp_path: Path, opened: Any) -> None:
    """It does of weights that require gradients, until it ends."""
    model, other = (Chain(*(torch.nn.Linear(40, 40) for _ in range(3))) for _ in range(2))
    save_model(model, tmp_path / "x")
    seen: list[bool] = []
    linear = torch.nn.functional.linear

    def watched(*given: Any) -> torch.Tensor:
        seen.append(torch.is_autocast_cache_enabled())
        return linear(*given)

    x = torch.ones(2, 40)
    with opened(other, tmp_path / "x"), torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = model(x)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.nn.functional, "linear", watched)
            found = other(x)
        assert torch.is_autocast_cache_enabled()
    assert torch.equal(found, expected)
    assert seen[:3] == [False] * 3


def test_what_others_put_around_a_forward_stays(tmp_path: Path) -> None:
    model, other = Model(3), Model(3, 1)
    save_model(model, tmp_path / "x")
    with torch.no_grad():
        held = offload(other, tmp_path / "x")
        ours = other.forward
        other.forward = lambda tokens: ours(tokens) + 1  # type: ignore[method-assign, assignment] # as Accelerate does
        assert torch.equal(other(TOKENS), model(TOKENS) + 1)
        held.close()
        with offload(other, tmp_path / "x"):
            assert torch.equal(other(TOKENS), model(TOKENS) + 1)
