"""What the README shows, run."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch

import slimtensors
from slimtensors.torch import save_model

README = Path(__file__).parents[2] / "README.md"


def test_the_example_runs(minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, streaming = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(code.strip().splitlines()) <= 10
    shutil.copy(minilm, tmp_path / "model.safetensors")
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), scope)  # noqa: S102 # the text is ours
    assert scope["rows"].shape == (10, 384)  # type: ignore[attr-defined] # a torch tensor
    assert Path("restored.safetensors").read_bytes() == Path("model.safetensors").read_bytes()

    model = torch.nn.ModuleDict({name: torch.nn.Linear(600, 600, bias=False) for name in ("q_proj", "o_proj")})
    Path("folder").mkdir()
    save_model(model, "folder/model.slimtensors")
    shutil.copy("folder/model.slimtensors", "model.slimtensors")
    scope = {"model": model, "slimtensors": slimtensors}
    exec(compile(streaming, "README.md", "exec"), scope)  # noqa: S102 # as above
    assert torch.equal(scope["o"], model["o_proj"].weight[:, :512])  # type: ignore[arg-type] # tensors


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README.read_text()):
        assert target.startswith("https://") or (README.parent / target).exists(), target
