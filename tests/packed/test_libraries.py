"""Files that bitsandbytes and compressed-tensors make of MiniLM: given back, and read by them again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import slimtensors
from slimtensors.expression import Record
from slimtensors.reading import open_file
from slimtensors.torch import load_file

# Both warn of what torch or the machine has not.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("libraries")]

Tensors = dict[str, torch.Tensor]
LAYERS = ("encoder.layer.0.intermediate.dense.weight", "encoder.layer.3.output.dense.weight")


@pytest.fixture(scope="module")
def libraries() -> None:
    for name in ("bitsandbytes", "compressed_tensors"):
        pytest.importorskip(name)


@pytest.fixture(scope="module")
def matrices(minilm: Path) -> Tensors:
    with safetensors.safe_open(minilm, "pt") as file:
        return {name.removesuffix(".weight"): file.get_tensor(name).float() for name in LAYERS}


def there_and_back(tensors: Tensors, folder: Path, codes: str) -> tuple[Tensors, float]:
    """What our file gives, and its size as a share of the source's; the bytes of the source come back, too."""
    source, packed, back = (folder / name for name in ("model.safetensors", "packed", "back"))
    safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, source)
    slimtensors.compress(source, packed)
    slimtensors.decompress(packed, back)
    assert back.read_bytes() == source.read_bytes()
    with open_file(packed) as file:
        for tensor in file.header.tensors:
            if tensor.name.endswith(codes):
                assert tensor.expression is not None
                assert isinstance(file.header.expressions[tensor.expression], Record), tensor.name
    found = load_file(packed)
    assert {(n, t.dtype, t.shape) for n, t in found.items()} == {(n, t.dtype, t.shape) for n, t in tensors.items()}
    return found, packed.stat().st_size / source.stat().st_size


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("nested", [True, False])
def test_bitsandbytes(kind: str, nested: bool, matrices: Tensors, tmp_path: Path) -> None:
    import bitsandbytes as bnb

    layers = {}
    for name, matrix in matrices.items():
        weight = bnb.nn.Params4bit(matrix, requires_grad=False, quant_type=kind, compress_statistics=nested)
        layer = bnb.nn.Linear4bit(*reversed(matrix.shape), bias=False, quant_type=kind, compress_statistics=nested)
        layer.weight = weight.to("cpu")
        layers[name] = layer
    made = {f"{name}.{key}": t for name, layer in layers.items() for key, t in layer.state_dict().items()}
    assert any("nested_absmax" in name for name in made) == nested
    found, share = there_and_back(made, tmp_path, ".weight")
    assert share < 0.99
    for name, layer in layers.items():
        statistics = {key.removeprefix(f"{name}."): t for key, t in found.items() if key.startswith(f"{name}.weight.")}
        weight = bnb.nn.Params4bit.from_prequantized(found[f"{name}.weight"], statistics, device="cpu")
        ours, theirs = (bnb.functional.dequantize_4bit(each.data, each.quant_state) for each in (weight, layer.weight))
        assert torch.equal(ours, theirs)


def scheme(**weights: Any) -> Any:
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    return QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(symmetric=True, **weights))


INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128}
CASES: dict[str, tuple[str, dict[str, Any], str, float]] = {
    "int4 in words": ("PackedQuantizationCompressor", INT4, ".weight_packed", 0.9),
    "int8 in words": (
        "PackedQuantizationCompressor",
        {"num_bits": 8, "type": "int", "strategy": "channel"},
        ".weight_packed",
        0.92,
    ),
    "int8": ("IntQuantizationCompressor", {"num_bits": 8, "type": "int", "strategy": "channel"}, ".weight", 0.92),
}


@pytest.mark.parametrize("name", CASES)
def test_compressed_tensors(name: str, matrices: Tensors, tmp_path: Path) -> None:
    import compressed_tensors.compressors
    from compressed_tensors.quantization.utils import calculate_qparams

    kind, arguments, codes, most = CASES[name]
    compressor, asked = getattr(compressed_tensors.compressors, kind), scheme(**arguments)
    made: Tensors = {}
    for layer, matrix in matrices.items():
        runs = matrix.reshape(len(matrix), -1, arguments.get("group_size", matrix.shape[1]))
        scales, zeros = calculate_qparams(runs.amin(-1), runs.amax(-1), asked.weights)
        parts = {"weight": matrix, "weight_scale": scales, "weight_zero_point": zeros}
        made |= {f"{layer}.{key}": each for key, each in compressor.compress(parts, asked).items()}
    found, share = there_and_back(made, tmp_path, codes)
    assert share < most
    for layer in matrices:
        ours, theirs = (
            compressor.decompress(dict(parts_of(tensors, layer)), asked)["weight"] for tensors in (found, made)
        )
        assert torch.equal(ours, theirs)


def parts_of(tensors: Tensors, layer: str) -> Iterator[tuple[str, torch.Tensor]]:
    for name, tensor in tensors.items():
        if name.startswith(f"{layer}."):
            yield name.removeprefix(f"{layer}."), tensor
