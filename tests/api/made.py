"""Tensors of every kind that the planner and the codecs tell apart."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from slimtensors.dtypes import DTYPES

Array = npt.NDArray[Any]

ARRAY_DTYPES = [dtype for dtype in DTYPES.values() if not dtype.packed]


def weights(rng: np.random.Generator, *shape: int) -> Array:
    """Float32 weights as trained networks have them: a scale for each row."""
    scale = 0.02 * np.exp(rng.normal(0, 0.3, (shape[0],) + (1,) * (len(shape) - 1)))
    return (rng.standard_normal(shape) * scale).astype(np.float32)


def of_dtype(name: str, shape: tuple[int, ...], seed: int = 0) -> Array:
    """An array of a dtype, with all bit patterns where that means anything."""
    rng = np.random.default_rng(seed)
    dtype = DTYPES[name].numpy()
    if name == "BOOL":
        return rng.integers(0, 2, shape).astype(np.bool_)
    if DTYPES[name].is_float and dtype != np.complex64 and rng.integers(2):
        return rng.standard_normal(shape).astype(dtype)
    count = int(np.prod(shape)) * dtype.itemsize
    return np.frombuffer(rng.bytes(count), dtype).reshape(shape)


def structured() -> dict[str, Array]:
    """Tensors with something to find in them, and some with nothing."""
    rng = np.random.default_rng(1)
    some_half = weights(rng, 400, 500)
    some_half[::3] = some_half[::3].astype(np.float16)
    bf16 = weights(rng, 300, 700).astype(ml_dtypes.bfloat16)
    specials = np.zeros(40000, np.float32).view(np.uint32)
    specials[:8] = [0x7FC00001, 0xFFC00000, 0x7F800000, 0xFF800000, 0x80000000, 1, 0x807FFFFF, 0x7F7FFFFF]
    return {
        "bf16": bf16,
        "f16": weights(rng, 300, 700).astype(np.float16),
        "f32": weights(rng, 300, 700),
        "f64": weights(rng, 100, 700).astype(np.float64),
        "e4m3": (weights(rng, 300, 700) * 50).astype(ml_dtypes.float8_e4m3fn),
        "f16 in f32": weights(rng, 300, 700).astype(np.float16).astype(np.float32),
        "bf16 in f64": bf16.astype(np.float64),
        "some rows f16 in f32": some_half,
        "constant": np.full((700, 300), 3.25, np.float32),
        "zeros": np.zeros((1000, 100), ml_dtypes.bfloat16),
        "arange": np.arange(-50, 60000, dtype=np.int64),
        "small integers": rng.integers(-3, 90, (200, 400)),
        "integers of all sizes": (2 ** (rng.random(60000) * 15)).astype(np.uint16),
        "mask": np.tril(np.ones((300, 300), np.bool_)),
        "noise": np.frombuffer(rng.bytes(100000), np.uint8),
        "specials": specials.view(np.float32),
        "wide exponents": np.float32(2.0) ** rng.integers(-120, 120, 60000).astype(np.float32),
        "twin": bf16.copy(),
        "scalar": np.array(7.5, np.float32),
        "empty": np.zeros((3, 0, 5), np.float16),
        "bias": weights(rng, 384).astype(ml_dtypes.bfloat16),
        "other bias": weights(rng, 385).astype(ml_dtypes.bfloat16),
    }


def same(a: Array, b: Array) -> bool:
    """Equal dtype, shape and bits (NaNs included)."""
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
