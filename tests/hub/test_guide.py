"""What hub/guide.md shows, run against a Hub on localhost, heading by heading."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("accelerate")  # the environment of these tests has it; transformers alone does not do
pytest.importorskip("transformers")

import numpy as np
from safetensors.torch import save_file

import slimtensors.torch
from hub import Client, HubServer, models, tiny
from hub.web import Web, serving
from pages.reading import ROOT, snippets
from slimtensors.numpy import save
from slimtensors_hub.transformers import save_pretrained

GUIDE = ROOT / "hub" / "guide.md"
HEADINGS = ["Push and pull", "transformers", "diffusers, PEFT, sentence-transformers", "Files elsewhere, by range"]
OWNERS = {"me": "alice", "org": "bob", "owner": "bob"}  # of the Hub here
MODEL = """
import torch
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(300, 300), torch.nn.Linear(300, 300))
"""
PIPELINE = """
import diffusers, torch
torch.manual_seed(0)
unet = diffusers.UNet2DModel(
    sample_size=8, layers_per_block=1, block_out_channels=(32, 64),
    down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
)
pipeline = diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler(num_train_timesteps=10))
wanted = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
"""


@pytest.fixture
def web() -> Iterator[Web]:
    with serving() as server:
        yield server


def blocks(heading: str, language: str, places: dict[str, str] | None = None) -> str:
    """The code under a heading, with names of owners and servers that are here."""
    code = "".join(each.code for each in snippets(GUIDE) if (each.heading, each.language) == (heading, language))
    assert code
    for there, here in (places or {}).items():
        assert there in code
        code = code.replace(there, here)
    return re.sub(rf"\b({'|'.join(OWNERS)})/", lambda found: OWNERS[found[1]] + "/", code)


def commands(client: Client, folder: Path, code: str) -> list[str]:
    """What each of them printed."""
    lines = [shlex.split(line, comments=True) for line in code.splitlines()]
    assert {words[0] for words in lines} == {"slimtensors"}
    return [client.run(*words, cwd=folder).stdout for words in lines]


def test_nothing_is_left_out() -> None:
    assert {each.heading for each in snippets(GUIDE)} == set(HEADINGS)
    assert {each.language for each in snippets(GUIDE)} == {"sh", "python"}


def test_push_and_pull(hub: HubServer, client: Client, tmp_path: Path) -> None:
    base = models.plain_model(tmp_path / "folder")
    models.fine_tune(tmp_path / "tuned")
    hub.store.add_folder("bob/base", base)
    hub.store.add_folder("bob/plain", base)
    said = commands(client, tmp_path, blocks(HEADINGS[0], "sh"))
    assert (Path(said[3].strip()) / "model.slimtensors").exists()
    assert (tmp_path / "plain" / "model.safetensors").read_bytes() == (
        tmp_path / "tuned" / "model.safetensors"
    ).read_bytes()
    assert "model.slimtensors" in hub.store.files("alice/plain-slim")


def test_python(hub: HubServer, client: Client, tmp_path: Path) -> None:
    scope: dict[str, object] = {}
    exec(MODEL, scope)  # noqa: S102 # as above
    save_file(scope["model"].state_dict(), tmp_path / "model.safetensors")  # type: ignore[attr-defined] # a module
    hub.store.add("bob/base", {"model.safetensors": (tmp_path / "model.safetensors").read_bytes()})
    after = "print(sum(float(p.double().sum()) for p in model.parameters()))"
    moved = "with torch.no_grad():\n    model[0].weight[0] += 1e-3\n"
    code = blocks(HEADINGS[0], "python").replace("load_model(", after + "\nmodel[0].weight.data.zero_()\nload_model(")
    before, now = client.python(f"{MODEL}{moved}{code}{after}", cwd=tmp_path).splitlines()
    assert before == now
    assert slimtensors.inspect(hub.store.files("alice/tuned")["model.slimtensors"]).tensors[0].name


def test_transformers(hub: HubServer, client: Client, tmp_path: Path) -> None:
    model = tiny.llama(tied=True)
    save_pretrained(model, tmp_path / "slim")
    hub.store.add_folder("bob/model", tmp_path / "slim")
    total = "print(sum(float(p.double().sum()) for p in model.parameters()), AutoTokenizer.__module__)"
    said = client.python(blocks(HEADINGS[1], "python") + total, cwd=tmp_path).split()
    assert float(said[0]) == sum(float(p.detach().double().sum()) for p in model.parameters())
    assert said[1].startswith("transformers.")


def test_diffusers(client: Client, tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    same = "print(all(torch.equal(wanted[name], each) for name, each in pipeline.unet.state_dict().items()))"
    spoilt = "for each in unet.parameters():\n    each.data.zero_()\n"
    code = blocks(HEADINGS[2], "python").replace("with decompressed", spoilt + "with decompressed")
    assert client.python(f"{PIPELINE}{code}{same}", cwd=tmp_path).endswith("True")


def test_by_range(hub: HubServer, client: Client, web: Web, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    rows = {"embeddings.word_embeddings.weight": (rng.standard_normal((1500, 384)) / 32).astype(np.float32)}
    moved = {name: array * np.float32(1.00001) for name, array in rows.items()}
    hub.store.add("bob/name", {"model.slimtensors": save(rows)})
    hub.store.add("bob/base", {"model.slimtensors": save(rows)})
    web.put("tuned.slimtensors", save(moved, base=rows))
    web.put("model.slimtensors", save(rows))
    # A bucket wants a server of its own: tests/hub/test_remote_s3.py.
    places = {"https://example.org": web.address, "s3://bucket": web.address}
    after = "print(float(row.double().sum()))"
    said = client.python(blocks(HEADINGS[3], "python", places) + after, cwd=tmp_path)
    assert float(said) == pytest.approx(float(rows["embeddings.word_embeddings.weight"][1000].sum(dtype=np.float64)))
    hub.store.add_folder("bob/plain", models.plain_model(tmp_path / "plain"))
    assert "%" in commands(client, tmp_path, blocks(HEADINGS[3], "sh"))[0]
