"""Removing a checkpoint."""

from __future__ import annotations

import os
from typing import Any

from slimtensors.checkpoint.ledger import remove
from slimtensors.checkpoint.places import open_place

__all__ = ["remove_checkpoint"]


def remove_checkpoint(path: str | os.PathLike[str], *, storage_options: dict[str, Any] | None = None) -> None:
    """Remove a checkpoint and nothing else. Raises UsageError if another one is stored as differences from it."""
    remove(open_place(path, storage_options))
