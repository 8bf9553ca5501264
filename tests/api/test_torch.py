"""The torch verbs: what safetensors.torch does, and ties."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import slimtensors
from slimtensors import UsageError
from slimtensors import torch as st
from slimtensors.dtypes import DTYPES
from slimtensors.on_torch import tensors as torch_tensors


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal dtype, shape and bits."""
    bits = [t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (a, b)]
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*bits)


def tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    made: dict[str, torch.Tensor] = {}
    for name, torch_dtype in torch_tensors._TORCH.items():
        size = 3000 * DTYPES[name].unit_bytes * (2 if name == "C64" else 1)
        raw = torch.randint(0, 2 if name == "BOOL" else 256, (size,), dtype=torch.uint8)
        made[name] = raw.view(torch_dtype).reshape(3, -1)
    made["strided"] = torch.randn(300, 400).t()
    made["parameter"] = torch.nn.Parameter(torch.randn(200, 300, dtype=torch.bfloat16))
    made["scalar"] = torch.tensor(2.5)
    made["empty"] = torch.zeros(3, 0)
    made["view"] = torch.randn(1000)[100:200]
    return made


def test_round_trip(tmp_path: Path) -> None:
    made = tensors()
    path = tmp_path / "x.slimtensors"
    st.save_file(made, path, {"format": "pt"})
    again = st.load_file(path)
    assert all(same(again[name], tensor) for name, tensor in made.items())
    again = st.load(st.save(made, preset="fast"))
    assert all(same(again[name], tensor) for name, tensor in made.items())
    with slimtensors.safe_open(path, framework="pt", device=torch.device("cpu")) as file:
        assert file.metadata() == {"format": "pt"}
        assert st.safe_open is slimtensors.safe_open  # safetensors.torch has it, too
        assert same(file.get_tensor("BF16"), made["BF16"])
        assert same(file.get_slice("strided")[3:7, 5], made["strided"][3:7, 5].contiguous())
        for name, tensor in made.items():
            if tensor.dim() and len(tensor) and name != "F4":  # whose elements are smaller than bytes
                wanted = torch.tensor([len(tensor) - 1, 0, 0, -1], dtype=torch.int32)
                for index in (wanted, wanted.tolist(), wanted.numpy(), (wanted.reshape(2, 2), ...)):
                    assert same(file.get_slice(name)[index], tensor[index]), (name, index)


def test_as_safetensors_does(minilm: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.slimtensors"
    slimtensors.compress(minilm, path)
    ours, theirs = st.load_file(path), safetensors.torch.load_file(minilm)
    assert ours.keys() == theirs.keys()
    assert all(same(ours[name], theirs[name]) for name in ours)


def test_devices(tmp_path: Path) -> None:
    path = tmp_path / "x.slimtensors"
    st.save_file({"x": torch.randn(10, 10)}, path)
    for device in ("cpu", torch.device("cpu"), "meta", torch.device("meta", 0), None):
        found = st.load_file(path, device)["x"].device.type
        assert found == ("cpu" if device is None else torch.device(device).type)
        with slimtensors.safe_open(path, "pt", device) as file:
            assert file.get_tensor("x").device.type == file.get_slice("x")[2:].device.type == found
    assert slimtensors.safe_open(path, device=None).get_tensor("x").shape == (10, 10)  # type: ignore[arg-type]
    absent = () if torch.cuda.is_available() else ("cuda", 0, "cuda:1")
    for device in ("nonsense", {}, 1.5, "xpu", *absent):
        for call in (
            lambda d: st.load_file(path, d), lambda d: next(st.stream_tensors(path, d)),
            lambda d: slimtensors.safe_open(path, "pt", d),
            lambda d: slimtensors.safe_open(path, "pt").prefetch(device=d),
            lambda d: st.load_model(torch.nn.Linear(1, 1), path, device=d),
        ):  # fmt: skip
            with pytest.raises(slimtensors.UsageError, match=r"^device ") as raised:
                call(device)
            assert "\n" not in str(raised.value)


class Tied(torch.nn.Module):
    """Input and output embeddings that are one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(500, 300)
        self.head = torch.nn.Linear(300, 500, bias=False)
        self.norm = torch.nn.BatchNorm1d(300)
        self.head.weight = self.embedding.weight


def test_models_with_ties(tmp_path: Path) -> None:
    path = tmp_path / "x.slimtensors"
    model, other = Tied(), Tied()
    st.save_model(model, path)
    stored = {t.name: t.stored_bytes for t in slimtensors.inspect(path).tensors}
    assert stored["head.weight"] == 0
    assert st.load_model(other, path) == ([], [])
    assert all(same(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))
    assert other.head.weight.data_ptr() == other.embedding.weight.data_ptr()


def test_a_model_takes_the_options_of_a_file(tmp_path: Path) -> None:
    """Flushed to the disk or not; as the difference from one that has other names."""
    base, path = Tied(), tmp_path / "x.slimtensors"
    renamed = {"old." + name: tensor for name, tensor in base.state_dict().items()}
    st.save_model(base, path, durable=False, base=renamed, base_map={"old.": ""})
    assert path.stat().st_size < 20_000
    loaded = Tied()
    assert st.load_model(loaded, path, base=renamed) == ([], [])
    assert same(loaded.norm.weight, base.norm.weight)
    with pytest.raises(UsageError, match="no tensor"):
        st.save_model(base, path, base=renamed, base_map={"new.": ""})


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.slimtensors"
    state = {"weight": torch.ones(2, 2)}
    with pytest.raises(UsageError, match=r"a dict has no state_dict\(\).*save_file"):
        st.save_model(state, path)  # type: ignore[arg-type]
    st.save_file(state, path)
    with pytest.raises(UsageError, match=r"a dict is no torch\.nn\.Module.*load_file"):
        st.load_model(state, path)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"a str is no torch\.nn\.Module"):
        st.load_model(str(path), torch.nn.Linear(2, 2))  # type: ignore[arg-type]


def test_names_that_do_not_match(tmp_path: Path) -> None:
    path = tmp_path / "x.slimtensors"
    model = Tied()
    state = {name: tensor for name, tensor in model.state_dict().items() if name != "head.weight"}
    st.save_file(state, path)
    assert st.load_model(Tied(), path) == ([], [])  # tied to one that is there
    del state["norm.bias"]
    st.save_file({**state, "extra": torch.zeros(2)}, path)
    assert st.load_model(Tied(), path, strict=False) == (["norm.bias"], ["extra"])
    with pytest.raises(RuntimeError, match=r"norm\.bias"):
        st.load_model(Tied(), path)


def test_what_cannot_be_stored() -> None:
    cases: list[tuple[Any, str]] = [
        ({"x": torch.zeros(3, 3).to_sparse()}, "to_dense"),
        ({"x": torch.zeros(3, dtype=torch.complex128)}, "complex128"),
        ({"x": [1.0]}, "not a torch tensor"),
        ([torch.zeros(2)], "a dict"),
    ]
    for wrong, message in cases:
        with pytest.raises(slimtensors.UsageError, match=message):
            st.save(wrong)
    model = torch.nn.Linear(4, 5)
    model.weight = torch.nn.Parameter(torch.randn(4, 5).t())
    with pytest.raises(slimtensors.UsageError, match="contiguous"):
        st.save_model(model, "never-written", force_contiguous=False)
