"""verify of folders that hold checkpoints: files that are sound, and are not those that were committed."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from click.testing import Result
from safetensors.torch import load_file

from hub.web import serving
from slimtensors.checkpoint import checking
from slimtensors.checkpoint.manifest import MANIFEST, Manifest
from slimtensors.cli import files
from slimtensors.torch.distributed import StorageReader, StorageWriter, convert_checkpoint, remove_checkpoint

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


def test_a_manifest_that_cannot_be_read(invoke: Invoke, checkpoint: Path) -> None:
    """It is a problem like others, and no reason to take damage for a change that a job made meanwhile."""
    (checkpoint / MANIFEST).unlink()
    (checkpoint / MANIFEST).symlink_to(MANIFEST)  # to itself
    names = [each.name for each in checkpoint.iterdir()]
    seen = checking.Seen.now(checkpoint, names)
    assert not seen.changed()
    assert not seen._replace(seal=b"before").changed()
    (said,) = checking.check_folder(checkpoint, names)
    assert said.startswith(f"{checkpoint}/{MANIFEST} cannot be read: ")
    assert problems(invoke, checkpoint)


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


@pytest.fixture
def steps(tmp_path: Path) -> Path:
    """A checkpoint of two differences on each other, and what they are made from."""
    torch.manual_seed(1)
    tensor = torch.randn(1 << 15)
    for step in (1, 2, 3):
        tensor.view(torch.int32)[:: 2 * step] += 1
        writer = StorageWriter(tmp_path / "run" / f"step-{step}", full_every=3)
        dcp.save({"x": tensor}, storage_writer=writer, no_dist=True)
    return tmp_path / "run"


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize("number", [2, 3])
def test_bases_that_the_manifest_names(invoke: Invoke, steps: Path, tmp_path: Path, number: int) -> None:
    """Commands find them without being told, of a file by itself too."""
    assert problems(invoke, steps) == problems(invoke, steps / f"step-{number}") == []
    (file,) = (steps / f"step-{number}").glob("rank-*")
    torn = tmp_path / file.name
    shutil.copy(file, torn)  # beside no manifest
    for command in ("verify", "deps"):
        assert invoke(command, torn).exit_code == 1, "it is a difference"
        assert invoke(command, file).exit_code == 0, command
    for command, suffix in (("flatten", "slimtensors"), ("salvage", "safetensors"), ("decompress", "safetensors")):
        out = tmp_path / f"{command}-out.{suffix}"
        result = invoke(command, file, *(["-o", out] if command == "decompress" else [out]))
        assert result.exit_code == 0, result.output
        if command == "flatten":
            assert invoke("decompress", out).exit_code == 0
            out = out.with_suffix(".safetensors")
        held = load_file(out)["x"]
        found = {"x": torch.zeros(1 << 15)}
        dcp.load(found, storage_reader=StorageReader(steps / f"step-{number}"), no_dist=True)
        assert torch.equal(held, found["x"])
    assert invoke("verify", tmp_path / "flatten-out.slimtensors").exit_code == 0


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_bases_elsewhere(invoke: Invoke, steps: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIMTENSORS_ALLOW_HTTP", "1")
    with serving() as web:
        for path in sorted(steps.rglob("*.*")):
            address = web.put(f"run/{path.relative_to(steps)}", path.read_bytes())
            if path.parent.name == "step-3" and path.name != MANIFEST:
                difference = address
        assert invoke("verify", difference).exit_code == 0
        asked = [each.path for each in web.take() if MANIFEST in each.path]
        assert len(set(asked)) == 1
        for path in list(web.files):
            if path.startswith("run/step-1/rank-"):
                del web.files[path]
        result = invoke("verify", difference)
        assert result.exit_code == 1
        assert "was not found" in result.output


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_base_that_is_gone(invoke: Invoke, steps: Path) -> None:
    (lost,) = (steps / "step-1").glob("rank-*")
    lost.unlink()
    found = json.loads(invoke("verify", steps / "step-3", "--json").stdout)["problems"]
    assert found[0] == f"{steps}/step-3 is stored as differences from step-1 beside it, and {lost} is not there"
    assert len(found) == 2
    assert "was not found" in found[1]


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize("when", ["listed", "looked at"])
@pytest.mark.parametrize("what", ["removed", "replaced", "committed", "half removed", "damaged"])
def test_a_job_that_goes_on_meanwhile(
    invoke: Invoke, steps: Path, monkeypatch: pytest.MonkeyPatch, when: str, what: str
) -> None:
    """What happens to step-3 between the listing of the folder, a look at manifests and a look at files."""
    dcp.save({"x": torch.ones(9)}, storage_writer=StorageWriter(steps / "step-4"), no_dist=True)
    step = steps / "step-3"
    (file,), manifest = step.glob("rank-*"), step / MANIFEST
    data = manifest.read_bytes()
    if what in ("committed", "half removed"):
        manifest.unlink()

    def change() -> None:
        if what == "removed":
            remove_checkpoint(step)
        elif what == "replaced":
            dcp.save({"x": torch.ones(9)}, storage_writer=StorageWriter(step), no_dist=True)
        elif what == "committed":
            manifest.write_bytes(data)
        else:
            file.unlink()

    def and_then(name: str) -> None:
        doing = getattr(files if name == "walk_folder" else checking, name)

        def done(*given: Any, **options: Any) -> Any:
            found = doing(*given, **options)
            found = list(found) if name == "walk_folder" else found
            if name == "walk_folder" or given[0] == step:
                change()
            return found

        monkeypatch.setattr(files if name == "walk_folder" else checking, name, done)

    and_then({"listed": "walk_folder", "looked at": "check_folder"}[when])
    result = invoke("verify", steps)
    assert result.exit_code == (what == "damaged"), result.output
    assert result.output.count("sound") >= 2
    assert (f"{step}: removed, replaced or committed meanwhile" in result.output) == (what != "damaged")


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_latest_that_is_replaced_meanwhile(
    invoke: Invoke, steps: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading = checking.read_ledger

    def late(*given: Any) -> Any:
        found = reading(*given)
        if found.latest == "step-3":
            dcp.save({"x": torch.ones(9)}, storage_writer=StorageWriter(steps / "step-4", keep=1), no_dist=True)
        return found

    monkeypatch.setattr(checking, "read_ledger", late)
    result = invoke("verify", steps)
    assert result.exit_code == 0, result.output
    assert not (steps / "step-3").exists()
