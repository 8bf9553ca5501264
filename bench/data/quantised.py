"""MiniLM's encoder matrices as quantised files: by gguf-py where it can, else by the plain rule of the format.

The rules here take no search for the best scale, as llama.cpp's K-quants do: a scale from each block's extremes. Their
codes are a little more even than those of a search.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from bench.data.files import model_path
from bench.data.safefile import SafeFile

Array = np.ndarray[Any, Any]

BY_GGUF_PY = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4")
BY_RULE = ("Q4_K", "Q5_K", "Q6_K", "NVFP4")
PACKED = (
    "NF4, scales of 8 bits", "int4, groups of 128", "int8 rows",
    "ternary, four to a byte", "int4 in bytes, groups of 32",
)  # fmt: skip
NAMES = (*BY_GGUF_PY, *BY_RULE, *PACKED)
NF4 = np.array(
    [-1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0, 0.0795803, 0.1609302,
     0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0], np.float32,
)  # fmt: skip


def matrices(multiple: int = 1) -> Iterator[tuple[str, Array]]:
    """Of the encoder, float32, with rows of a multiple of so many weights."""
    for spec, array in SafeFile(model_path()):
        if "encoder" in spec.name and len(spec.shape) == 2 and spec.shape[1] % multiple == 0:
            yield spec.name, array.astype(np.float32)


def make(name: str, path: Path) -> int:
    """Write the file; returns how many weights it has."""
    if name in PACKED:
        return _packed(name, path)
    gguf = importlib.import_module("gguf")
    kind = gguf.GGMLQuantizationType[name]
    block, _size = gguf.GGML_QUANT_SIZES[kind]
    writer, weights = gguf.GGUFWriter(path, "bert"), 0
    for tensor, array in matrices(block):
        data = gguf.quants.quantize(array, kind) if name in BY_GGUF_PY else _RULES[name](array)
        error = np.square(gguf.quants.dequantize(data, kind) - array).mean() / np.square(array).mean()
        if error > 0.02:
            raise RuntimeError(f"{name} of {tensor} has an error of {error}: the blocks are not what they should be")
        writer.add_tensor(tensor, data, raw_dtype=kind)
        weights += array.size
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


def _half(numbers: Array) -> Array:
    """F16, as two bytes each."""
    return numbers.astype(np.float16).view(np.uint8).reshape(len(numbers), 2)


def _sub_blocks(array: Array, most: int) -> tuple[Array, Array, Array, Array, Array]:
    """Q4_K, Q5_K: d, m, and for each of eight parts scale and minimum of six bits; codes from 0 to `most`."""
    parts = array.reshape(-1, 8, 32)
    low = np.minimum(parts.min(-1), 0)
    scales, minima = (parts.max(-1) - low) / most, -low
    d, m = (np.maximum(each.max(-1), 1e-12).astype(np.float32) / 63 for each in (scales, minima))
    d16, m16 = d.astype(np.float16).astype(np.float32), m.astype(np.float16).astype(np.float32)
    scale, minimum = (np.clip(np.rint(each / of[:, None]), 0, 63) for each, of in ((scales, d16), (minima, m16)))
    step = np.maximum(d16[:, None] * scale, 1e-12)
    codes = np.clip(np.rint((parts + (m16[:, None] * minimum)[..., None]) / step[..., None]), 0, most)
    return d, m, scale.astype(np.uint8), minimum.astype(np.uint8), codes.astype(np.uint8)


def _six_bits(scale: Array, minimum: Array) -> Array:
    """Twelve bytes: four scales and four minima with two bits of the others above them, then nibbles of these."""
    first = scale[:, :4] | (scale[:, 4:] >> 4) << 6
    second = minimum[:, :4] | (minimum[:, 4:] >> 4) << 6
    return np.concatenate([first, second, scale[:, 4:] & 15 | (minimum[:, 4:] & 15) << 4], axis=1)


def _q4_k(array: Array) -> Array:
    d, m, scale, minimum, codes = _sub_blocks(array, 15)
    pairs = codes.reshape(-1, 4, 2, 32)
    blocks = [_half(d), _half(m), _six_bits(scale, minimum), (pairs[:, :, 0] | pairs[:, :, 1] << 4).reshape(-1, 128)]
    return np.concatenate(blocks, axis=1).reshape(len(array), -1)


def _q5_k(array: Array) -> Array:
    d, m, scale, minimum, codes = _sub_blocks(array, 31)
    upper = np.bitwise_or.reduce((codes >> 4) << np.arange(8, dtype=np.uint8)[:, None], axis=1)
    pairs = codes.reshape(-1, 4, 2, 32) & 15
    nibbles = (pairs[:, :, 0] | pairs[:, :, 1] << 4).reshape(-1, 128)
    return np.concatenate([_half(d), _half(m), _six_bits(scale, minimum), upper, nibbles], axis=1).reshape(
        len(array), -1
    )


def _extreme(parts: Array) -> Array:
    """Of each part, the number of the largest magnitude, with its sign."""
    return np.take_along_axis(parts, np.abs(parts).argmax(-1)[..., None], -1)[..., 0]


def _q6_k(array: Array) -> Array:
    parts = array.reshape(-1, 16, 16)
    scales = _extreme(parts) / -32
    d = _extreme(scales) / -128
    d16 = np.where(d == 0, 1, d).astype(np.float16).astype(np.float32)
    scale = np.clip(np.rint(scales / d16[:, None]), -128, 127)
    step = d16[:, None] * scale
    codes = np.clip(np.rint(parts / np.where(step == 0, 1, step)[..., None]), -32, 31).astype(np.int8) + 32
    halves = codes.astype(np.uint8).reshape(-1, 2, 4, 32)
    low = halves & 15
    lower = np.concatenate([low[:, :, 0] | low[:, :, 2] << 4, low[:, :, 1] | low[:, :, 3] << 4], axis=-1)
    upper = np.bitwise_or.reduce((halves >> 4) << np.array([0, 2, 4, 6], np.uint8)[:, None], axis=2)
    signed = scale.astype(np.int8).view(np.uint8)
    blocks = [lower.reshape(-1, 128), upper.reshape(-1, 64), signed, _half(d16)]
    return np.concatenate(blocks, axis=1).reshape(len(array), -1)


def _nvfp4(array: Array) -> Array:
    parts = array.reshape(-1, 4, 16)
    # E4M3 of a sixth of the largest magnitude; weights are small, so scales are subnormal below 2^-6.
    scales = (np.abs(parts).max(-1) / 6).astype(importlib.import_module("ml_dtypes").float8_e4m3fn)
    step = scales.astype(np.float32)[..., None]
    values = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
    scaled = np.abs(parts) / np.where(step == 0, 1, step)
    codes = np.abs(scaled[..., None] - values).argmin(-1).astype(np.uint8) | (parts < 0).astype(np.uint8) << 3
    nibbles = codes[..., :8] | codes[..., 8:] << 4
    return np.concatenate([scales.view(np.uint8), nibbles.reshape(-1, 32)], axis=1).reshape(len(array), -1)


_RULES: dict[str, Callable[[Array], Array]] = {"Q4_K": _q4_k, "Q5_K": _q5_k, "Q6_K": _q6_k, "NVFP4": _nvfp4}


def _packed(name: str, path: Path) -> int:
    """Safetensors, as bitsandbytes, compressed-tensors, transformers (BitNet) and torchao lay them out."""
    tensors: dict[str, Array] = {}
    weights = 0
    for tensor, array in matrices(128):
        weights += array.size
        if name.startswith("NF4"):
            blocks = array.reshape(-1, 64)
            peak = np.abs(blocks).max(-1, keepdims=True)
            codes = np.abs(blocks[..., None] / peak[..., None] - NF4).argmin(-1).astype(np.uint8).reshape(-1, 2)
            tensors[tensor] = codes[:, :1] << 4 | codes[:, 1:]
            groups = np.pad(peak.reshape(-1), (0, -peak.size % 256)).reshape(-1, 256)
            mean = np.float32(peak.mean())
            span = np.abs(groups - mean).max(-1)
            codes_8 = np.rint((groups - mean) / span[:, None] * 127).astype(np.int8).view(np.uint8)
            tensors[f"{tensor}.absmax"] = codes_8.reshape(-1)[: peak.size]
            tensors[f"{tensor}.nested_absmax"] = span.astype(np.float32)
        elif name.startswith("int4,"):
            groups = array.reshape(-1, 128)
            scale = (np.abs(groups).max(-1, keepdims=True) / 7.5).astype(np.float16)
            codes = (np.clip(np.rint(groups / scale.astype(np.float32)), -8, 7) + 8).astype(np.uint32).reshape(-1, 8)
            tensors[tensor] = np.bitwise_or.reduce(codes << np.arange(0, 32, 4, dtype=np.uint32), axis=1).view(np.int32)
            tensors[f"{tensor}.scale"] = scale
        elif name.startswith("ternary"):
            scale = np.abs(array).mean()
            codes = (np.clip(np.rint(array / scale), -1, 1) + 1).astype(np.uint8).reshape(4, -1, array.shape[1])
            tensors[tensor] = np.bitwise_or.reduce(codes << np.arange(0, 8, 2, dtype=np.uint8)[:, None, None], axis=0)
            tensors[f"{tensor}_scale"] = np.array([scale], importlib.import_module("ml_dtypes").bfloat16)
        elif name.startswith("int4 in bytes"):
            groups = array.reshape(len(array), -1, 32)
            scale = (np.abs(groups).max(-1) / 7.5).astype(importlib.import_module("ml_dtypes").bfloat16)
            codes = np.clip(np.rint(groups / scale.astype(np.float32)[..., None]), -8, 7)
            tensors[f"{tensor}_qdata"] = codes.astype(np.int8).reshape(array.shape)
            tensors[f"{tensor}_scale"] = scale
            tensors[f"{tensor}_zero_point"] = np.zeros(scale.shape, np.int8)
        else:
            scale = np.abs(array).max(-1, keepdims=True) / 127
            tensors[tensor] = np.rint(array / scale).astype(np.int8)
            tensors[f"{tensor}.scale"] = scale.astype(np.float32)
    save_file(tensors, path)
    return weights
