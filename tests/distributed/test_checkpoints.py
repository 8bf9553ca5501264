"""Checkpoints of one process: what comes back, on a disk and in a store."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.staging import AsyncStager

import slimtensors
from distributed.states import load, names, same, save, state
from slimtensors.checkpoint import ledger, places
from slimtensors.checkpoint.places import open_place
from slimtensors.container import system
from slimtensors.torch.distributed import SavePlanner, StorageReader, StorageWriter
from slimtensors.torch.distributed.boxes import destination, lay_out

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    made = state(1)
    save(tmp_path / "a", made)
    assert same(load(tmp_path / "a", made), made)
    assert same(load(tmp_path, made), made)
    (file,) = (tmp_path / "a").glob("rank-*")
    assert slimtensors.verify(file).tensors == 9
    held = slimtensors.inspect(file)
    assert held.metadata["run"] == json.loads((tmp_path / "a" / "manifest.json").read_text())["value"]["run"]


def test_into_another_dtype_and_scattered_memory(tmp_path: Path) -> None:
    made = {"w": torch.randn(40, 30)}
    save(tmp_path / "a", made)
    found = {"w": torch.zeros(30, 40, dtype=torch.float64).t()}
    dcp.load(found, storage_reader=(reader := StorageReader(tmp_path / "a")))
    assert repr(reader) == f"StorageReader({tmp_path / 'a'!r})"
    assert torch.equal(found["w"], made["w"].double())


def test_in_the_background_what_was_there_is_saved(tmp_path: Path) -> None:
    made, before = state(1), state(1)
    made["tied"] = made["w"]
    before["tied"] = before["w"]
    writer = StorageWriter(tmp_path / "a", threads=1)
    assert isinstance(writer, AsyncStager)  # copies are made by the writer
    pending = dcp.async_save(made, storage_writer=writer)
    for each in (made["w"], made["m"]["a"], made["turned"], made["scalar"]):
        each.fill_(7)
    made["m"]["b"].pop()
    pending.result()
    assert same(load(tmp_path / "a", before), before)
    (file,) = (tmp_path / "a").glob("rank-*")
    held = {tensor.name: tensor.storage for tensor in slimtensors.inspect(file).tensors}
    assert [held["w"], held["tied"]].count("ref") == 1


def test_boxes() -> None:
    """Every box of some shapes, whichever way it is laid out, chunk by chunk, against NumPy."""
    generator = np.random.default_rng(1)
    laid = 0
    for shape in ((6,), (5, 7), (3, 4, 5), (2, 3, 2, 4)):
        full = generator.integers(0, 1 << 16, shape).astype(np.uint16)
        for _ in range(300):
            offsets = tuple(int(generator.integers(0, size)) for size in shape)
            sizes = tuple(int(generator.integers(1, size - o + 1)) for size, o in zip(shape, offsets, strict=True))
            expected = full[tuple(slice(o, o + n) for o, n in zip(offsets, sizes, strict=True))]
            layout = lay_out(shape, offsets, sizes)
            if layout is None:
                assert len(shape) > 2
                continue
            laid += 1
            out = np.zeros(sizes, np.uint16)
            place = destination(0, layout, out)
            _, start, end = place.wanted.tensor, place.wanted.start, place.wanted.start + place.wanted.units
            while start < end:
                count = min(int(generator.integers(1, 9)), end - start)
                place.put(start, full.reshape(-1)[start : start + count])
                start += count
            assert np.array_equal(out, expected)
    assert laid > 900


def test_a_store_in_memory(tmp_path: Path) -> None:
    root = f"memory://{uuid.uuid4().hex}"
    made = state(1)
    for seed in range(1, 4):
        save(f"{root}/step-{seed}", state(seed), keep=2, full_every=2)
    assert same(load(root, made), state(3))
    assert same(load(f"{root}/step-2", made), state(2))
    assert ledger.read_manifest(open_place(f"{root}/step-1")) is not None, "what step-2 is made from"
    with pytest.raises(CheckpointException, match="holds no checkpoint"):
        load(f"{root}/none", made)
    save(f"{root}/step-2", state(5))
    assert same(load(root, made), state(5))
    with pytest.raises(slimtensors.UsageError, match="Protocol not known"):
        StorageWriter("nonsense://x/y")
    save(f"file://{tmp_path}/a", made)
    assert same(load(tmp_path / "a", made), made)


def test_a_failed_save_leaves_nothing_in_a_store(monkeypatch: pytest.MonkeyPatch) -> None:
    from slimtensors.checkpoint import remote

    root = f"memory://{uuid.uuid4().hex}"
    save(f"{root}/a", state(1))

    monkeypatch.setattr(remote.StreamOutput, "write", full)
    with pytest.raises(CheckpointException, match="No space left"):
        save(f"{root}/b", state(2))
    monkeypatch.undo()
    assert open_place(f"{root}/b").sizes() == {}
    assert same(load(root, state(1)), state(1))


def full(*_: Any, **__: Any) -> None:
    raise OSError(28, "No space left on device")


def test_a_failed_save_leaves_nothing_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "a", state(1))
    (tmp_path / "mine").mkdir()
    before = {path.name: names(path) for path in tmp_path.iterdir() if path.is_dir()}
    for broken in ("create", "replace"):  # before anything is written, and when all is but the manifest
        for name in ("a", "mine", "new"):
            with monkeypatch.context() as patch:
                patch.setattr(places.LocalPlace, broken, full)
                with pytest.raises(CheckpointException, match="No space left"):
                    save(tmp_path / name, state(2))
            assert {path.name: names(path) for path in tmp_path.iterdir() if path.is_dir()} == before
    assert same(load(tmp_path, state(1)), state(1))


def test_a_failed_save_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    for failing in (full, stopped):
        with monkeypatch.context() as patch:
            patch.setattr(system.TemporaryOutput, "commit", failing)
            with pytest.raises(CheckpointException):
                save(tmp_path / "b", state(2))
        assert names(tmp_path) == []


def test_a_save_that_is_committed_though_an_error_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replacing = places.LocalPlace.replace

    def late(*given: Any, **options: Any) -> None:
        replacing(*given, **options)
        full()

    with monkeypatch.context() as patch:
        patch.setattr(places.LocalPlace, "replace", late)
        with pytest.raises(CheckpointException, match="No space left"):
            save(tmp_path / "b", state(2))
    assert same(load(tmp_path / "b", state(2)), state(2))


def test_a_plan_of_many_ranks() -> None:
    """Against DCP's own planner: the same metadata; each part written once, what several hold shared out."""
    from bench.many_ranks import local_plan

    ranks, tensors = 8, 30
    kinds = (SavePlanner, DefaultSavePlanner)
    both: list[Any] = [[local_plan(kind, rank, ranks, tensors) for rank in range(ranks)] for kind in kinds]
    written = []
    for made in both:
        plans, found = made[0][0].create_global_plan([plan for _, plan in made])
        items = [planner.finish_plan(plan).items for (planner, _), plan in zip(made, plans, strict=True)]
        written.append(sorted((each.index.fqn, tuple(each.index.offset)) for one in items for each in one))
        assert len(set(written[-1])) == len(written[-1]) == tensors * ranks + 10
        assert max(map(len, items)) <= tensors + 2, "ten replicated tensors on eight ranks"
        assert found.planner_data["model.layers.0.mlp.3.weight"] == ("model", "layers.0.mlp.3.weight")
        made.append(found)
    assert written[0] == written[1]
    ours, theirs = (each[-1].state_dict_metadata for each in both)
    assert ours.keys() == theirs.keys()
    for name, each in theirs.items():
        assert ours[name].size == each.size
        assert sorted(ours[name].chunks, key=lambda c: c.offsets) == sorted(each.chunks, key=lambda c: c.offsets)


def test_our_planner_saves_what_dcps_does(tmp_path: Path) -> None:
    made = state(1)
    dcp.save(made, storage_writer=StorageWriter(tmp_path / "a"), planner=SavePlanner())
    assert same(load(tmp_path / "a", made), made)
