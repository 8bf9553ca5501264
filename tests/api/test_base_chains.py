"""Bases that are differences themselves: chains, cycles, files made anew without a base or with another one."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file as load_plain
from safetensors.numpy import save_file as save_plain

import slimtensors
from api.tuned import deltas, equal, model, tuned
from parts import Parts
from slimtensors import BaseDir, BaseError, UsageError
from slimtensors.bases.tensors import BaseTensor
from slimtensors.container.source import RangedSource
from slimtensors.numpy import load, load_file, save, save_file
from slimtensors.sources.inputs import ArrayInput


def test_chains_and_cycles(tmp_path: Path) -> None:
    """A base may be a delta itself, but not of what is made from it, and not for ever."""
    state = model()
    previous: Any = tmp_path / "0.safetensors"
    save_plain(state, previous)
    for i in range(1, 9):
        state = tuned(state, i)
        save_file(state, tmp_path / f"{i}.slimtensors", base=[previous, BaseDir(tmp_path)])
        previous = tmp_path / f"{i}.slimtensors"
    assert equal(load_file(previous, base=BaseDir(tmp_path)), state)
    save_file(state, tmp_path / "8.plain")
    ninth = tuned(state, 9)
    save_file(ninth, tmp_path / "9.slimtensors", base=tmp_path / "8.plain")
    (tmp_path / "8.plain").unlink()
    with pytest.raises(BaseError, match="more than 8 deltas"):
        save(ninth, base=[previous, BaseDir(tmp_path)])
    with pytest.raises(BaseError, match="was not found"):
        save(ninth, base=previous)
    with pytest.raises(BaseError, match="more than 8 deltas"):
        load_file(tmp_path / "9.slimtensors", base=BaseDir(tmp_path))
    circle = tmp_path / "circle"
    circle.mkdir()
    one, two = model(1), tuned(model(1), 2)
    save_file(one, circle / "one.slimtensors", base=two)
    save_file(two, circle / "two.slimtensors", base=one)
    with pytest.raises(BaseError, match="a cycle"):
        load_file(circle / "one.slimtensors", base=BaseDir(circle))
    assert equal(load_file(circle / "one.slimtensors", base=[BaseDir(circle), two]), one)


def test_a_cycle_is_called_one(tmp_path: Path) -> None:
    """Two files that are each made from the other."""
    rng = np.random.default_rng(3)
    one = {"w": rng.standard_normal((300, 300)).astype(np.float32)}
    other = {"w": one["w"] * np.float32(1.0001)}
    paths = [tmp_path / "one.slimtensors", tmp_path / "other.slimtensors"]
    save_file(one, paths[0], base=other)
    save_file(other, paths[1], base=one)
    identities = [slimtensors.dependencies(path, base=[one, other])[0].identity for path in paths]
    with pytest.raises(BaseError, match="a base that is made from it: a cycle") as told:
        load_file(paths[0], base=paths)
    for identity in identities:  # each once, of the search for the other
        assert str(told.value).count(f"another one of that name, with identity {identity}") == 1


def test_flatten_and_rebase(pair: tuple[Path, Path], tmp_path: Path) -> None:
    base, source = pair
    file, flat, moved = (tmp_path / f"{name}.slimtensors" for name in ("tuned", "flat", "moved"))
    slimtensors.compress(source, file, base=base)
    slimtensors.flatten(file, flat, base=base)
    slimtensors.compress(source, tmp_path / "plain.slimtensors")
    assert flat.read_bytes() == (tmp_path / "plain.slimtensors").read_bytes()
    other = tuned(load_plain(base), 3)
    slimtensors.rebase(file, moved, other, old_base=base)
    assert deltas(moved) == 4
    slimtensors.decompress(moved, tmp_path / "again.safetensors", base=other)
    assert (tmp_path / "again.safetensors").read_bytes() == source.read_bytes()
    with pytest.raises(BaseError):
        slimtensors.flatten(file, tmp_path / "no.slimtensors")
    assert not (tmp_path / "no.slimtensors").exists()


@pytest.mark.parametrize("way", ["path", "link", "hard link", "folder", "base of the base"])
def test_no_file_takes_the_place_of_its_own_base(tmp_path: Path, way: str) -> None:
    """Neither could be read afterwards."""
    first, place = model(), tmp_path / "model.slimtensors"
    save_file(first, place)
    base: Any = {"path": place, "folder": tmp_path}.get(way, tmp_path / "elsewhere.slimtensors")
    if way == "link":
        base.symlink_to(place)
    elif way == "hard link":
        os.link(place, base)
    elif way == "base of the base":
        save_file(tuned(first), base, base=place)
        base = [base, BaseDir(tmp_path)]
    before = place.read_bytes()
    with pytest.raises(UsageError, match="would be the base of the new file"):
        save_file(tuned(first, 2), place, base=base)
    source = tmp_path / "source" / "tuned.safetensors"
    source.parent.mkdir()
    save_plain(tuned(first, 2), source)
    with pytest.raises(UsageError, match="would be the base of the new file"):
        slimtensors.compress(source, place, base=base)
    with pytest.raises(UsageError, match="is itself what it would be the difference from"):
        slimtensors.rebase(place, tmp_path / "new.slimtensors", base)
    assert place.read_bytes() == before
    assert not (tmp_path / "new.slimtensors").exists()


def test_no_file_is_the_difference_from_itself(pair: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is itself what it would be the difference from"):
        slimtensors.compress(pair[1], tmp_path / "tuned.slimtensors", base=pair[1])
    assert not (tmp_path / "tuned.slimtensors").exists()


def _damaged(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _lying(path: Path) -> None:
    """Sound but for the identities, which are those of another file."""
    stated = Parts.split(path.read_bytes()).identities
    other = Parts.split(save({name: np.zeros_like(array) for name, array in load_file(path).items()}))
    other.identities = stated
    path.write_bytes(other.join())


@pytest.mark.parametrize("spoil", [_damaged, _lying])
@pytest.mark.parametrize("chain", [False, True], ids=["base", "base's base"])
def test_of_many_copies_of_a_base_a_sound_one_is_used(
    tmp_path: Path, spoil: Callable[[Path], None], chain: bool
) -> None:
    """Also where another one, which comes first, is damaged or is not what it says."""
    folder, other = tmp_path / "bases" / "disk1", tmp_path / "bases" / "disk2"
    folder.mkdir(parents=True)
    state = {"w": np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32)}
    save_file(state, folder / "base.slimtensors")
    made = [tmp_path / "one.slimtensors", tmp_path / "two.slimtensors"]
    base: Any = folder / "base.slimtensors"
    for path in made[: 2 if chain else 1]:
        state = {"w": state["w"] + np.float32(1e-6)}
        save_file(state, path, base=[base, BaseDir(folder)])
        base = path
    if chain:
        made[0].rename(folder / "one.slimtensors")
    shutil.copytree(folder, other)
    spoil(folder / "base.slimtensors")
    fine, found = made[chain], BaseDir(folder.parent)
    assert equal(load_file(fine, base=found), state)
    slimtensors.verify(fine, base=found)
    if chain:
        (folder / "one.slimtensors").rename(made[0])
        fine = made[0]
    [needed] = slimtensors.dependencies(fine, base=found)
    assert needed.found == f"{other / 'base.slimtensors'}, tensor 'w'"
    (other / "base.slimtensors").unlink()
    with pytest.raises(BaseError):
        load_file(fine, base=found)
    [needed] = slimtensors.dependencies(fine, base=found)
    assert needed.found is None
    words = "is damaged" if spoil is _damaged else "has other bytes, with identity"
    assert f"base.slimtensors claims to hold it, but {words}" in needed.problem


class Elsewhere:
    """Read by range, several at once."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def size(self) -> int:
        return len(self.data)

    def read_range(self, offset: int, length: int) -> bytes:
        return self.data[offset : offset + length]


@pytest.mark.parametrize("row", [0, 4000])
def test_a_wrong_base_of_a_base_elsewhere_is_told(row: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that read for the search for another copy search themselves."""
    monkeypatch.setattr(RangedSource, "remote", True)
    rng, shape = np.random.default_rng(0), (8192, 259)  # a table of rows, which are hashed in other parts than chunks
    base = {"w": rng.integers(0, 15000, shape, dtype=np.uint16)}
    one = {"w": base["w"] + (rng.random(shape) < 0.01).astype(np.uint16)}
    two = {"w": one["w"] + (rng.random(shape) < 0.01).astype(np.uint16)}
    below = Elsewhere(save({"w": one["w"].view(np.float16)}, base={"w": base["w"].view(np.float16)}, preset="fast"))
    data = save({"w": two["w"].view(np.float16)}, base={"w": one["w"].view(np.float16)}, preset="fast")
    right, wrong = {"w": base["w"].view(np.float16)}, {"w": base["w"].copy()}
    wrong["w"][row:] += 1
    wrong["w"] = wrong["w"].view(np.float16)
    told: list[BaseException] = []

    def run() -> None:
        try:
            load(data, base=[below, wrong])
        except BaseError as error:
            told.append(error)

    thread = threading.Thread(target=run, daemon=True)  # one that hangs does not keep the tests
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert "the base has digest" in str(told[0])
    assert equal(load(data, base=[below, wrong, right]), {"w": two["w"].view(np.float16)})


@pytest.mark.parametrize("other", [b"\x10\0\0", "not there.safetensors", 5])
def test_what_is_wrong_with_a_base_is_told_whatever_else_was_given(other: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    base = {"w": rng.standard_normal(300_000).astype(np.float32)}
    data = save({"w": base["w"] + (rng.random(300_000) < 0.01).astype(np.float32)}, base=base)
    given = [{"w": base["w"] + 1}, other]
    with pytest.raises(BaseError, match="the base has digest"):
        load(data, base=given)
    with pytest.raises(BaseError, match="the base has digest"):
        slimtensors.verify(data, base=given)
    with pytest.raises(BaseError, match="the base has digest"):
        slimtensors.salvage(data, tmp_path / "saved.safetensors", base=given)


def test_an_identity_without_a_key_is_of_that_tensor_alone() -> None:
    one, other = (BaseTensor(ArrayInput("w", np.full(9, i)), "here", {}) for i in range(2))
    assert one.identity() != other.identity()
