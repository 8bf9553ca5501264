"""nf4 as bitsandbytes has it, int8, int4 and fp8 as compressed-tensors has them, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lossy.test_standard import AS, quantised, weights

# Both warn of what torch or the machine has not.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("libraries")]


@pytest.fixture(scope="module")
def libraries() -> None:
    for name in ("bitsandbytes", "compressed_tensors"):
        pytest.importorskip(name)


@pytest.mark.parametrize("dtype", AS)
def test_bitsandbytes(dtype: str) -> None:
    import bitsandbytes.functional

    array = weights().astype(AS[dtype])
    own = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[dtype]
    packed, state = bitsandbytes.functional.quantize_4bit(
        torch.from_numpy(array.astype(np.float32)).to(own), blocksize=64, quant_type="nf4"
    )
    theirs = bitsandbytes.functional.dequantize_4bit(packed, state)
    assert theirs.dtype == own
    assert np.array_equal(quantised(array, "nf4").astype(np.float32), theirs.float().numpy())


@pytest.mark.parametrize(
    ("recipe", "arguments"),
    [
        ("int8", {"num_bits": 8, "type": "int", "strategy": "channel"}),
        ("int4", {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128}),
        ("fp8", {"num_bits": 8, "type": "float", "strategy": "channel"}),
    ],
)
def test_compressed_tensors(recipe: str, arguments: dict[str, Any]) -> None:
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize
    from compressed_tensors.quantization.utils import calculate_qparams

    array, asked = weights(), QuantizationArgs(symmetric=True, **arguments)
    tensor = torch.from_numpy(array)
    runs = tensor.reshape(len(array), -1, arguments.get("group_size", array.shape[1]))
    scales, zeros = calculate_qparams(runs.amin(-1), runs.amax(-1), asked)
    assert np.array_equal(quantised(array, recipe), fake_quantize(tensor, scales, zeros, asked).numpy())
