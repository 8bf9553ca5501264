"""Checkpoint after checkpoint: replaced, pruned, stored as differences."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException

import slimtensors
from distributed.states import blank, load, names, same, save, state
from slimtensors.checkpoint import ledger, manifest
from slimtensors.checkpoint.places import LocalPlace, open_place
from slimtensors.torch.distributed import RetentionWarning, StorageReader, remove_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


def test_a_checkpoint_is_replaced_as_a_whole(tmp_path: Path) -> None:
    save(tmp_path / "a", state(1))
    first = names(tmp_path / "a")
    with pytest.raises(CheckpointException, match="holds a checkpoint already"):
        save(tmp_path / "a", state(2), overwrite=False)
    assert names(tmp_path / "a") == first
    save(tmp_path / "a", state(2))
    assert same(load(tmp_path / "a", state(2)), state(2))
    assert len(names(tmp_path / "a")) == 2
    assert not set(first[1:]) & set(names(tmp_path / "a"))


def test_what_was_left_behind_is_removed_and_nothing_else(tmp_path: Path) -> None:
    other = "0" * 32
    left = [f"rank-00001.{other}.slimtensors", f".rank-00000.{other}.slimtensors.host-1-abc.tmp"]
    foreign = ["rank-00001.slimtensors", "notes.txt", ".hidden.tmp", f"rank-1.{other}.slimtensors"]
    left.append(".manifest.json.host-1-abc.tmp")
    (tmp_path / "a").mkdir()
    (tmp_path / ".latest.json.host-1-abc.tmp").touch()
    for name in left + foreign:
        (tmp_path / "a" / name).touch()
    save(tmp_path / "a", state(1))
    found = names(tmp_path / "a")
    assert not set(left) & set(found)
    assert names(tmp_path) == ["a", "latest.json"]
    assert set(foreign) <= set(found)


def test_only_what_is_known_is_pruned(tmp_path: Path) -> None:
    for seed in range(1, 4):
        save(tmp_path / f"step-{seed}", state(seed))
    (tmp_path / "mine").mkdir()
    (tmp_path / "step-2" / "notes.txt").touch()
    shutil.copytree(tmp_path / "step-1", tmp_path / "copy")
    save(tmp_path / "step-4", state(4), keep=2)
    assert names(tmp_path) == ["copy", "latest.json", "mine", "step-2", "step-3", "step-4"]
    assert names(tmp_path / "step-2") == ["notes.txt"]
    assert same(load(tmp_path / "step-3", state(3)), state(3))
    assert same(load(tmp_path / "copy", state(1)), state(1))
    remove_checkpoint(tmp_path / "step-4")
    assert same(load(tmp_path, state(3)), state(3))
    with pytest.raises(slimtensors.UsageError, match="no checkpoint"):
        remove_checkpoint(tmp_path / "mine")


def test_what_somebody_removed_is_not_among_those_kept(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        save(tmp_path / f"step-{seed}", state(seed), keep=3)
    shutil.rmtree(tmp_path / "step-2")
    shutil.rmtree(tmp_path / "step-3")
    shutil.copytree(tmp_path / "step-1", tmp_path / "step-2")  # of another run than step-2 was
    save(tmp_path / "step-4", state(4), keep=2)
    assert names(tmp_path) == ["latest.json", "step-1", "step-2", "step-4"]
    assert same(load(tmp_path / "step-1", state(1)), state(1))
    shutil.rmtree(tmp_path / "step-4")
    with pytest.raises(CheckpointException, match=r"names step-4, which is not there; name another one: step-1$"):
        load(tmp_path, state(1))
    (tmp_path / "step-1" / "manifest.json").unlink()
    with pytest.raises(CheckpointException, match=r"names step-4, which is not there$"):
        load(tmp_path, state(1))


def test_a_base_that_is_no_checkpoint_any_more_is_kept(tmp_path: Path) -> None:
    """Its manifest is gone: it is not counted, and stays as long as another one needs its files."""
    made = state(1, rows=2000)
    for step in (0, 1, 2):
        made = {**made, "step": step}
        save(tmp_path / f"step-{step}", made, full_every=3)
    (tmp_path / "step-0" / "manifest.json").unlink()
    save(tmp_path / "step-3", state(3), keep=2, full_every=3)
    assert names(tmp_path) == ["latest.json", "step-0", "step-1", "step-2", "step-3"]
    assert same(load(tmp_path / "step-2", made), made)
    save(tmp_path / "step-4", state(4), keep=1)
    assert names(tmp_path) == ["latest.json", "step-4"], "nothing of it is left when nothing needs it"


@pytest.mark.parametrize("before", [True, False])
def test_files_of_another_run_beside_a_known_checkpoint(tmp_path: Path, before: bool) -> None:
    for seed in (1, 2, 3):
        save(tmp_path / f"step-{seed}", state(seed))
    if before:  # what somebody put there counts for nothing, and is left alone
        shutil.copy(tmp_path / "step-1" / "manifest.json", tmp_path / "step-2")
    (file,) = (tmp_path / "step-1").glob("rank-*")
    shutil.copy(file, tmp_path / "step-2")
    save(tmp_path / "step-4", state(4), keep=3)
    assert ("step-1" in names(tmp_path)) == before
    assert file.name in names(tmp_path / "step-2")


def test_old_files_that_cannot_be_removed_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "a", state(1))

    def refuse(*_: Any) -> None:
        raise PermissionError("not yours")

    monkeypatch.setattr(LocalPlace, "remove", refuse)
    with pytest.warns(RetentionWarning, match="is saved, but old files could not be removed: not yours"):
        save(tmp_path / "b", state(2), keep=1)
    assert same(load(tmp_path, state(2)), state(2))


def test_differences_between_steps(tmp_path: Path) -> None:
    """A chain of at most three: every step exact, a full one in time, none pruned that is needed."""
    made, sizes, all_states = state(1, rows=2000), [], []
    for step in range(5):
        made = {**made, "step": step}
        made["w"] = made["w"].clone()
        made["w"].view(torch.int16)[:, :3] += 1
        made["m"] = {**made["m"], "a": made["m"]["a"].clone()}
        made["m"]["a"].view(torch.int32)[::2] += torch.randint(0, 99, (1000, 100), dtype=torch.int32)
        save(tmp_path / f"step-{step}", made, full_every=3, keep=1 if step == 4 else None)
        all_states.append(made)
        (file,) = (tmp_path / f"step-{step}").glob("rank-*")
        sizes.append(file.stat().st_size)
        if step == 2:
            for back, one in enumerate(all_states):
                assert same(load(tmp_path / f"step-{back}", one), one)
            with pytest.raises(slimtensors.UsageError, match="the base of step-1, step-2"):
                remove_checkpoint(tmp_path / "step-0")
            with pytest.raises(CheckpointException, match="the base of step-2"):
                save(tmp_path / "step-1", made)
    assert max(sizes[1], sizes[2], sizes[4]) < 0.6 * sizes[0]
    assert sizes[3] > 0.95 * sizes[0], "every third is whole"
    assert names(tmp_path) == ["latest.json", "step-3", "step-4"], "step-3 is what step-4 is made from"
    assert same(load(tmp_path, all_states[4]), all_states[4])
    shutil.rmtree(tmp_path / "step-3")
    with pytest.raises(CheckpointException, match="put it back, or load an older checkpoint"):
        load(tmp_path, all_states[4])


@pytest.mark.parametrize("lost", ["step-0", "step-1"])
def test_a_job_goes_on_saving_when_an_earlier_step_is_damaged(tmp_path: Path, lost: str) -> None:
    """Whatever became of what a difference would be from: the new step is whole, and so are those after it."""
    made = state(1, rows=2000)

    def step(number: int) -> dict[str, Any]:
        moved = made["w"].clone()
        moved.view(torch.int16)[:, :3] += number
        return {**made, "w": moved}

    for number in (0, 1):
        save(tmp_path / f"step-{number}", step(number), full_every=4)
    (file,) = (tmp_path / lost).glob("rank-*")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 255
    file.write_bytes(data)
    with pytest.warns(UserWarning, match=r"step-2: rank 0 saves in full, since what it saved before cannot be read"):
        save(tmp_path / "step-2", step(2), full_every=4)
    save(tmp_path / "step-3", step(3), full_every=4)
    whole, small = (next((tmp_path / name).glob("rank-*")).stat().st_size for name in ("step-2", "step-3"))
    assert small < 0.6 * whole
    for number in (2, 3):
        assert same(load(tmp_path / f"step-{number}", made), step(number))
    shutil.rmtree(tmp_path)
    for number in (0, 1):
        save(tmp_path / f"step-{number}", step(number), full_every=4)
    (file,) = (tmp_path / lost).glob("rank-*")
    file.unlink()
    save(tmp_path / "step-2", step(2), full_every=4)
    shutil.rmtree(tmp_path / lost)
    assert same(load(tmp_path, made), step(2)), "it needs nothing that is gone"


@pytest.mark.parametrize("damage", ["empty", "cut off", "flipped", "too long"])
def test_a_job_goes_on_saving_when_the_list_is_damaged(tmp_path: Path, damage: str) -> None:
    """Nothing is removed by who does not know what is there, and the list is kept for who wants to look."""
    made = state(1, rows=2000)
    for step in (0, 1):
        save(tmp_path / f"step-{step}", {**made, "step": step}, full_every=3)
    path, data = tmp_path / "latest.json", bytearray((tmp_path / "latest.json").read_bytes())
    data[100] ^= 1
    data = {"empty": b"", "cut off": data[:50], "flipped": data, "too long": b"0" * ((1 << 24) + 1)}[damage]
    path.write_bytes(data)
    with pytest.warns(UserWarning, match=r"step-0 is saved, and a new list .*latest\.json: .*own names"):
        save(tmp_path / "step-0", state(3), keep=1, full_every=3)  # over what step-1 is made from
    aside = tmp_path / "latest.json.damaged"
    assert names(tmp_path) == ["latest.json", aside.name, "step-0", "step-1"]
    assert aside.read_bytes() == (b"" if damage == "too long" else data)
    assert same(load(tmp_path, state(3)), state(3))
    assert same(load(tmp_path / "step-1", made), {**made, "step": 1})
    for _ in range(2):  # nor by those that the list knows in its place
        save(tmp_path / "step-0", state(5))
        assert len(names(tmp_path / "step-0")) == 3
        assert same(load(tmp_path / "step-1", made), {**made, "step": 1})
    save(tmp_path / "step-2", state(4), keep=1)
    assert [len(names(tmp_path / f"step-{step}")) for step in (0, 1, 2)] == [1, 2, 2]
    assert same(load(tmp_path / "step-1", made), {**made, "step": 1})
    assert same(load(tmp_path, state(4)), state(4))


def test_a_list_that_a_newer_version_wrote_stays(tmp_path: Path) -> None:
    save(tmp_path / "a", state(1))
    newer = manifest.seal({"format": 1, "more": []})
    (tmp_path / "latest.json").write_bytes(newer)
    with pytest.raises(CheckpointException, match="has version 1"):
        save(tmp_path / "b", state(2))
    assert names(tmp_path) == ["a", "latest.json"]
    assert (tmp_path / "latest.json").read_bytes() == newer


def test_a_damaged_list_in_a_store() -> None:
    root = f"memory://{uuid.uuid4().hex}"
    save(f"{root}/a", state(1))
    open_place(root).replace("latest.json", b"{}", durable=False)
    with pytest.warns(UserWarning, match="a new list of checkpoints begun"):
        save(f"{root}/b", state(2), keep=1)
    assert same(load(root, state(2)), state(2))
    assert same(load(f"{root}/a", state(1)), state(1))
    assert open_place(root).sizes().keys() == {"latest.json", "latest.json.damaged"}


class Late(StorageReader):
    """Something happens after it has read what there is, and before it reads tensors."""

    meanwhile: Any = None

    def prepare_local_plan(self, plan: Any) -> Any:
        self.meanwhile()
        return super().prepare_local_plan(plan)


def test_a_latest_that_is_removed_while_it_is_read(tmp_path: Path) -> None:
    save(tmp_path / "a", state(1))
    found, reader = blank(state(1)), Late(tmp_path)
    reader.meanwhile = lambda: save(tmp_path / "b", state(2), keep=1)
    dcp.load(found, storage_reader=reader)
    assert same(found, state(2))
    reader.meanwhile = lambda: save(tmp_path / "b", state(3))  # replaced
    dcp.load(found, storage_reader=reader)
    assert same(found, state(3))
    reader.meanwhile = lambda: save(tmp_path / "c", state(4, rows=100), keep=1)  # tensors of other shapes
    with pytest.raises(CheckpointException, match="the latest checkpoint was removed while it was read; load again"):
        dcp.load(found, storage_reader=reader)
    named = Late(tmp_path / "c")
    named.meanwhile = lambda: save(tmp_path / "d", state(5, rows=100), keep=1)
    with pytest.raises(CheckpointException, match="which the manifest names, is not there"):
        dcp.load(blank(state(4, rows=100)), storage_reader=named)


def test_a_latest_that_is_replaced_while_it_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "a", state(1))
    reading = ledger.read_ledger

    def late(place: Any) -> Any:
        known = reading(place)
        monkeypatch.undo()
        save(tmp_path / "b", state(2), keep=1)
        return known

    monkeypatch.setattr(ledger, "read_ledger", late)
    assert same(load(tmp_path, state(2)), state(2))
