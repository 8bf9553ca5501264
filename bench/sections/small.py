"""Section 8: many small tensors, where a format's own bytes show: 100 tensors of 100 elements."""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np

from bench import ours
from bench.sections import Settings
from bench.timing import Record

COUNT = ELEMENTS = 100


def tensors(dtype: str) -> dict[str, np.ndarray]:
    """Gaussian, like biases and norms."""
    rng = np.random.default_rng(8)
    kind = {"F32": np.float32, "BF16": ml_dtypes.bfloat16}[dtype]
    draw = rng.standard_normal((COUNT, ELEMENTS), dtype=np.float32) * np.float32(0.02)
    return {f"layers.{i}.bias": row.astype(kind) for i, row in enumerate(draw)}


def _record(dtype: str, codec: str, path: Path) -> Record:
    size = path.stat().st_size
    itemsize = {"F32": 4, "BF16": 2}[dtype]
    return {
        "dataset": f"{COUNT} tensors of {ELEMENTS} {dtype}",
        "dtype": dtype,
        "codec": codec,
        "original": COUNT * ELEMENTS * itemsize,
        "bytes": size,
    }


def run(_settings: Settings) -> list[Record]:
    records: list[Record] = []
    reason = ours.missing()
    for dtype in ("F32", "BF16"):
        data = tensors(dtype)
        with tempfile.TemporaryDirectory() as name:
            path = Path(name) / "file"
            importlib.import_module("safetensors.numpy").save_file(data, path)
            records.append(_record(dtype, "safetensors", path))
            for preset in ours.PRESETS:
                if reason:
                    records.append({"dtype": dtype, "codec": f"slimtensors {preset}", "missing": reason})
                    continue
                path = Path(name) / f"{preset}.slimtensors"
                ours.save_file(data, path, preset)
                loaded = ours.load_file(path, 1, "full")
                same = loaded.keys() == data.keys() and all(
                    np.array_equal(data[key].view(np.uint8), value.view(np.uint8)) for key, value in loaded.items()
                )
                if not same:
                    raise RuntimeError("slimtensors did not give small tensors back")
                records.append(_record(dtype, f"slimtensors {preset}", path))
    return records
