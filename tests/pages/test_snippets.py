"""What README and the guides show, run: every block, in order, those under one heading in one folder."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file as plain_load
from safetensors.torch import save_file as plain_save

from gguf_files.made import packed, write
from pages.reading import GUIDES, ROOT, snippets
from slimtensors.cli.main import cli
from slimtensors.torch import save_model

README = ROOT / "README.md"
SMALLER = {"4GB": "1.4MB"}  # what a guide says of a large model, for the one that is here


class Layer(torch.nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = torch.nn.Linear(width, 2 * width), torch.nn.Linear(2 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.relu(self.up(x)))


class Model(torch.nn.Module):
    """An embedding and layers; two more, whose names a guide has."""

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = torch.nn.Embedding(1000, width)
        self.layers = torch.nn.ModuleList(Layer(width) for _ in range(3))
        self.q_proj, self.o_proj = (torch.nn.Linear(600, 600, bias=False) for _ in range(2))
        self.eval()

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x)
        return x


def tuned(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor * (1 + 1e-5 * torch.randn(tensor.shape)) for name, tensor in state.items()}


def stage(minilm: Path) -> dict[str, Any]:
    """In the current folder: whatever the guides name. Returns the variables that they name."""
    model = Model()
    state = model.state_dict()
    plain_save(state, "model.safetensors")
    moved = tuned(state)
    for name in ("tuned", "finetuned"):
        plain_save(moved, f"{name}.safetensors")
    for folder, tensors in {"base": state, "models/base": state, "newer": tuned(state)}.items():
        Path(folder).mkdir(parents=True)
        plain_save(tensors, f"{folder}/model.safetensors")
    Path("folder").mkdir()
    save_model(model, "folder/model.slimtensors")
    write(Path("model.gguf"), {"w": (packed(minilm, "Q4_0"), "Q4_0")})
    batches = list(torch.randint(0, 1000, (3, 1, 5)))
    checkpoint = {"model": state, "step": 100}
    return {"model": model, "tokens": batches[0], "batches": batches, "state": checkpoint, "torch": torch}


def run(language: str, code: str, scope: dict[str, Any], page: Path) -> None:
    if language == "python":
        exec(compile(code, str(page), "exec"), scope)  # noqa: S102 # the text is ours
        return
    if language == "dockerfile":  # what it comes to, a cache of another user, is tested in test_jit.py
        return
    assert language == "sh", f"{page}: a block of {language!r} is not run by any test"
    for line in code.splitlines():
        words = shlex.split(line, comments=True)
        assert words[0] == "slimtensors", f"{page}: {line}"
        done = CliRunner().invoke(cli, [SMALLER.get(word, word) for word in words[1:]], prog_name="slimtensors")
        assert done.exit_code == 0, f"{page}: {line}\n{done.output}\n{done.stderr}"


CASES = [
    pytest.param(page, heading, id=f"{page.stem}: {heading}")
    for page in GUIDES
    for heading, _ in groupby(snippets(page), lambda snippet: snippet.heading)
]


@pytest.mark.parametrize(("page", "heading"), CASES)
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_guides(page: Path, heading: str, minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SLIMTENSORS_BASE_DIR", raising=False)
    scope = stage(minilm)
    if page.stem == "loading":
        shutil.copy("folder/model.slimtensors", "model.slimtensors")
    expected = scope["model"](scope["tokens"])
    found = [snippet for snippet in snippets(page) if snippet.heading == heading]
    for snippet in found:
        run(snippet.language, snippet.code, scope, page)
    AFTER.get((page.stem, heading), lambda _scope, _expected: None)(scope, expected)


def _fine_tunes(scope: dict[str, Any], _expected: torch.Tensor) -> None:
    wanted = plain_load("tuned.safetensors")
    for found in (plain_load("restored.safetensors"), scope["tensors"], scope["model"].state_dict()):
        assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())
    assert all(each.found for each in scope["needed"])


def _loading(scope: dict[str, Any], _expected: torch.Tensor) -> None:
    model = scope["model"]
    assert torch.equal(scope["q"], model.q_proj.weight[:512])
    assert torch.equal(scope["o"], model.o_proj.weight[:, :512])


def _outputs(scope: dict[str, Any], expected: torch.Tensor) -> None:
    assert torch.equal(scope["output"], expected)


def _checkpoints(scope: dict[str, Any], _expected: torch.Tensor) -> None:
    found = plain_load(next(Path("model").glob("*.safetensors")))
    assert torch.equal(found["model.q_proj.weight"], scope["model"].q_proj.weight)


def _packed(scope: dict[str, Any], _expected: torch.Tensor) -> None:
    assert Path("again.gguf").read_bytes() == Path("model.gguf").read_bytes()
    assert scope["blocks"]["w"].dtype == torch.uint8
    assert scope["numbers"]["w"].dtype == torch.bfloat16


AFTER: dict[tuple[str, str], Callable[[dict[str, Any], torch.Tensor], None]] = {
    ("fine_tunes", "Fine-tunes and their bases"): _fine_tunes,
    ("loading", "Loading"): _loading,
    ("loading", "A model larger than memory"): _outputs,
    ("loading", "Weights that stay compressed in memory"): _outputs,
    ("checkpoints", "Checkpoints of a training job"): _checkpoints,
    ("quantised", "Files that are quantised already"): _packed,
}


def test_what_is_looked_at_afterwards_is_there() -> None:
    # pytest says of a param's values only that they are objects; here the first is a path.
    assert set(AFTER) <= {(param.values[0].stem, param.values[1]) for param in CASES}  # type: ignore[union-attr]


def test_readme(minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten lines of Python, then the commands in the same folder, on the real model. Installing is CI's."""
    used = [snippet for snippet in snippets(README) if snippet.heading == "Use"]
    assert [snippet.language for snippet in used] == ["python", "sh"]
    assert len(used[0].code.strip().splitlines()) <= 10
    monkeypatch.chdir(tmp_path)
    shutil.copy(minilm, "model.safetensors")
    scope: dict[str, Any] = {}
    for snippet, made in zip(used, ("restored.safetensors", "back.safetensors"), strict=True):
        run(snippet.language, snippet.code, scope, README)
        assert Path(made).read_bytes() == Path("model.safetensors").read_bytes()
    assert scope["rows"].shape == (10, 384)
    assert {snippet.heading for snippet in snippets(README)} == {"Use", "Install"}
