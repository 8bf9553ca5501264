"""Checkpoints to model files and back, ours and stock; stock metadata that try something."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file
from torch.distributed.checkpoint import metadata
from torch.distributed.checkpoint.api import CheckpointException

import slimtensors
from distributed.states import blank, load, same, save
from slimtensors.errors import UsageError
from slimtensors.torch import load_model, stream_tensors
from slimtensors.torch.distributed import StorageReader, StorageWriter, convert_checkpoint
from slimtensors.torch.distributed.stock_metadata import read_metadata

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


def state() -> dict[str, Any]:
    torch.manual_seed(1)
    return {
        "w": torch.randn(700, 300).to(torch.bfloat16),
        "m": {"a": torch.randn(300, 100), "b": [torch.randn(7), torch.arange(5)]},
        "complex": torch.randn(30, 2, dtype=torch.complex64),
        "scalar": torch.tensor(1.5),
        "empty": torch.zeros(0, 3),
        "no columns": torch.zeros(3, 0),
        "no blocks": torch.zeros(2, 0, 3, dtype=torch.int8),
        "step": 7,
        "betas": (0.9, 0.95),
    }


def load_stock(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = blank(state())
    dcp.load(found, storage_reader=dcp.FileSystemReader(path))
    return found


def test_there_and_back(tmp_path: Path) -> None:
    """Stock, ours, both kinds of model files, in one shard and in many, and back: the same state each time."""
    dcp.save(state(), storage_writer=dcp.FileSystemWriter(tmp_path / "stock"))
    told: list[int] = []
    convert_checkpoint(
        tmp_path / "stock", tmp_path / "ours", "checkpoint", max_shard_bytes=200_000, progress=told.append
    )
    assert sum(told) >= state()["w"].nbytes
    assert same(load(tmp_path / "ours", state()), state())
    assert len(list((tmp_path / "ours").glob("rank-*"))) > 1
    convert_checkpoint(tmp_path / "ours", tmp_path / "stock-again", "dcp")
    assert same(load_stock(tmp_path / "stock-again"), state())
    before = tmp_path / "ours"
    for kind in ("safetensors", "slimtensors"):
        for most in (200_000, 1 << 30):
            after = tmp_path / f"{kind}-{most}"
            convert_checkpoint(before, after, kind, max_shard_bytes=most)
            assert (after / f"model.{kind}.index.json").exists() == (most == 200_000)
            before = after
    tensors = load_file(tmp_path / f"safetensors-{1 << 30}" / "model.safetensors")
    assert torch.equal(tensors["m.a"], state()["m"]["a"])
    convert_checkpoint(before, tmp_path / "again", "dcp")
    assert same(load_stock(tmp_path / "again"), state())
    convert_checkpoint(before, tmp_path / "ours-again", "checkpoint")
    assert same(load(tmp_path / "ours-again", state()), state())


def test_what_is_in_the_way(tmp_path: Path) -> None:
    save(tmp_path / "a", state())
    with pytest.raises(slimtensors.UsageError, match="is there already"):
        convert_checkpoint(tmp_path / "a", tmp_path / "a", "dcp")
    with pytest.raises(slimtensors.UsageError, match="kind is"):
        convert_checkpoint(tmp_path / "a", tmp_path / "b", "pickle")  # type: ignore[arg-type] # that is what is tried
    (tmp_path / "empty").mkdir()
    with pytest.raises(slimtensors.NotSlimtensorsError, match="holds no"):
        convert_checkpoint(tmp_path / "empty", tmp_path / "b", "dcp")
    (file,) = (tmp_path / "a").glob("rank-*")
    data = bytearray(file.read_bytes())
    data[-300] ^= 1
    file.write_bytes(data)
    for kind in ("checkpoint", "dcp", "safetensors", "slimtensors"):
        with pytest.raises(slimtensors.ChecksumError):
            convert_checkpoint(tmp_path / "a", tmp_path / "b", kind)  # type: ignore[arg-type] # one of a list
        assert sorted(each.name for each in tmp_path.iterdir()) == ["a", "empty", "latest.json"]


def test_nothing_but_the_new_folder(tmp_path: Path) -> None:
    """A job goes on from its latest state, and not from an old one that was converted beside it."""
    old, new = state(), {**state(), "step": 9}
    save(tmp_path / "step-7", old)
    save(tmp_path / "step-9", new)
    before = (tmp_path / "latest.json").read_bytes()
    convert_checkpoint(tmp_path / "step-7", tmp_path / "as-dcp", "dcp")
    convert_checkpoint(tmp_path / "as-dcp", tmp_path / "converted", "checkpoint")
    assert (tmp_path / "latest.json").read_bytes() == before
    assert same(load(tmp_path, state()), new)
    assert same(load(tmp_path / "converted", state()), old)
    convert_checkpoint(tmp_path / "as-dcp", tmp_path / "elsewhere" / "x", "checkpoint")
    assert [each.name for each in (tmp_path / "elsewhere").iterdir()] == ["x"]
    (tmp_path / "latest.json").write_bytes(b"damaged")  # is nothing to it
    convert_checkpoint(tmp_path / "as-dcp", tmp_path / "another", "checkpoint")
    assert same(load(tmp_path / "another", state()), old)
    with pytest.raises(slimtensors.UsageError, match="is no name for a checkpoint"):
        convert_checkpoint(tmp_path / "as-dcp", tmp_path / "a name", "checkpoint")


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the system does not tell what is open")
def test_no_file_is_left_open_by_an_error(tmp_path: Path) -> None:
    save(tmp_path / "a", {f"{i}": torch.randn(100, 100) for i in range(8)})
    convert_checkpoint(tmp_path / "a", tmp_path / "b", "checkpoint", max_shard_bytes=1)
    first, *others = sorted((tmp_path / "b").glob("rank-*"))
    assert len(others) == 7
    first.write_bytes(b"")
    with pytest.raises(CheckpointException) as told:
        load(tmp_path / "b", {f"{i}": torch.zeros(100, 100) for i in range(8)})
    left = [str(each.readlink()) for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
    assert not [each for each in left if str(tmp_path) in each], told


def test_no_folder_is_left_by_an_error(tmp_path: Path) -> None:
    save(tmp_path / "a", state())
    (file,) = (tmp_path / "a").glob("rank-*")
    data = bytearray(file.read_bytes())
    data[-300] ^= 1
    file.write_bytes(data)
    (tmp_path / "there").mkdir()
    for kind in ("checkpoint", "dcp", "safetensors"):
        for target in ("made/on/the way", "there/or/not"):
            with pytest.raises((slimtensors.ChecksumError, slimtensors.UsageError)):
                convert_checkpoint(tmp_path / "a", tmp_path / target, kind)  # type: ignore[arg-type] # one of a list
            assert sorted(each.name for each in tmp_path.iterdir()) == ["a", "latest.json", "there"]
            assert not [*(tmp_path / "there").iterdir()]


def test_stock_parts_that_leave_something_out(tmp_path: Path) -> None:
    """As many elements as the tensor has, some of them twice: the others would be what memory held before."""
    dcp.save({"x": torch.arange(12.0).reshape(4, 3)}, storage_writer=dcp.FileSystemWriter(tmp_path / "a"))
    path = tmp_path / "a" / ".metadata"
    found = pickle.loads(path.read_bytes())  # noqa: S301 # torch has just written it
    half = metadata.ChunkStorageMetadata(torch.Size([1, 0]), torch.Size([2, 3]))
    found.state_dict_metadata["x"].chunks = [half, half]
    ((_, place),) = found.storage_data.items()
    found.storage_data = {metadata.MetadataIndex("x", half.offsets): place}
    path.write_bytes(pickle.dumps(found))
    with pytest.raises(slimtensors.FormatError, match="do not cover it, or overlap"):
        convert_checkpoint(tmp_path / "a", tmp_path / "b", "safetensors")


class Odd:
    """Not a plain value."""


def test_stock_objects_that_are_not_plain(tmp_path: Path) -> None:
    dcp.save({"x": torch.ones(2), "odd": Odd()}, storage_writer=dcp.FileSystemWriter(tmp_path / "a"))
    with pytest.raises(slimtensors.UsageError, match="'odd' holds more than plain values"):
        convert_checkpoint(tmp_path / "a", tmp_path / "b", "slimtensors")


class Hostile:
    """Its pickle calls something."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call = call, arguments

    def __reduce__(self) -> Any:
        return self.call


def test_metadata_that_try_to_run_something(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    for number, call in enumerate(
        [
            (os.system, f"touch {marker}"),
            (eval, "1"),
            (torch.load, "x"),
            (getattr, marker, "touch"),
            (open, str(marker), "w"),
        ]
    ):
        path = tmp_path / f"{number}"
        path.write_bytes(pickle.dumps(Hostile(*call)))
        with pytest.raises(slimtensors.FormatError, match=r"no part of DCP's metadata|what is no memory format"):
            read_metadata(path)
    for data in (
        b"",
        b"\x80",
        pickle.dumps([1]),
        b"cos\nsystem\n(S'true'\ntR.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
    ):
        path.write_bytes(data)
        with pytest.raises(slimtensors.FormatError):
            read_metadata(path)
    assert not marker.exists()


def test_stock_files_elsewhere_are_not_opened(tmp_path: Path) -> None:
    dcp.save({"x": torch.ones(2)}, storage_writer=dcp.FileSystemWriter(tmp_path / "a"))
    path = tmp_path / "a" / ".metadata"
    found = pickle.loads(path.read_bytes())  # noqa: S301 # torch has just written it
    for info in found.storage_data.values():
        info.relative_path = "../secret"
    path.write_bytes(pickle.dumps(found))
    with pytest.raises(slimtensors.FormatError, match="no plain file name"):
        convert_checkpoint(tmp_path / "a", tmp_path / "b", "dcp")


def test_what_eight_ranks_wrote(tmp_path: Path) -> None:
    """Parts of both dimensions, put together."""
    from slimtensors.checkpoint.ledger import read_manifest
    from slimtensors.checkpoint.places import LocalPlace
    from slimtensors.torch.distributed.assembled import OpenCheckpoint

    full = torch.randn(50, 60)
    save(tmp_path / "a", {f"x@{r},{c}": full[r : r + 25, c : c + 20].clone() for r in (0, 25) for c in (0, 20, 40)})
    manifest = read_manifest(LocalPlace(tmp_path / "a"))
    assert manifest is not None
    entry = type(next(iter(manifest.tensors.values())))
    parts = [[0, r, c, 25, 20] for r in (0, 25) for c in (0, 20, 40)]
    manifest.tensors = {"x": entry("F32", (50, 60), parts)}
    manifest.planner = None
    (tmp_path / "a" / "manifest.json").write_bytes(manifest.to_bytes())
    found = {"x": torch.zeros(50, 60)}
    dcp.load(found, storage_reader=StorageReader(tmp_path / "a"))
    assert torch.equal(found["x"], full)
    (tensor,) = OpenCheckpoint(LocalPlace(tmp_path / "a")).inputs()
    flat = full.reshape(-1).view(torch.int32).numpy()
    for start, count in ((0, 3000), (7, 1), (59, 2), (1433, 400), (2999, 1)):
        assert (tensor.read(start, count) == flat[start : start + count].view("<u4")).all()
    convert_checkpoint(tmp_path / "a", tmp_path / "b", "safetensors")
    assert torch.equal(load_file(tmp_path / "b" / "model.safetensors")["x"], full)


def test_the_command(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from slimtensors.cli.convert import command

    save(tmp_path / "a", state())
    done = CliRunner().invoke(command, [str(tmp_path / "a"), str(tmp_path / "b"), "--as", "safetensors"])
    assert done.exception is None, done.output
    assert torch.equal(load_file(tmp_path / "b" / "model.safetensors")["w"], state()["w"])
    done = CliRunner().invoke(command, [str(tmp_path / "a"), "--as", "safetensors"])
    assert "name the folder to make" in str(done.exception)


def test_a_folder_with_checkpoints_of_both_kinds(tmp_path: Path) -> None:
    """Else either reader takes its own, however old that is."""
    place, other = tmp_path / "a", tmp_path / "b"
    old, new = {"w": torch.ones(3)}, {"w": torch.full((3,), 2.0)}
    dcp.save(old, checkpoint_id=place)
    with pytest.raises((UsageError, CheckpointException), match=r"holds a checkpoint that torch wrote.*remove one"):
        dcp.save(new, storage_writer=StorageWriter(place))
    dcp.save(old, storage_writer=StorageWriter(other))
    dcp.save(new, checkpoint_id=other)
    for use in (
        lambda: dcp.load(dict(new), storage_reader=StorageReader(other)),
        lambda: dcp.load(dict(new), storage_reader=StorageReader(tmp_path)),
        lambda: convert_checkpoint(other, tmp_path / "c", "safetensors"),
    ):
        with pytest.raises((UsageError, CheckpointException), match=r"holds manifest\.json and torch's own \.metadata"):
            use()
    assert not (tmp_path / "c").exists()


def test_what_an_unfinished_save_left_is_no_model(tmp_path: Path) -> None:
    """What one rank saved, whole, is."""
    place = tmp_path / "a"
    dcp.save({"weight": torch.ones(2, 2), "bias": torch.ones(2)}, storage_writer=StorageWriter(place))
    model = torch.nn.Linear(2, 2)
    load_model(model, place)
    assert torch.equal(model.weight, torch.ones(2, 2))

    def refused() -> None:
        for use in (lambda: dict(stream_tensors(place)), lambda: load_model(model, place)):
            with pytest.raises(UsageError, match="ranks of a job saved"):
                use()

    (file,) = place.glob("rank-*")
    shutil.copy(file, file.with_name(file.name.replace("rank-00000", "rank-00001")))
    refused()
    file.unlink()
    (place / "manifest.json").unlink()
    refused()
    with pytest.raises(slimtensors.FormatError, match="the save did not finish"):
        convert_checkpoint(place, tmp_path / "b", "safetensors")
    assert not (tmp_path / "b").exists()
