"""Checkpoints: the reference reader and the library over every vector, and over manifests changed at random."""

from __future__ import annotations

import json
import random
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

import decode
from format.folders import Held, by_library, by_reference, by_torch, values_by_library, values_by_reference
from format.sides import Refusal
from slimtensors.checkpoint.manifest import seal
from slimtensors.checkpoint.plain import dumps

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")

VECTORS = Path(__file__).resolve().parents[2] / "format_spec" / "vectors"
VALID = sorted(path.with_suffix("") for path in VECTORS.glob("valid/checkpoints/*.json"))
INVALID = sorted(path for path in VECTORS.glob("invalid/checkpoints/*") if path.is_dir())

NOT_IN_TORCH = {"dtypes", "stream"}  # dtypes that it lacks; bytes that its own planner does not understand
NOT_OPENED = {"file_missing_unnamed", "file_other_unnamed"}  # files of which `dcp.load` wants nothing
MUTATED = ["two_ranks", "blocks", "empty_parts", "names", "planner", "values", "chain_of_three/s2"]
MUTATIONS = 100  # of each
MUTATED_VALUES = 1500


def test_vectors_are_there() -> None:
    assert len(VALID) >= 15
    assert len(INVALID) >= 300
    assert {path.name for path in VALID} == {path.name for path in VECTORS.glob("valid/checkpoints/*") if path.is_dir()}


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.name)
def test_valid(path: Path) -> None:
    held = by_library(path)
    assert held == by_reference(path)
    assert isinstance(held, Held)
    expected = json.loads(path.with_suffix(".json").read_text())
    assert (held.objects, held.planner) == (expected["objects"], expected["planner"])
    found = {
        name: {"blake3": decode.digest(data).hex(), "dtype": dtype, "shape": list(shape)}
        for name, (dtype, shape, data) in held.tensors.items()
    }
    for name, told in expected["tensors"].items():
        assert told.pop("bytes", held.tensors[name][2].hex()) == held.tensors[name][2].hex()
    assert found == expected["tensors"]
    if path.name not in NOT_IN_TORCH:
        assert by_torch(path) == held


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.name)
def test_invalid(path: Path) -> None:
    for read in (by_reference, by_library, *([] if path.name in NOT_OPENED else [by_torch])):
        refusal = read(path)
        assert isinstance(refusal, Refusal), read.__name__
        assert refusal.newer == path.name.startswith("newer_"), refusal.reason


def latest_of(size: int) -> bytes:
    """A `latest.json` of so many bytes: one checkpoint with many bases, whose names take 200 bytes each."""

    def named(names: list[str]) -> bytes:
        known = {"bases": names, "name": "s1", "number": 1, "run": "0" * 32}
        return seal({"format": 0, "known": [known], "latest": "s1"})

    count, rest = divmod(size - len(named(["b"])), 200)
    return named(["b" * 197] * count + ["b" * (1 + rest)])


def test_length_of_latest(tmp_path: Path) -> None:
    shutil.copytree(VECTORS / "valid" / "checkpoints" / "least", tmp_path / "s1")
    for size, taken in ((1 << 24, True), ((1 << 24) + 1, False)):
        (tmp_path / "latest.json").write_bytes(latest_of(size))
        assert (tmp_path / "latest.json").stat().st_size == size
        for read in (by_reference, by_library):
            assert isinstance(read(tmp_path), Held) == taken


def test_length_of_a_manifest(tmp_path: Path) -> None:
    shutil.copytree(VECTORS / "valid" / "checkpoints" / "least", tmp_path / "s1")
    path = tmp_path / "s1" / "manifest.json"
    value = json.loads(path.read_bytes())["value"]
    room = (1 << 28) - len(seal({**value, "planner": ""}))
    whole = seal({**value, "planner": ""})
    tokens = (1 << 26) - sum(map(whole.count, b",:[{"))
    planners = [("x" * room, True), ("x" * (room + 1), False), (":" * tokens, True), (":" * (tokens + 1), False)]
    for planner, taken in planners:
        path.write_bytes(seal({**value, "planner": planner}))
        for read in (by_reference, by_library):
            assert isinstance(read(path.parent), Held) == taken


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every place in a value: what holds it, and its key there."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    return [found for key in keys for found in ((value, key), *places(value[key]))]


def mutate(value: Any, dice: random.Random) -> None:
    """One change somewhere; as a rule a small one, so that many are legal."""
    holder, key = dice.choice(places(value))
    held = holder[key]
    kind = dice.randrange(6)
    if kind == 0 and type(held) is int:
        holder[key] = dice.choice([held + 1, held - 1, 2 * held, 0, 1, 1 << dice.randrange(70)])
    elif kind == 1:
        holder[key] = dice.choice([None, True, False, 0, 1, -1, "", "a", "0" * 32, [], [0], {}, {"float": "1"}])
    elif kind == 2:
        del holder[key]
    elif kind == 3:
        other, its = dice.choice(places(value))
        holder[key], other[its] = deepcopy(other[its]), deepcopy(held)
    elif kind == 4 and isinstance(held, str) and held:
        at = dice.randrange(len(held))
        holder[key] = held[:at] + dice.choice(["", "0", "A", "@", ".", "\u00e9", "\n"]) + held[at + 1 :]
    elif isinstance(holder, list):
        dice.choice([lambda: holder.insert(key, deepcopy(held)), holder.reverse, lambda: dice.shuffle(holder)])()
    else:
        holder[dice.choice(["", "a", "w@0", key + "0"])] = deepcopy(held)


@pytest.mark.parametrize("name", MUTATED)
def test_mutations(tmp_path: Path, name: str) -> None:
    root = tmp_path / "root"
    shutil.copytree(VECTORS / "valid" / "checkpoints" / name.partition("/")[0], root)
    folder = root / name.partition("/")[2]
    sound = json.loads((folder / "manifest.json").read_bytes())["value"]
    dice = random.Random(name)
    for number in range(MUTATIONS):
        value = deepcopy(sound)
        for _ in range(dice.choice([1, 1, 2])):
            mutate(value, dice)
        (folder / "manifest.json").write_bytes(seal(value))
        ours, theirs = by_library(folder), by_reference(folder)
        if isinstance(ours, Refusal) and isinstance(theirs, Refusal):
            assert ours.newer == theirs.newer, (number, value)
        else:
            assert ours == theirs, (number, value)


def test_mutated_values() -> None:
    """What `__objects__` holds: changed as values, and now and then as bytes."""
    (path,) = (VECTORS / "valid" / "checkpoints" / "values").glob("rank-*")
    text = decode.decode_file(path.read_bytes()).tensors["__objects__"][2]
    sound = {**json.loads(text.decode(errors="surrogatepass")), "stream": {"stream": "AAEC"}}
    dice = random.Random(1)
    taken = 0
    for number in range(MUTATED_VALUES):
        name = dice.choice(list(sound))
        value = {name: deepcopy(sound[name])}
        for _ in range(dice.choice([1, 1, 2])):
            if value:
                mutate(value, dice)
        data = dumps(value)
        if number % 8 == 0:
            at = dice.randrange(len(data))
            data = data[:at] + bytes([dice.choice([0x20, 0x22, 0x5C, 0x30, 0x2D, 0x80, 0xED])]) + data[at + 1 :]
        ours, theirs = values_by_library(data), values_by_reference(data)
        if isinstance(ours, Refusal) and "is not known here" in ours.reason:
            continue  # a reader may refuse the name of a dtype or device
        if isinstance(ours, Refusal):
            assert isinstance(theirs, Refusal), (number, data, ours.reason)
        else:
            assert ours == theirs, (number, data)
            taken += 1
    assert taken > MUTATED_VALUES // 10
