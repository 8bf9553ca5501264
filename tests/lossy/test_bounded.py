"""Error-bounded: the bound holds for every element, whatever the numbers, or the tensor stays as it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import decode
import slimtensors
import slimtensors.numpy
from lossy.test_standard import AS, weights
from slimtensors.errors import UsageError
from slimtensors.quantise.recipes import quantisers_of
from slimtensors.sources.inputs import ArrayInput


def kinds(dtype: str) -> dict[str, np.ndarray]:
    rng, own = np.random.default_rng(4), AS[dtype]
    few = weights(24, 384, 4)
    with np.errstate(all="ignore"):
        noise = np.frombuffer(rng.bytes(40 * 320 * own.itemsize), own)
        noise = np.where(np.isfinite(noise.astype(np.float64)), noise, own.type(0)).reshape(40, 320)
    return {
        "weights": few.astype(own),
        "small": (few * 1e-6).astype(own),
        "large": (few * 100).astype(own),
        "any bits": noise,
        "zeros": np.zeros((64, 300), own),
        "one": np.eye(130, dtype=np.float32).astype(own),
    }


BOUNDS = ["abs=0.02", "abs=0.0005", "abs=1e-7", "rel=0.5", "rel=0.01", "rel=0.002", "rel=1e-6"]
NONE = ["abs=", "abs=x", "abs=0", "abs=-1", "abs=nan", "rel=0.6", "abs=1e-31", "abs=inf", "min=1"]


@pytest.mark.parametrize("recipe", BOUNDS)
@pytest.mark.parametrize("dtype", AS)
def test_every_element(recipe: str, dtype: str) -> None:
    (quantiser,) = quantisers_of(recipe)
    bound, relative, done = float(recipe[4:]), recipe.startswith("rel"), 0
    for array in kinds(dtype).values():
        tensor = ArrayInput("w", array)
        structure = quantiser.structure(tensor)
        if structure is None:
            continue
        found = quantiser.quantise(tensor, structure).units.view(array.dtype).reshape(array.shape).astype(np.float64)
        exact = array.astype(np.float64)
        assert (abs(found - exact) <= bound * (abs(exact) if relative else 1)).all()
        assert (found[exact == 0] == 0).all()
        done += 1
    # What 16 bits can hold with so tight a bound, they hold already.
    assert done >= (2 if bound >= 0.002 else 0)


@pytest.mark.parametrize(("recipe", "bits"), [("abs=0.01", 5), ("rel=0.1", 6.5)])
@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_files(recipe: str, bits: float, dtype: str, tmp_path: Path) -> None:
    exact = np.random.default_rng(3).normal(0, 0.05, (64, 512)).astype(AS[dtype])
    not_finite = exact.copy()
    not_finite[0, 0] = np.nan
    save_file({"w": exact, "kept": not_finite}, tmp_path / "m.safetensors")
    slimtensors.compress(tmp_path / "m.safetensors", tmp_path / "m", quantise=recipe)
    tensors = {tensor.name: tensor for tensor in slimtensors.inspect(tmp_path / "m").tensors}
    assert tensors["kept"].lossy is None
    assert tensors["w"].lossy is not None
    assert tensors["w"].lossy.recipe == recipe
    assert recipe.startswith("rel") or tensors["w"].lossy.max <= 0.01
    assert tensors["w"].bits_per_weight < bits
    assert "literal" not in tensors["w"].storage
    found = slimtensors.numpy.load_file(tmp_path / "m")
    assert found["kept"].tobytes() == not_finite.tobytes()
    assert decode.decode_file((tmp_path / "m").read_bytes()).tensors["w"][2] == found["w"].tobytes()
    assert slimtensors.compare(tmp_path / "m", tmp_path / "m.safetensors").lossy == 1


@pytest.mark.parametrize("name", NONE)
def test_bounds_that_are_none(name: str) -> None:
    with pytest.raises(UsageError, match=r"a bound is a number from|unknown quantisation"):
        quantisers_of(name)


def test_names() -> None:
    names = [each.name for name in ("abs=1e5", "rel=0.0010") for each in quantisers_of(name)]
    assert names == ["abs=100000.0", "rel=0.001"]
