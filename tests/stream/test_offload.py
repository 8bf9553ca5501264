"""Layers that take turns in two buffers: the same outputs, and what is refused."""

from __future__ import annotations

import copy
import gc
import io
import json
import pickle
import threading
import time
import weakref
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import slimtensors
from faults import processes
from slimtensors.offload import LazyState, keep_compressed, offload
from slimtensors.offload.slots import Slots
from slimtensors.torch import load_file, save_file, save_model


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.LayerNorm(200)
        self.up = torch.nn.Linear(200, 700)
        self.down = torch.nn.Linear(700, 200, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.relu(self.up(self.norm(x))))


class Model(torch.nn.Module):
    def __init__(self, layers: int, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = torch.nn.Embedding(300, 200)
        self.layers = torch.nn.ModuleList(Block() for _ in range(layers))
        self.head = torch.nn.Linear(200, 300, bias=False)
        self.head.weight = self.embedding.weight
        self.eval()

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


TOKENS = torch.arange(60).reshape(2, 30)


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
    with pytest.raises(slimtensors.UsageError, match="'disk' or 'memory'"):
        offload(Model(6), tmp_path / "x", host="tape")  # type: ignore[arg-type] # as tested
    with pytest.raises(slimtensors.UsageError, match="on the CPU use host='memory'"):
        offload(Model(6), tmp_path / "x", host="pinned")


def test_what_is_decoded_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None, until it is known how long a layer computes; then where computing takes long, or the source is slow."""
    save_model(Model(4), tmp_path / "x")
    held, ran = offload(Model(4), tmp_path / "x"), []
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
        assert state.keys() == model.state_dict().keys()
        assert len(state) == len(model.state_dict())
        for name, tensor in model.state_dict().items():
            assert torch.equal(state[name], tensor)
        with pytest.raises(KeyError):
            state["no such"]
    accelerate = pytest.importorskip("accelerate")
    with LazyState(tmp_path / "x") as state, torch.no_grad():
        other = accelerate.cpu_offload(Model(3, 1), torch.device("cpu"), state_dict=state)
        assert torch.equal(other(TOKENS), model(TOKENS))
        whole = {"": "disk"}
        other = accelerate.dispatch_model(Model(3, 1), whole, state_dict=state, offload_index={})
        assert other.layers[0].up.weight.is_meta  # dropped, and decoded at each use
        assert torch.equal(other(TOKENS), model(TOKENS))


@pytest.mark.parametrize("ahead", [True, False])
@pytest.mark.filterwarnings("default")  # of other libraries
def test_models_of_transformers(tmp_path: Path, ahead: bool) -> None:
    transformers = pytest.importorskip("transformers")
    llama = transformers.LlamaConfig(
        hidden_size=128, intermediate_size=320, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=500, tie_word_embeddings=True,
    )  # fmt: skip
    bert = transformers.BertConfig(
        hidden_size=128, intermediate_size=320, num_hidden_layers=3, num_attention_heads=4, vocab_size=500
    )
    for kind, config in ((transformers.LlamaForCausalLM, llama), (transformers.BertModel, bert)):
        torch.manual_seed(3)
        model, other = kind(config).eval(), kind(config).eval()
        save_model(model, tmp_path / "x")
        held = offload(other, tmp_path / "x", ahead=ahead)
        with torch.no_grad():
            for tokens in (TOKENS, TOKENS[:1, :1]):
                assert torch.equal(other(tokens)[0], model(tokens)[0])
            if kind is transformers.LlamaForCausalLM:
                given = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
                assert torch.equal(other.generate(TOKENS, **given), model.generate(TOKENS, **given))
        held.close()


@pytest.mark.filterwarnings("default")  # as above
def test_the_minilm(minilm: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    slimtensors.compress(minilm, tmp_path / "x")
    model, turns, stays = (
        transformers.BertModel(transformers.BertConfig.from_pretrained(minilm.parent)).eval() for _ in range(3)
    )
    model.load_state_dict(safetensors.torch.load_file(minilm), strict=False)
    held = offload(turns, tmp_path / "x")
    assert held.names == [f"encoder.layer.{i}" for i in range(6)]
    kept = keep_compressed(stays, tmp_path / "x")
    given = {"input_ids": TOKENS * 100, "attention_mask": (TOKENS % 7 > 0).long()}
    with torch.no_grad():
        expected = model(**given).last_hidden_state
        assert torch.equal(turns(**given).last_hidden_state, expected)
        assert torch.equal(stays(**given).last_hidden_state, expected)
    held.close()
    kept.close()


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


@pytest.mark.parametrize("host", ["disk", "memory"])
def test_a_shard_that_lacks_what_its_index_names(tmp_path: Path, host: Any) -> None:
    model = Model(3)
    state = model.state_dict()
    late = {name: tensor for name, tensor in state.items() if name.startswith("layers.2.")}
    save_file({name: tensor for name, tensor in state.items() if name not in late}, tmp_path / "1.slimtensors")
    save_file(late, tmp_path / "2.slimtensors")
    places = {name: f"{1 + (name in late)}.slimtensors" for name in state}
    index = tmp_path / "model.slimtensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    for target in (tmp_path, index, [index]):
        offload(Model(3), target, host=host).close()
    index.write_text(json.dumps({"weight_map": {**places, "extra": "2.slimtensors"}}))
    for target in (tmp_path, index, [index]):
        for opened in (offload, keep_compressed):
            with pytest.raises(slimtensors.FormatError, match="lacks 1 tensors that its index names, such as 'extra'"):
                opened(Model(3), target, host=host)
        with pytest.raises(slimtensors.FormatError, match="lacks 1 tensors"):
            LazyState(target, host=host)


class Tied(torch.nn.Module):
    """A layer that uses one weight twice."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = torch.nn.Linear(40, 40), torch.nn.Linear(40, 40)
        self.down.weight = self.up.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(torch.relu(self.up(x)))


class Chain(torch.nn.Module):
    """Layers one after another, and a last one that stays."""

    def __init__(self, *layers: torch.nn.Module) -> None:
        super().__init__()
        self.layers, self.last = torch.nn.ModuleList(layers), torch.nn.Linear(40, 40)
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.last(x)


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


def made_of(model: torch.nn.Module) -> Any:
    """All that a model has, in order."""
    return [
        (name, type(module), vars(module).keys(), [(own, id(each)) for own, each in module._parameters.items()],
         list(module._forward_pre_hooks), list(module._state_dict_pre_hooks))
        for name, module in model.named_modules()
    ]  # fmt: skip


class Sealed(torch.nn.Linear):
    """Takes no method in the place of its own."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_apply":
            raise AttributeError(name)
        super().__setattr__(name, value)


def no_memory(_nbytes: int) -> Any:
    raise MemoryError


@pytest.mark.parametrize(
    ("opened", "why"),
    [
        *((one, why) for one in (offload, keep_compressed) for why in ("no room", "one is missing", "one is damaged")),
        (offload, "a layer is sealed"),
    ],
)
def test_after_an_error_the_model_is_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: Any, why: str
) -> None:
    model = Chain(torch.nn.Linear(40, 40), Sealed(40, 40), torch.nn.Linear(40, 40))
    model.norm = torch.nn.LayerNorm(40)
    state = {name: torch.full_like(each, 2.5) for name, each in model.state_dict().items()}
    state["norm.weight"] = torch.randn(40)
    if why == "one is missing":
        del state["norm.bias"]
    save_file(state, tmp_path / "x")
    if why == "one is damaged":
        data = bytearray((tmp_path / "x").read_bytes())
        data[data.index(state["norm.weight"].numpy().tobytes()[:16])] ^= 1
        (tmp_path / "x").write_bytes(data)
    if why == "no room":
        module = "memory" if opened is offload else "stored"
        monkeypatch.setattr(f"slimtensors.offload.{module}.aligned_empty", no_memory)
    if why != "a layer is sealed":
        model.layers[1] = torch.nn.Linear(40, 40)
    x = torch.ones(2, 40)
    before, values, expected = made_of(model), [each.clone() for each in model.parameters()], model(x)
    errors = {
        "no room": MemoryError, "one is missing": slimtensors.UsageError, "one is damaged": slimtensors.ChecksumError,
        "a layer is sealed": AttributeError,
    }  # fmt: skip
    with pytest.raises(errors[why]):
        opened(model, tmp_path / "x")
    assert made_of(model) == before
    if why in ("no room", "one is missing"):  # and else what stays is loaded, or some of it
        assert all(map(torch.equal, model.parameters(), values))
        assert torch.equal(model(x), expected)
    assert torch.equal(model.layers[0].weight, values[0])
    model(x)
    model.state_dict()
    copy.deepcopy(model)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the system does not tell what is open")
@pytest.mark.parametrize("opened", [LazyState, partial(offload, Model(3)), partial(keep_compressed, Model(3))])
def test_no_file_is_left_open_by_an_error(tmp_path: Path, opened: Any) -> None:
    save_model(Model(3), tmp_path / "1.slimtensors")
    (tmp_path / "2.slimtensors").write_bytes(b"no such file")
    with pytest.raises(slimtensors.FormatError) as told:
        opened(tmp_path)
    left = [str(each.readlink()) for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
    assert not [each for each in left if str(tmp_path) in each], told


def test_what_is_refused(tmp_path: Path) -> None:
    save_model(Model(3), tmp_path / "x")
    model = Model(3, 1)
    held = offload(model, tmp_path / "x")
    with pytest.raises(slimtensors.UsageError, match="no_grad"):
        model(TOKENS)
    with torch.no_grad(), pytest.raises(slimtensors.UsageError, match="eval"):
        model.train()(TOKENS)
    with pytest.raises(slimtensors.UsageError, match="no state"):
        model.state_dict()
    with pytest.raises(slimtensors.UsageError, match="moved"):
        model.double()
    before, others = model.embedding.weight.clone(), Model(3, 2)
    assert before.dtype == torch.float32  # nothing beside the layers was converted, nor is it loaded
    for part, other in ((model, others), (model.layers[1], others.layers[1])):
        with pytest.raises(slimtensors.UsageError, match="assign=True"):
            part.load_state_dict(other.state_dict())
    assert torch.equal(model.embedding.weight, before)
    with pytest.raises(slimtensors.UsageError, match="moved"):
        model.layers[1].up.double()
    with pytest.raises(slimtensors.UsageError, match="assign=True"):
        model.layers[1].up.load_state_dict(others.layers[1].up.state_dict())
    model.layers[0].up.added = torch.nn.Linear(3, 3)  # as an adapter is
    rest = {name: tensor for name, tensor in others.state_dict().items() if "layers." not in name}
    model.load_state_dict(rest, strict=False)
    assert torch.equal(model.embedding.weight, others.embedding.weight)
    held.close()
    assert not model.layers[0].up.added.weight.is_meta
    del model.layers[0].up.added
    model.load_state_dict(others.state_dict(), assign=True)
    assert torch.equal(model.double()(TOKENS), others.double()(TOKENS))
    shared, smaller = Model(3), Model(3)
    shared.layers[2].up.weight = shared.layers[0].up.weight
    smaller.layers[1].up = torch.nn.Linear(200, 600)
    for wrong, message in ((shared, "shared"), (smaller, r"layers\.1\.up"), (torch.nn.Linear(2, 2), "ModuleList")):
        with pytest.raises(slimtensors.UsageError, match=message):
            offload(wrong, tmp_path / "x")
    with pytest.raises(slimtensors.UsageError, match="on the CPU and on CUDA devices only"):
        offload(Model(3), tmp_path / "x", device="meta")


def test_damage_is_raised_in_the_forward_that_needs_the_layer(tmp_path: Path) -> None:
    save_model(Model(4), tmp_path / "x")
    data = bytearray((tmp_path / "x").read_bytes())
    model = Model(4, 1)
    half = next(i for i in range(len(data) * 2 // 3, len(data)) if data[i])
    data[half] ^= 1
    held = offload(model, bytes(data))
    with torch.no_grad(), pytest.raises(slimtensors.ChecksumError, match=r"layers\.\d\."):
        model(TOKENS)
    held.close()


def in_threads(work: Any, threads: int = 3) -> list[Any]:
    """What work() gave, or raised, in each of some threads that begin together."""
    found, together = [], threading.Barrier(threads)

    def run() -> None:
        together.wait()
        try:
            with torch.no_grad():
                found.append(work())
        except Exception as error:
            found.append(error)

    started = [threading.Thread(target=run) for _ in range(threads)]
    for each in started:
        each.start()
    for each in started:
        each.join()
    return found


@pytest.mark.parametrize("ahead", [True, False])
@pytest.mark.parametrize("whole", [True, False])
def test_threads_that_compute_at_once(tmp_path: Path, ahead: bool, whole: bool) -> None:
    """With the model, and with its layers outside of the model's forward, while a layer lets other threads run."""

    class Slow(Block):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            time.sleep(0.002)
            return super().forward(x)

    model, other = Model(5), Model(5, 1)
    for layer in other.layers:
        layer.__class__ = Slow
    save_model(model, tmp_path / "x")
    held = offload(other, tmp_path / "x", ahead=ahead)
    forward = other if whole else partial(Model.forward, other)
    with torch.no_grad():
        expected = model(TOKENS)
    for given in in_threads(lambda: [torch.equal(forward(TOKENS), expected) for _ in range(8)]):
        assert given == [True] * 8
    held.close()


def test_another_thread_enters_between_the_hook_and_the_forward(tmp_path: Path) -> None:
    model, other = Model(4), Model(4, 1)
    save_model(model, tmp_path / "x")
    held = offload(other, tmp_path / "x", ahead=False)
    x = torch.ones(1, 200)

    def interrupted(*_: Any) -> None:
        handle.remove()
        assert isinstance(in_threads(lambda: other.layers[2](x), 1)[0], torch.Tensor)

    handle = other.layers[0].register_forward_pre_hook(interrupted)
    with torch.no_grad():
        assert torch.equal(other.layers[0](x), model.layers[0](x))
    held.close()


def test_a_forward_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    """Nor does one that is interrupted, after which torch calls no hooks."""
    model, other = Model(3), Model(3, 1)
    save_model(model, tmp_path / "x")
    held = offload(other, tmp_path / "x")

    def fails(*_: Any) -> None:
        raise KeyboardInterrupt

    for module in (other.layers[1], other.layers[1].up, other.head):
        handle = module.register_forward_pre_hook(fails)
        with torch.no_grad(), pytest.raises(KeyboardInterrupt):
            other(TOKENS)
        handle.remove()
        with torch.no_grad():
            expected = model(TOKENS)
        assert all(torch.equal(given, expected) for given in in_threads(lambda: other(TOKENS)))
    held.close()


def test_no_thread_to_decode_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, other = Model(3), Model(3, 1)
    save_model(model, tmp_path / "x")
    held = offload(other, tmp_path / "x", ahead=True, threads=1)

    def none_left(_self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none_left)
    with torch.no_grad():
        assert torch.equal(other(TOKENS), model(TOKENS))
    monkeypatch.undo()
    held.close()


def test_a_layer_that_calls_another(tmp_path: Path) -> None:
    save_model(Model(3), tmp_path / "x")
    model = Model(3, 1)
    held = offload(model, tmp_path / "x")

    def calls(*_: Any) -> None:
        model.layers[2](torch.ones(1, 200))

    model.layers[0].up.register_forward_hook(calls)
    with torch.no_grad(), pytest.raises(slimtensors.UsageError, match="has called another one"):
        model(TOKENS)
    held.close()


def test_after_close_there_are_no_weights_until_they_are_put_back(tmp_path: Path) -> None:
    model, other = Model(4), Model(4, 1)
    save_model(model, tmp_path / "x")
    with torch.no_grad():
        for again in (True, False):
            held = offload(other, tmp_path / "x", resident=1)
            assert torch.equal(other(TOKENS), model(TOKENS))
            buffers = weakref.ref(held._slots)
            held.close()
            held.close()  # nothing more
            del held
            gc.collect()
            assert buffers() is None
            assert "forward" not in vars(other)
            with pytest.raises(slimtensors.UsageError, match=r"closed: call `offload` again, or model\."):
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


@pytest.mark.parametrize("part", ["", "layers", "layers.1", "layers.2.up"])
@pytest.mark.parametrize(
    "take",
    [copy.deepcopy, pickle.dumps, lambda module: torch.save(module, io.BytesIO())],
    ids=["copy", "pickle", "save"],
)
def test_copies_are_refused(tmp_path: Path, part: str, take: Any) -> None:
    """Also of a part of a layer, whose memory has another layer's weights by then."""
    model, other = Model(4), Model(4, 1)
    save_model(model, tmp_path / "x")
    held = offload(other, tmp_path / "x")
    with torch.no_grad():
        assert torch.equal(other(TOKENS), model(TOKENS))
        with pytest.raises(slimtensors.UsageError, match=r"neither be copied nor pickled: .* `offload` that, or copy"):
            take(other.get_submodule(part))
        with pytest.raises(slimtensors.UsageError, match="neither be copied nor pickled"):
            take(held)
        assert torch.equal(copy.deepcopy(other.embedding)(TOKENS), model.embedding(TOKENS))  # it stays
        assert torch.equal(copy.copy(other)(TOKENS), model(TOKENS))  # shares all that there is
    held.close()
    take(other.get_submodule(part))
    copied = copy.deepcopy(other)
    copied.load_state_dict(load_file(tmp_path / "x"), strict=False, assign=True)
    with torch.no_grad():
        assert torch.equal(copied(TOKENS), model(TOKENS))
