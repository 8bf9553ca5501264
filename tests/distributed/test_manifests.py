"""Manifests that lie or are damaged, and what is said where there is none."""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException

import slimtensors
from distributed.states import load, same, save, state
from slimtensors.checkpoint import ledger, manifest
from slimtensors.checkpoint.places import LocalPlace
from slimtensors.torch.distributed import latest_checkpoint, remove_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


def _rewrite(path: Path, change: Any) -> None:
    value = json.loads(path.read_bytes())["value"]
    change(value)
    path.write_bytes(manifest.seal(value))


DAMAGES: list[tuple[Any, str]] = [
    (lambda v: v["files"][0].update(size=5), "the manifest says 5 bytes"),
    (lambda v: v["files"][0].update(file_id="0" * 64), "is another file than the one committed"),
    (lambda v: v["files"][0].update(name="../../etc/passwd"), "is expected"),
    (lambda v: v.update(run="x"), "is no run id"),
    (lambda v: v.update(format=1), "has version 1"),
    (lambda v: v.update(more=1), "has the keys"),
    (lambda v: v["bases"].append(["../up", "0" * 32]), "not a plain name"),
    (lambda v: v["bases"].append(["step-0", v["run"]]), "its own base"),
    (lambda v: v["objects"].update(step=3), "the file of object"),
    (lambda v: v["objects"].update(w=0), "a tensor and an object"),
    (lambda v: v["tensors"]["w"].pop(), "is not .dtype, shape, parts"),
    (lambda v: v["tensors"]["w"].__setitem__(0, "F99"), "unknown dtype"),
    (lambda v: v["tensors"]["w"].__setitem__(2, []), "no parts"),
    (lambda v: v["tensors"]["w"].__setitem__(2, [[0, 0, 0, 300]]), "a part is not 5 numbers"),
    (lambda v: v["tensors"]["w"].__setitem__(2, 1), "the file that holds it is 1; a number below 1"),
    (lambda v: v["tensors"]["w"].__setitem__(2, -1), "the file that holds it is -1"),
    (lambda v: v["tensors"]["w"].__setitem__(2, True), "no parts"),
    (lambda v: v["tensors"]["w"].__setitem__(2, [[0, 0, 0, 300, 200]]), "told as a box"),
    (lambda v: v["tensors"]["w"].__setitem__(2, [[0, 1, 0, 300, 200]]), "reaches out"),
    (lambda v: v["tensors"]["w"].__setitem__(2, [[0, 0, 0, 299, 200]]), "do not cover it"),
    (lambda v: v["tensors"]["w"].__setitem__(2, [[0, 0, 0, 150, 200], [0, 100, 0, 150, 200]]), "overlap"),
    (lambda v: v["tensors"]["w"].__setitem__(1, [1 << 49, 2]), "a dimension"),
    (lambda v: v["tensors"].update(v=v["tensors"]["w"]), "there is no tensor 'v'"),
    (lambda v: v.update(planner={"dict": [[1]]}), "malformed"),
]


@pytest.mark.parametrize(("change", "message"), DAMAGES)
def test_a_manifest_that_lies(tmp_path: Path, change: Any, message: str) -> None:
    made = state(1)
    save(tmp_path / "a", made)
    _rewrite(tmp_path / "a" / "manifest.json", change)
    with pytest.raises((CheckpointException, slimtensors.FormatError), match=message):
        load(tmp_path / "a", {**made, "v": made["w"]} if "'v'" in message else made)


def test_every_cut_and_flip_of_a_manifest_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "a", {"x": torch.ones(3)})
    data = (tmp_path / "a" / "manifest.json").read_bytes()
    manifest.Manifest.parse(data, "it")
    for at in range(len(data)):
        with pytest.raises(slimtensors.FormatError):
            manifest.Manifest.parse(data[:at], "it")
        with pytest.raises(slimtensors.FormatError):
            manifest.Manifest.parse(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :], "it")
    ledger_data = (tmp_path / "latest.json").read_bytes()
    for at in range(len(ledger_data)):
        (tmp_path / "latest.json").write_bytes(ledger_data[:at] + bytes([ledger_data[at] ^ 4]) + ledger_data[at + 1 :])
        with pytest.raises(slimtensors.FormatError, match=r"latest\.json"):
            ledger.read_ledger(LocalPlace(tmp_path))


def test_files_of_two_saves_are_not_mixed(tmp_path: Path) -> None:
    made = state(1)
    save(tmp_path / "a", made)
    save(tmp_path / "b", state(2))
    (mine,), (other,) = (tmp_path / "a").glob("rank-*"), (tmp_path / "b").glob("rank-*")
    shutil.copy(other, mine)
    with pytest.raises(CheckpointException, match="is another file than the one committed"):
        load(tmp_path / "a", made)
    mine.unlink()
    with pytest.raises(CheckpointException, match="is not there: restore it"):
        load(tmp_path / "a", made)


def test_where_there_is_nothing(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(CheckpointException, match="holds no checkpoint"):
            load(path, {"x": torch.ones(3)})
    save(tmp_path / "a", state(1))
    save(tmp_path / "b", state(1))
    shutil.rmtree(tmp_path / "b")
    with pytest.raises(CheckpointException, match="names b, which is not there; name another one: a"):
        load(tmp_path, state(1))
    (tmp_path / "latest.json").write_text("{}")
    with pytest.raises(CheckpointException, match="can still be loaded by their own names; the next save makes"):
        load(tmp_path, state(1))


def test_whether_there_is_one(tmp_path: Path) -> None:
    """A job starts anew if there is none, and only then."""
    run = tmp_path / "run"
    for empty in (run, tmp_path):
        assert latest_checkpoint(empty) is None
    for name in ("a", "b"):
        save(run / name, state(1))
        assert latest_checkpoint(run) == str(run / name) == latest_checkpoint(f"file://{run}/{name}")
    assert same(load(latest_checkpoint(run), state(1)), state(1))
    remove_checkpoint(run / "b")
    assert latest_checkpoint(run) == str(run / "a")
    shutil.rmtree(run / "a")
    with pytest.raises(FileNotFoundError, match="names a, which is not there"):
        latest_checkpoint(run)
    (run / "latest.json").write_text("")
    with pytest.raises(slimtensors.FormatError, match="cut off"):
        latest_checkpoint(run)
    dcp.save({"a": torch.ones(3)}, checkpoint_id=tmp_path / "stock")
    with pytest.raises(slimtensors.UsageError, match="read it with FileSystemReader"):
        latest_checkpoint(tmp_path / "stock")
    root = f"memory://{uuid.uuid4().hex}"
    assert latest_checkpoint(root) is None
    save(f"{root}/a", state(1))
    assert same(load(latest_checkpoint(root), state(1)), state(1))


def test_advice(tmp_path: Path) -> None:
    """What DCP cannot find tensors in, and its own checkpoints."""
    tensor = torch.ones(3)
    with pytest.raises(CheckpointException, match=r"is a tensor within what is stored whole, .* make it a list"):
        save(tmp_path / "a", {"a": (tensor, tensor)})
    dcp.save({"a": tensor}, checkpoint_id=tmp_path / "stock")
    with pytest.raises(CheckpointException, match=r"read it with FileSystemReader, or .*convert"):
        load(tmp_path / "stock", {"a": tensor})


def _sealed(tensors: dict[str, Any], files: int = 1) -> bytes:
    run = "0" * 32
    each = [{"file_id": "0" * 64, "name": manifest.file_name(i, run), "size": 64} for i in range(files)]
    value = {"bases": [], "files": each, "format": 0, "objects": {}, "planner": None, "run": run, "tensors": tensors}
    return manifest.seal(value)


def test_many_tensors_called_as_parts_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its parts are gone through once, not for each of them."""
    named = []

    def part_name(*given: Any) -> str:
        named.append(given)
        return plain(*given)

    plain = manifest.part_name
    monkeypatch.setattr(manifest, "part_name", part_name)
    tensors: dict[str, Any] = {"x": ["U8", [100], [[0, i, 1] for i in range(100)]]}
    manifest.Manifest.parse(_sealed(tensors | {f"x@{i}": ["U8", [1], 1] for i in range(100)}, 2), "it")
    assert len(named) == 100
    with pytest.raises(slimtensors.FormatError, match="'x@99' and a part of 'x' are called the same in file 0"):
        manifest.Manifest.parse(_sealed(tensors | {f"x@{i}": ["U8", [1], 1 - i // 99] for i in range(100)}, 2), "it")


def _wall(rows: int) -> list[list[int]]:
    """Bricks of one row each, which are the cells of no grid."""
    bricks = [[(0, 1), (1, 1), (2, 2)], [(0, 2), (2, 1), (3, 1)]]
    return [[0, row, at, 1, length] for row in range(rows) for at, length in bricks[row % 2]]


def test_many_parts_that_are_no_grid() -> None:
    rows = 10_000
    wall = _wall(rows)
    manifest.Manifest.parse(_sealed({"w": ["U8", [rows, 4], wall]}), "it")
    middle = len(wall) // 2
    for moved in (-1, 1):  # over a neighbour, as much left out on the other side
        wrong = [list(part) for part in wall]
        wrong[middle + 1][2] += moved
        with pytest.raises(slimtensors.FormatError, match="its parts overlap"):
            manifest.Manifest.parse(_sealed({"w": ["U8", [rows, 4], wrong]}), "it")
    wrong = [*wall]
    wrong[middle] = wall[middle + 6 * 100]  # another one twice
    with pytest.raises(slimtensors.FormatError, match="overlap"):
        manifest.Manifest.parse(_sealed({"w": ["U8", [rows, 4], wrong]}), "it")
