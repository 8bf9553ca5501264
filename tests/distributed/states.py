"""States of small jobs, saved and loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp

from slimtensors.torch.distributed import StorageReader, StorageWriter

__all__ = ["blank", "load", "names", "same", "save", "state"]


def state(seed: int, *, rows: int = 300) -> dict[str, Any]:
    torch.manual_seed(seed)
    return {
        "w": torch.randn(rows, 200).to(torch.bfloat16),
        "m": {"a": torch.randn(rows, 100), "b": [torch.randn(7), torch.arange(5)]},
        "turned": torch.randn(60, 50).t(),
        "complex": torch.randn(30, 2, dtype=torch.complex64),
        "scalar": torch.tensor(1.5),
        "empty": torch.zeros(0, 3),
        "step": seed,
    }


def blank(made: Any) -> Any:
    if isinstance(made, dict):
        return {key: blank(each) for key, each in made.items()}
    if isinstance(made, list):
        return [blank(each) for each in made]
    return torch.zeros_like(made) if isinstance(made, torch.Tensor) else None


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    return bool(a == b)


def save(path: Any, made: dict[str, Any], **options: Any) -> None:
    dcp.save(made, storage_writer=StorageWriter(path, threads=1, **options))


def load(path: Any, made: dict[str, Any], **options: Any) -> dict[str, Any]:
    found: dict[str, Any] = blank(made)
    dcp.load(found, storage_reader=StorageReader(path, threads=1, **options))
    return found


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())
