"""Tensors one after another: plans, slices, shards, bounded memory, errors, cancelling."""

from __future__ import annotations

import gc
import itertools
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import slimtensors
from slimtensors.numpy import load_file, save, save_file, stream_tensors

Arrays = dict[str, np.ndarray]


def made(seed: int = 0) -> Arrays:
    rng = np.random.default_rng(seed)
    large = {f"layer.{i}.weight": rng.normal(size=(300, 500)).astype(np.float32) for i in range(6)}
    small = {f"layer.{i}.bias": rng.normal(size=500).astype(np.float32) for i in range(6)}
    arrays = {name: array for i in range(6) for name, array in
              ((f"layer.{i}.weight", large[f"layer.{i}.weight"]), (f"layer.{i}.bias", small[f"layer.{i}.bias"]))}
    rows = rng.normal(size=(700, 400)).astype(np.float32)
    rows[::3] = rows[::3].astype(np.float16)  # side planes
    return {
        "embedding": rng.normal(size=(900, 700)).astype(np.float16), **arrays, "rows": rows,
        "cube": rng.integers(0, 99, (40, 30, 50)), "scalar": np.array(3.5), "empty": np.zeros((0, 7), np.float32),
        "head": np.zeros(0, np.int8),
    }  # fmt: skip


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    found = made()
    found["head"] = found["embedding"]  # a tie: stored once
    found["wide"] = found["embedding"].astype(np.float32)  # a cast
    return found


@pytest.fixture(scope="module")
def path(arrays: Arrays, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stream") / "model.slimtensors"
    save_file(arrays, path)
    return path


def same(found: Arrays, expected: Arrays) -> bool:
    return found.keys() == expected.keys() and all(
        a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
        for a, b in ((found[name], expected[name]) for name in expected)
    )


def ours() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("slimtensors")]


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("ahead", [0, 1 << 20, 1 << 40])
def test_all_of_a_file_in_its_order(arrays: Arrays, path: Path, threads: int, ahead: int) -> None:
    seen: list[int] = []
    pairs = list(stream_tensors(path, threads=threads, ahead=ahead, progress=seen.append))
    assert [name for name, _ in pairs] == list(arrays)
    assert same(dict(pairs), arrays)
    assert sum(seen) == sum(array.nbytes for array in arrays.values())
    assert ours() == []


def test_prefetch_as_safetensors_has_it(arrays: Arrays, path: Path) -> None:
    plan: Any = {"layer.3.weight": slice(100, 200), "embedding": None, "layer.1.bias": slice(5, 2)}
    plan["cube"] = slice(-3, None)
    with slimtensors.safe_open(path) as file:
        loader = file.prefetch(plan, threads=2)
        assert loader.names() == list(plan)
        assert len(loader) == 4
        assert np.array_equal(loader.take("embedding"), arrays["embedding"])
        found = dict(loader)
        assert list(found) == ["layer.3.weight", "layer.1.bias", "cube"]
        assert np.array_equal(found["layer.3.weight"], arrays["layer.3.weight"][100:200])
        assert found["layer.1.bias"].shape == (0,)
        assert np.array_equal(found["cube"], arrays["cube"][-3:])
        with pytest.raises(slimtensors.UsageError, match="taken already"):
            loader.take("cube")
        with pytest.raises(slimtensors.TensorNotFoundError):
            loader.take("layer.0.bias")
        assert np.array_equal(file.get_tensor("head"), arrays["head"])  # the handle goes on
        other = file.prefetch()
        other.close()
        with pytest.raises(slimtensors.UsageError, match="closed"):
            other.take("rows")
        last = file.prefetch()  # ends with the handle
    assert ours() == []
    with pytest.raises(slimtensors.UsageError, match="closed"):
        last.take("embedding")


@pytest.mark.parametrize("name", ["embedding", "layer.0.weight", "cube", "rows", "wide"])
@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_take_their_part_of_any_dimension(arrays: Arrays, path: Path, name: str, ranks: int) -> None:
    array = arrays[name]
    for dimension in range(array.ndim):
        size = array.shape[dimension]
        edges = [size * rank // ranks for rank in range(ranks + 1)]
        parts = []
        for low, high in itertools.pairwise(edges):
            plan = {name: (*[slice(None)] * dimension, slice(low, high))}
            parts += [part for _, part in stream_tensors(path, plan=plan)]
        assert same({name: np.concatenate(parts, dimension)}, {name: array})


def test_plans_that_cannot_be(path: Path) -> None:
    wrong: list[tuple[Any, str]] = [
        ({"rows": slice(0, 10, 2)}, "step"),
        ({"rows": 3}, "slices are understood"),
        ({"rows": (slice(1, 2), slice(1, 2))}, "one dimension"),
        ({"scalar": slice(1)}, "0 dimensions"),
        ({"row": None}, "did you mean 'rows'"),
        (["rows"], "dict"),
    ]
    with slimtensors.safe_open(path) as file:
        for plan, message in wrong:
            with pytest.raises(slimtensors.UsageError, match=message):
                file.prefetch(plan)
            if isinstance(plan, dict):
                with pytest.raises(slimtensors.UsageError, match=message):
                    next(stream_tensors(path, plan=plan))


def sharded(folder: Path, arrays: Arrays, shards: int = 3) -> Path:
    names = list(arrays)
    places = {}
    for i in range(shards):
        shard = f"model-{i + 1:05}-of-{shards:05}.slimtensors"
        save_file({name: arrays[name] for name in names[i::shards]}, folder / shard)
        places |= dict.fromkeys(names[i::shards], shard)
    index = folder / "model.slimtensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index


def test_shards(arrays: Arrays, tmp_path: Path) -> None:
    index = sharded(tmp_path, arrays)
    files = sorted(tmp_path.glob("*.slimtensors"))
    for target in (index, tmp_path, str(tmp_path), files):
        assert same(dict(stream_tensors(target)), arrays)
    plan = dict.fromkeys(reversed(arrays))
    assert list(dict(stream_tensors(tmp_path, plan=plan))) == list(plan)
    with pytest.raises(slimtensors.FormatError, match="both"):
        list(stream_tensors([*files, files[0]]))
    with pytest.raises(slimtensors.TensorNotFoundError, match="none of 3 files"):
        list(stream_tensors(tmp_path, plan={"nothing": None}))
    places = json.loads(index.read_text())["weight_map"]
    places["ghost"] = files[1].name
    index.write_text(json.dumps({"weight_map": places}))
    with pytest.raises(slimtensors.FormatError, match="ghost"):
        list(stream_tensors(tmp_path))
    (tmp_path / "model.slimtensors.index.fp16.json").write_text(index.read_text())
    with pytest.raises(slimtensors.UsageError, match="2 indexes"):
        list(stream_tensors(tmp_path))
    (tmp_path / "none").mkdir()
    with pytest.raises(slimtensors.NotSlimtensorsError, match="holds no"):
        list(stream_tensors(tmp_path / "none"))


class Watched:
    """A source that says what is read, fails at a given read, and may take its time."""

    def __init__(self, data: bytes, *, fail: int | None = None, wait: float = 0.0) -> None:
        self.data, self.fail, self.wait = data, fail, wait
        self.reads = 0
        self.bytes = 0

    def size(self) -> int:
        return len(self.data)

    def read_range(self, offset: int, length: int) -> bytes:
        self.reads += 1
        self.bytes += length
        if self.reads == self.fail:
            raise ConnectionResetError("as injected")
        time.sleep(self.wait)
        return self.data[offset : offset + length]


def test_what_is_decoded_ahead_is_bounded() -> None:
    rng = np.random.default_rng(1)
    arrays = {str(i): rng.normal(size=(256, 1024)).astype(np.float32) for i in range(30)}  # 1 MiB each
    source = Watched(save(arrays, preset="fast"))
    stream = stream_tensors(source, threads=4, ahead=3 << 20)
    next(stream)
    time.sleep(0.5)
    front = source.bytes
    assert source.bytes < 0.3 * len(source.data)
    next(stream)
    time.sleep(0.2)
    assert front < source.bytes < 0.4 * len(source.data)
    stream.close()  # type: ignore[attr-defined] # a generator
    assert ours() == []


def test_a_failing_source_is_raised_as_it_is_with_the_tensor_named(arrays: Arrays) -> None:
    data = save({name: arrays[name] for name in arrays if name.startswith("layer")})
    source = Watched(data, fail=6)
    with pytest.raises(ConnectionResetError, match="as injected") as caught:
        list(stream_tensors(source, threads=2))
    assert any("tensor 'layer." in text for text in getattr(caught.value, "__notes__", ["tensor 'layer."]))
    assert source.reads < 20
    assert ours() == []


def test_damage_is_raised_at_once_and_names_the_tensor(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-len(data) // 3] ^= 1
    with pytest.raises(slimtensors.ChecksumError, match=r"tensor '.*', chunk|pack"):
        list(stream_tensors(bytes(data)))
    assert ours() == []


def test_dropping_a_loader_stops_it(path: Path) -> None:
    with slimtensors.safe_open(path) as file:
        loader = file.prefetch(ahead=0)
        next(iter(loader))
        del loader
        gc.collect()
        until = time.perf_counter() + 5
        while ours() and time.perf_counter() < until:
            time.sleep(0.01)
        assert ours() == []


def test_closing_the_generator_while_sources_wait(arrays: Arrays) -> None:
    stream: Iterator[Any] = stream_tensors(Watched(save(arrays), wait=0.05), threads=3)
    next(stream)
    stream.close()  # type: ignore[attr-defined] # a generator
    assert ours() == []


def test_load_file_overlaps_with_a_slow_source(arrays: Arrays) -> None:
    """Each request takes a while, as from a network: they are under way at once."""
    source = Watched(save(arrays, preset="fast"), wait=0.02)
    load_file(bytes(source.data))  # compile
    began = time.perf_counter()
    assert same(load_file(source, threads=2), arrays)
    assert time.perf_counter() - began < 0.8 * source.reads * 0.02
