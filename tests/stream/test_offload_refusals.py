"""What cannot be offloaded, and what is wrong while it is: told, and the model as it was."""

from __future__ import annotations

import copy
import io
import json
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import slimtensors
from slimtensors.offload import LazyState, keep_compressed, offload
from slimtensors.torch import load_file, load_model, save_file, save_model
from stream.models import TOKENS, Chain, Model


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


@pytest.mark.parametrize("opened", [offload, keep_compressed])
def test_a_model_whose_weights_have_been_taken(tmp_path: Path, opened: Any) -> None:
    model, other = Model(3), Model(3, 1)
    save_model(model, tmp_path / "x")
    for one, match in ((offload, "offloaded layers already: close"), (keep_compressed, "compressed already: close")):
        with one(other, tmp_path / "x"), torch.no_grad():
            for part in (other, other.layers):
                with pytest.raises(slimtensors.UsageError, match=match):
                    opened(part, tmp_path / "x")
            assert torch.equal(other(TOKENS), model(TOKENS))
        with opened(other, tmp_path / "x"), torch.no_grad():
            assert torch.equal(other(TOKENS), model(TOKENS))


@pytest.mark.parametrize("opened", [offload, keep_compressed])
def test_closed_by_a_with_statement(tmp_path: Path, opened: Any) -> None:
    model, other = Model(3), Model(3, 1)
    save_model(model, tmp_path / "x")
    expected = model(TOKENS)
    with opened(other, tmp_path / "x") as held:
        assert held.names
        with pytest.raises(slimtensors.UsageError, match="neither be copied nor pickled"):
            copy.deepcopy(held)
        with torch.no_grad():
            assert torch.equal(other(TOKENS), expected)
    held.close()  # nothing more
    with torch.no_grad(), pytest.raises(slimtensors.UsageError, match="closed: call that again, or model"):
        other(TOKENS)
    other.load_state_dict(load_file(tmp_path / "x"), strict=False, assign=True)
    assert torch.equal(other(TOKENS), expected)
    assert not any(module._forward_pre_hooks for module in other.modules())
    assert [name for name, _ in other.named_parameters()] == [
        name for name, _ in model.named_parameters(remove_duplicate=False)
    ]
    assert all(each.requires_grad for each in other.parameters())  # can be trained
    pickle.dumps(other)


class Wrapped(torch.nn.Module):
    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.module = inner


@pytest.mark.parametrize("opened", [offload, keep_compressed, load_model])
def test_names_of_wrapped_models(tmp_path: Path, opened: Any) -> None:
    save_model(Model(3), tmp_path / "x")
    save_model(Wrapped(Wrapped(Model(3))), tmp_path / "wrapped")
    by_layer = Model(3)
    for i, layer in enumerate(by_layer.layers):
        by_layer.layers[i] = torch.compile(layer, backend="eager")  # type: ignore[assignment] # a module, too
    for model, inside in (
        (Wrapped(Model(3)), "'module'"), (torch.compile(Model(3), backend="eager"), "'_orig_mod'"),
        (Wrapped(Wrapped(Model(3))), "'module.module'"),
    ):  # fmt: skip
        with pytest.raises((slimtensors.UsageError, RuntimeError), match=r"take what is inside, (.*)$") as told:
            opened(model, tmp_path / "x")
        assert inside in str(told.value)
        opened(eval(str(told.value).split("inside, ")[-1], {"model": model}), tmp_path / "x")  # noqa: S307 # as told
    with pytest.raises((slimtensors.UsageError, RuntimeError), match="before it is compiled"):
        opened(by_layer, tmp_path / "x")
    with pytest.raises((slimtensors.UsageError, RuntimeError), match=r"begin with 'module\.module\.', .*; ") as told:
        opened(Model(3, 1), tmp_path / "wrapped")
    scope = {"model": Model(3, 1), "torch": torch}
    opened(eval(str(told.value).split("; take ")[-1], scope), tmp_path / "wrapped")  # noqa: S307 # as told
    with torch.no_grad():
        assert torch.equal(scope["model"](TOKENS), Model(3)(TOKENS))
    with pytest.raises((slimtensors.UsageError, RuntimeError)) as told:
        opened(Model(7), tmp_path / "x")
    assert "take" not in str(told.value)
    with pytest.raises(slimtensors.UsageError, match=r"a dict is no torch\.nn\.Module"):
        opened({}, tmp_path / "x")


def test_conversions_that_change_nothing(tmp_path: Path) -> None:
    model, other = (Chain(*(torch.nn.Conv2d(40, 40, 3, padding=1) for _ in range(3))) for _ in range(2))
    model.last, other.last = torch.nn.Identity(), torch.nn.Identity()
    save_model(model, tmp_path / "x")
    x = torch.ones(1, 40, 3, 3)
    with offload(other, tmp_path / "x"), torch.no_grad():
        expected = model(x)
        assert torch.equal(other(x), expected)
        other.to("cpu").float().eval()
        other.layers[1].to(torch.float32)
        for change in (other.half, other.share_memory, lambda: other.to(memory_format=torch.channels_last),
                       lambda: other.to("meta"), lambda: other.to_empty(device="cpu")):  # fmt: skip
            with pytest.raises(slimtensors.UsageError, match="moved"):
                change()
        for _ in range(2):
            assert torch.equal(other(x), expected)


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_a_model_cannot_be_traced(tmp_path: Path) -> None:
    """Its layers would all have the same weights."""
    save_model(Model(3), tmp_path / "x")
    with offload(other := Model(3, 1), tmp_path / "x"), torch.no_grad():
        assert torch.equal(other(TOKENS), Model(3)(TOKENS))
        with pytest.raises(slimtensors.UsageError, match="cannot be traced"):
            torch.jit.trace(other, TOKENS)


def test_another_dtype_says_what_to_do(tmp_path: Path) -> None:
    save_model(Model(3), tmp_path / "x")
    for opened in (offload, keep_compressed):
        with pytest.raises(slimtensors.UsageError, match=r"call model\.to\(torch\.float32\) first"):
            opened(Model(3).bfloat16(), tmp_path / "x")
