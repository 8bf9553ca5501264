"""Folders and their indexes of shards: there and back, and what is refused."""

from __future__ import annotations

import errno
import json
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from safetensors.numpy import load_file, save_file

import slimtensors
from cli.conftest import SHARDS
from cli.processes import contents
from slimtensors.expression import Trellis
from slimtensors.files import folders
from slimtensors.files.folders import COMPRESS, DECOMPRESS, renamed_index
from slimtensors.reading.tensors import open_file
from slimtensors.sources import shards
from slimtensors.sources.shards import is_index

Invoke = Callable[..., Result]


def test_importance_of_some_shards(invoke: Invoke, sharded: Path) -> None:
    slim, known = sharded.with_name("sharded-slim"), sharded.with_name("known.safetensors")
    save_file({"layer1.weight": np.linspace(0, 1, 512, dtype=np.float32)}, known)
    result = invoke("compress", sharded, "--target-bpw", 4, "--importance", known)
    assert result.exit_code == 0, result.output
    plain = slim.with_name("plain")
    assert invoke("compress", sharded, "--target-bpw", 4, "-o", plain).exit_code == 0
    names = [f"model-0000{n}-of-00002.slimtensors" for n in (1, 2)]
    assert [(slim / name).read_bytes() == (plain / name).read_bytes() for name in names] == [True, False]
    save_file({"x": np.ones(512, np.float32)}, known)
    result = invoke("compress", sharded, "--target-bpw", 4, "--importance", known, "-o", slim.with_name("other"))
    assert result.exit_code == 2
    assert "there is importance of no tensor that is quantised" in result.output


@pytest.mark.parametrize("how", [("--quantise", "q4_0"), ("--target-bpw", "4"), ("--target-error", "0.01")])
def test_shards_are_quantised_as_one_model(invoke: Invoke, sharded: Path, how: tuple[str, str]) -> None:
    """What is kept may lie in one shard, and a shard may have nothing to quantise."""
    slim = sharded.with_name("sharded-slim")
    result = invoke("compress", sharded, *how, "--keep", "layer0.*", "--keep", "layer1.weight")
    assert result.exit_code == 0, result.output
    assert "00001-of-00002.safetensors: nothing in it can be quantised" in result.output
    found = [slimtensors.inspect(slim / f"model-0000{n}-of-00002.slimtensors") for n in (1, 2)]
    lossy = [{each.name for each in report.tensors if each.lossy is not None} for report in found]
    assert lossy == [set(), {"layer1.tied", "layer1.half", "layer1.was_half"}]
    assert slimtensors.verify(slim / "model-00001-of-00002.slimtensors").source_sha256 is not None
    for wrong, words in (("*", "no tensor can be quantised"), ("layer5.*", "--keep layer5.*: there is no such tensor")):
        result = invoke("compress", sharded, *how, "--keep", wrong, "-o", slim.with_name("other"))
        assert result.exit_code == 2
        assert words in result.output
        assert not slim.with_name("other").exists()


def steps(folder: Path) -> list[set[int]]:
    """Of each shard, those of the grids that tensors have."""
    found = []
    for path in sorted(folder.glob("model-*.slimtensors")):
        with open_file(path) as file:
            expressions = [stream.expression for stream in file.header.streams]
            found.append({each.step for each in expressions if isinstance(each, Trellis)})
    return found


def weight_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.slimtensors"))


def test_a_size_for_a_whole_folder(invoke: Invoke, sharded: Path) -> None:
    """One step for all shards, which have that size together, though one may have nothing to quantise."""
    slim, rng = sharded.with_name("sharded-slim"), np.random.default_rng(8)
    for k, name in enumerate(SHARDS):
        matrix = (rng.standard_normal((96 << k, 512)) / (1 + k)).astype(np.float32)
        save_file({f"layer{k}.weight": matrix, f"layer{k}.norm": matrix[0]}, sharded / name)
    result = invoke("compress", sharded, "--target-size", "130kB", "--progress")
    assert result.exit_code == 0, result.output
    assert 129_000 < weight_bytes(slim) <= 130_000
    first, second = steps(slim)
    assert len(first) == len(second) == 1
    assert first == second
    assert f"{slim}: {weight_bytes(slim)} bytes, " in result.output
    assert "% less than asked for" in result.output
    assert "choosing a step for all" in result.stderr
    assert "choosing steps" not in result.stderr
    for name in SHARDS:
        against = invoke("verify", slim / name.replace("safetensors", "slimtensors"), "--against", sharded / name)
        assert against.exit_code == 0, against.output
    kept = invoke("compress", sharded, "--target-size", "300kB", "--keep", "layer0.*", "-o", slim.with_name("kept"))
    assert kept.exit_code == 0, kept.output
    assert 298_000 < weight_bytes(slim.with_name("kept")) <= 300_000
    assert steps(slim.with_name("kept"))[0] == set()


def test_a_size_that_a_folder_cannot_have(invoke: Invoke, sharded: Path) -> None:
    slim = sharded.with_name("sharded-slim")
    result = invoke("compress", sharded, "--target-size", "1kB")
    assert result.exit_code == 2
    assert "a file of 1000 bytes cannot be had" in result.output
    (sharded / "copy.safetensors").write_bytes((sharded / SHARDS[0]).read_bytes())
    result = invoke("compress", sharded, "--target-size", "200kB")
    assert result.exit_code == 2
    assert f"{sharded / 'copy.safetensors'} and {sharded / SHARDS[0]} both have a tensor 'layer0." in result.output
    result = invoke("compress", sharded / SHARDS[0], sharded / SHARDS[1], "--target-size", "200kB")
    assert result.exit_code == 2
    assert "--target-size is for one file or folder" in result.output
    assert not slim.exists()
    assert invoke("compress", sharded, "--target-size", "200kB", "--dry-run").exit_code == 0


@pytest.mark.parametrize("named", ["", "model.slimtensors.index.json"])
def test_folders_are_shown(named: str, invoke: Invoke, sharded: Path) -> None:
    """Of a folder, or the index of its shards: what is in which file, and which bases are needed."""
    base, slim = sharded.with_name("base.safetensors"), sharded.with_name("sharded-slim")
    save_file(load_file(sharded / SHARDS[0]) | load_file(sharded / SHARDS[1]), base)
    assert invoke("compress", sharded, "--base", base).exit_code == 0
    names = ["1_Pooling/extra.slimtensors", *(name.replace("safetensors", "slimtensors") for name in SHARDS)]
    shown = invoke("inspect", slim / named)
    assert shown.exit_code == 0, shown.output
    tables = dict(part.split(":\n", 1) for part in shown.output.split("\n\n")[:3])
    assert list(tables) == names
    for layer, name in zip((7, 0, 1), names, strict=True):
        assert f"layer{layer}.weight" in [line.split()[0] for line in tables[name].splitlines()]
    assert f"{slim / named}: 3 files, 24 tensors" in shown.output
    assert shown.output.count("format version") == 0 < invoke("inspect", slim / named, "-v").output.count("format")
    report = json.loads(invoke("inspect", slim / named, "--json", "--why").output)
    alone = [json.loads(invoke("inspect", slim / name, "--json", "--why").output) for name in names]
    assert report["files"] == alone
    assert report["file_bytes"] == sum((slim / name).stat().st_size for name in names)
    assert "layer{0-1,7}.positions (3)" in invoke("inspect", slim / named, "--why").output
    several = json.loads(invoke("inspect", slim / named, slim / names[0], "--json", "--why").output)
    assert several == [report, alone[0]]
    both = invoke("inspect", slim / names[0], slim / named).output
    assert both == invoke("inspect", slim / names[0]).output + shown.output

    needed = invoke("deps", slim / named)
    assert needed.exit_code == 1
    assert {line.split()[0] for line in needed.output.splitlines() if "layer" in line} == set(names[1:])
    assert invoke("deps", slim / named, "--base", base).exit_code == 0
    found = json.loads(invoke("deps", slim / named, "--json").output)
    assert found["missing"] == sum(len(each["bases"]) for each in found["files"]) > 0
    assert [each["file"] for each in found["files"]] == [str(slim / name) for name in names]


def test_folders_against_their_sources(invoke: Invoke, sharded: Path) -> None:
    slim, name = sharded.with_name("sharded-slim"), SHARDS[0].replace("safetensors", "slimtensors")
    assert invoke("compress", sharded, "--quantise", "q8_0").exit_code == 0
    for source in (sharded, sharded / "model.safetensors.index.json"):
        result = invoke("verify", slim, "--against", source)
        assert result.exit_code == 0, result.output
        assert f"against {sharded / SHARDS[0]}: 4 tensors are equal, 4 are quantised" in result.output
        assert result.output.count("  against ") == 3
    for source in (sharded, sharded / SHARDS[0]):
        assert invoke("verify", slim / name, "--against", source).exit_code == 0
    whole = invoke("verify", slim, "--against", sharded / SHARDS[0])
    assert whole.exit_code == 2
    assert f"{slim} has 3 files: name the folder that they were made from" in whole.output
    # Other weights of the same names; one shard more; one less.
    save_file({"layer0.weight": np.ones((96, 512), np.float32)}, sharded / SHARDS[0])
    changed = invoke("verify", slim, "--against", sharded)
    assert changed.exit_code == 2
    assert "was made from one with" in changed.output
    (slim / name).unlink()
    (slim / "model.slimtensors.index.json").unlink()
    lacking = invoke("verify", slim, "--against", sharded)
    assert lacking.exit_code == 1
    assert f"{slim} lacks {name}, of {sharded / SHARDS[0]}" in lacking.output
    (sharded / SHARDS[1]).unlink()
    assert f"{sharded} holds no file of which" in invoke("verify", slim, "--against", sharded).output


def test_round_trip(invoke: Invoke, sharded: Path) -> None:
    before = contents(sharded)
    assert invoke("compress", sharded).exit_code == 0
    slim = sharded.with_name("sharded-slim")
    assert contents(sharded) == before
    assert {str(path.relative_to(slim)) for path in slim.rglob("*")} == {
        name.replace(".safetensors", ".slimtensors") for name in before
    }
    index = json.loads((slim / "model.slimtensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {
        "model-00001-of-00002.slimtensors",
        "model-00002-of-00002.slimtensors",
    }
    result = invoke("verify", slim)
    assert result.exit_code == 0
    assert result.output.count("sound") == 3
    assert invoke("decompress", slim).exit_code == 0
    assert contents(sharded.with_name("sharded-slim-restored")) == before
    assert sorted(each.name for each in sharded.parent.iterdir()) == [
        "sharded",
        "sharded-slim",
        "sharded-slim-restored",
    ]


def test_an_index_stands_for_its_folder(invoke: Invoke, sharded: Path, tmp_path: Path) -> None:
    assert invoke("compress", sharded / "model.safetensors.index.json", "-o", tmp_path / "out").exit_code == 0
    assert (
        invoke("decompress", tmp_path / "out" / "model.slimtensors.index.json", "-o", tmp_path / "back").exit_code == 0
    )
    assert contents(tmp_path / "back") == contents(sharded)


def test_cache_of_the_hub(invoke: Invoke, sharded: Path, tmp_path: Path) -> None:
    """A snapshot folder is made of links into a folder of blobs."""
    snapshot, blobs = tmp_path / "snapshots" / "abc", tmp_path / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for i, path in enumerate(path for path in sorted(sharded.iterdir()) if path.is_file()):
        path.rename(blobs / str(i))
        (snapshot / path.name).symlink_to(f"../../blobs/{i}")
    assert invoke("compress", snapshot, "-o", tmp_path / "slim").exit_code == 0
    assert invoke("decompress", tmp_path / "slim", "-o", tmp_path / "back").exit_code == 0
    assert contents(tmp_path / "back") == contents(snapshot)
    assert not any(path.is_symlink() for path in (tmp_path / "back").iterdir())


@pytest.mark.skipif(os.name != "posix", reason="links")
@pytest.mark.parametrize("verb", ["compress", "decompress"])
def test_links_out_of_a_folder_are_followed_to_weights_only(
    invoke: Invoke, sharded: Path, tmp_path: Path, verb: str
) -> None:
    """What is copied may be handed on: a folder of others could have any file of its reader handed on with it."""
    folder, other, secret = sharded, tmp_path / "other", tmp_path / "secret.txt"
    if verb == "decompress":
        assert invoke("compress", sharded, "-o", tmp_path / "slim").exit_code == 0
        folder = tmp_path / "slim"
    other.mkdir()
    weights = next(path for path in sorted(folder.iterdir()) if path.suffix == f".{folder_kind(verb)}")
    weights.rename(other / weights.name)
    weights.symlink_to(other / weights.name)
    (folder / "inner.txt").symlink_to("notes.txt")
    (folder / "notes.txt").write_text("inside")
    assert invoke(verb, folder, "-o", tmp_path / "made").exit_code == 0
    assert (tmp_path / "made" / "inner.txt").read_text() == "inside"
    secret.write_text("secret")
    (folder / "leads.txt").symlink_to("../secret.txt")
    for more in ([], ["--dry-run"]):
        result = invoke(verb, folder, "-o", tmp_path / "again", *more, "--progress")
        assert result.exit_code == 2
        assert f"{folder / 'leads.txt'} leads to {secret}, out of the folder, and is not copied" in result.output
        assert result.output.count("\n") == 1  # before there is anything to show
    assert not (tmp_path / "again").exists()


def folder_kind(verb: str) -> str:
    return "safetensors" if verb == "compress" else "slimtensors"


def test_dry_run(invoke: Invoke, sharded: Path) -> None:
    result = invoke("compress", sharded, "--dry-run")
    assert result.exit_code == 0
    assert "would copy 3 other files" in result.output
    assert list(sharded.parent.iterdir()) == [sharded]


def test_what_is_there_stays(invoke: Invoke, sharded: Path) -> None:
    slim = sharded.with_name("sharded-slim")
    slim.mkdir()
    (slim / "mine.txt").write_text("mine")
    (slim / "config.json").write_text("old")
    result = invoke("compress", sharded)
    assert result.exit_code == 2
    assert "--force" in result.output
    assert invoke("compress", sharded, "--force").exit_code == 0
    assert (slim / "mine.txt").read_text() == "mine"
    assert (slim / "config.json").read_text() != "old"
    assert invoke("verify", slim).exit_code == 0


def test_an_empty_folder_is_filled(invoke: Invoke, sharded: Path) -> None:
    sharded.with_name("sharded-slim").mkdir()
    assert invoke("compress", sharded).exit_code == 0


def test_failure_leaves_nothing(invoke: Invoke, sharded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = slimtensors.compress

    def fail_on_the_last(source: Path, *args: object, **kwargs: object) -> None:
        if "00002" in source.name:
            raise OSError(28, "No space left on device")
        real(source, *args, **kwargs)

    monkeypatch.setattr("slimtensors.files.converting.compress", fail_on_the_last)
    assert invoke("compress", sharded).exit_code == 3
    assert list(sharded.parent.iterdir()) == [sharded]


def test_folders_within_each_other(invoke: Invoke, sharded: Path) -> None:
    for out in (sharded, sharded / "out", sharded.parent):
        result = invoke("compress", sharded, "-o", out, "--force")
        assert result.exit_code == 2
        assert "contain each other" in result.output


def test_without_weights(invoke: Invoke, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for verb in ("compress", "decompress", "estimate", "verify"):
        assert invoke(verb, folder).exit_code == 1
    (folder / "pytorch_model.bin").write_bytes(b"PK\x03\x04")
    result = invoke("compress", folder)
    assert result.exit_code == 1
    assert "pytorch_model.bin: convert it to safetensors first" in result.output


def test_what_could_not_be_given_back(invoke: Invoke, sharded: Path) -> None:
    (sharded / "old.slimtensors").write_bytes(b"")
    assert invoke("compress", sharded).exit_code == 2
    (sharded / "old.slimtensors").unlink()
    (sharded / "loop").symlink_to(sharded)
    assert invoke("compress", sharded).exit_code == 2
    (sharded / "loop").unlink()
    os.mkfifo(sharded / "pipe")
    assert invoke("compress", sharded).exit_code == 2
    (sharded / "pipe").unlink()
    (sharded / "nowhere").symlink_to("missing")
    assert invoke("compress", sharded).exit_code == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "no weight_map"),
        ("[]", "no weight_map"),
        ('{"weight_map": {"a": 1}}', "does not lead to file names"),
        ('{"weight_map": {"a": "../model-00001-of-00002.safetensors"}}', "plain file name"),
        ('{"weight_map": {"a": "/etc/passwd"}}', "plain file name"),
        ('{"weight_map": {"a": "pytorch_model.bin"}}', "plain file name"),
        ('{"weight_map": {"a": "missing.safetensors"}}', "not there"),
        ('{"weight_map": {"a": "model-00001-of-00002\\u002esafetensors"}}', "plain text"),
        ('{"weight_map": {"model-00001-of-00002.safetensors": "model-00001-of-00002.safetensors"}}', "plain text"),
        (
            '{"metadata": "model-00001-of-00002.slimtensors", "weight_map": {"a": "model-00001-of-00002.safetensors"}}',
            "plain text",
        ),
    ],
)
def test_wrong_indexes(invoke: Invoke, sharded: Path, text: str, words: str) -> None:
    (sharded / "model.safetensors.index.json").write_text(text)
    result = invoke("compress", sharded)
    assert result.exit_code == 1
    assert words in result.output
    assert list(sharded.parent.iterdir()) == [sharded]


def test_verify_goes_on(invoke: Invoke, sharded: Path) -> None:
    """After a damaged file, and into what the index says."""
    invoke("compress", sharded)
    slim = sharded.with_name("sharded-slim")
    damaged = slim / "model-00001-of-00002.slimtensors"
    data = bytearray(damaged.read_bytes())
    data[-200] ^= 1
    damaged.write_bytes(data)
    index = slim / "model.slimtensors.index.json"
    index.write_text(index.read_text().replace("layer1.bias", "layer1.other"))
    result = invoke("verify", slim, "--json")
    assert result.exit_code == 1
    assert "lacks 1 of the tensors it should have, such as 'layer1.other'" in result.output
    assert "model-00001-of-00002.slimtensors" in result.output
    assert '"tensors": 8' in result.output


def test_verify_goes_on_after_what_cannot_be_read(
    invoke: Invoke, sharded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    invoke("compress", sharded)
    slim = sharded.with_name("sharded-slim")
    (slim / "a.slimtensors").symlink_to("nowhere")
    (slim / "b").symlink_to(sharded)
    os.mkfifo(slim / "c.slimtensors")
    (slim / "d").mkdir()
    (slim / "d" / "e.slimtensors").symlink_to("e.slimtensors")  # to itself
    real = os.open

    def refusing(path: Any, *arguments: Any, **options: Any) -> int:
        if os.fspath(path).endswith("model-00001-of-00002.slimtensors"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refusing)
    for arguments in ((), ("--json",)):
        result = invoke("verify", slim, *arguments)
        assert result.exit_code == 1
        problems = [line for line in result.output.splitlines() if line.startswith("slimtensors: ")]
        assert [line.split(": ")[1] for line in problems].count("the system refused") == 3
        assert [line.split(": ")[1] for line in problems].count("wrong file") == 2
        for words in ("a.slimtensors: No such file", "b is a link to a folder", "c.slimtensors is neither a file"):
            assert any(words in line for line in problems), result.output
        assert any("e.slimtensors: Too many levels of symbolic links" in line for line in problems)
        assert any("00001-of-00002.slimtensors: Permission denied" in line for line in problems)
        assert "00002-of-00002.slimtensors" in result.output  # the others were looked at
        assert "extra.slimtensors" in result.output


def test_verify_of_one_damaged_file_prints_json(invoke: Invoke, model: Path) -> None:
    invoke("compress", model)
    packed = model.with_suffix(".slimtensors")
    data = bytearray(packed.read_bytes())
    data[-200] ^= 1
    packed.write_bytes(data)
    result = invoke("verify", packed, "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert not found["sound"]
    assert found["files"] == []
    assert len(found["problems"]) == 1
    assert str(packed) in found["problems"][0]
    assert result.stderr.count("wrong file") == 1


def test_names_of_indexes() -> None:
    assert is_index("model.safetensors.index.json", ".safetensors")
    assert is_index("diffusion_pytorch_model.safetensors.index.fp16.json", ".safetensors")
    assert not is_index("model.slimtensors.index.json", ".safetensors")
    assert not is_index("index.json", ".safetensors")


def test_indexes_keep_their_bytes(tmp_path: Path) -> None:
    for ending in (".safetensors", ".slimtensors"):
        (tmp_path / f"a{ending}").write_bytes(b"")
    text = b'{ "weight_map" :{"x.safetensors":"a.safetensors",\r\n "\xc3\xa9":   "a.safetensors"},"metadata":{} }'
    index = tmp_path / "a.safetensors.index.json"
    index.write_bytes(text)
    made = renamed_index(index, COMPRESS)
    assert made == text.replace(b'"a.safetensors"', b'"a.slimtensors"')
    index.write_bytes(made)
    assert renamed_index(index, DECOMPRESS) == text


def test_names_with_escapes_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"")
    text = b'{"weight_map": {"\\u00e9\\\\": "a.safetensors", "\\"": "a.safetensors"}}'
    index = tmp_path / "a.safetensors.index.json"
    index.write_bytes(text)
    assert renamed_index(index, COMPRESS) == text.replace(b"a.safetensors", b"a.slimtensors")


def test_many_shards_are_renamed_as_fast_as_few(tmp_path: Path) -> None:
    taken = []
    for count in (40, 4000):
        folder = tmp_path / f"{count}"
        folder.mkdir()
        names = [f"{i}.safetensors" for i in range(count)]
        for name in names:
            (folder / name).touch()
        index = folder / "a.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": {str(i): names[i % count] for i in range(100_000)}}))
        begin = time.process_time()
        assert renamed_index(index, COMPRESS).count(b".slimtensors") == 100_000
        taken.append(time.process_time() - begin)
    assert taken[1] < 4 * taken[0] + 0.2  # 12 times as long when each name was looked for by itself


def test_names_are_compared_with_few_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compared = []

    class Name(str):
        __slots__ = ()
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            compared.append(other)
            return str.__eq__(self, other)

    names = [Name(f"{i}.txt") for i in range(200)]
    monkeypatch.setattr(folders, "walk_folder", lambda *_, **__: ["m.safetensors", *names])
    assert folders.plan_folder(tmp_path, COMPRESS).copies == names
    assert len(compared) < 10 * len(names)


class Places(dict[str, str]):
    """Counts how often all of it is gone through."""

    passes = 0

    def items(self) -> Any:
        self.passes += 1
        return super().items()


def test_an_index_of_many_shards_is_gone_through_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    places = Places({f"{i}{part}": f"{i}.slimtensors" for i in range(20) for part in "ab"})
    index = tmp_path / "model.slimtensors.index.json"
    index.write_text("{}")
    for shard in places.values():
        (tmp_path / shard).touch()
    monkeypatch.setattr(shards, "weight_map", lambda *_: places)
    found = {each.file.name: each.names for each in shards.weight_files(index)}
    assert found == {f"{i}.slimtensors": {f"{i}a", f"{i}b"} for i in range(20)}
    assert places.passes == 1


def test_names_that_are_one_where_they_are_made(tmp_path: Path) -> None:
    """As W.slimtensors and w.slimtensors are where upper and lower case are the same."""
    source = tmp_path / "in"
    source.mkdir()
    for name in "ab":
        (source / name).write_bytes(name.encode())

    def convert(path: Path, made: Path) -> None:
        made.with_suffix(".tmp").write_bytes(path.read_bytes())
        made.with_suffix(".tmp").replace(made)

    weights = folders.FolderPlan(source, weights=[("a", "one"), ("b", "one")])
    indexes = folders.FolderPlan(source, weights=[("a", "a")], indexes=[("a", "one", b""), ("b", "one", b"")])
    for plan in (weights, indexes):
        with pytest.raises(slimtensors.UsageError, match=r"would become one here, where .* convert them apart"):
            folders.carry_out(plan, tmp_path / "out", convert)
        assert list(tmp_path.iterdir()) == [source]


@pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")
@pytest.mark.parametrize("there", [False, True])
def test_copies_and_folders_get_the_modes_that_cp_would_give(invoke: Invoke, sharded: Path, there: bool) -> None:
    """None of the bits with which a program of the owner is run by others, and nothing that the umask keeps out."""
    modes = {"run.sh": 0o6777, "notes.txt": 0o4640, "private": 0o3700, "private/key.txt": 0o644, ".": 0o2777}
    (sharded / "private").mkdir()
    for name, mode in modes.items():
        if not (sharded / name).is_dir():
            (sharded / name).write_text(name)
        (sharded / name).chmod(mode)
    made = sharded.with_name("sharded-slim")
    if there:
        made.mkdir(mode=0o750)
        (made / "other").touch()
    before = os.umask(0o022)
    try:
        assert invoke("compress", sharded, *(["--force"] if there else [])).exit_code == 0
    finally:
        os.umask(before)
    found = {name: stat.S_IMODE((made / name).stat().st_mode) for name in modes}
    expected = {"run.sh": 0o755, "notes.txt": 0o640, "private": 0o700, "private/key.txt": 0o644}
    assert found == expected | {".": 0o750 if there else 0o755}
