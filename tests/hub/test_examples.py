"""The examples, run as users run them, against a Hub on localhost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("accelerate")  # the environment of these tests has it; transformers alone does not do
pytest.importorskip("transformers")

from hub import Client, HubServer

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
