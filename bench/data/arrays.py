"""Flat arrays of 128 MiB for speed: one real model's weights repeated, and Gaussian rows.

The repeats of `minilm-*` lie 22 million elements apart: farther than any window of the codecs timed on them, except
long-distance matchers (z4ai), which are therefore timed on whole files only.
"""

from __future__ import annotations

import numpy as np

from bench.data.files import gaussian_rows, path_of
from bench.data.safefile import DTYPES, SafeFile

MIB = 1 << 20
ARRAYS = {
    "minilm-bf16": "BF16",
    "minilm-f16": "F16",
    "minilm-f32": "F32",
    "minilm-e4m3": "F8_E4M3",
    "gauss-bf16": "BF16",
}


def array_of(name: str, mib: int = 128) -> np.ndarray:
    """`mib` MiB of the dtype ARRAYS[name]."""
    dtype = np.dtype(DTYPES[ARRAYS[name]])
    count = mib * MIB // dtype.itemsize
    if name == "gauss-bf16":
        return gaussian_rows(1, -(-count // 4096), 4096).reshape(-1)[:count]
    pieces = [array.reshape(-1) for spec, array in SafeFile(path_of(name)) if spec.dtype == ARRAYS[name]]
    flat = np.concatenate(pieces).view(np.uint8)
    return np.tile(flat, -(-mib * MIB // flat.size))[: mib * MIB].view(dtype)
