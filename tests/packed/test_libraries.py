"""Files that quantisers' own libraries make of MiniLM: given back, read by them again, and as numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

import slimtensors
import slimtensors.numpy
from slimtensors.expression import Record
from slimtensors.reading.tensors import open_file
from slimtensors.torch import load_file

# Both warn of what torch or the machine has not.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("libraries")]

Tensors = dict[str, torch.Tensor]
LAYERS = ("encoder.layer.0.intermediate.dense.weight", "encoder.layer.3.output.dense.weight")


@pytest.fixture(scope="module")
def libraries() -> None:
    for name in ("bitsandbytes", "compressed_tensors", "torchao", "aqlm"):
        pytest.importorskip(name)


@pytest.fixture(scope="module")
def matrices(minilm: Path) -> Tensors:
    with safetensors.safe_open(minilm, "pt") as file:
        return {name.removesuffix(".weight"): file.get_tensor(name).float() for name in LAYERS}


def there_and_back(
    tensors: Tensors, folder: Path, codes: str, metadata: dict[str, str] | None = None
) -> tuple[Tensors, float]:
    """What our file gives, and its size as a share of the source's; the bytes of the source come back, too."""
    source, packed, back = (folder / name for name in ("model.safetensors", "packed", "back"))
    safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, source, metadata)
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


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["bitlinear", "autobitlinear"])
def test_bitnet(kind: str, dtype: torch.dtype, matrices: Tensors, tmp_path: Path) -> None:
    """Rounded as BitNet rounds, packed and unpacked by transformers, whose layers divide or multiply."""
    import transformers.integrations.bitnet as library

    (tmp_path / "config.json").write_text(
        json.dumps({"quantization_config": {"quant_method": "bitnet", "linear_class": kind}})
    )
    made, numbers = {}, {}
    for name, matrix in matrices.items():
        mean = matrix.abs().mean()
        ternary = (matrix / mean).round().clamp(-1, 1)
        scale = (mean if kind == "autobitlinear" else 1 / mean).reshape(1).to(dtype)
        packed = library.pack_weights(ternary.clone())
        made |= {f"{name}.weight": packed, f"{name}.weight_scale": scale}
        with torch.compiler.set_stance("force_eager"):
            unpacked = library.unpack_weights(packed, dtype)
            layer = (library.BitLinear if kind == "bitlinear" else library.AutoBitLinear)(
                *reversed(matrix.shape), bias=False, dtype=dtype
            )
            layer.weight.data, layer.weight_scale.data = (packed if kind == "bitlinear" else unpacked), scale
            given = layer(torch.eye(matrix.shape[1], dtype=dtype)).T
        assert torch.equal(unpacked, ternary.to(dtype))
        numbers[f"{name}.weight"] = unpacked / scale if kind == "bitlinear" else unpacked * scale
        # The layer rounds its scale times that of the inputs, too.
        assert torch.allclose(given, numbers[f"{name}.weight"], rtol=2 * torch.finfo(dtype).eps)
    _, share = there_and_back(made, tmp_path, "none")
    assert share < 0.9
    check_numbers(tmp_path, numbers)


def by_config(name: str, **arguments: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """What torchao's `quantize_` makes of a layer's weight; integers are groups."""

    def made(matrix: torch.Tensor) -> torch.Tensor:
        import torchao.quantization as library

        settings = {key: library.PerGroup(each) if type(each) is int else each for key, each in arguments.items()}
        layer = torch.nn.Linear(*reversed(matrix.shape), bias=False, dtype=matrix.dtype)
        layer.weight.data = matrix
        library.quantize_(layer, getattr(library, name)(**settings))
        return layer.weight.detach()

    return made


def mx(dtype: torch.dtype, tiles: bool = False) -> Callable[[torch.Tensor], torch.Tensor]:
    """By the class itself: configs ask for a GPU first."""

    def made(matrix: torch.Tensor) -> torch.Tensor:
        from torchao.prototype.mx_formats.mx_tensor import MXTensor

        found: torch.Tensor = MXTensor.to_mx(matrix, dtype, 32, is_swizzled_scales=tiles)
        return found

    return made


def nvfp4(matrix: torch.Tensor, whole: bool = False) -> torch.Tensor:
    from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor, per_tensor_amax_to_scale

    scale = per_tensor_amax_to_scale(matrix.abs().amax()) if whole else None
    found: torch.Tensor = NVFP4Tensor.to_nvfp4(matrix, per_tensor_scale=scale, is_swizzled_scales=whole)
    return found


def float8(matrix: torch.Tensor) -> torch.Tensor:
    """With a scale for each block, as for products with FP8 activations, whose config asks for a GPU."""
    from torchao.quantization import Float8Tensor, PerBlock

    found: torch.Tensor = Float8Tensor.from_hp(matrix, granularity=PerBlock([128, 128]))
    return found


FOUR_BITS = {"weight_dtype": torch.int4}
TORCHAO: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], list[torch.dtype]]] = {
    "int8": (by_config("Int8WeightOnlyConfig"), DTYPES),
    "int8 by group": (by_config("Int8WeightOnlyConfig", granularity=64), DTYPES[2:]),
    "int8 beside int8": (by_config("Int8DynamicActivationInt8WeightConfig"), DTYPES[2:]),
    "int4": (by_config("IntxWeightOnlyConfig", granularity=32, **FOUR_BITS), DTYPES),
    "int4 beside int8": (
        by_config("Int8DynamicActivationIntxWeightConfig", weight_granularity=32, **FOUR_BITS),
        DTYPES[2:],
    ),
    "FP8": (by_config("Float8WeightOnlyConfig"), DTYPES),
    "FP8 by block": (float8, DTYPES[2:]),
    "MXFP8": (mx(torch.float8_e4m3fn), DTYPES[::2]),
    "MXFP8 in tiles": (mx(torch.float8_e5m2, True), DTYPES[2:]),
    "MXFP4": (mx(torch.float4_e2m1fn_x2), DTYPES[2:]),
    "NVFP4": (nvfp4, DTYPES[::2]),
    "NVFP4 in tiles": (partial(nvfp4, whole=True), DTYPES[2:]),
}


@pytest.mark.parametrize(("name", "dtype"), [(n, each) for n, (_, dtypes) in TORCHAO.items() for each in dtypes])
def test_torchao(name: str, dtype: torch.dtype, matrices: Tensors, tmp_path: Path) -> None:
    from torchao.prototype.safetensors.safetensors_support import (
        flatten_tensor_state_dict,
        unflatten_tensor_state_dict,
    )

    weights = {f"{layer}.weight": TORCHAO[name][0](matrix.to(dtype)) for layer, matrix in matrices.items()}
    flat, metadata = flatten_tensor_state_dict(weights)
    found, _ = there_and_back(flat, tmp_path, "none", metadata)
    again, left = unflatten_tensor_state_dict(found, metadata)
    assert not left
    numbers = {layer: each.dequantize() for layer, each in weights.items()}
    assert same({layer: each.dequantize() for layer, each in again.items()}, numbers)
    check_numbers(tmp_path, numbers)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("count", "high"), [(1, 1), (2, 1), (3, 2)])
def test_aqlm(count: int, high: int, dtype: torch.dtype, matrices: Tensors, tmp_path: Path) -> None:
    """Groups of 8 (or of two rows of them) as the nearest vectors of what is left, codebook by codebook."""
    from aqlm import QuantizedLinear
    from aqlm.utils import _dequantize_weight, pack_int_data, unpack_int_data

    made, numbers = {}, {}
    generator = torch.Generator().manual_seed(count)
    for name, matrix in list(matrices.items())[:1]:
        outputs, inputs = matrix.shape
        layer = QuantizedLinear(inputs, outputs, 8, high, count, 8, bias=False, dtype=dtype)
        scales = matrix.reshape(-1, high * inputs).std(1)
        left = matrix.reshape(-1, high, inputs // 8, 8).transpose(1, 2) / scales[:, None, None, None]
        for book in range(count):
            vectors = left.flatten(2).flatten(0, 1)
            picked = vectors[torch.randperm(len(vectors), generator=generator)[:256]]
            nearest = torch.cdist(vectors, picked).argmin(1)
            layer.codes.data[..., book] = pack_int_data(nearest.reshape(left.shape[:2]), 8)
            layer.codebooks.data[book] = picked.reshape(256, high, 8).to(dtype)
            left = left - picked[nearest].reshape(left.shape)
        layer.scales.data[:] = scales[:, None, None, None].to(dtype)
        made |= {f"{name}.{key}": each for key, each in layer.state_dict().items()}
        codes = unpack_int_data(layer.codes.data, 8)
        numbers[f"{name}.weight"] = _dequantize_weight(codes, layer.codebooks.data, layer.scales.data)
        assert (numbers[f"{name}.weight"] - matrix).abs().mean() < 0.7 * matrix.abs().mean()
    there_and_back(made, tmp_path, "none")
    check_numbers(tmp_path, numbers)
