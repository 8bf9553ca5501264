"""Checkpoints of one process: what comes back, what is refused, what is kept; on a disk and in a store."""

from __future__ import annotations

import io
import json
import shutil
import uuid
from collections import Counter, OrderedDict
from enum import Enum
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
from slimtensors.checkpoint import ledger, manifest
from slimtensors.checkpoint.places import LocalPlace, open_place
from slimtensors.torch.distributed import (
    RetentionWarning,
    SavePlanner,
    StorageReader,
    StorageWriter,
    remove_checkpoint,
    values,
)
from slimtensors.torch.distributed.boxes import destination, lay_out

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


def state(seed: int, *, rows: int = 300) -> dict[str, Any]:
    torch.manual_seed(seed)
    return {
        "w": torch.randn(rows, 200).to(torch.bfloat16),
        "m": {"a": torch.randn(rows, 100), "b": [torch.randn(7), torch.arange(5)]},
        "turned": torch.randn(60, 50).t(),
        "complex": torch.randn(30, 2, dtype=torch.complex64),
        "scalar": torch.tensor(1.5),
        "empty": torch.zeros(0, 3),
        "step": seed,
    }


def blank(made: Any) -> Any:
    if isinstance(made, dict):
        return {key: blank(each) for key, each in made.items()}
    if isinstance(made, list):
        return [blank(each) for each in made]
    return torch.zeros_like(made) if isinstance(made, torch.Tensor) else None


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    return bool(a == b)


def save(path: Any, made: dict[str, Any], **options: Any) -> None:
    dcp.save(made, storage_writer=StorageWriter(path, threads=1, **options))


def load(path: Any, made: dict[str, Any], **options: Any) -> dict[str, Any]:
    found: dict[str, Any] = blank(made)
    dcp.load(found, storage_reader=StorageReader(path, threads=1, **options))
    return found


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


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
    dcp.load(found, storage_reader=StorageReader(tmp_path / "a"))
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


class Colour(Enum):
    RED = 1


def test_values_come_back_as_they_were() -> None:
    made = {
        "plain": [None, True, 0, -(1 << 70), "ä\ud800", 0.1, 1e-320, -0.0],
        "odd": (float("inf"), b"\x00\xff", {1: "a", (2, None): [3]}, OrderedDict(b=1, a=2), Counter("aab")),
        "torch": [torch.Size([2, 3]), torch.bfloat16, torch.device("cpu")],
        "random": np.random.RandomState(3).get_state(),  # what trainers keep
        "number": np.float32(0.1),
        "paths": [{"a.b.c": ("a", "b.c"), "d": ("d",), "..": ("", "", "")}, {"a.b": ("a", 0)}, {"a": ("b",)}, {"": ()}],
    }
    again = values.decode(values.loads(values.dumps({"x": values.encode(made, "x")}))["x"])
    assert str(again) == str(made)
    assert type(again["odd"][3]) is OrderedDict
    assert type(again["odd"][4]) is Counter
    assert again["random"][1].dtype == made["random"][1].dtype
    assert values.encode(made["paths"][0], "x") == {"paths": [["a.b.c", 1], "d", ["..", 0, 1]]}
    nan = values.decode(values.encode(float("nan"), "x"))
    assert nan != nan  # which is what it is
    for wrong in (Colour.RED, {1, 2}, object(), np.array([object()]), print, complex(1, 2)):
        with pytest.raises(slimtensors.UsageError, match="state x"):
            values.encode({"a": wrong}, "x")


@pytest.mark.parametrize(
    "text",
    ["[]", '{"a":', '{"x":{"array":["O",[1],"AA=="]}}', '{"x":{"array":["<f4",[5],"AA=="]}}', '{"x":{"dtype":"save"}}',
     '{"x":{"float":[]}}', '{"x":{"a":1,"b":2}}', '{"x":{"dict":[[{"dict":[]},1]]}}', '{"x":{"device":"nowhere"}}',
     '{"x":{"bytes":"?"}}', "[" * 100_000, '{"x":{"paths":[["a.b",2]]}}', '{"x":{"paths":[["a.b.c",3,1]]}}',
     '{"x":{"paths":[["a.b",-2]]}}', '{"x":{"paths":[["a.b",9]]}}', '{"x":{"paths":[["a.b",true]]}}',
     '{"x":{"paths":[[]]}}', '{"x":{"paths":[7]}}', '{"x":{"paths":[["a.b",1,1]]}}'],
)  # fmt: skip
def test_values_that_nobody_wrote(text: str) -> None:
    with pytest.raises(slimtensors.FormatError):
        {key: values.decode(each) for key, each in values.loads(text.encode()).items()}


def test_values_nested_deeply() -> None:
    nested: object = None
    for _ in range(5000):
        nested = [nested]
    with pytest.raises(slimtensors.FormatError, match="nested too deeply"):
        values.decode(nested)


def test_no_pickle_is_written_or_asked_for(tmp_path: Path) -> None:
    save(tmp_path / "a", {"x": torch.ones(3), "what": "text"})
    data = b"".join(each.read_bytes() for each in (tmp_path / "a").iterdir())
    assert b"PK\x03\x04" not in data
    assert b"\x80\x02" not in data

    class Pickles(DefaultSavePlanner):
        lookup_object = None

        def resolve_data(self, _item: Any) -> Any:
            stream = io.BytesIO()
            torch.save(1, stream)
            return stream

    with pytest.raises(CheckpointException, match="gives a pickle"):
        dcp.save({"what": "text"}, storage_writer=StorageWriter(tmp_path / "b"), planner=Pickles())
    with pytest.raises(CheckpointException, match=r"state what is a .*Colour.*pickles are not written"):
        save(tmp_path / "b", {"what": Colour.RED})
    assert not (tmp_path / "b" / "manifest.json").exists()


def test_what_cannot_be_saved(tmp_path: Path) -> None:
    for wrong, message in (
        ({"x": torch.zeros(2, 2).to_sparse()}, "to_dense"),
        ({"x" * 600: torch.zeros(2)}, "512"),
        ({"__objects__": torch.zeros(2)}, "only one of that name"),
        ({"x": torch.zeros(2, dtype=torch.complex128)}, "complex128"),
    ):
        with pytest.raises(CheckpointException, match=message):
            save(tmp_path / "a", wrong)
    for options, message in (
        ({"keep": 0}, "keep"),
        ({"full_every": 9}, "full_every"),
        ({"preset": "tiny"}, "preset"),
        ({"timeout": 0}, "timeout"),
    ):
        with pytest.raises(slimtensors.UsageError, match=message):
            StorageWriter(tmp_path, **options)
    for path in ("a b", "ä", ".hidden"):
        with pytest.raises(CheckpointException, match="no name for a checkpoint"):
            save(tmp_path / path, {})
    with pytest.raises(CheckpointException, match="no place to save to"):
        dcp.save({}, storage_writer=StorageWriter())


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


# ---- damage


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
    with pytest.raises(CheckpointException, match="delete the file"):
        save(tmp_path / "c", state(1))


def test_advice(tmp_path: Path) -> None:
    """What DCP cannot find tensors in, and its own checkpoints."""
    tensor = torch.ones(3)
    with pytest.raises(CheckpointException, match=r"is a tensor within what is stored whole, .* make it a list"):
        save(tmp_path / "a", {"a": (tensor, tensor)})
    dcp.save({"a": tensor}, checkpoint_id=tmp_path / "stock")
    with pytest.raises(CheckpointException, match=r"read it with FileSystemReader, or .*convert"):
        load(tmp_path / "stock", {"a": tensor})


# ---- boxes


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


# ---- stores


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

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(remote.StreamOutput, "write", full)
    with pytest.raises(CheckpointException, match="No space left"):
        save(f"{root}/b", state(2))
    monkeypatch.undo()
    assert open_place(f"{root}/b").sizes() == {}
    assert same(load(root, state(1)), state(1))


# ---- planning


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
