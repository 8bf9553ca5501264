"""Small models, and fine-tunes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

import slimtensors
from api.made import same

__all__ = ["Arrays", "deltas", "equal", "model", "small", "tuned"]

Arrays = dict[str, np.ndarray[Any, Any]]


def model(seed: int = 0, rows: int = 300) -> Arrays:
    """A small model with an embedding, two layers and a bias."""
    rng = np.random.default_rng(seed)

    def matrix(height: int, width: int = 256) -> np.ndarray[Any, Any]:
        return (rng.standard_normal((height, width)) * 0.02).astype(ml_dtypes.bfloat16)

    return {"embed.weight": matrix(rows), "a.weight": matrix(256), "b.weight": matrix(256), "b.bias": matrix(1)[0]}


def tuned(base: Arrays, seed: int = 1) -> Arrays:
    """A fine-tune: every weight moved a little."""
    rng = np.random.default_rng(seed)
    return {
        name: (array.astype(np.float32) * (1 + rng.standard_normal(array.shape) * 2e-3)).astype(array.dtype)
        for name, array in base.items()
    }


def equal(a: Arrays, b: Arrays) -> bool:
    return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)


def deltas(path: Path | bytes) -> int:
    return len(slimtensors.dependencies(path))


def small(count: int = 12, seed: int = 0) -> Arrays:
    """Tensors that share a chunk, one too small for a base."""
    rng = np.random.default_rng(seed)
    made = {f"{i}.bias": (rng.standard_normal(384 + i) * 0.1).astype(ml_dtypes.bfloat16) for i in range(count)}
    return {**made, "scale": made["0.bias"][:5] * 2}
