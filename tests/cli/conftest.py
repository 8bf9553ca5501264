"""Small model files and folders, and the command in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from click.testing import CliRunner, Result
from safetensors.numpy import save_file

from slimtensors.cli.main import cli

SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


def weights(seed: int, rows: int = 96, columns: int = 512) -> dict[str, np.ndarray]:
    """Tensors of most ways in which they are stored."""
    random = np.random.default_rng(seed)
    body = (random.standard_normal((rows, columns)) / 32).astype(np.float32)
    return {
        f"layer{seed}.weight": body,
        f"layer{seed}.tied": body,
        f"layer{seed}.half": body.astype(ml_dtypes.bfloat16),
        f"layer{seed}.was_half": body.astype(ml_dtypes.bfloat16).astype(np.float32),
        f"layer{seed}.bias": body[0, :64].copy(),
        f"layer{seed}.positions": np.arange(20_000),
        f"layer{seed}.empty": np.zeros((0, 4), np.float32),
        f"layer{seed}.scalar": np.array(3.5, np.float32),
    }


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """One weight file."""
    path = tmp_path / "model.safetensors"
    save_file(weights(1), path, {"format": "pt"})
    return path


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """A model's folder: two shards, their index, a folder within it, and other files."""
    folder = tmp_path / "sharded"
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "empty").mkdir()
    places = {}
    for seed, shard in enumerate(SHARDS):
        tensors = weights(seed)
        save_file(tensors, folder / shard)
        places |= dict.fromkeys(tensors, shard)
    save_file(weights(7), folder / "1_Pooling" / "extra.safetensors")
    index = json.dumps({"metadata": {"total_size": 123}, "weight_map": places}, indent=2) + "\n"
    (folder / "model.safetensors.index.json").write_text(index)
    (folder / "config.json").write_text('{"note": "see model.safetensors"}')
    (folder / "tokenizer.bin").write_bytes(bytes(range(256)))
    (folder / "1_Pooling" / "config.json").write_bytes(b"")
    return folder


@pytest.fixture
def invoke() -> Callable[..., Result]:
    """The command in this process."""

    def run(*args: object) -> Result:
        return CliRunner().invoke(cli, [str(arg) for arg in args], prog_name="slimtensors")

    return run
