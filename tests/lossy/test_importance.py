"""Importances of weights: files and mappings that hold them, what they do to sizes and errors, and what is refused."""

from __future__ import annotations

from pathlib import Path

import gguf
import ml_dtypes
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.numpy import save_file as plain_save
from safetensors.torch import save_file as torch_save

import slimtensors
import slimtensors.numpy
import slimtensors.torch
from slimtensors.cli.main import cli
from slimtensors.errors import UsageError
from slimtensors.quantise.importance import importances
from slimtensors.reading.tensors import open_file
from slimtensors.sources.inputs import ArrayInput

Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def tensors() -> Arrays:
    rng = np.random.default_rng(6)
    sizes = {"a.weight": (256, 300), "b.weight": (192, 256), "c.weight": (300, 160)}
    made = {name: (0.02 * rng.standard_normal(shape)).astype(ml_dtypes.bfloat16) for name, shape in sizes.items()}
    return made | {"embed.weight": rng.standard_normal((100, 256)).astype(np.float32)}


@pytest.fixture(scope="module")
def source(tensors: Arrays, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("importance") / "model.safetensors"
    plain_save(tensors, path)
    return path


@pytest.fixture(scope="module")
def fisher(tensors: Arrays) -> Arrays:
    """Of each weight, and far from even: of tensors by 4096, of rows by 64, of columns by 1000."""
    rng = np.random.default_rng(7)
    made = {}
    for level, (name, array) in zip((-6, 0, 6), tensors.items(), strict=False):
        rows, columns = (np.exp2(rng.uniform(-each, each, n)) for each, n in zip((3, 5), array.shape, strict=True))
        made[name] = (2.0**level * np.outer(rows, columns)).astype(np.float32)
    return made


def cost(path: Path, tensors: Arrays, fisher: Arrays) -> float:
    found = slimtensors.numpy.load_file(path)
    return sum(
        float((each * np.square(found[name].astype(np.float64) - tensors[name].astype(np.float64))).sum())
        for name, each in fisher.items()
    )


def test_errors_are_where_they_count_less(source: Path, tensors: Arrays, fisher: Arrays, tmp_path: Path) -> None:
    costs = []
    for known in (None, fisher):
        slimtensors.compress(source, tmp_path / "m", target_size=150_000, importance=known, embeddings=False)
        assert 149_000 < (tmp_path / "m").stat().st_size <= 150_000
        costs.append(cost(tmp_path / "m", tensors, fisher))
    assert costs[1] < 0.3 * costs[0]
    with open_file(tmp_path / "m") as file:
        errors = {each.name: each.lossy.nmse for each in file.header.tensors if each.lossy is not None}
    assert errors["a.weight"] > 4 * errors["b.weight"] > 16 * errors["c.weight"]
    assert slimtensors.compare(tmp_path / "m", source).lossy == 3


def test_each_error_is_kept(source: Path, tensors: Arrays, fisher: Arrays, tmp_path: Path) -> None:
    """Where errors are asked for, tensors do not differ, but rows and columns do."""
    costs = []
    for known in (None, fisher):
        slimtensors.compress(source, tmp_path / "m", target_error=0.01, importance=known)
        costs.append(cost(tmp_path / "m", tensors, fisher))
        with open_file(tmp_path / "m") as file:
            assert all(0.009 < each.lossy.nmse <= 0.01 for each in file.header.tensors if each.lossy is not None)
    assert costs[1] < 0.7 * costs[0]


@pytest.mark.parametrize("kind", ["whole", "lines", "inputs", "imatrix"])
def test_what_a_file_may_hold(kind: str, source: Path, tensors: Arrays, fisher: Arrays, tmp_path: Path) -> None:
    path = tmp_path / ("imatrix.gguf" if kind == "imatrix" else "importance.safetensors")
    if kind == "imatrix":
        writer = gguf.GGUFWriter(path, "imatrix")
        for name, each in fisher.items():
            writer.add_tensor(f"{name}.in_sum2", 512 * each.mean(0, keepdims=True))
            writer.add_tensor(f"{name}.counts", np.full((1, 1), 512, np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    elif kind == "whole":
        plain_save({name: each.astype(np.float64) for name, each in fisher.items()}, path)
    elif kind == "inputs":
        plain_save({name: each.mean(0).astype(ml_dtypes.bfloat16) for name, each in fisher.items()}, path)
    else:
        lines = {f"{name}.rows": each.mean(1) for name, each in fisher.items()}
        plain_save(lines | {f"{name}.columns": each.mean(0) for name, each in fisher.items()}, path)
    for name, known in (("plain", None), ("known", path)):
        slimtensors.compress(source, tmp_path / name, target_bpw=3, importance=known)
    plain, found = (cost(tmp_path / name, tensors, fisher) for name in ("plain", "known"))
    # One that says nothing of tensors and rows can only move errors between columns.
    assert found < (0.8 if kind in ("inputs", "imatrix") else 0.3) * plain


def test_the_unit_does_not_count(source: Path, fisher: Arrays, tmp_path: Path) -> None:
    for name, factor in (("one", 1.0), ("other", 2.0**-40)):
        known = {key: factor * each for key, each in fisher.items()}
        slimtensors.compress(source, tmp_path / name, target_bpw=3, importance=known)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_importance_of_a_tie_is_that_of_both(tensors: Arrays, fisher: Arrays, tmp_path: Path) -> None:
    plain_save(tensors | {"a.first": tensors["b.weight"]}, tmp_path / "tied.safetensors")
    some = {name: each for name, each in fisher.items() if name != "b.weight"}
    for name, known in (("one", fisher), ("other", some | {"a.first": fisher["b.weight"]}), ("none", some)):
        slimtensors.compress(tmp_path / "tied.safetensors", tmp_path / name, target_bpw=3, importance=known)
    made = [(tmp_path / name).read_bytes() for name in ("one", "other", "none")]
    assert made[0] == made[1] != made[2]


def test_what_is_not_told_counts_as_the_mean(source: Path, fisher: Arrays, tmp_path: Path) -> None:
    some = {name: each for name, each in fisher.items() if name != "b.weight"}
    zeros = some | {"b.weight": np.zeros((192, 256), np.float32), "of another shard": np.ones((3, 3), np.float32)}
    for name, known in (("one", some), ("other", zeros)):
        slimtensors.compress(source, tmp_path / name, target_bpw=3, importance=known)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    with open_file(tmp_path / "one") as file:
        steps = [each.expression for each in file.header.streams if hasattr(each.expression, "states")]
    assert [each.rows is None for each in steps] == [False, True, False]


def test_rows_that_no_text_touched(source: Path, tmp_path: Path) -> None:
    known = np.ones((256, 300), np.float32)
    known[5], known[:, 7] = 0, 0
    slimtensors.compress(source, tmp_path / "m", target_bpw=3, importance={"a.weight": known})
    with open_file(tmp_path / "m") as file:
        assert file.header.tensors[file.find("a.weight")].lossy.nmse < 0.1
    found = slimtensors.numpy.load_file(tmp_path / "m")["a.weight"]
    assert found[5].any()
    assert found[:, 7].any()


@pytest.mark.parametrize(
    ("known", "words"),
    [
        ({"a.weight": np.ones((300, 256))}, r"'a.weight' has the shape \[300, 256\], not \[256, 300\] or \[300\]"),
        ({"a.weight": np.full(300, -1.0)}, "'a.weight' has negative numbers; it is to be means of squares"),
        ({"a.weight": np.full(300, np.nan)}, "'a.weight' has numbers that are not finite"),
        ({"a.weight": np.ones(300, np.int32)}, "'a.weight' is of I32; F16, BF16, F32 and F64 can be read"),
        ({"a.weight.rows": np.ones(256)}, "there is 'a.weight.rows' without 'a.weight.columns'"),
        ({"a.weight.columns": np.ones(300)}, "there is 'a.weight.columns' without 'a.weight.rows'"),
        ({"a.weight.in_sum2": np.ones((4, 300))}, r"not \[300\] or \[1, 300\]"),
        ({"w": np.ones(300)}, "importance of no tensor that is quantised: it is of 'w', and quantised are 'a.weight'"),
        ({"embed.weight": np.ones((100, 256))}, "of no tensor that is quantised"),
        ({}, "it is of nothing"),
    ],
)
def test_refused(known: Arrays, words: str, source: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words):
        slimtensors.compress(source, tmp_path / "m", target_bpw=4, importance=known)
    with pytest.raises(UsageError, match="q8_0 has steps of its own; importance is for slim, slim-fast and lqer"):
        slimtensors.compress(source, tmp_path / "m", quantise="q8_0", importance=known)
    with pytest.raises(UsageError, match="importance are for quantise"):
        slimtensors.compress(source, tmp_path / "m", importance=known)
    assert not list(tmp_path.iterdir())


def test_command(source: Path, fisher: Arrays, tmp_path: Path) -> None:
    path, out = tmp_path / "importance.safetensors", str(tmp_path / "m.slimtensors")
    plain_save(fisher | {"x.weight": np.ones(4, np.float32)}, path)
    asked = ["compress", str(source), "-o", out, "--importance", str(path)]
    done = CliRunner().invoke(cli, [*asked, "--target-bpw", "3"])
    assert done.exit_code == 0, done.output
    assert "1 of its tensors are of no weight here, the first 'x.weight'" in done.output
    assert CliRunner().invoke(cli, ["verify", out, "--against", str(source)]).exit_code == 0
    for wrong in ([], ["--quantise", "nf4", "--force"]):
        done = CliRunner().invoke(cli, asked + wrong)
        assert done.exit_code != 0
    path.write_bytes(b"no safetensors file")
    done = CliRunner().invoke(cli, [*asked, "--target-bpw", "3", "--force"])
    assert done.exit_code != 0
    assert "importance.safetensors" in done.output


# ---- from a module


class Net(torch.nn.Module):
    """Two layers, of which one has its weight from the embedding."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = torch.nn.Embedding(40, 16)
        self.inner, self.drop = torch.nn.Linear(16, 16), torch.nn.Dropout(0.5)
        self.head = torch.nn.Linear(16, 40, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.drop(torch.tanh(self.inner(self.embed(tokens)))))


def loss(model: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(model(batch[:-1]), batch[1:], reduction="sum")


def test_of_a_module() -> None:
    """Against gradients that autograd gives all at once; gradients, modes and hooks are as they were."""
    model = Net()
    model.inner.eval()
    loss(model, torch.arange(5)).backward()
    before = {name: each.grad.clone() for name, each in model.named_parameters()}
    batches = [torch.randint(40, (6,)) for _ in range(5)]
    with torch.no_grad():
        found = slimtensors.torch.importance(model, iter(batches), loss)
    assert {name: each.grad for name, each in model.named_parameters()}.keys() == before.keys()
    assert all(torch.equal(each.grad, before[name]) for name, each in model.named_parameters())
    assert model.training
    assert not model.inner.training
    model.eval()
    weights = {"embed.weight": model.embed.weight, "inner.weight": model.inner.weight}
    squares = {name: torch.zeros(weight.shape) for name, weight in weights.items()}
    for batch in batches:
        gradients = torch.autograd.grad(loss(model, batch), list(weights.values()))
        for name, gradient in zip(weights, gradients, strict=True):
            squares[name] += gradient.square() / len(batches)
    squares["head.weight"] = squares["embed.weight"]
    assert found.keys() == {f"{name}.{part}" for name in squares for part in ("rows", "columns")}
    for name, each in squares.items():
        torch.testing.assert_close(found[f"{name}.rows"], each.mean(1))
        torch.testing.assert_close(found[f"{name}.columns"], each.mean(0))
    loss(model, batches[0]).backward()  # no hook is left that would drop it
    assert not torch.equal(model.inner.weight.grad, before["inner.weight"])


def test_what_it_gives_is_taken(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(200, 200), torch.nn.Linear(200, 100)).to(torch.bfloat16)
    batches = [torch.randn(1, 200, dtype=torch.bfloat16) for _ in range(4)]
    found = slimtensors.torch.importance(model, batches, lambda model, batch: model(batch).float().square().sum())
    torch_save(model.state_dict(), tmp_path / "model.safetensors")
    torch_save(found, tmp_path / "importance.safetensors")
    for known in (found, tmp_path / "importance.safetensors"):
        slimtensors.compress(tmp_path / "model.safetensors", tmp_path / "m", target_bpw=4, importance=known)
        with open_file(tmp_path / "m") as file:
            assert sum(each.lossy is not None for each in file.header.tensors) == 2


def test_modules_that_are_refused() -> None:
    model = torch.nn.Linear(3, 3)
    for batches, wrong, words in (
        ([], lambda model, batch: model(batch).sum(), "there are no batches"),
        ([torch.ones(3)], lambda model, batch: model(batch), "the loss of batch 1 is tensor.*, not a finite scalar"),
        ([torch.ones(3)], lambda model, batch: model(batch).sum() / 0, "not a finite scalar"),
        ([torch.ones(3)], lambda *_: 1.0, "the loss of batch 1 is 1.0"),
        ([torch.full((3,), 1e30)], lambda model, batch: model(batch).sum(), "too large to be squared"),
    ):
        with pytest.raises(UsageError, match=words):
            slimtensors.torch.importance(model, batches, wrong)
    assert model.weight.grad is None
    with pytest.raises(UsageError, match="no parameter of two or three dimensions"):
        slimtensors.torch.importance(torch.nn.LayerNorm(3), [1], lambda *_: 1.0)


def test_errors_name_what_is_wrong() -> None:
    """Parts are looked at only for weights that are asked for."""
    told = [ArrayInput("w.rows", np.ones(3)), ArrayInput("w.columns", np.ones(4)), ArrayInput("v", np.ones(9))]
    found = importances([ArrayInput("w", np.zeros((3, 4), np.float32))], told)
    assert found["w"].absolute
    assert found["w"].rows.tolist() == [1, 1, 1]
