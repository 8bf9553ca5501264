"""`dequantised-*`: the matrices of minilm quantised in the usual ways and held in wide floats again."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import ml_dtypes
import numpy as np

from bench.data.files import CACHE, model_path
from bench.data.safefile import SafeFile, Spec, write

BF16 = ml_dtypes.bfloat16
# The published levels of NF4: quantiles of a normal distribution.
NF4 = np.array([
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
], np.float32)  # fmt: skip


def _integers(weights: np.ndarray, scale: np.ndarray, most: int) -> np.ndarray:
    return np.clip(np.rint(weights / scale.astype(np.float32)), -most - 1, most).astype(np.int8).astype(np.float32)


def _scale(weights: np.ndarray, most: float) -> np.ndarray:
    return np.maximum(np.abs(weights).max(1, keepdims=True), np.float32(1e-12)) / np.float32(most)


def int8(weights: np.ndarray) -> np.ndarray:
    scale = _scale(weights, 127)
    return _integers(weights, scale, 127) * scale


def int4(weights: np.ndarray) -> np.ndarray:
    groups = weights.reshape(-1, 128)
    scale = _scale(groups, 7).astype(BF16)
    return (_integers(groups, scale, 7).astype(BF16) * scale).reshape(weights.shape)


def nf4(weights: np.ndarray) -> np.ndarray:
    blocks = weights.reshape(-1, 64)
    scale = _scale(blocks, 1)
    level = np.searchsorted((NF4[1:] + NF4[:-1]) / 2, blocks / scale)
    return (NF4[level] * scale).astype(BF16).reshape(weights.shape)


def ternary(weights: np.ndarray) -> np.ndarray:
    scale = np.abs(weights).mean(dtype=np.float64).astype(np.float32)
    sign = np.clip(np.rint(weights / scale), -1, 1).astype(np.int8).astype(np.float32)
    return (sign * scale).astype(BF16)


def e4m3(weights: np.ndarray) -> np.ndarray:
    scale = _scale(weights, 448)
    return ((weights / scale).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * scale).astype(BF16)


def decimals(weights: np.ndarray) -> np.ndarray:
    return np.round(weights, 4)


KINDS: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    "dequantised-int8": ("F32", int8),
    "dequantised-int4": ("BF16", int4),
    "dequantised-nf4": ("BF16", nf4),
    "dequantised-ternary": ("BF16", ternary),
    "dequantised-e4m3": ("BF16", e4m3),
    "dequantised-decimals": ("F32", decimals),
}
NAMES = tuple(KINDS)


def _matrices() -> Iterator[tuple[Spec, np.ndarray]]:
    for spec, array in SafeFile(model_path()):
        if spec.is_float and len(spec.shape) == 2 and spec.shape[1] % 128 == 0:
            yield spec, array.astype(np.float32)


def make(name: str) -> None:
    """Writes the file."""
    dtype, convert = KINDS[name]
    specs = [Spec(spec.name, dtype, spec.shape) for spec, _ in _matrices()]
    CACHE.mkdir(exist_ok=True)
    write(CACHE / f"{name}.safetensors", specs, (convert(array) for _, array in _matrices()))


if __name__ == "__main__":
    for each in NAMES:
        make(each)
