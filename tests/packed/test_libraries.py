"""Files that bitsandbytes and compressed-tensors make of MiniLM: given back, read by them again, and as numbers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

import slimtensors
import slimtensors.numpy
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


def same(ours: Tensors, theirs: Tensors) -> bool:
    """Names, dtypes and bits."""
    alike = {name: (t.dtype, t.shape) for name, t in ours.items()} == {n: (t.dtype, t.shape) for n, t in theirs.items()}
    return alike and all(torch.equal(bits(ours[name]), bits(each)) for name, each in theirs.items())


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.uint8)


def check_numbers(folder: Path, theirs: Tensors) -> None:
    """What load_file and safe_open give of `packed`; `theirs` are the weights by their libraries."""
    dtype = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}[next(iter(theirs.values())).dtype]
    assert same(load_file(folder / "packed", dequantise=dtype), theirs)
    with slimtensors.safe_open(folder / "packed", "pt", dequantise=dtype) as file:
        assert file.keys() == sorted(theirs)
        assert same({name: file.get_tensor(name) for name in file.keys()}, theirs)  # noqa: SIM118 # not a dict
        with pytest.raises(slimtensors.UsageError, match="slices of it"):
            file.get_slice(next(iter(theirs)))
    arrays = slimtensors.numpy.load_file(folder / "packed", dequantise=dtype)
    assert all(np.array_equal(arrays[n].view(np.uint8), bits(each).numpy()) for n, each in theirs.items())


DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("nested", [True, False])
def test_bitsandbytes(kind: str, nested: bool, dtype: torch.dtype, matrices: Tensors, tmp_path: Path) -> None:
    import bitsandbytes as bnb

    layers = {}
    for name, matrix in matrices.items():
        weight = bnb.nn.Params4bit(matrix.to(dtype), requires_grad=False, quant_type=kind, compress_statistics=nested)
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
    numbers = {
        f"{n}.weight": bnb.functional.dequantize_4bit(e.weight.data, e.weight.quant_state) for n, e in layers.items()
    }
    check_numbers(tmp_path, numbers)


def test_bitsandbytes_int8(matrices: Tensors, tmp_path: Path) -> None:
    import bitsandbytes as bnb

    made, numbers = {}, {}
    for name, matrix in matrices.items():
        codes, scales, _ = bnb.functional.int8_vectorwise_quant(matrix.half())
        made |= {
            f"{name}.weight": codes,
            f"{name}.SCB": scales,
            f"{name}.weight_format": torch.tensor(0, dtype=torch.uint8),
        }
        numbers[f"{name}.weight"] = bnb.functional.int8_vectorwise_dequant(codes, scales)
    there_and_back(made, tmp_path, ".weight")
    check_numbers(tmp_path, numbers)


def scheme(symmetric: bool = True, **weights: Any) -> Any:
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    return QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(symmetric=symmetric, **weights))


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


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_compressed_tensors(name: str, dtype: torch.dtype, matrices: Tensors, tmp_path: Path) -> None:
    import compressed_tensors.compressors
    from compressed_tensors.quantization.utils import calculate_qparams

    kind, arguments, codes, most = CASES[name]
    compressor, asked = getattr(compressed_tensors.compressors, kind), scheme(**arguments)
    made: Tensors = {}
    for layer, wide in matrices.items():
        matrix = wide.to(dtype)
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
    numbers = {f"{n}.weight": compressor.decompress(dict(parts_of(made, n)), asked)["weight"] for n in matrices}
    check_numbers(tmp_path, numbers)


MORE: dict[str, tuple[str, dict[str, Any]]] = {
    "int4 with zero points": ("PackedQuantizationCompressor", {**INT4, "symmetric": False}),
    "int3 in words": ("PackedQuantizationCompressor", {**INT4, "num_bits": 3}),
    "FP8 by row": ("FloatQuantizationCompressor", {"num_bits": 8, "type": "float", "strategy": "channel"}),
    "FP8": ("FloatQuantizationCompressor", {"num_bits": 8, "type": "float", "strategy": "tensor"}),
    "FP8 by block": (
        "FloatQuantizationCompressor",
        {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [128, 128]},
    ),
    "NVFP4": (
        "NVFP4PackedCompressor",
        {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16,
         "scale_dtype": torch.float8_e4m3fn},
    ),
    "MXFP4": (
        "MXFP4PackedCompressor",
        {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32, "scale_dtype": torch.uint8},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MORE)
def test_more_of_compressed_tensors(name: str, matrices: Tensors, tmp_path: Path) -> None:
    """What its own `compress` makes, and `decompress` gives."""
    import compressed_tensors.compressors
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

    kind, arguments = MORE[name]
    compressor, asked = getattr(compressed_tensors.compressors, kind), scheme(**arguments)
    made: Tensors = {}
    for layer, wide in matrices.items():
        matrix = wide.bfloat16()
        runs = runs_of(matrix, asked.weights)
        whole = generate_gparam(matrix.amin(), matrix.amax()) if name == "NVFP4" else None
        scales, zeros = calculate_qparams(runs.amin(-1), runs.amax(-1), asked.weights, whole)
        parts = {"weight": matrix, "weight_scale": scales, "weight_zero_point": zeros}
        parts |= {} if whole is None else {"weight_global_scale": whole}
        made |= {f"{layer}.{key}": each for key, each in compressor.compress(parts, asked).items()}
    there_and_back(made, tmp_path, "none")
    numbers = {f"{n}.weight": compressor.decompress(dict(parts_of(made, n)), asked)["weight"] for n in matrices}
    check_numbers(tmp_path, numbers)


def runs_of(matrix: torch.Tensor, weights: Any) -> torch.Tensor:
    """What shares a scale, in the last dimension."""
    if weights.block_structure:
        high, wide = weights.block_structure
        return matrix.reshape(len(matrix) // high, high, -1, wide).transpose(1, 2).flatten(2)
    if weights.group_size:
        return matrix.reshape(len(matrix), -1, weights.group_size)
    return matrix.reshape(1, 1, -1)[0] if weights.strategy == "tensor" else matrix[:, None]


def parts_of(tensors: Tensors, layer: str) -> Iterator[tuple[str, torch.Tensor]]:
    for name, tensor in tensors.items():
        if name.startswith(f"{layer}."):
            yield name.removeprefix(f"{layer}."), tensor


def module_of(package: str, file: str) -> Any:
    """A module by its file: all of the package would want others of years ago."""
    import importlib.metadata
    import importlib.util

    distribution = importlib.metadata.distribution(package)
    spec = importlib.util.spec_from_file_location(Path(file).stem, Path(str(distribution.locate_file(file))))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("width", [2, 4, 8])
@pytest.mark.parametrize("shuffled", [False, True])
def test_gptq(width: int, shuffled: bool, matrices: Tensors, tmp_path: Path) -> None:
    """Packed by AutoGPTQ, and multiplied with the unit matrix by it."""
    library = module_of("auto-gptq", "auto_gptq/nn_modules/qlinear/qlinear_cuda.py")
    made, numbers = {}, {}
    generator = torch.Generator().manual_seed(width)
    for name, matrix in matrices.items():
        outputs, inputs = matrix.shape
        group = torch.arange(inputs, dtype=torch.int32) // 128
        if shuffled:
            group = group[torch.randperm(inputs, generator=generator)]
        runs = [matrix[:, group == i] for i in range(inputs // 128)]
        low, high = (torch.stack([f(run, 1) for run in runs], 1) for f in (torch.amin, torch.amax))
        scales = ((high - low) / (2**width - 1)).half().float()
        zeros = torch.clamp(torch.round(-low / scales), 1, 2**width - 1)
        linear = torch.nn.Linear(inputs, outputs, bias=False)
        at = group.long()
        codes = torch.clamp(torch.round(matrix / scales[:, at]) + zeros[:, at], 0, 2**width - 1)
        linear.weight.data = ((codes - zeros[:, at]) * scales[:, at]).half()
        layer = library.QuantLinear(width, 128, inputs, outputs, False, weight_dtype=torch.float16)
        layer.pack(linear, scales, zeros, group)
        made |= {f"{name}.{key}": each for key, each in layer.state_dict().items()}
        numbers[f"{name}.weight"] = layer(torch.eye(inputs, dtype=torch.float16)).T.contiguous()
    there_and_back(made, tmp_path, "none")
    check_numbers(tmp_path, numbers)


def test_awq(matrices: Tensors, tmp_path: Path) -> None:
    """Codes, scales and zero points of every kind, as AutoAWQ's own functions take them apart."""
    library = module_of("autoawq", "awq/utils/packing_utils.py")
    made, numbers = {}, {}
    generator = torch.Generator().manual_seed(1)
    for name, matrix in matrices.items():
        outputs, inputs = matrix.shape
        words = [
            torch.randint(-(1 << 31), 1 << 31, (n, outputs // 8), generator=generator) for n in (inputs, inputs // 128)
        ]
        codes, zeros = (each.to(torch.int32) for each in words)
        scales = torch.rand((inputs // 128, outputs), generator=generator).half()
        made |= {f"{name}.qweight": codes, f"{name}.qzeros": zeros, f"{name}.scales": scales}
        numbers[f"{name}.weight"] = library.dequantize_gemm(codes, zeros, scales, 4, 128).T.contiguous()
    there_and_back(made, tmp_path, "none")
    check_numbers(tmp_path, numbers)


@pytest.mark.parametrize(
    ("width", "dtype"), [*((4, dtype) for dtype in DTYPES), *((w, DTYPES[1]) for w in (1, 2, 3, 8))]
)
@pytest.mark.parametrize("axis", [0, 1])
def test_hqq(width: int, axis: int, dtype: torch.dtype, matrices: Tensors, tmp_path: Path) -> None:
    from hqq.core.quantize import BaseQuantizeConfig, HQQLinear

    made, numbers = {}, {}
    config = BaseQuantizeConfig(nbits=width, group_size=64, axis=axis)
    for name, matrix in list(matrices.items())[:1]:
        linear = torch.nn.Linear(*reversed(matrix.shape), bias=False)
        linear.weight.data = matrix
        layer = HQQLinear(linear, config, compute_dtype=dtype, device="cpu")
        made |= {f"{name}.{key}": each.data for key, each in layer.state_dict().items()}
        numbers[f"{name}.weight"] = layer.dequantize()
    there_and_back(made, tmp_path, "none")
    check_numbers(tmp_path, numbers)
