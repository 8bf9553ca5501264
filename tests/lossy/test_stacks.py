"""Stacks of matrices, such as a layer's experts, are quantised as the one matrix of all their rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file as plain_save

import decode
import slimtensors
import slimtensors.numpy
import slimtensors.torch
from slimtensors.errors import UsageError
from slimtensors.reading.tensors import open_file

Arrays = dict[str, np.ndarray]

EXPERTS, ROWS, COLUMNS = 4, 64, 512
RECIPES = (
    "slim", "slim-fast", "lqer", "q8_0", "q4_0", "q4_k", "nf4", "int8", "int4", "mxfp4", "nvfp4", "spqr", "abs=0.001",
)  # fmt: skip


def experts(seed: int = 5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    spread = np.exp2(rng.integers(-2, 3, (EXPERTS, ROWS, 1)))
    return (0.02 * spread * rng.standard_t(6, (EXPERTS, ROWS, COLUMNS))).astype(ml_dtypes.bfloat16)


def quantised(array: np.ndarray, to: Path, **asked: Any) -> np.ndarray:
    plain_save({"experts.down_proj": array}, to.with_suffix(".safetensors"))
    slimtensors.compress(to.with_suffix(".safetensors"), to, **asked)
    found = slimtensors.numpy.load_file(to, base=asked.get("base"))["experts.down_proj"]
    assert found.shape == array.shape
    return found


@pytest.mark.parametrize("recipe", RECIPES)
def test_as_one_matrix(recipe: str, tmp_path: Path) -> None:
    stack = experts()
    found = quantised(stack, tmp_path / "stack", quantise=recipe)
    matrix = quantised(stack.reshape(-1, COLUMNS), tmp_path / "matrix", quantise=recipe)
    assert found.tobytes() == matrix.tobytes() != stack.tobytes()
    assert slimtensors.compare(tmp_path / "stack", tmp_path / "stack.safetensors").lossy == 1
    with slimtensors.safe_open(tmp_path / "stack", framework="numpy") as file:
        np.testing.assert_array_equal(file.get_slice("experts.down_proj")[1:3, 5, 100:300], found[1:3, 5, 100:300])
    if recipe == "slim":  # the reference decoder takes seconds
        again = decode.decode_file((tmp_path / "stack").read_bytes())
        assert again.tensors["experts.down_proj"][1:] == (stack.shape, found.tobytes())


def test_a_matrix_of_the_same_units_is_no_tie(tmp_path: Path) -> None:
    stack = experts()
    tensors = {"stack": stack, "again": stack, "matrix": stack.reshape(-1, COLUMNS)}
    plain_save(tensors, tmp_path / "m.safetensors")
    slimtensors.compress(tmp_path / "m.safetensors", tmp_path / "m", quantise="q8_0")
    found = slimtensors.numpy.load_file(tmp_path / "m")
    assert {name: array.shape for name, array in found.items()} == {n: array.shape for n, array in tensors.items()}
    assert len({array.tobytes() for array in found.values()}) == 1
    assert (tmp_path / "m").stat().st_size < 1.2 * stack.nbytes


def test_differences(tmp_path: Path) -> None:
    stack = experts().astype(np.float32)
    plain_save({"experts.down_proj": stack}, tmp_path / "base.safetensors")
    moved = stack + np.float32(1e-4) * np.random.default_rng(1).standard_normal(stack.shape).astype(np.float32)
    for recipe in ("bitdelta", "slim"):
        found = quantised(moved, tmp_path / recipe, quantise=recipe, base=tmp_path / "base.safetensors")
        assert 0 < np.abs(found - moved).max() < 1e-3
        assert (tmp_path / recipe).stat().st_size < 0.1 * stack.nbytes


def test_targets(tmp_path: Path) -> None:
    stack = experts()
    quantised(stack, tmp_path / "size", target_size=60_000)
    assert 59_700 <= (tmp_path / "size").stat().st_size <= 60_000
    quantised(stack, tmp_path / "error", target_error=0.01)
    with open_file(tmp_path / "error") as file:
        lossy = file.header.tensors[0].lossy
    assert lossy is not None
    assert 0.0095 < lossy.nmse <= 0.01


@pytest.mark.parametrize(
    ("shape", "taken"),
    [
        ((3, 128, 128), True),
        ((3, 512, 32), True),
        ((3, 127, 128), False),  # each is small
        ((1, 197, 768), False),  # positions
        ((64, 512, 31), False),  # a convolution's taps
        ((512, 16, 1024), False),
        ((512, 64, 3, 3), False),
        ((32, 32, 128, 128), False),
    ],
)
def test_which_are_stacks(shape: tuple[int, ...], taken: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    tensors = {name: rng.standard_normal(size).astype("f2") for name, size in (("w", shape), ("matrix", (128, 128)))}
    plain_save(tensors, tmp_path / "m.safetensors")
    slimtensors.compress(tmp_path / "m.safetensors", tmp_path / "m", quantise="slim-fast", target_error=0.1)
    with open_file(tmp_path / "m") as file:
        assert {tensor.name: tensor.lossy is not None for tensor in file.header.tensors} == {"w": taken, "matrix": True}


@pytest.mark.parametrize("kind", ["whole", "lines", "inputs", "imatrix"])
def test_importance(kind: str, tmp_path: Path) -> None:
    """What is told of a stack, in each of the forms, as of the matrix."""
    rng = np.random.default_rng(3)
    fisher = np.exp2(rng.integers(-4, 5, (EXPERTS, ROWS, 1)) + rng.integers(-4, 5, COLUMNS)).astype(np.float32)
    name, flat = "experts.down_proj", fisher.reshape(-1, COLUMNS)
    lines = {f"{name}.rows": flat.mean(1), f"{name}.columns": flat.mean(0)}
    of_stack, of_matrix = {
        "whole": ({name: fisher}, {name: flat}),
        "lines": (lines, lines),
        "inputs": ({name: flat[0]}, {name: flat[0]}),
        "imatrix": (
            {f"{name}.in_sum2": fisher.mean(1), f"{name}.counts": np.full((EXPERTS, 1), 9, np.float32)},
            {f"{name}.rows": np.repeat(fisher.mean((1, 2)), ROWS), f"{name}.columns": fisher.mean((0, 1))},
        ),
    }[kind]
    stack = quantised(experts(), tmp_path / "stack", target_bpw=3, importance=of_stack)
    matrix = quantised(experts().reshape(-1, COLUMNS), tmp_path / "matrix", target_bpw=3, importance=of_matrix)
    assert stack.tobytes() == matrix.tobytes()
    with pytest.raises(UsageError, match=rf"has the shape \[3, {COLUMNS}\], not"):
        quantised(experts(), tmp_path / "wrong", target_bpw=3, importance={f"{name}.in_sum2": fisher[:3, 0]})


def test_importance_is_computed() -> None:
    class Experts(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stack = torch.nn.Parameter(torch.randn(2, 3, 5))

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return torch.einsum("erc,c->er", self.stack, inputs).sum()

    inputs = torch.arange(5.0)
    found = slimtensors.torch.importance(Experts(), [inputs], lambda model, batch: model(batch))
    assert found.keys() == {"stack.rows", "stack.columns"}
    assert torch.equal(found["stack.columns"], inputs.square())
    assert torch.equal(found["stack.rows"], inputs.square().mean().expand(6))
