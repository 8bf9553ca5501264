"""What quantisers make has kernels: no tensor of theirs is left to the CPU."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from safetensors.numpy import save_file

import slimtensors
from gpu.backend import Runner
from slimtensors.device import telling
from slimtensors.device.layouts import planes_of
from slimtensors.device.loading import fill_device
from slimtensors.errors import DecodedOnCpuWarning
from slimtensors.expression import LowRank, Sparse, Sum, values_of
from slimtensors.quantise.recipes import RECIPES, quantisers_of, smaller
from slimtensors.reading.tensors import open_file
from slimtensors.sources.inputs import ArrayInput


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("recipe", [*RECIPES, "abs=0.001", "rel=0.01", "small"])
def test_every_recipe(dtype, recipe):
    """Of a matrix, and of a difference from a base."""
    rng = np.random.default_rng(1)
    w = rng.standard_normal((256, 256)) * 0.02 * np.exp2(rng.integers(-3, 2, (256, 1)))
    tensor = ArrayInput("w", w.astype(dtype))
    quantiser = smaller("slim") if recipe == "small" else quantisers_of(recipe)[0]
    structure = quantiser.structure(tensor)
    assert structure is not None
    given = w.size, tensor.dtype.unit_bytes, True, tensor.dtype.name
    assert planes_of(structure.expression, *given) is not None
    assert (structure.expression.bits.contexts != ()) == (recipe == "small")
    values = values_of(structure.expression)
    if values is not None and recipe != "small":
        assert planes_of(Sum(values, 0), *given) is not None
        assert planes_of(Sum(values, LowRank(5, 6, 9)), *given) is not None


@pytest.mark.parametrize("recipe", ["nvfp4", "q4_k", "spqr"])
def test_files(tmp_path, monkeypatch, recipe):
    """Through the loader, against the CPU's decoder."""
    monkeypatch.setattr(telling, "_told", set())
    monkeypatch.setattr("slimtensors.quantise.stacks.MIN_ELEMENTS", 1024)
    monkeypatch.setattr("slimtensors.planning.building.PACK_TENSOR_BYTES", 2048)
    monkeypatch.setattr("slimtensors.planning.chunking.CHUNK_BYTES", 6 * 1024)
    path, w = tmp_path / "a.slimtensors", (np.random.default_rng(3).standard_t(4, (16, 256)) * 0.02).astype(np.float16)
    save_file({"w": w}, tmp_path / "a.safetensors")
    slimtensors.compress(tmp_path / "a.safetensors", path, quantise=recipe, durable=False)
    backend = Runner(1 << 20)
    with open_file(path) as file, warnings.catch_warnings():
        warnings.simplefilter("error", DecodedOnCpuWarning)
        expression = file.header.streams[file.header.tensor_stream[0]].expression
        assert isinstance(expression, Sparse) == (recipe == "spqr")
        target = backend.fresh(w.nbytes)
        fill_device(file, {0: target}, backend, threads=1)
        assert target.tobytes() == file.read(0, 1).tobytes()
    assert ("scaled_f16" if recipe == "nvfp4" else "shifted_f16") in backend.launched
