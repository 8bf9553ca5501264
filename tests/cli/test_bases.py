"""compress --base, deps, flatten, rebase, and bases of decompress, verify and inspect."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from click.testing import Result
from safetensors.numpy import load_file, save_file

from cli.conftest import SHARDS, weights
from cli.processes import contents
from slimtensors import BaseError
from slimtensors.container import reader
from slimtensors.numpy import load_file as load_compressed

Invoke = Callable[..., Result]


@pytest.fixture(autouse=True)
def no_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have set the variable."""
    monkeypatch.delenv("SLIMTENSORS_BASE_DIR", raising=False)


def moved(path: Path, target: Path) -> Path:
    """A copy of a weight file in which every float has moved a little."""
    rng = np.random.default_rng(5)
    tensors = {
        name: np.asarray(array.astype(np.float32) * (1 + 1e-6 * rng.standard_normal(array.shape))).astype(array.dtype)
        if array.dtype in (np.float32, ml_dtypes.bfloat16)
        else array
        for name, array in load_file(path).items()
    }
    save_file(tensors, target, {"format": "pt"})
    return target


@pytest.fixture
def tuned(model: Path, tmp_path: Path) -> Path:
    """A fine-tune of the model."""
    return moved(model, tmp_path / "tuned.safetensors")


def test_compress_and_decompress(invoke: Invoke, model: Path, tuned: Path, tmp_path: Path) -> None:
    file = tmp_path / "tuned.slimtensors"
    result = invoke("compress", tuned, "--base", model)
    assert result.exit_code == 0, result.output
    assert "7 of 8 tensors match the base" in result.output  # one has no elements
    before = tuned.read_bytes()
    missing = invoke("decompress", file, "-o", tmp_path / "out.safetensors")
    assert missing.exit_code == 1
    assert "was not found" in missing.stderr
    assert missing.stderr.startswith(f"slimtensors: {file}: tensor ")  # of which nothing is wrong
    with pytest.raises(BaseError, match=f"^{re.escape(str(file))}: tensor "):
        load_compressed(file)
    assert "--base" in missing.stderr
    for options in (["--base", model], ["--base-dir", model.parent]):
        result = invoke("decompress", file, "-o", tmp_path / "out.safetensors", "--force", *options)
        assert result.exit_code == 0, result.output
        assert (tmp_path / "out.safetensors").read_bytes() == before
    assert invoke("verify", file).exit_code == 1
    assert invoke("verify", file, "--base", model).exit_code == 0
    assert invoke("decompress", file, "--base", tmp_path / "no", "-o", tmp_path / "x").exit_code == 3


def test_dry_run_and_maps(invoke: Invoke, model: Path, tuned: Path, tmp_path: Path) -> None:
    renamed = tmp_path / "renamed.safetensors"
    save_file({name.replace("layer1.", "net.1."): array for name, array in load_file(tuned).items()}, renamed)
    result = invoke("compress", renamed, "--base", model, "--map", "layer1.=net.1.", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "by the map" in result.output
    (tmp_path / "renamed.slimtensors").touch()
    taken = invoke("compress", renamed, "--base", model, "--map", "layer1.=net.1.", "--dry-run").output
    assert taken.replace(f"{tmp_path / 'renamed.slimtensors'} is there already: needs --force\n", "") == result.output
    (tmp_path / "renamed.slimtensors").unlink()
    assert not (tmp_path / "renamed.slimtensors").exists()
    assert invoke("compress", renamed, "--base", model, "--map", "layer1", "--dry-run").exit_code == 2
    assert invoke("compress", renamed, "--base", model, "--map", "a=b").exit_code == 2
    assert invoke("compress", renamed, "--map", "a=b").exit_code == 2
    assert invoke("compress", renamed, "--base", tmp_path / "no").exit_code == 3


def test_rules_and_differences_of_some_shards(invoke: Invoke, sharded: Path, tmp_path: Path) -> None:
    """What a map names lies in one shard; nothing of another may match the base."""
    base, slim = tmp_path / "base.safetensors", tmp_path / "slim"
    save_file({name.replace("layer1.", "net.1."): array for name, array in weights(1).items()}, base)
    for verb, more in (("compress", ["-o", slim]), ("estimate", [])):
        stray = invoke(verb, sharded, "--base", base, "--map", "net.1.=layer1.", "--map", "net.2.=layer2.", *more)
        assert stray.exit_code == 2
        assert "the map net.2.=layer2. fits nothing" in stray.output
        assert verb == "estimate" or not slim.exists()
        result = invoke(verb, sharded, "--base", base, "--map", "net.1.=layer1.", *more)
        assert result.exit_code == 0, result.output
    assert (slim / SHARDS[1]).with_suffix(".slimtensors").stat().st_size < 10_000
    twice = invoke("compress", sharded, "--base", base, "--map", "net.1.=layer1.", "--map", "net.1.=layer2.")
    assert twice.exit_code == 2
    assert "'net.1.' is mapped to 'layer1.' and to 'layer2.'" in twice.output

    moved(sharded / SHARDS[0], base)
    result = invoke("compress", sharded, "--base", base, "--quantise", "bitdelta", "-o", tmp_path / "signs")
    assert result.exit_code == 0, result.output
    assert result.output.count("nothing in it can be quantised (bitdelta); stored exactly") == 2
    alone = invoke("compress", sharded, "--quantise", "BitDelta", "-o", tmp_path / "alone")
    assert alone.exit_code == 2
    assert "name the model that this one was made from" in alone.output


def test_deps_and_inspect(invoke: Invoke, model: Path, tuned: Path, tmp_path: Path) -> None:
    file = tmp_path / "tuned.slimtensors"
    invoke("compress", tuned, "--base", model, "-q")
    found = json.loads(invoke("deps", file, "--json", "--base-dir", model.parent).output)
    assert found["missing"] == 0
    assert found["bases"]
    for base in found["bases"]:
        assert base["hints"]["file"] == "model.safetensors"
        assert str(model) in base["found"]
        assert len(base["identity"]) == 64
    assert invoke("deps", file, "--base", model).exit_code == 0
    text = invoke("deps", file)
    assert text.exit_code == invoke("deps", file, "--json").exit_code == 1
    assert "not found" in text.output
    assert "--base-dir" in text.output
    report = json.loads(invoke("inspect", file, "--json", "--why").output)
    stored = sum(tensor["stored_bytes"] for tensor in report["tensors"])
    assert report["overhead_bytes"] + stored == report["file_bytes"] == file.stat().st_size
    assert 0 < report["overhead_bytes"] < report["file_bytes"] / 2
    of_base = [t for t in report["tensors"] if "base" in t]
    assert {t["base"]["identity"] for t in of_base} == {b["identity"] for b in found["bases"]}
    assert "needs" in invoke("inspect", file).output
    invoke("compress", model)
    assert "needs no base" in invoke("deps", model.with_suffix(".slimtensors")).output


def test_flatten_and_rebase(invoke: Invoke, model: Path, tuned: Path, tmp_path: Path) -> None:
    file, flat, other = (tmp_path / f"{name}.slimtensors" for name in ("tuned", "flat", "other"))
    invoke("compress", tuned, "--base", model)
    assert invoke("flatten", file, flat).exit_code == 1
    assert not flat.exists()
    assert invoke("flatten", file, flat, "--base", model).exit_code == 0
    assert invoke("flatten", file, flat, "--base", model).exit_code == 2  # it is there already
    assert invoke("flatten", file, file, "--force").exit_code == 2
    assert "needs no base" in invoke("deps", flat).output
    newer = moved(tuned, tmp_path / "newer.safetensors")
    result = invoke("rebase", file, other, "--base", newer, "--old-base", model)
    assert result.exit_code == 0, result.output
    assert "newer.safetensors" in invoke("deps", other).output
    invoke("decompress", other, "--base", newer, "-o", tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == tuned.read_bytes()


@pytest.fixture
def differing(invoke: Invoke, sharded: Path, tmp_path: Path) -> tuple[Path, Path]:
    """(base, a folder of differences from it): two shards, their index, a folder within it, and other files."""
    base = tmp_path / "base.safetensors"
    save_file(weights(0) | weights(1) | weights(7), base)
    for path in (*(sharded / shard for shard in SHARDS), sharded / "1_Pooling" / "extra.safetensors"):
        moved(path, path)
    assert invoke("compress", sharded, "--base", base, "-q").exit_code == 0
    return base, sharded.with_name("sharded-slim")


@pytest.mark.parametrize("verb", ["flatten", "rebase"])
@pytest.mark.parametrize("named", ["", "model.slimtensors.index.json"])
def test_folders_are_flattened_and_rebased(
    invoke: Invoke, verb: str, named: str, differing: tuple[Path, Path], sharded: Path, tmp_path: Path
) -> None:
    """Every file keeps its name, and what is no weight file its bytes; all or nothing."""
    base, slim = differing
    out, newer, before = tmp_path / "out", moved(base, tmp_path / "newer.safetensors"), contents(slim)
    more = ["--base", base] if verb == "flatten" else ["--base", newer, "--old-base", base]
    without = more[:-2]  # the base that it needs
    assert invoke(verb, slim / named, out, *without).exit_code == 1
    dry = invoke(verb, slim / named, out, *more, "--dry-run")
    assert dry.exit_code == 0, dry.output
    assert "would write" in dry.output
    assert "would copy 3 other files" in dry.output
    assert (f"match the base {newer}" in dry.output) == (verb == "rebase")
    assert not out.exists()
    result = invoke(verb, slim / named, out, *more)
    assert result.exit_code == 0, result.output
    assert f"{slim} -> {out} (3 weight files): " in result.output
    after = contents(out)
    assert after.keys() == before.keys()
    assert [name for name in after if after[name] != before[name]] == [
        name for name in after if name.endswith(".slimtensors")
    ]
    needed = [] if verb == "flatten" else ["--base", newer]
    assert invoke("verify", out, *needed).exit_code == 0
    assert invoke("decompress", out, "-o", tmp_path / "back", *needed).exit_code == 0
    assert contents(tmp_path / "back") == contents(sharded)

    again = invoke(verb, slim / named, out, *more)
    assert again.exit_code == 2
    assert "--force replaces files in it, or name another folder" in again.output
    assert " -o" not in again.output  # which these have not
    assert invoke(verb, slim / named, out, *more, "--force", "-q").output == ""
    assert contents(out) == after
    assert "contain each other" in invoke(verb, slim / named, slim / "in", *more).output


def test_a_failing_shard_leaves_nothing(invoke: Invoke, differing: tuple[Path, Path], tmp_path: Path) -> None:
    base, slim = differing
    path = slim / "model-00002-of-00002.slimtensors"
    data = bytearray(path.read_bytes())
    data[-200] ^= 1
    path.write_bytes(data)
    before = sorted(tmp_path.iterdir())
    result = invoke("flatten", slim, tmp_path / "out", "--base", base)
    assert result.exit_code == 1
    assert f"{path}: " in result.output
    assert sorted(tmp_path.iterdir()) == before


def test_a_folder_is_rebased_by_rules(invoke: Invoke, differing: tuple[Path, Path], tmp_path: Path) -> None:
    """A rule has to fit some shard; a base is not replaced by what needs it."""
    base, slim = differing
    newer, out = tmp_path / "newer", tmp_path / "out"
    newer.mkdir()
    save_file({f"net.{name}": array for name, array in weights(1).items()}, newer / "model.safetensors")
    how = ["--base", newer, "--old-base", base]
    stray = invoke("rebase", slim, out, *how, "--map", "x.=layer9.")
    assert stray.exit_code == 2
    assert "the map x.=layer9. fits nothing" in stray.output
    result = invoke("rebase", slim, out, *how, "--map", "net.layer1.=layer1.")
    assert result.exit_code == 0, result.output
    assert "by the map" in result.output
    assert invoke("verify", out, "--base", newer).exit_code == 0
    assert invoke("compress", newer).exit_code == 0
    made = tmp_path / "newer-slim"
    (made / "model.slimtensors").rename(made / "model-00001-of-00002.slimtensors")
    refused = invoke("rebase", slim, made, "--base", made, "--old-base", base, "--force")
    assert refused.exit_code == 2
    assert "is of the base" in refused.output


@pytest.mark.parametrize("verb", ["flatten", "salvage", "decompress"])
def test_folders_of_checkpoints_stay_as_they_are(verb: str, invoke: Invoke, model: Path, tmp_path: Path) -> None:
    """Their manifest says which files it is of."""
    assert invoke("compress", model).exit_code == 0
    step, out, single = (tmp_path / name for name in ("step", "out", "single"))
    step.mkdir()
    name = f"rank-00000.{'0' * 32}.slimtensors"
    model.with_suffix(".slimtensors").rename(step / name)
    to = ["-o"] if verb == "decompress" else []
    result = invoke(verb, step, *to, out)
    assert result.exit_code == 2
    kind = "slimtensors" if verb == "flatten" else "safetensors"
    advice = f"make a model's files of it with `slimtensors convert --as {kind}`, or name the one file"
    assert (advice in result.output) == (verb != "salvage")
    assert "name the one file" in result.output
    assert not out.exists()
    single.mkdir()
    assert invoke(verb, step / name, *to, single).exit_code == 0  # into the folder
    assert [each.suffix for each in single.iterdir()] == [f".{kind}"]


def test_names_that_are_in_several_files_of_a_base(
    invoke: Invoke, model: Path, tuned: Path, tmp_path: Path
) -> None:
    """The first is taken, and that is said; what is compressed beside it is passed over, as in reading."""
    base = tmp_path / "base"
    base.mkdir()
    (base / "b.safetensors").write_bytes(model.read_bytes())
    assert invoke("compress", base / "b.safetensors").exit_code == 0
    once = invoke("compress", tuned, "--base", base, "--dry-run")
    assert once.exit_code == 0, once.output
    assert "taken from" not in once.output
    moved(model, base / "a.safetensors")
    twice = invoke("compress", tuned, "--base", base)
    assert twice.exit_code == 0, twice.output
    words = f"taken from {base}/a.safetensors, not from {base}/b.safetensors; to choose, name the file"
    assert words in twice.output
    assert "names in several of its files: 7, such as" in twice.output
    assert invoke("verify", tuned.with_suffix(".slimtensors"), "--base", base).exit_code == 0


def test_folders(invoke: Invoke, sharded: Path, tmp_path: Path) -> None:
    """A sharded folder against a base of one file, with a folder within."""
    base = tmp_path / "base"
    (base / "1_Pooling").mkdir(parents=True)
    save_file(weights(0) | weights(1), base / "model.safetensors")
    save_file(weights(7), base / "1_Pooling" / "extra.safetensors")
    for path in (*(sharded / shard for shard in SHARDS), sharded / "1_Pooling" / "extra.safetensors"):
        moved(path, path)
    before = contents(sharded)
    result = invoke("compress", sharded, "--base", base)
    assert result.exit_code == 0, result.output
    for name in (*SHARDS, "1_Pooling/extra.safetensors"):
        path = (tmp_path / "sharded-slim" / name).with_suffix(".slimtensors")
        assert json.loads(invoke("deps", path, "--json").output)["missing"] > 0, name
    result = invoke("decompress", tmp_path / "sharded-slim", "-o", tmp_path / "back", "--base-dir", base)
    assert result.exit_code == 0, result.output
    assert contents(tmp_path / "back") == before


def test_auto(invoke: Invoke, model: Path, tuned: Path, tmp_path: Path) -> None:
    (tmp_path / "models" / "org--base").mkdir(parents=True)
    (tmp_path / "models" / "org--base" / "model.safetensors").write_bytes(model.read_bytes())
    nothing = invoke("compress", tuned, "--base", "auto", "--dry-run")
    assert "no base" in nothing.output
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')
    result = invoke("compress", tuned, "--base", "auto", "--base-dir", tmp_path / "models")
    assert "org/base, named by adapter_config.json, confirmed on a sample" in result.output


def test_a_folder_is_not_its_own_base(invoke: Invoke, model: Path, tmp_path: Path) -> None:
    """Its files would be replaced by differences from what they were."""
    for name in ("plain", "tuned"):
        (tmp_path / name).mkdir()
    (tmp_path / "plain" / "model.safetensors").write_bytes(model.read_bytes())
    moved(model, tmp_path / "tuned" / "model.safetensors")
    base = tmp_path / "base"
    assert invoke("compress", tmp_path / "plain", "-o", base).exit_code == 0
    before = contents(base)
    result = invoke("compress", tmp_path / "tuned", "-o", base, "--force", "--base", base)
    assert result.exit_code == 2, result.output
    assert "model.slimtensors is of the base" in result.stderr
    assert contents(base) == before
    assert invoke("compress", tmp_path / "tuned", "-o", tmp_path / "new", "--base", base).exit_code == 0


@pytest.mark.parametrize("named", ["--base", "--base-dir"])
@pytest.mark.parametrize("verb", ["flatten", "rebase", "salvage", "decompress"])
def test_bases_of_what_is_read_stay(verb: str, named: str, invoke: Invoke, model: Path, tmp_path: Path) -> None:
    """What is made of a difference does not replace its base, by whatever option that is found."""
    plain, other = tmp_path / "plain", tmp_path / "other"
    plain.mkdir()
    other.mkdir()
    (plain / model.name).write_bytes(model.read_bytes())
    moved(model, other / model.name)
    slim, needs = tmp_path / "plain-slim", tmp_path / "other-slim"
    assert invoke("compress", plain).exit_code == 0
    at = plain if verb in ("salvage", "decompress") else slim  # where what they make has the base's name
    assert invoke("compress", other, "--base", at).exit_code == 0
    where = [named.replace("--base", "--old-base") if (verb, named) == ("rebase", "--base") else named, at]
    where += ["--base", other] if verb == "rebase" else []
    before, (inner,) = contents(tmp_path), [each.name for each in at.iterdir()]
    for source, target in ((needs, at), (needs / "model.slimtensors", at / inner)):
        out = ["-o", target] if verb == "decompress" else [target]
        for more in ([], ["--dry-run"]):
            result = invoke(verb, source, *out, *where, "--force", *more)
            assert result.exit_code == 2, result.output
            assert f"{at / inner} is of a base of {needs / 'model.slimtensors'}, which nobody could" in result.output
    assert contents(tmp_path) == before


@pytest.mark.parametrize("named", ["middle", "auto"])
def test_a_folder_is_not_its_bases_own_base(named: str, invoke: Invoke, model: Path, tmp_path: Path) -> None:
    """What the base is made from would be replaced by differences from the base."""
    for name in ("plain", "middle", "tuned"):
        (tmp_path / name).mkdir()
    (tmp_path / "plain" / "model.safetensors").write_bytes(model.read_bytes())
    moved(model, tmp_path / "middle" / "model.safetensors")
    moved(tmp_path / "middle" / "model.safetensors", tmp_path / "tuned" / "model.safetensors")
    found = tmp_path / "found"  # where bases are looked for
    base, middle = found / "org--base", found / "org--middle"
    assert invoke("compress", tmp_path / "plain", "-o", f"{base}/").exit_code == 2  # there is no such folder yet
    found.mkdir()
    assert invoke("compress", tmp_path / "plain", "-o", base).exit_code == 0
    assert invoke("compress", tmp_path / "middle", "-o", middle, "--base", base).exit_code == 0
    before = contents(base)
    (tmp_path / "tuned" / "adapter_config.json").write_text('{"base_model_name_or_path": "org/middle"}')
    ask = ["--base", middle if named == "middle" else named, "--base-dir", found]
    result = invoke("compress", tmp_path / "tuned", "-o", base, "--force", *ask)
    assert result.exit_code == 2, result.output
    assert f"{base / 'model.slimtensors'} is what the base {middle} is made from" in result.stderr
    assert contents(base) == before
    assert invoke("compress", tmp_path / "tuned", "-o", tmp_path / "new", *ask).exit_code == 0


def test_bases_at_hand_allow_more_in_a_small_file(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They count towards the limit of decoded bytes from the first look at a file on."""
    base, tuned, file = tmp_path / "base.safetensors", tmp_path / "tuned.safetensors", tmp_path / "tuned.slimtensors"
    array = np.random.default_rng(1).integers(0, 256, 1 << 20, np.uint8)
    save_file({"0": array}, base)
    array[5] ^= 1
    save_file({str(i): array for i in range(20)}, tuned)
    assert invoke("compress", tuned, "--base", base).exit_code == 0
    monkeypatch.setattr(reader, "EXPANSION_SLACK", 0)
    for verb, option, arguments in (
        ("decompress", "--base", ["-o", tmp_path / "back.safetensors"]),
        ("flatten", "--base", [tmp_path / "flat.slimtensors"]),
        ("rebase", "--old-base", [tmp_path / "other.slimtensors", "--base", base]),
    ):
        refused = invoke(verb, file, *arguments)
        assert refused.exit_code == 1
        assert "pass --max-bytes" in refused.stderr
        result = invoke(verb, file, *arguments, option, base)
        assert result.exit_code == 0, result.output
    assert (tmp_path / "back.safetensors").read_bytes() == tuned.read_bytes()
