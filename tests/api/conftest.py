"""A base and a fine-tune of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.numpy import save_file as save_plain

from api.tuned import model, tuned


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A base and a fine-tune of it, in folders of their own."""
    base = model()
    (tmp_path / "base").mkdir()
    save_plain(base, tmp_path / "base" / "model.safetensors", {"format": "pt"})
    save_plain(tuned(base), tmp_path / "tuned.safetensors", {"format": "pt"})
    return tmp_path / "base" / "model.safetensors", tmp_path / "tuned.safetensors"


@pytest.fixture(autouse=True)
def no_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have set the variable."""
    monkeypatch.delenv("SLIMTENSORS_BASE_DIR", raising=False)
