"""Models stored as differences from a base, as users write and read them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file as load_plain
from safetensors.numpy import save_file as save_plain

import slimtensors
from api.made import same
from slimtensors import BaseDir, BaseError, NotSlimtensorsError, UsageError
from slimtensors.numpy import apply_delta, load_file, save, save_file

Arrays = dict[str, np.ndarray[Any, Any]]


def model(seed: int = 0, rows: int = 300) -> Arrays:
    """A small model with an embedding, two layers and a bias."""
    rng = np.random.default_rng(seed)

    def matrix(height: int, width: int = 256) -> np.ndarray[Any, Any]:
        return (rng.standard_normal((height, width)) * 0.02).astype(ml_dtypes.bfloat16)

    return {"embed.weight": matrix(rows), "a.weight": matrix(256), "b.weight": matrix(256), "b.bias": matrix(1)[0]}


def tuned(base: Arrays, seed: int = 1) -> Arrays:
    """A fine-tune: every weight moved a little."""
    rng = np.random.default_rng(seed)
    return {
        name: (array.astype(np.float32) * (1 + rng.standard_normal(array.shape) * 2e-3)).astype(array.dtype)
        for name, array in base.items()
    }


def equal(a: Arrays, b: Arrays) -> bool:
    return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A base and a fine-tune of it, in folders of their own."""
    base = model()
    (tmp_path / "base").mkdir()
    save_plain(base, tmp_path / "base" / "model.safetensors", {"format": "pt"})
    save_plain(tuned(base), tmp_path / "tuned.safetensors", {"format": "pt"})
    return tmp_path / "base" / "model.safetensors", tmp_path / "tuned.safetensors"


@pytest.fixture(autouse=True)
def no_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have set the variable."""
    monkeypatch.delenv("SLIMTENSORS_BASE_DIR", raising=False)


def deltas(path: Path | bytes) -> int:
    return len(slimtensors.dependencies(path))


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


@pytest.mark.parametrize("kind", ["slimtensors", "bytes", "mapping", "function", "list", "folder", "variable"])
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
    slimtensors.compress(source, file, base="auto", base_dirs=[BaseDir(models)], on_match=reports.append)
    assert reports[1].base is None
    assert deltas(file) == 0
    (tmp_path / "config.json").write_text('{"_name_or_path": "/home/somebody/org/good/"}')
    slimtensors.compress(source, file, base="auto", base_dirs=[BaseDir(models)], on_match=reports.append)
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


def small(count: int = 12, seed: int = 0) -> Arrays:
    """Tensors that share a chunk, one too small for a base."""
    rng = np.random.default_rng(seed)
    made = {f"{i}.bias": (rng.standard_normal(384 + i) * 0.1).astype(ml_dtypes.bfloat16) for i in range(count)}
    return {**made, "scale": made["0.bias"][:5] * 2}


def test_small_tensors_have_bases_too() -> None:
    base = small()
    result = tuned(base)
    grown = np.concatenate([result["3.bias"], result["4.bias"][:9]])
    model_ = {"new": small(1, 5)["0.bias"], **result, "3.bias": grown}
    data = save(model_, base=base)
    assert deltas(data) == 12
    assert len(data) < 0.8 * len(save(model_))
    assert save(model_, base=base, threads=3) == data
    assert equal(slimtensors.numpy.load(data, base=base), model_)
    with slimtensors.safe_open(data, base=base) as opened:
        assert same(opened.get_slice("3.bias")[380:390], grown[380:390])
    with slimtensors.safe_open(data) as opened:
        assert same(opened.get_tensor("scale"), result["scale"])
    changed = {**base, "7.bias": base["7.bias"] * 2}
    with pytest.raises(BaseError, match=r"pack 1, chunk 0: the base has digest.*and 11 more"):
        slimtensors.numpy.load(data, base=changed)
    live = {name: array.copy() for name, array in base.items()} | {"new": np.zeros_like(model_["new"])}
    live["3.bias"] = np.zeros_like(grown)
    with pytest.raises(BaseError, match="another version"):
        apply_delta(data, live)
    plain = save(result, base=base)
    live = {name: array.copy() for name, array in base.items()}
    apply_delta(plain, live)
    assert equal(live, result)


def test_small_tensors_without_kin_stay_plain() -> None:
    base, other = small(), small(seed=7)
    assert save(other, base=base) == save(other)


def test_a_cycle_by_way_of_a_shared_chunk(tmp_path: Path) -> None:
    """One tensor leads to another of the same chunk, whose base is made from the first."""
    one, two = small(seed=1), tuned(small(seed=1), 2)
    save_file(one, tmp_path / "one.slimtensors", base=two)
    save_file(two, tmp_path / "two.slimtensors", base=one)
    with pytest.raises(BaseError, match="a cycle"):
        load_file(tmp_path / "one.slimtensors", base=BaseDir(tmp_path))
    three = tuned(two, 3)
    save_plain(one, tmp_path / "one.safetensors")
    (tmp_path / "one.slimtensors").unlink()
    save_file(three, tmp_path / "three.slimtensors", base=[tmp_path / "two.slimtensors", BaseDir(tmp_path)])
    assert equal(load_file(tmp_path / "three.slimtensors", base=BaseDir(tmp_path)), three)


def test_hints_are_stated_once() -> None:
    base = {f"layer.{i}": array for i, array in enumerate(small(40).values())}
    data = save(tuned(base), base=base)
    assert data.count(b'"layer.7"') == 1
    assert all(each.hints == {"tensor": each.tensors[0]} for each in slimtensors.dependencies(data))


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


def test_apply() -> None:
    """Arrays are base and destination; nothing changes if anything is wrong."""
    base = model()
    result = tuned(base)
    data = save(result, base=base)
    live = {name: array.copy() for name, array in base.items()}
    live["extra"] = np.ones(3)
    memory = {name: array.ctypes.data for name, array in live.items()}
    apply_delta(data, live)
    assert equal({name: live[name] for name in result}, result)
    assert memory == {name: array.ctypes.data for name, array in live.items()}
    assert live["extra"].tolist() == [1, 1, 1]

    wrong = {name: array.copy() for name, array in base.items()}
    wrong["b.weight"][200, 3] += 1
    before = {name: array.copy() for name, array in wrong.items()}
    with pytest.raises(BaseError, match="another version"):
        apply_delta(data, wrong)
    assert equal(wrong, before)
    with pytest.raises(UsageError, match="not among the arrays"):
        apply_delta(data, {"a.weight": wrong["a.weight"]})
    fixed = {name: array.copy() for name, array in base.items()}
    fixed["a.weight"].flags.writeable = False
    with pytest.raises(UsageError, match="writable"):
        apply_delta(data, fixed)
    damaged = bytearray(data)
    damaged[-100] ^= 1
    intact = {name: array.copy() for name, array in base.items()}
    with pytest.raises(slimtensors.FormatError):
        apply_delta(bytes(damaged), intact)
    assert equal(intact, base)


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


def test_a_json_file_is_no_base(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """Unless it is an index: which weights lie beside a configuration is nobody's word."""
    base, source = pair
    (base.parent / "config.json").write_text("{}")
    with pytest.raises(NotSlimtensorsError, match="but a JSON text; an index of shards"):
        slimtensors.compress(source, tmp_path / "m", base=base.parent / "config.json")


def test_apply_to_memory_of_any_kind() -> None:
    """Other byte orders and strides are written to; shared memory, if it is given one content; else nothing is."""
    rng = np.random.default_rng(1)
    base = {name: rng.standard_normal((300, 300)) for name in "uvw"}
    result = {name: array * 1.0001 for name, array in base.items()}
    data = save(result, base=base)
    both = np.empty((300, 600))  # side by side in the same rows
    both[:, :300], both[:, 300:] = base["u"], base["v"]
    live: Any = {"u": both[:, :300], "v": both[:, 300:], "w": base["w"].astype(">f8")}
    apply_delta(data, live)
    assert all(np.array_equal(live[name], result[name]) for name in result)
    assert live["w"].dtype.byteorder == ">"

    alike = {"a": base["u"], "b": base["u"]}
    same_twice, unlike = (save({"a": result["u"], "b": other}, base=alike) for other in (result["u"], base["u"] * 1.01))
    tied = base["u"].copy()
    apply_delta(same_twice, {"a": tied, "b": tied})
    assert np.array_equal(tied, result["u"])
    tied[...] = base["u"]
    with pytest.raises(UsageError, match="tensors 'a' and 'b' share memory, and in the file they differ"):
        apply_delta(unlike, {"a": tied, "b": tied})
    assert np.array_equal(tied, base["u"])


def test_apply_to_memory_in_memory() -> None:
    """Views of a whole that is there too."""
    whole = np.random.default_rng(2).standard_normal(2000)
    base = {"all": whole.copy(), "part": whole[500:900].copy()}
    moved = whole * 1.0001
    fits, other = ({"all": moved, "part": moved[at : at + 400]} for at in (500, 501))
    live = {"all": whole, "part": whole[500:900]}
    with pytest.raises(UsageError, match=r"tensors '(all|part)' and '(all|part)' share memory"):
        apply_delta(save(other, base=base), live)
    assert np.array_equal(whole, base["all"])
    apply_delta(save(fits, base=base), live)
    assert np.array_equal(whole, moved)


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
