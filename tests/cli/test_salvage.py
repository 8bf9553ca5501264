"""`salvage`, and what `verify` says before it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from safetensors.numpy import load_file

import slimtensors.numpy as ours
from cli.conftest import SHARDS
from slimtensors.reading.tensors import open_file

Invoke = Callable[..., Result]

RNG = np.random.default_rng(3)
TENSORS = {
    "table": RNG.standard_normal((8000, 128)).astype(np.float32),
    "line": RNG.standard_normal(400_000).astype(np.float32),
    "other": RNG.standard_normal((300, 300)).astype(np.float32),
}


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """The second chunk of two tensors is damaged."""
    path = tmp_path / "model.slimtensors"
    ours.save_file(TENSORS, path)
    data = bytearray(path.read_bytes())
    with open_file(path) as file:
        for number in range(2):
            data[file.reader.records(number)[1][1] + 64] ^= 1
    path.write_bytes(data)
    return path


def test_whole_tensors(invoke: Invoke, damaged: Path) -> None:
    told = invoke("verify", damaged)
    assert told.exit_code == 1
    assert "Of 3 tensors 2 cannot be had: 'table', 'line'; `slimtensors salvage`" in told.output
    out = damaged.with_name("out.safetensors")
    done = invoke("salvage", damaged, out)
    assert done.exit_code == 1
    assert "1 tensors, 360 kB; 2 are lost" in done.stdout
    assert "chunk 1: its" in done.stdout
    assert load_file(out).keys() == {"other"}
    assert invoke("salvage", damaged, out).exit_code == 2  # it is there already
    assert invoke("salvage", damaged, damaged, "--force").exit_code == 2


def test_zeros(invoke: Invoke, damaged: Path) -> None:
    out = damaged.with_name("out.safetensors")
    done = invoke("salvage", damaged, out, "--zeros")
    assert done.exit_code == 1
    found = load_file(out)
    rows = np.flatnonzero((found["table"] != TENSORS["table"]).any(1))
    assert 0 < rows[0] < rows[-1] < 7999 and f"rows {rows[0]} to {rows[-1]}" in done.stdout  # noqa: PT018 # one thing
    elements = np.flatnonzero(found["line"] != TENSORS["line"])
    assert f"elements {elements[0]} to {elements[-1]}" in done.stdout
    assert not found["table"][rows].any()
    assert "of 2 parts are zeros" in done.stdout


def test_a_sound_file(invoke: Invoke, tmp_path: Path) -> None:
    path, out = tmp_path / "model.slimtensors", tmp_path / "out.safetensors"
    ours.save_file(TENSORS, path)
    done = invoke("salvage", path, out)
    assert done.exit_code == 0
    assert "all that there are; if `slimtensors verify` finds" in done.stdout
    assert json.loads(invoke("verify", path, "--json").output)["sound"]


def test_what_is_none(invoke: Invoke, model: Path, tmp_path: Path) -> None:
    done = invoke("salvage", model, tmp_path / "out.safetensors")
    assert done.exit_code == 1
    assert "is not compressed" in done.output
    assert not (tmp_path / "out.safetensors").exists()
    assert invoke("salvage", tmp_path / "absent", tmp_path / "out.safetensors").exit_code == 3


def damage(path: Path, number: int) -> None:
    """The first chunk of a stream."""
    data = bytearray(path.read_bytes())
    with open_file(path) as file:
        data[file.reader.records(number)[1][0] + 64] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("named", ["", "model.slimtensors.index.json"])
def test_a_folder(invoke: Invoke, sharded: Path, tmp_path: Path, named: str) -> None:
    """Of the first shard a tensor is lost, the second cannot be opened: no index names or counts these."""
    plain = sharded / "model.safetensors.index.json"
    told = '"total_size": 123, "total_parameters": 60, "made by": "me"'
    plain.write_text(plain.read_text().replace('"total_size": 123', told))
    assert invoke("compress", sharded).exit_code == 0
    slim, out = tmp_path / "sharded-slim", tmp_path / "out"
    first, second = (slim / name.replace("safetensors", "slimtensors") for name in SHARDS)
    sound = invoke("salvage", slim / named, tmp_path / "sound")
    assert sound.exit_code == 0, sound.output
    index, places = (slim / "model.slimtensors.index.json").read_text(), json.loads
    assert (tmp_path / "sound" / "model.safetensors.index.json").read_text() == index.replace(
        ".slimtensors", ".safetensors"
    )
    damage(first, 0)
    with open_file(first) as file:
        lost = next(each.name for i, each in enumerate(file.header.tensors) if file.header.tensor_stream[i] == 0)
    second.write_bytes(b"x" * 1000)
    assert invoke("salvage", slim / named, out, "--dry-run").exit_code == 0
    assert not out.exists()
    done = invoke("salvage", slim / named, out)
    assert done.exit_code == 1
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [first.name, lost] in [row[:2] for row in rows]
    assert [second.name, "all"] in [row[:2] for row in rows]
    assert f"{slim} -> {out} (2 weight files): " in done.stdout
    held = load_file(out / SHARDS[0])
    assert held.keys() < {name for name, place in places(index)["weight_map"].items() if place == first.name}
    assert lost not in held
    assert not (out / SHARDS[1]).exists()
    assert (out / "1_Pooling" / "extra.safetensors").is_file()
    assert (out / "config.json").read_bytes() == (sharded / "config.json").read_bytes()
    made = places((out / "model.safetensors.index.json").read_text())
    assert made["weight_map"] == dict.fromkeys(held, SHARDS[0])
    assert made["metadata"] == {"made by": "me"}
    quiet = invoke("salvage", slim / named, out, "--force", "-q")
    assert quiet.exit_code == 1
    assert " -> " not in quiet.stdout


def test_a_folder_of_which_nothing_is_whole(invoke: Invoke, sharded: Path, tmp_path: Path) -> None:
    assert invoke("compress", sharded).exit_code == 0
    slim = tmp_path / "sharded-slim"
    for path in slim.rglob("*.slimtensors"):
        path.write_bytes(b"x" * 1000)
    done = invoke("salvage", slim, tmp_path / "out")
    assert done.exit_code == 1
    assert "model-00002-of-00002.slimtensors" in done.stderr
    assert not (tmp_path / "out").exists()
