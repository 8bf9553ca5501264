"""`changed-bf16`: minilm-bf16 with one weight in a hundred moved at random, by a tenth of its tensor's deviation."""

from __future__ import annotations

from collections.abc import Iterator

import ml_dtypes
import numpy as np

from bench.data.files import CACHE, path_of
from bench.data.safefile import SafeFile, write

NAMES = ("changed-bf16",)
SHARE, STEP = 0.01, 0.1


def _changed(base: SafeFile) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(6)
    for spec, array in base:
        if spec.dtype == "BF16":
            wide = array.astype(np.float32).reshape(-1)
            places = rng.choice(spec.count, round(SHARE * spec.count), replace=False)
            moves = rng.standard_normal(places.size, dtype=np.float32) * (STEP * wide.std(dtype=np.float32))
            array.reshape(-1)[places] = (wide[places] + moves).astype(ml_dtypes.bfloat16)
        yield array


def make(name: str) -> None:
    """Writes the file."""
    base = SafeFile(path_of("minilm-bf16"))
    write(CACHE / f"{name}.safetensors", base.specs, _changed(base))


if __name__ == "__main__":
    make(NAMES[0])
