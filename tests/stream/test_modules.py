"""`load_model` in place: no second copy, nothing touched before all is checked, and what an error leaves."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import slimtensors
import slimtensors.torch
from slimtensors.torch import load_model, save_file, save_model, stream_tensors


class Model(torch.nn.Module):
    """Ties, buffers, several dtypes."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = torch.nn.Embedding(500, 300)
        self.layers = torch.nn.ModuleList(torch.nn.Linear(300, 300) for _ in range(6))
        self.norm = torch.nn.BatchNorm1d(300)
        self.head = torch.nn.Linear(300, 500, bias=False)
        self.bf16 = torch.nn.Parameter(torch.randn(400, 300, dtype=torch.bfloat16))
        self.register_buffer("steps", torch.arange(1000) + seed)
        self.register_buffer("scratch", torch.zeros(3), persistent=False)
        self.head.weight = self.embedding.weight


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(bits(ours[name]) == bits(theirs[name]) for name in ours)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("modules") / "model.slimtensors"
    save_model(Model(), path)
    return path


@pytest.mark.parametrize("threads", [1, 3])
def test_parameters_stay_where_they_are(path: Path, threads: int) -> None:
    model, seen = Model(1), []
    places = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
    before = model.bf16._version
    assert load_model(model, path, threads=threads, progress=seen.append) == ([], [])
    assert same(model, Model())
    assert {name: tensor.data_ptr() for name, tensor in model.state_dict().items()} == places
    assert model.head.weight is model.embedding.weight
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.bf16._version > before or not hasattr(torch.autograd.graph, "increment_version")
    assert sum(seen) == sum(t.nbytes for n, t in model.state_dict().items() if n != "head.weight")


def test_other_dtypes_and_layouts_are_converted_as_torch_does(path: Path) -> None:
    model = Model(1).double()
    model.bf16 = torch.nn.Parameter(torch.zeros(300, 400, dtype=torch.bfloat16).t())
    model.layers[0].to(torch.float16)
    assert load_model(model, path) == ([], [])
    expected = Model().state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[name].to(tensor.dtype)), name


def test_a_sharded_folder(tmp_path: Path) -> None:
    state = Model().state_dict()
    places = {}
    for i, names in enumerate([list(state)[::2], list(state)[1::2]]):
        shard = f"model-{i + 1:05}-of-00002.slimtensors"
        save_file({name: state[name].clone() for name in names}, tmp_path / shard)
        places |= dict.fromkeys(names, shard)
    (tmp_path / "model.slimtensors.index.json").write_text(json.dumps({"weight_map": places}))
    model = Model(1)
    assert load_model(model, tmp_path) == ([], [])
    assert same(model, Model())
    assert dict(stream_tensors(tmp_path)).keys() == state.keys()


def test_nothing_is_touched_before_names_and_shapes_are_right(path: Path) -> None:
    smaller, more, lacking = Model(1), Model(1), Model(1)
    smaller.layers[5] = torch.nn.Linear(300, 200)
    more.extra = torch.nn.Parameter(torch.zeros(5))
    del lacking.bf16
    for model, message in ((smaller, r"layers\.5\.weight: \[300, 300\]"), (more, "extra"), (lacking, "bf16")):
        before = [bits(tensor) for tensor in model.state_dict().values()]
        with pytest.raises(RuntimeError, match=message):
            load_model(model, path)
        assert [bits(tensor) for tensor in model.state_dict().values()] == before
    with pytest.raises(RuntimeError, match="shape"):
        load_model(smaller, path, strict=False)
    assert load_model(more, path, strict=False) == (["extra"], [])
    assert load_model(lacking, path, strict=False) == ([], ["bf16"])
    with pytest.raises(slimtensors.UsageError, match="to_empty"):
        load_model(Model().to("meta"), path)


def test_an_old_batch_norm_is_not_missing_its_counter(tmp_path: Path) -> None:
    state = {name: tensor for name, tensor in Model().state_dict().items() if "num_batches" not in name}
    save_file(state, tmp_path / "x")
    assert load_model(Model(1), tmp_path / "x") == ([], [])


class Expanded(torch.nn.Module):
    """With a buffer whose elements are all at one place."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)
        self.register_buffer("mask", torch.ones(1, 4).expand(10, 4))


def test_shared_elements_are_refused_before_anything_is_changed(tmp_path: Path) -> None:
    save_model(Expanded(), tmp_path / "m.slimtensors")
    model = Expanded()
    before = model.linear.weight.clone()
    with pytest.raises(slimtensors.UsageError, match=r"tensor 'mask' cannot be written to.*nothing was changed"):
        load_model(model, tmp_path / "m.slimtensors")
    assert torch.equal(model.linear.weight, before)
    model.mask = model.mask.clone()
    assert load_model(model, tmp_path / "m.slimtensors") == ([], [])


def test_distributed_tensors_are_refused_with_what_to_do(tmp_path: Path) -> None:
    from torch import distributed
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
    from torch.distributed.tensor import distribute_module, init_device_mesh

    whole = torch.nn.Linear(4, 4)
    save_model(whole, tmp_path / "m.slimtensors")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of a group of one
        distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
        try:
            model = distribute_module(torch.nn.Linear(4, 4), init_device_mesh("cpu", (1,)))
            with pytest.raises(slimtensors.UsageError, match=r"'weight' is a DTensor.*full_state_dict=True"):
                load_model(model, tmp_path / "m.slimtensors")
            state = slimtensors.torch.load_file(tmp_path / "m.slimtensors")
            set_model_state_dict(model, state, options=StateDictOptions(full_state_dict=True))
            assert torch.equal(model.weight.full_tensor(), whole.weight)
        finally:
            distributed.destroy_process_group()


def test_modules_of_inference_mode_are_loaded(tmp_path: Path) -> None:
    def make() -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4))

    model = make()
    model[1].num_batches_tracked += 7
    save_model(model, tmp_path / "m.slimtensors")
    with torch.inference_mode():
        loaded = make()
    assert load_model(loaded, tmp_path / "m.slimtensors") == ([], [])
    assert all(torch.equal(each, model.state_dict()[name]) for name, each in loaded.state_dict().items())


def test_an_error_says_what_the_model_is_now(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1000] ^= 1  # in the last tensor's chunk
    model = Model(1)
    with pytest.raises(slimtensors.ChecksumError, match="not whole") as caught:
        load_model(model, bytes(data), threads=1)
    own, expected, old = model.state_dict(), Model().state_dict(), Model(1).state_dict()
    for name in own:
        if name != "head.weight" and repr(name) not in str(caught.value):
            assert bits(own[name]) == bits(expected[name]), name
        elif f"As they were: {name!r}" in str(caught.value):
            assert bits(own[name]) == bits(old[name])

    class Failing:
        reads = 0

        def size(self) -> int:
            return path.stat().st_size

        def read_range(self, offset: int, length: int) -> bytes:
            self.reads += 1
            if self.reads == 5:
                raise OSError("as injected")
            return path.read_bytes()[offset : offset + length]

    with pytest.raises(OSError, match="as injected") as injected:
        load_model(Model(1), Failing())
    assert any("not whole" in text for text in getattr(injected.value, "__notes__", ["not whole"]))


class Peculiar(torch.nn.Linear):
    """A module that loads its state in a way of its own."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        state_dict[prefix + "weight"] = state_dict[prefix + "weight"] * 2
        super()._load_from_state_dict(state_dict, prefix, *rest)


def test_modules_with_a_way_of_their_own_are_respected(tmp_path: Path) -> None:
    model, other = torch.nn.Sequential(Peculiar(30, 40)), torch.nn.Sequential(Peculiar(30, 40))
    save_model(model, tmp_path / "x")
    assert load_model(other, tmp_path / "x") == ([], [])
    assert torch.equal(other[0].weight, model[0].weight * 2)
    with pytest.raises(RuntimeError):
        load_model(torch.nn.Sequential(Peculiar(31, 40)), tmp_path / "x")
