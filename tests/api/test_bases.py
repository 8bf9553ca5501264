"""Models stored as differences from a base, as users write and read them."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import blake3
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file as load_plain
from safetensors.numpy import save as save_plain_bytes
from safetensors.numpy import save_file as save_plain

import slimtensors
from api.made import same
from api.tuned import deltas, equal, model, tuned
from slimtensors import BaseDir, BaseError, NotSlimtensorsError, UsageError
from slimtensors.bases import tensors
from slimtensors.bases.resolving import LastResort
from slimtensors.bases.tensors import SETTLED
from slimtensors.numpy import load_file, save, save_file


def test_there_and_back(pair: tuple[Path, Path], tmp_path: Path) -> None:
    base, source = pair
    file, plain = tmp_path / "tuned.slimtensors", tmp_path / "plain.slimtensors"
    slimtensors.compress(source, file, base=base)
    slimtensors.compress(source, plain)
    assert file.stat().st_size < 0.8 * plain.stat().st_size
    assert deltas(file) == 4
    slimtensors.decompress(file, tmp_path / "again.safetensors", base=base)
    assert (tmp_path / "again.safetensors").read_bytes() == source.read_bytes()
    assert slimtensors.verify(file, base=base).tensors == 4
    assert equal(load_file(file, base=base.parent), load_plain(source))


KINDS = ["slimtensors", "bytes", "mapping", "function", "mappings", "list", "folder", "variable"]


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_bases(pair: tuple[Path, Path], tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base, source = pair
    file = tmp_path / "tuned.slimtensors"
    compressed = tmp_path / "elsewhere" / "deep" / "base.slimtensors"
    compressed.parent.mkdir(parents=True)
    slimtensors.compress(base, compressed)
    bases: dict[str, Any] = {
        "slimtensors": compressed,
        "bytes": compressed.read_bytes(),
        "mapping": load_plain(base),
        "function": lambda needed: compressed if needed.hints["tensor"] else None,
        "mappings": lambda needed: {needed.hints["tensor"]: load_plain(base)[needed.hints["tensor"]]},
        "list": [model(5), base],
        "folder": BaseDir(tmp_path / "elsewhere"),
        "variable": None,
    }
    slimtensors.compress(source, file, base=bases[kind] if kind in ("slimtensors", "bytes", "mapping") else base)
    assert deltas(file) == 4
    if kind == "variable":
        monkeypatch.setenv("SLIMTENSORS_BASE_DIR", f"{tmp_path / 'no'}{os.pathsep}{base.parent}")
    if kind == "list":  # a wrong base first: of other names, so that it is passed over
        bases[kind][0] = {f"x.{name}": array for name, array in bases[kind][0].items()}
    assert equal(load_file(file, base=bases[kind]), load_plain(source))


def test_shards(tmp_path: Path) -> None:
    """The base is sharded differently from the model."""
    base = model()
    names = list(base)
    folder = tmp_path / "base"
    folder.mkdir()
    save_plain({name: base[name] for name in names[:1]}, folder / "model-00001-of-00002.safetensors")
    save_plain({name: base[name] for name in names[1:]}, folder / "model-00002-of-00002.safetensors")
    save_file(tuned(base), tmp_path / "tuned.slimtensors", base=folder)
    assert deltas(tmp_path / "tuned.slimtensors") == 4
    assert equal(load_file(tmp_path / "tuned.slimtensors", base=folder), tuned(base))


def test_names_and_shapes_that_changed() -> None:
    base, result = model(), tuned(model())
    changed = {
        "net.embed.weight": np.concatenate([result["embed.weight"], result["embed.weight"][:7]]),
        "net.a.weight": result["a.weight"],
        "net.new.weight": result["b.weight"],
        "net.b.bias": result["b.bias"],
        "other": model(9)["a.weight"],
    }
    data = save(changed, base=base, base_map={"b.weight": "net.new.weight"})
    assert deltas(data) == 4
    assert equal(slimtensors.numpy.load(data, base=base), changed)
    with pytest.raises(UsageError, match="fits nothing"):
        save(changed, base=base, base_map={"c": "d"})


def test_a_base_of_another_dtype(tmp_path: Path) -> None:
    """Weights in BF16 against the FP32 that they were rounded from, and the other way round."""
    wide = {name: array.astype(np.float32) + np.float32(1e-9) for name, array in model().items()}
    narrow = {name: array.astype(ml_dtypes.bfloat16) for name, array in wide.items()}
    save_plain(wide, tmp_path / "wide.safetensors")
    data = save(narrow, base=tmp_path / "wide.safetensors")
    assert deltas(data) == 4
    assert len(data) < 0.1 * len(save(narrow))
    assert equal(slimtensors.numpy.load(data, base=tmp_path / "wide.safetensors"), narrow)
    back = save(wide, base=narrow)
    assert deltas(back) == 4
    assert len(back) < len(save(wide))
    assert equal(slimtensors.numpy.load(back, base=narrow), wide)


def test_report(tmp_path: Path) -> None:
    base = model()
    base["head"] = base["embed.weight"] * 2
    result = {
        "p.embed.weight": tuned(base)["embed.weight"][:-2],
        "p.a.weight": base["a.weight"],
        "p.b.weight": base["b.weight"].reshape(512, 128),
        "p.b.bias": base["b.bias"].astype(np.int16),
        "lm": tuned(base)["head"],
        "none": np.zeros((0, 3), np.float32),
    }
    save_plain(result, tmp_path / "model.safetensors")
    report = slimtensors.match_base(tmp_path / "model.safetensors", base)
    how = {each.tensor: (each.base, each.how) for each in report.matches}
    assert how["p.embed.weight"] == ("embed.weight", "without the prefix 'p.', 2 rows removed")
    assert how["p.a.weight"] == ("a.weight", "without the prefix 'p.'")
    assert how["p.b.weight"][0] is None
    assert "the base has the shape [256, 256], this one [512, 128]" in how["p.b.weight"][1]
    assert how["p.b.bias"][0] is None
    assert "the base has BF16, this one I16" in how["p.b.bias"][1]
    assert how["lm"] == ("head", "by content, under another name")
    assert how["none"] == (None, "no elements")
    assert report.matched == 3


def test_auto(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """The model's card names its base, which lies in a folder that the caller names; nothing else is opened."""
    base, source = pair
    models = tmp_path / "models"
    (models / "org" / "good").mkdir(parents=True)
    (models / "org" / "good" / "model.safetensors").write_bytes(base.read_bytes())
    save_plain(model(7), models / "bad.safetensors")
    card = tmp_path / "README.md"
    card.write_text("---\nlicense: mit\nbase_model:\n  - other/bad\n  - org/good\n---\n# A model\n")
    file = tmp_path / "tuned.slimtensors"
    reports: list[slimtensors.MatchReport] = []
    slimtensors.compress(source, file, base="auto", base_dirs=[BaseDir(models)], on_match=reports.append)
    assert reports[0].note == "org/good, named by README.md, confirmed on a sample"
    assert {each.hints["repository"] for each in slimtensors.dependencies(file)} == {"org/good"}
    assert equal(load_file(file, base=BaseDir(models)), load_plain(source))
    card.write_text("---\nbase_model: ../../etc/base\n---\n")
    slimtensors.compress(source, file, base="auto", base_dirs=[str(models)], on_match=reports.append)
    assert reports[1].base is None
    assert deltas(file) == 0
    (tmp_path / "config.json").write_text('{"_name_or_path": "/home/somebody/org/good/"}')
    slimtensors.compress(source, file, base="auto", base_dirs=models, on_match=reports.append)
    assert "named by config.json" in reports[2].note


def test_missing_wrong_and_changed(pair: tuple[Path, Path], tmp_path: Path) -> None:
    base, source = pair
    file = tmp_path / "tuned.slimtensors"
    slimtensors.compress(source, file, base=base)
    with pytest.raises(BaseError, match=r"the base tensor '.*' of the file 'model.safetensors'.*was not found.*--base"):
        load_file(file)
    with pytest.raises(BaseError, match="does not hold it"):
        load_file(file, base={"x": np.zeros(3, np.float32)})
    with pytest.raises(BaseError, match="holds another one of that name"):
        load_file(file, base={name: array[:100] for name, array in load_plain(base).items()})
    changed = load_plain(base)
    changed["a.weight"] = changed["a.weight"].copy()
    changed["a.weight"][17, 3] += 1
    with pytest.raises(BaseError, match=r"tensor 'a.weight'.*--base"):
        load_file(file, base=changed)
    save_file(changed, tmp_path / "changed.slimtensors")
    with pytest.raises(BaseError, match=r"holds another one of that name, with identity [0-9a-f]{64}"):
        load_file(file, base=tmp_path / "changed.slimtensors")
    assert slimtensors.inspect(file).tensors  # needs no base
    with slimtensors.safe_open(file) as opened, pytest.raises(BaseError, match=r"pack 0.*b\.bias"):
        opened.get_tensor("b.bias")


class Counting:
    """A file in memory that counts what is read."""

    def __init__(self, path: Path) -> None:
        self.data = path.read_bytes()
        self.count = 0

    def size(self) -> int:
        return len(self.data)

    def read_range(self, offset: int, length: int) -> bytes:
        self.count += length
        return self.data[offset : offset + length]


def test_a_slice_reads_what_it_touches(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    base = {"w": (rng.standard_normal((16384, 256)) * 0.02).astype(ml_dtypes.bfloat16)}  # 8 MiB
    result = tuned(base)
    save_plain(base, tmp_path / "base.safetensors")
    save_file(result, tmp_path / "tuned.slimtensors", base=tmp_path / "base.safetensors")
    file, given = Counting(tmp_path / "tuned.slimtensors"), Counting(tmp_path / "base.safetensors")
    with slimtensors.safe_open(file, base=given) as opened:
        found = opened.get_slice("w")[5000:5010]
    assert same(found, result["w"][5000:5010])
    assert given.count < 1.2 * 2**20
    assert file.count < 1.2 * 2**20


def test_a_json_file_is_no_base(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """Unless it is an index: which weights lie beside a configuration is nobody's word."""
    base, source = pair
    (base.parent / "config.json").write_text("{}")
    with pytest.raises(NotSlimtensorsError, match="but a JSON text; an index of shards"):
        slimtensors.compress(source, tmp_path / "m", base=base.parent / "config.json")


def test_estimate(pair: tuple[Path, Path], tmp_path: Path) -> None:
    base, source = pair
    slimtensors.compress(source, tmp_path / "tuned.slimtensors", base=base)
    found = slimtensors.estimate(source, base=base)
    assert found.compressed_bytes == pytest.approx((tmp_path / "tuned.slimtensors").stat().st_size, rel=0.02)
    assert found.compressed_bytes < 0.8 * slimtensors.estimate(source).compressed_bytes


def test_one_array() -> None:
    base = model()["a.weight"]
    result = tuned(model())["a.weight"]
    data = slimtensors.encode(result, base=base)
    assert len(data) < len(slimtensors.encode(result))
    assert same(slimtensors.decode(data, base=base), result)
    with pytest.raises(BaseError):
        slimtensors.decode(data)
    swapped = np.zeros((3, 4), np.dtype(np.float32).newbyteorder())
    with pytest.raises(UsageError, match=r"out is of float32 in the other byte order \([<>]f4\)"):
        slimtensors.decode(slimtensors.encode(np.ones((3, 4), np.float32)), out=swapped)


def test_the_real_model(minilm: Path, tmp_path: Path) -> None:
    """MiniLM in BF16 with every weight moved: far smaller than plain, and bit for bit."""
    base = {name: array.astype(ml_dtypes.bfloat16) for name, array in load_plain(minilm).items() if array.ndim == 2}
    rng = np.random.default_rng(0)
    result = {
        name: (array.astype(np.float32) + rng.standard_normal(array.shape) * 2e-5).astype(array.dtype)
        for name, array in base.items()
    }
    save_plain(base, tmp_path / "base.safetensors")
    save_plain(result, tmp_path / "tuned.safetensors")
    slimtensors.compress(tmp_path / "tuned.safetensors", tmp_path / "t.slimtensors", base=tmp_path / "base.safetensors")
    assert (tmp_path / "t.slimtensors").stat().st_size < 0.3 * (tmp_path / "tuned.safetensors").stat().st_size
    slimtensors.decompress(tmp_path / "t.slimtensors", tmp_path / "again", base=tmp_path / "base.safetensors")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "tuned.safetensors").read_bytes()


def test_a_last_resort(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """It is asked when no other place has a base, and what is wrong with it ends nothing."""
    base, source = pair
    file, junk = tmp_path / "tuned.slimtensors", tmp_path / "junk.safetensors"
    slimtensors.compress(source, file, base=base)
    junk.write_bytes(b"cut off")
    for ask in (lambda _: junk, lambda _: tmp_path / "none"):
        assert equal(load_file(file, base=[LastResort(ask), BaseDir(base.parent)]), load_plain(source))
        with pytest.raises(slimtensors.BaseError, match="was not found"):
            load_file(file, base=LastResort(ask))
    assert equal(load_file(file, base=LastResort(lambda _: base)), load_plain(source))


class _Coarse:
    """What a file system says whose clock stands still."""

    def __init__(self, found: os.stat_result, stands: int) -> None:
        self._found, self.st_mtime_ns, self.st_ctime_ns = found, stands, stands

    def __getattr__(self, name: str) -> Any:
        return getattr(self._found, name)


@pytest.mark.parametrize("how", ["steps of the clock", "mtime put back"])
def test_a_base_overwritten_in_place_is_hashed_again(tmp_path: Path, monkeypatch: Any, how: str) -> None:
    """What a new file says of its base is true of the bytes that it was compared with."""
    path, rng = tmp_path / "base.safetensors", np.random.default_rng(1)
    stat, now = Path.stat, time.time_ns()
    if how == "steps of the clock":
        monkeypatch.setattr(Path, "stat", lambda self, **more: _Coarse(stat(self, **more), now))
    else:  # long after both
        monkeypatch.setattr(tensors.time, "time_ns", lambda: now + 3600 * 10**9)
    stated = []
    for _ in range(2):
        base = rng.standard_normal((256, 256)).astype(np.float32)
        time.sleep(0.05)
        path.write_bytes(save_plain_bytes({"w": base}))
        os.utime(path, ns=(now, now))
        save_file({"w": base + np.float32(1e-6)}, tmp_path / "fine.slimtensors", base=path)
        [needed] = slimtensors.dependencies(tmp_path / "fine.slimtensors")
        assert needed.identity == blake3.blake3(base.tobytes()).hexdigest()
        stated.append(needed.identity)
    assert len(set(stated)) == 2


def test_a_base_is_hashed_once_for_many_files(tmp_path: Path, monkeypatch: Any) -> None:
    """If its times can tell that it has not changed."""
    base = np.random.default_rng(1).standard_normal((256, 256)).astype(np.float32)
    path, hashed, take = tmp_path / "base.safetensors", [], tensors._hash
    save_plain({"w": base}, path)
    monkeypatch.setattr(tensors, "_hash", lambda tensor: hashed.append(tensor.name) or take(tensor))
    for later, times in ((0, 2), (SETTLED, 1)):
        monkeypatch.setattr(tensors, "SETTLED", SETTLED - later)
        hashed.clear()
        for _ in range(2):
            save({"w": base + np.float32(1e-6)}, base=path)
        assert hashed == ["w"] * times
