"""safe_open, slices, sources, devices: as people know them from safetensors."""

from __future__ import annotations

import copy
import gc
import io
import os
import pickle
import time
from pathlib import Path
from typing import IO, Any

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy

import slimtensors
from api.made import same, structured, weights
from slimtensors.limits import CHUNK_BYTES
from slimtensors.numpy import apply_delta, load, load_file, save, save_file, stream_tensors

DESCRIPTORS = Path("/proc/self/fd")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    tensors = structured()
    tensors["tall"] = weights(np.random.default_rng(0), 5000, 12, 50)
    path = tmp_path_factory.mktemp("saved") / "x.slimtensors"
    save_file(tensors, path, {"format": "np"})
    return path, tensors


def test_like_safetensors(saved: tuple[Path, dict[str, np.ndarray]], tmp_path: Path) -> None:
    path, tensors = saved
    plain = {name: array for name, array in tensors.items() if array.dtype in (np.float32, np.int64)}
    twin = tmp_path / "x.safetensors"
    safetensors.numpy.save_file(plain, twin, {"format": "np"})
    with slimtensors.safe_open(path, framework="np") as ours, safetensors.safe_open(twin, framework="np") as theirs:
        assert ours.metadata() == theirs.metadata()
        assert [name for name in ours.keys() if name in plain] == list(theirs.keys())  # noqa: SIM118 # a handle, not a dict
        for name in plain:
            assert same(ours.get_tensor(name), theirs.get_tensor(name))
            a, b = ours.get_slice(name), theirs.get_slice(name)
            assert (a.get_shape(), a.get_dtype()) == (b.get_shape(), b.get_dtype())
        assert same(ours.get_slice("tall")[10:20, 3], theirs.get_slice("tall")[10:20, 3])
        everything = ours.get_tensors()
        assert list(everything) == ours.offset_keys()
        assert all(same(everything[name], array) for name, array in tensors.items())
        for one, other in ((ours, theirs), (ours.get_slice("tall"), theirs.get_slice("tall"))):
            assert [name for name in dir(other) if not hasattr(one, name)] == []


INDICES: list[Any] = [
    np.s_[:],
    np.s_[...],
    np.s_[7],
    np.s_[-1],
    np.s_[10:20],
    np.s_[4990:],
    np.s_[::1000],
    np.s_[::-700],
    np.s_[5:5],
    np.s_[:, 3],
    np.s_[..., 7],
    np.s_[..., -3:],
    np.s_[100:4000:7, ::-5, 2:40:3],
    np.s_[3, 4, 5],
    np.s_[0, ..., 0],
    np.s_[4999, 11, 49:50],
    (slice(None), np.int64(2)),
    (np.array(7), slice(None)),
    [4999, 3, -1, 3, 4],
    [[0, 1], [2, 0]],
    [],
    np.arange(2000, 4000, dtype=np.uint16),
    (np.array([40, 41, 7]), -1),
    ([4000, 1, 4001], ..., slice(40, 2, -3)),
    (np.array([[8], [9]]), slice(2, 5)),
    ([5, 6], slice(3, 3)),
]


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_slices(saved: tuple[Path, dict[str, np.ndarray]], index: Any) -> None:
    path, tensors = saved
    with slimtensors.safe_open(path) as file:
        assert same(file.get_slice("tall")[index], np.array(tensors["tall"][index]))


def test_slices_of_every_structure(saved: tuple[Path, dict[str, np.ndarray]]) -> None:
    path, tensors = saved
    with slimtensors.safe_open(path) as file:
        for name, array in tensors.items():
            if array.ndim == 2:
                assert same(file.get_slice(name)[3:-5, ::2], np.ascontiguousarray(array[3:-5, ::2])), name
            assert same(file.get_slice(name)[...], array), name


@pytest.mark.parametrize("dtype", [ml_dtypes.float8_e5m2, ml_dtypes.float8_e4m3fn, ml_dtypes.bfloat16])
def test_slices_of_dtypes_that_numpy_lacks(dtype: Any) -> None:
    array = np.arange(60).reshape(12, 5).astype(dtype)
    with slimtensors.safe_open(save({"a": array})) as file:
        assert same(file.get_slice("a")[9:2:-3, 1:], np.ascontiguousarray(array[9:2:-3, 1:]))


def test_arrays_have_native_dtypes() -> None:
    """Else `memoryview`, for one, knows no way to read them."""
    for dtype in ("float32", "int64", "uint16", "complex64"):
        array = np.arange(5).astype(dtype)
        found = load(save({"a": array}))["a"]
        assert found.dtype.isbuiltin
        assert memoryview(found).format == memoryview(array).format


@pytest.mark.skipif(not DESCRIPTORS.is_dir(), reason="nothing tells how many files are open")
@pytest.mark.parametrize("mapped", [True, False])
def test_nothing_comes_from_a_closed_handle(mapped: bool, tmp_path: Path) -> None:
    """Nor is the file called cut off; what came before stays."""
    arrays = {"large": np.random.default_rng(1).normal(size=(700, 900)), "small": np.arange(9), "tiny": np.arange(5)}
    save_file(arrays, tmp_path / "model")
    file = slimtensors.safe_open(tmp_path / "model", mmap=mapped)
    part = file.get_slice("large")
    kept = [file.get_tensor("small"), part[:5]]
    file.close()
    for ask in (lambda: file.get_tensor("large"), lambda: part[3:], lambda: part[:5], lambda: file.get_tensor("tiny")):
        with pytest.raises(ValueError, match="model is closed") as refused:
            ask()
        assert not isinstance(refused.value, slimtensors.FormatError)
    assert np.array_equal(kept[0], arrays["small"])
    assert np.array_equal(kept[1], arrays["large"][:5])


def test_files_are_closed_by_who_opened_them_or_drops_them(saved: tuple[Path, dict[str, np.ndarray]]) -> None:
    path, tensors = saved

    def opened() -> int:
        gc.collect()
        return sum(1 for _ in DESCRIPTORS.iterdir())

    before, deadline = opened(), time.monotonic() + 30
    for _ in range(20):
        slimtensors.safe_open(path).get_tensor("tall")
        next(iter(slimtensors.safe_open(path).prefetch()))
    while opened() > before:  # threads that prefetch see within a moment that nobody waits for them
        assert time.monotonic() < deadline
        time.sleep(0.01)
    file = slimtensors.safe_open(path)
    assert same(file.get_tensor("tall"), tensors["tall"])
    file.close()
    file.close()
    assert opened() <= before
    with pytest.raises(ValueError, match="closed"):
        file.get_tensor("tall")


def test_an_open_file_is_neither_pickled_nor_copied(saved: tuple[Path, dict[str, np.ndarray]]) -> None:
    with slimtensors.safe_open(saved[0]) as file:
        for give in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="open it in each worker"):
                give(file)
            with pytest.raises(TypeError, match="open it in each worker"):
                give(file.get_slice("tall"))


@pytest.mark.skipif(not hasattr(os, "preadv"), reason="reads by another call there")
def test_a_read_that_has_begun_is_of_its_own_file_whoever_closes_that(
    monkeypatch: pytest.MonkeyPatch, saved: tuple[Path, dict[str, np.ndarray]], tmp_path: Path
) -> None:
    """Between asking for the number and reading, as another thread may."""
    path, tensors = saved
    other = tmp_path / "other"
    other.write_bytes(bytes(path.stat().st_size))
    file = slimtensors.safe_open(path, threads=1)
    real, opened = os.preadv, list[IO[bytes]]()

    def closed_before(descriptor: int, *rest: Any) -> int:
        if not opened:
            file.close()
            opened.extend(other.open("rb") for _ in range(20))  # one of which takes a number that is free
        return real(descriptor, *rest)

    monkeypatch.setattr(os, "preadv", closed_before)
    outcome: Any
    try:
        outcome = file.get_tensor("tall")
    except (ValueError, OSError) as error:
        outcome = error
    for each in opened:
        each.close()
    if isinstance(outcome, Exception):  # of what was to be read after that
        assert (type(outcome), "is closed" in str(outcome)) == (ValueError, True)
    else:
        assert same(outcome, tensors["tall"])
    assert opened
    with pytest.raises(ValueError, match="is closed"):
        file.get_tensor("tall")


def test_wrong_indices(saved: tuple[Path, dict[str, np.ndarray]]) -> None:
    path, _ = saved
    with slimtensors.safe_open(path) as file:
        part = file.get_slice("tall")
        rows = [0, 5000], np.array([-5001]), np.array([2**64 - 1], np.uint64), ([0], 12), ([0], 0, 0, 0)
        for index in (5000, np.s_[0, 12], np.s_[0, 0, 0, 0], *rows):
            with pytest.raises(IndexError, match="'tall'"):
                part[index]
        masks = True, np.bool_(True), np.array(True), np.array([True, False])
        lists = [True, False], ["a"], [[1], [2, 3]], [slice(1)], np.array([1.0]), (slice(1), [1]), ([1], [1])
        for index in ("a", 1.5, None, np.array(1.0), np.s_[..., ...], *masks, *lists):
            with pytest.raises(slimtensors.UsageError, match="'tall'"):
                part[index]
        with pytest.raises(slimtensors.TensorNotFoundError, match="did you mean 'tall'"):
            file.get_slice("tal")
        with pytest.raises(KeyError):
            file.get_tensor("nothing like it at all")


class Counting:
    """Bytes with ranged reads, which it remembers."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.reads: list[tuple[int, int]] = []

    def size(self) -> int:
        return len(self.data)

    def read_range(self, offset: int, length: int) -> bytes:
        self.reads.append((offset, length))
        return self.data[offset : offset + length]


def test_a_slice_reads_only_its_chunks() -> None:
    rng = np.random.default_rng(5)
    array = weights(rng, 4096, 1024)  # 16 chunks
    source = Counting(save({"a": weights(rng, 2048, 512), "x": array, "z": weights(rng, 2048, 512)}))
    with slimtensors.safe_open(source) as file:
        opened = len(source.reads)
        assert opened <= 3
        part = file.get_slice("x")[1000:1010, 5:9]
        assert same(part, np.ascontiguousarray(array[1000:1010, 5:9]))
        chunks = [read for read in source.reads[opened:] if read[1] > 4096]
        assert len(chunks) == 1
        assert chunks[0][1] < CHUNK_BYTES
        before = len(source.reads)
        file.get_slice("x")[:, 0][::512]
        assert len(source.reads) - before <= 16
        before, rows = len(source.reads), [1001, 4, 1009, 5, 1001]
        assert same(file.get_slice("x")[rows], array[rows])
        assert len([read for read in source.reads[before:] if read[1] > 4096]) == 2


@pytest.mark.parametrize("verify", ["none", "stored", "full"])
def test_sources(saved: tuple[Path, dict[str, np.ndarray]], verify: Any) -> None:
    path, tensors = saved
    data = path.read_bytes()
    with path.open("rb") as file:
        in_memory = (data, bytearray(data), memoryview(b"x" + data)[1:])
        for source in (path, str(path), *in_memory, io.BytesIO(data), file, Counting(data)):
            again = load_file(source, verify=verify)
            assert all(same(again[name], array) for name, array in tensors.items())
    again = load_file(path, mmap=True, verify=verify)
    assert all(same(again[name], array) for name, array in tensors.items())


def test_what_a_shell_shows_is_a_short_line(saved: tuple[Path, dict[str, np.ndarray]]) -> None:
    path, tensors = saved
    with slimtensors.safe_open(path) as file, file.prefetch({"tall": None}) as loader:
        assert repr(file) == f"safe_open({str(path)!r}, {len(tensors)} tensors)"
        assert repr(file.get_slice("tall")) == "TensorSlice('tall', F32[5000, 12, 50])"
        assert repr(loader) == "PrefetchLoader(1 tensors)"
    report = slimtensors.inspect(path)
    sizes = f"{report.file_bytes / 1e6:.1f} MB of {report.decoded_bytes / 1e6:.1f} MB"
    assert repr(report) == f"FileReport({str(path)!r}, {len(tensors)} tensors, {sizes})"
    array = np.zeros(1000, np.float32)
    small, tuned = save({"x": array}), safetensors.numpy.save({"x": array, "y": array})
    assert repr(slimtensors.inspect(small)).endswith("1 tensors, 512 bytes of 4000 bytes)")
    assert repr(slimtensors.match_base(tuned, {"x": array})).endswith(", 1 of 2 tensors have a base)")


def test_file_objects_as_destinations() -> None:
    tensors = {"x": np.arange(5000, dtype=np.float32)}
    buffer = io.BytesIO()
    save_file(tensors, buffer)
    assert same(load_file(buffer.getvalue())["x"], tensors["x"])
    assert buffer.getvalue() == save(tensors)


def test_wrong_arguments(tmp_path: Path) -> None:
    array = np.zeros(3, np.float32)
    data, plain = save({"x": array}), safetensors.numpy.save({"x": array})
    with_progress: list[Any] = [
        lambda: slimtensors.compress(plain, tmp_path / "x", progress=True),
        lambda: slimtensors.decompress(data, tmp_path / "x", progress=True),
        lambda: slimtensors.flatten(data, tmp_path / "x", progress=True),
        lambda: slimtensors.rebase(data, tmp_path / "x", data, progress=True),
        lambda: slimtensors.salvage(data, tmp_path / "x", progress=True),
        lambda: slimtensors.estimate(plain, progress=True),
        lambda: slimtensors.verify(data, progress=True),
        lambda: slimtensors.compare(data, plain, progress=True),
        lambda: next(stream_tensors(data, progress=True)),
    ]
    cases: list[tuple[Any, str]] = [
        (lambda: save({"x": [1, 2]}), "tensor 'x' is a list"),
        (lambda: save([array]), "a dict from names"),
        (lambda: save({"x": np.array(["a"])}), "cannot be stored"),
        (lambda: save({"": array}), "1 to 512"),
        (lambda: save({"a\0b": array}), "control characters"),
        (lambda: save({"a\ud800": array}), r"'a\\ud800' holds half a surrogate pair"),
        (lambda: save({"deep": array.reshape((1,) * 19 + (-1,))}), "'deep' has 20 dimensions; a file holds at most 16"),
        (lambda: save({"x": array}, {"a": 1}), "not a string"),
        (lambda: save({"x": array}, preset="best"), "available: fast, balanced, small"),
        (lambda: save({"x": array}, threads=0), "at least 1"),
        (lambda: load_file(data, verify="maybe"), "it can be 'none', 'stored', 'full'"),
        (lambda: load_file(17), "cannot read from int"),
        (lambda: slimtensors.safe_open(data, framework="jax"), "it can be 'np' or 'pt'"),
        (lambda: slimtensors.safe_open(data, framework="np", device="cuda"), "framework='pt'"),
        (lambda: slimtensors.compress(data, tmp_path / "x"), "compressed already; decompress it first"),
        (lambda: save_file({"x": array}, 5), "cannot write to int"),
        (lambda: save({"x": array}, ["a"]), "metadata is \\['a'\\]; a mapping"),
        (lambda: save({"x": array}, base={"x": array}, base_map=["a"]), "base_map is \\['a'\\]; a mapping"),
        (lambda: slimtensors.compress(plain, tmp_path / "x", target_size="9kB"), "target_size is '9kB'; a number of"),
        (lambda: slimtensors.compress(plain, tmp_path / "x", target_bpw="4"), "target_bpw is '4'; a number is needed"),
        (lambda: slimtensors.compress(plain, tmp_path / "x", base_dirs=[3]), "base_dirs holds 3; paths of folders"),
        (lambda: slimtensors.match_base(plain, "auto", base_dirs=3), "base_dirs is 3; a list of folders"),
        (lambda: slimtensors.estimate(plain, base="auto", base_dirs=[None]), "base_dirs holds None; paths"),
        (lambda: slimtensors.rebase(data, tmp_path / "x", data, base_dirs=[3]), "base_dirs holds 3; paths of folders"),
        (lambda: slimtensors.compress(plain, tmp_path / "x", quantise="q4_0", keep=3), "keep is 3; a name of a tensor"),
        (lambda: slimtensors.compress(plain, tmp_path / "x", quantise="q4_0", keep=[3]), "keep is .3.; a name of a"),
        (lambda: slimtensors.compress(plain, tmp_path / "x", look=3), "look is 3; a function is needed"),
        (lambda: slimtensors.compress(plain, tmp_path / "x", on_match=True), "on_match is True; .* with a MatchReport"),
        *((call, "progress is True; a function is needed, which is called with numbers") for call in with_progress),
        (lambda: load_file(data, max_bytes="1GB"), "max_bytes is '1GB'; a whole number of bytes"),
        (lambda: slimtensors.inspect(data, max_bytes="1GB"), "max_bytes is '1GB'; a whole number of bytes"),
        (lambda: apply_delta(data, {"x": array}, max_bytes="1GB"), "max_bytes is '1GB'; a whole number of bytes"),
        (lambda: slimtensors.dependencies(data, max_bytes=1.5), "max_bytes is 1.5; a whole number of bytes"),
        (lambda: slimtensors.decode(data, out=[0.0]), "out is a list; a NumPy array is needed"),
    ]
    for call, message in cases:
        with pytest.raises(slimtensors.UsageError, match=message):
            call()
    assert list(tmp_path.iterdir()) == []
