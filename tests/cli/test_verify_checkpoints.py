"""verify of folders that hold checkpoints: files that are sound, and are not those that were committed."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from click.testing import Result

from slimtensors.checkpoint.manifest import MANIFEST, Manifest
from slimtensors.torch.distributed import StorageWriter, convert_checkpoint

Invoke = Callable[..., Result]


@pytest.fixture
def checkpoint(model: Path) -> Path:
    """A checkpoint of several files in a folder of its own."""
    convert_checkpoint(model, model.parent / "run" / "step-1", "checkpoint", max_shard_bytes=200_000)
    return model.parent / "run" / "step-1"


def problems(invoke: Invoke, path: Path) -> list[str]:
    result = invoke("verify", path, "--json")
    found = json.loads(result.stdout)
    assert found["sound"] == (result.exit_code == 0) == (not found["problems"])
    assert found["files"], "files are looked at all the same"
    return found["problems"]


def test_a_whole_one(invoke: Invoke, checkpoint: Path) -> None:
    assert len(list(checkpoint.glob("rank-*"))) > 1
    assert problems(invoke, checkpoint) == []
    assert problems(invoke, checkpoint.parent) == []  # a folder above it
    left = next(checkpoint.glob("rank-*"))
    shutil.copy(left, checkpoint / f"rank-00000.{'0' * 32}.slimtensors")  # of a save that did not finish
    assert problems(invoke, checkpoint) == []


@pytest.mark.parametrize("at", ["digest", "value", "end"])
def test_a_changed_manifest(invoke: Invoke, checkpoint: Path, at: str) -> None:
    path = checkpoint / MANIFEST
    data = bytearray(path.read_bytes())
    data[{"digest": 20, "value": len(data) // 2, "end": -1}[at]] ^= 1
    path.write_bytes(data)
    (problem,) = problems(invoke, checkpoint.parent)
    assert problem.startswith(f"{path}: ")


def test_a_missing_manifest(invoke: Invoke, checkpoint: Path) -> None:
    (checkpoint / MANIFEST).unlink()
    (problem,) = problems(invoke, checkpoint)
    assert problem.startswith(f"{checkpoint} has 5 files of ranks and no manifest.json")


def test_other_files_than_were_committed(invoke: Invoke, checkpoint: Path) -> None:
    manifest = Manifest.parse((checkpoint / MANIFEST).read_bytes(), "")
    first, second, *_ = [checkpoint / file.name for file in manifest.files]
    data = first.read_bytes()
    shutil.copy(second, first)  # sound, and another file
    (problem,) = problems(invoke, checkpoint)
    assert problem.startswith(f"{first} has {second.stat().st_size} bytes and id {manifest.files[1].file_id}, not")
    first.unlink()
    (problem,) = problems(invoke, checkpoint)
    assert problem == f"{first} is not there; manifest.json names it"
    first.write_bytes(data[:-1])  # is said once, by who reads it
    (problem,) = problems(invoke, checkpoint)
    assert str(first) in problem
    assert "manifest" not in problem


def test_parts_that_are_not_there(invoke: Invoke, checkpoint: Path) -> None:
    manifest = Manifest.parse((checkpoint / MANIFEST).read_bytes(), "")
    name, entry = next(iter(manifest.tensors.items()))
    other = "I32" if entry.dtype != "I32" else "F32"
    for tensors, said in (
        ({name: entry._replace(dtype=other)}, f"the manifest says {other}"),
        ({"none": entry}, "there is no tensor 'none"),
    ):
        changed = replace(manifest, tensors={**manifest.tensors, **tensors})
        (checkpoint / MANIFEST).write_bytes(changed.to_bytes())
        (problem, *_) = problems(invoke, checkpoint)
        assert said in problem


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_the_list_of_checkpoints(invoke: Invoke, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for step in (1, 2):
        dcp.save({"x": torch.arange(step)}, storage_writer=StorageWriter(run / f"step-{step}"), no_dist=True)
    assert problems(invoke, run) == problems(invoke, tmp_path) == []
    shutil.copytree(run / "step-1", tmp_path / "step-1")
    shutil.copytree(run / "step-2", tmp_path / "step-2")
    shutil.rmtree(run / "step-2")
    (problem,) = problems(invoke, tmp_path)
    assert problem == f"{run}/latest.json names step-2 as the latest checkpoint, which is not there"
    (tmp_path / "step-1").rename(run / "step-2")
    (problem,) = problems(invoke, run)
    assert re.match(rf"{run}/latest.json names step-2 of run [0-9a-f]+; what is there is of run [0-9a-f]+$", problem)
    (run / "latest.json").write_text("{}")
    (problem,) = problems(invoke, run)
    assert problem.startswith(f"{run}/latest.json: ")
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(next((run / "step-1").glob("rank-*")), other / "model.slimtensors")
    (other / "latest.json").write_text("of something else, beside no checkpoint")
    assert problems(invoke, other) == []


def test_manifests_of_others(invoke: Invoke, model: Path) -> None:
    folder = model.parent / "web"
    folder.mkdir()
    (folder / MANIFEST).write_text('{"name": "an app"}')
    assert invoke("compress", model, "-o", folder / "model.slimtensors").exit_code == 0
    assert problems(invoke, folder) == []
