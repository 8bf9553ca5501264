"""The formats that others define: codes, scales and numbers bit for bit those of their own libraries."""

from __future__ import annotations

import gguf
import ml_dtypes
import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType

from slimtensors.inputs import ArrayInput
from slimtensors.quantise.quantiser import QuantisedInput
from slimtensors.quantise.recipes import RECIPES

DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


def weights(rows: int = 96, columns: int = 768, seed: int = 1) -> np.ndarray:
    """Of several scales, with zeros, equal magnitudes of both signs and a block of zeros."""
    rng = np.random.default_rng(seed)
    made = (rng.standard_t(5, (rows, columns)) * 2.0 ** rng.integers(-12, 4, (rows, 1))).astype(np.float32)
    made[0, :32] = 0
    made[1, ::2] = 0
    made[2] = np.tile([0.5, -0.5, 0.25, -0.125], columns // 4)
    made[3] = np.tile([-0.5, 0.5, 0.25, -0.125], columns // 4)
    return made


def quantised(array: np.ndarray, recipe: str) -> np.ndarray:
    tensor = ArrayInput("w", array)
    structure = RECIPES[recipe].structure(tensor)
    assert structure is not None
    made = QuantisedInput(tensor, RECIPES[recipe], structure)
    return made.read(0, array.size).view(array.dtype).reshape(array.shape)


def bits(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).view(f"u{array.itemsize}")


@pytest.mark.parametrize("recipe", ["q8_0"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_gguf(recipe: str, dtype: str) -> None:
    kind = GGMLQuantizationType[recipe.upper()]
    array = weights().astype(DTYPES[dtype])
    with np.errstate(all="ignore"):
        packed = gguf.quants.quantize(array.astype(np.float32), kind)
        theirs = gguf.quants.dequantize(packed, kind).astype(array.dtype)
    assert np.array_equal(bits(quantised(array, recipe)), bits(theirs))
