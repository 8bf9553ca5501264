"""Small models on the disk, plain, as people have them."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

__all__ = ["README", "contents", "fine_tune", "plain_model", "sharded_model"]

README = b"---\nlicense: mit\ntags:\n  - tiny\nlibrary_name: transformers\n---\n# A model\n\nNo line end"


def _weights(seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        f"layers.{seed}.weight": (random.standard_normal((256, 256)) / 32).astype(ml_dtypes.bfloat16),
        f"layers.{seed}.bias": np.zeros(256, np.float32),
    }


def plain_model(folder: Path, seed: int = 0) -> Path:
    folder.mkdir(parents=True)
    save_file(_weights(seed), folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text('{"model_type": "tiny", "note": "model.safetensors"}')
    (folder / "README.md").write_bytes(README)
    (folder / "deep").mkdir()
    (folder / "deep" / "vocabulary.bin").write_bytes(bytes(range(256)) * 3)
    return folder


def sharded_model(folder: Path) -> Path:
    plain_model(folder)
    (folder / "model.safetensors").unlink()
    places = {}
    for seed in (0, 1):
        shard = f"model-0000{seed + 1}-of-00002.safetensors"
        save_file(_weights(seed), folder / shard, {"format": "pt"})
        places |= dict.fromkeys(_weights(seed), shard)
    index = json.dumps({"metadata": {"total_size": 1}, "weight_map": places}, indent=2, sort_keys=True) + "\n"
    (folder / "model.safetensors.index.json").write_text(index)
    return folder


def fine_tune(folder: Path, seed: int = 0, factor: float = 1.002) -> Path:
    """Of `plain_model`: every weight moved a little."""
    plain_model(folder, seed)
    (folder / "README.md").unlink()
    moved = {name: (array.astype(np.float32) * factor).astype(array.dtype) for name, array in _weights(seed).items()}
    save_file(moved, folder / "model.safetensors", {"format": "pt"})
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Files by path, but for what huggingface_hub keeps beside them."""
    names = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in names.items() if not name.startswith(".cache/")}
