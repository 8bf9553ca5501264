"""Weights packed by hand as libraries pack them, and what a file with them gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from slimtensors.numpy import load_file, save

Arrays = dict[str, Any]
METADATA, CONFIG = "metadata", "config"  # beside a file's arrays
RANDOM = np.random.default_rng(3)
MAP = np.sort(RANDOM.standard_normal(16)).astype(np.float32)
STATE = "w.weight.quant_state.bitsandbytes__nf4"


def state(**changes: Any) -> Any:
    return np.frombuffer(json.dumps({"blocksize": 64, "shape": [5, 70], **changes}).encode(), np.uint8)


def saved(made: Arrays) -> bytes:
    return save({name: each for name, each in made.items() if name not in (METADATA, CONFIG)}, made.get(METADATA))


def numbers_of(made: Arrays, folder: Path, dtype: str) -> Arrays:
    """Of a file in a folder with its config."""
    (folder / "model").write_bytes(saved(made))
    (folder / "config.json").write_text(json.dumps({"quantization_config": made.get(CONFIG)}))
    return load_file(folder / "model", dequantise=dtype)


def four_bits() -> Arrays:
    """350 weights in blocks of 64, of which the last is short."""
    return {
        "w.weight": RANDOM.integers(0, 256, (175, 1), np.uint8),
        "w.weight.absmax": RANDOM.random(6, np.float32),
        "w.weight.quant_map": MAP,
        STATE: state(),
        "w.bias": np.ones(5, np.float32),
    }


def words() -> Arrays:
    """Codes of three bits, with scales for groups of 20 columns."""
    return {
        "w.weight_packed": RANDOM.integers(-(1 << 31), 1 << 31, (5, 4), np.int32),
        "w.weight_scale": RANDOM.random((5, 2), np.float32).astype(ml_dtypes.bfloat16),
        "w.weight_shape": np.array([5, 40]),
        "w.bias": np.ones(5, np.float32),
    }


def gptq() -> Arrays:
    """Four bits, 64 inputs in groups of 24 (the last smaller), 40 outputs."""
    return {
        "w.qweight": RANDOM.integers(-(1 << 31), 1 << 31, (8, 40), np.int32),
        "w.qzeros": RANDOM.integers(-(1 << 31), 1 << 31, (3, 5), np.int32),
        "w.scales": RANDOM.random((3, 40), np.float32).astype(np.float16),
    }


def awq() -> Arrays:
    return gptq() | {"w.qweight": RANDOM.integers(-(1 << 31), 1 << 31, (64, 5), np.int32)}


def text(value: str) -> Any:
    return np.frombuffer(value.encode(), np.uint8)


def hqq() -> Arrays:
    """Codes of three bits: 25 groups of 8."""
    return {
        "w.W_q": RANDOM.integers(0, 1 << 30, (3, 8), np.int32),
        "w.scale": RANDOM.random((25, 1), np.float32).astype(np.float16),
        "w.zero": RANDOM.random((25, 1), np.float32).astype(np.float16) * np.float16(7),
        "w.shape": np.array([10, 20]),
        "w.packing": text("3bit_32"),
        "w.compute_dtype": text("torch.float16"),
        "w.nbits": np.int32(3),
    }


def sparse(values: tuple[int, ...] = (13,)) -> Arrays:
    """13 of 5 x 9."""
    mask = np.zeros((5, 9), bool)
    mask.reshape(-1)[RANDOM.permutation(45)[:13]] = True
    return {
        "w.weight.shape": np.array([5, 9]),
        "w.weight.bitmask": np.packbits(mask, axis=1, bitorder="little"),
        "w.weight.compressed": RANDOM.random(values, np.float32).astype(ml_dtypes.bfloat16),
        "w.weight.row_offsets": np.cumsum(mask.sum(1)) - mask.sum(1),
    }


def bitnet(layers: str | None = "autobitlinear", **more: Any) -> Arrays:
    """Ternary, 20 x 7 in five rows of bytes."""
    config = {"quant_method": "bitnet", "linear_class": layers, **more} if layers else {}
    return {
        "w.weight": RANDOM.integers(0, 256, (5, 7), np.uint8),
        "w.weight_scale": np.array([3.7], ml_dtypes.bfloat16),
        CONFIG: config,
    }


def torchao(kind: str, arrays: Arrays, **state: Any) -> Arrays:
    """A weight `w.weight` of a class, and a tensor that is none."""
    dtypes = {key: {"_type": "torch.dtype", "_data": each} for key, each in state.items() if key.endswith("dtype")}
    made = {f"w._weight_{part}": each for part, each in arrays.items()}
    state = {"_type": kind, "_data": state | dtypes, "_tensor_data_names": list(arrays)}
    metadata = {"tensor_names": json.dumps(["w.weight", "w.bias", "elsewhere.weight"]), "w.weight": json.dumps(state)}
    return made | {"w.bias": np.ones(5, np.float32), METADATA: metadata | {"w.bias": '{"_type": "Tensor"}'}}


def ao_int8(**changes: Any) -> Arrays:
    """2 x 6 x 8 in blocks of 1 x 3 x 4."""
    arrays = {
        "qdata": RANDOM.integers(-128, 128, (2, 6, 8), np.int8),
        "scale": RANDOM.random((2, 2, 2), np.float32),
        "zero_point": RANDOM.integers(-128, 128, (2, 2, 2), np.int8),
    }
    return torchao("Int8Tensor", arrays, **{"block_size": [1, 3, 4], "dtype": "bfloat16"} | changes)


def ao_float8(**changes: Any) -> Arrays:
    """6 x 8 in blocks of 3 x 4."""
    codes = RANDOM.standard_normal((6, 8)).astype(ml_dtypes.float8_e4m3fn)
    arrays = {"qdata": codes, "scale": RANDOM.random((2, 2), np.float32)}
    return torchao("Float8Tensor", arrays, **{"block_size": [3, 4], "dtype": "float16"} | changes)


def ao_mx(tiles: bool = False, **changes: Any) -> Arrays:
    """FP4, 130 x 320 with 10 exponents a row; in tiles, these are padded to 256 x 12."""
    arrays = {
        "qdata": RANDOM.integers(0, 256, (130, 160), np.uint8),
        "scale": RANDOM.integers(0, 255, 256 * 12 if tiles else (130, 10), np.uint8).view(ml_dtypes.float8_e8m0fnu),
    }
    state = {"elem_dtype": "float4_e2m1fn_x2", "block_size": 32, "orig_dtype": "bfloat16", "is_swizzled_scales": tiles}
    return torchao("MXTensor", arrays, **state | changes)


def ao_nvfp4(experts: bool = False, **changes: Any) -> Arrays:
    """3 x 4 x 32, two scales a row, and one for all or for each matrix."""
    arrays = {
        "qdata": RANDOM.integers(0, 256, (3, 4, 16), np.uint8),
        "scale": RANDOM.random((3, 4, 2)).astype(ml_dtypes.float8_e4m3fn),
        "per_tensor_scale": RANDOM.random((3, 1, 1), np.float32) if experts else np.float32(0.37),
    }
    return torchao("NVFP4Tensor", arrays, **{"block_size": 16, "orig_dtype": "bfloat16"} | changes)


def aqlm(kind: Any = np.float16) -> Arrays:
    """6 x 12 in groups of 2 x 4, two codebooks of 8."""
    return {
        "w.codes": RANDOM.integers(-4, 4, (3, 3, 2), np.int8),
        "w.codebooks": RANDOM.standard_normal((2, 8, 2, 4)).astype(kind),
        "w.scales": RANDOM.random((3, 1, 1, 1)).astype(kind),
    }
