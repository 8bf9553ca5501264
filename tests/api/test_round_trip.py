"""What goes in comes out, bit for bit: every dtype, shape and structure, both presets, any number of threads."""

from __future__ import annotations

import hashlib
import io
import json
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

import slimtensors
from api.made import ARRAY_DTYPES, of_dtype, same, structured, weights
from slimtensors.numpy import load, load_file, save, save_file

VECTORS = Path(__file__).resolve().parents[2] / "format_spec" / "vectors"
PRESETS = ("fast", "balanced")


@pytest.mark.parametrize("dtype", [dtype.name for dtype in ARRAY_DTYPES])
def test_every_dtype_and_shape(dtype: str) -> None:
    shapes = [(), (0,), (1,), (127,), (128,), (129,), (3, 0, 2), (5, 7, 11), (2,) * 10, (1000, 300), (1, 70000)]
    tensors = {str(i): of_dtype(dtype, shape, i) for i, shape in enumerate(shapes)}
    for preset in PRESETS:
        again = load(save(tensors, {"a": "b\n\u20ac"}, preset=preset))
        assert list(again) == list(tensors)
        assert all(same(again[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("preset", PRESETS)
def test_structures_are_found(preset: str) -> None:
    tensors = structured()
    data = save(tensors, preset=preset)
    again = load(data)
    assert all(same(again[name], tensors[name]) for name in tensors)
    bits = {tensor.name: tensor.bits_per_weight for tensor in slimtensors.inspect(data).tensors}
    asked = {
        "bf16": 11.0, "f16": 13.9, "f32": 27.0, "f16 in f32": 14.0, "bf16 in f64": 11.6, "constant": 0.1, "zeros": 0.1,
        "arange": 0.1, "small integers": 8.6, "integers of all sizes": 15.5, "mask": 0.9, "noise": 8.1, "twin": 0.0,
        "some rows f16 in f32": 23.0,
    }  # fmt: skip
    assert {name: bits[name] for name in asked if bits[name] > asked[name]} == {}


def test_threads_do_not_change_a_byte() -> None:
    tensors = structured()
    files = {save(tensors, threads=threads, self_check=False) for threads in (1, 2, 5)}
    assert len(files) == 1


def test_no_tensor_grows() -> None:
    rng = np.random.default_rng(3)
    for size in (1, 100, 1000, 65536, 1 << 20, 3_000_000):
        report = slimtensors.inspect(save({"x": np.frombuffer(rng.bytes(size), np.uint8)}))
        (tensor,) = report.tensors
        # a record is a chunk's line in the table and its head
        assert tensor.stored_bytes <= size + 144 * tensor.chunks


def test_small_tensors_cost_little() -> None:
    rng = np.random.default_rng(4)
    for dtype, allowed in ((np.float32, 1.10), (ml_dtypes.bfloat16, 1.20)):
        tensors = {f"layers.{i}.norm.weight": weights(rng, 100).astype(dtype) for i in range(100)}
        plain = len(_plain(tensors))
        assert len(save(tensors)) <= allowed * plain


def _plain(tensors: dict[str, np.ndarray]) -> bytes:
    return bytes(safetensors.numpy.save({name: array.view(np.uint8) for name, array in tensors.items()}))


@pytest.mark.parametrize("preset", PRESETS)
def test_the_real_model_comes_back_identical(minilm: Path, tmp_path: Path, preset: str) -> None:
    small, back = tmp_path / "model.slimtensors", tmp_path / "model.safetensors"
    slimtensors.compress(minilm, small, preset=preset)
    verified = slimtensors.verify(small)
    slimtensors.decompress(small, back)
    digest = hashlib.sha256(minilm.read_bytes()).hexdigest()
    assert hashlib.sha256(back.read_bytes()).hexdigest() == digest == verified.source_sha256
    assert small.stat().st_size <= 0.818 * minilm.stat().st_size
    ours, theirs = load_file(small), safetensors.numpy.load_file(minilm)
    assert ours.keys() == theirs.keys()
    assert all(same(ours[name], theirs[name]) for name in ours)
    predicted = slimtensors.estimate(minilm, preset=preset)
    assert abs(predicted.ratio - small.stat().st_size / minilm.stat().st_size) < 0.01


def test_the_real_model_in_bf16(minilm: Path, tmp_path: Path) -> None:
    tensors = {
        name: array.astype(ml_dtypes.bfloat16) if array.dtype == np.float32 else array
        for name, array in safetensors.numpy.load_file(minilm).items()
    }
    raw = sum(array.nbytes for array in tensors.values())
    path = tmp_path / "model.slimtensors"
    for preset, asked in (("fast", 0.665), ("balanced", 0.660)):
        save_file(tensors, path, preset=preset)
        # the plain file has a header of about 11 kB more than the arrays
        assert path.stat().st_size <= asked * (raw + 11_000)
        again = load_file(path)
        assert all(same(again[name], tensors[name]) for name in tensors)


def test_a_file_saved_from_arrays_decompresses_to_plain_safetensors(tmp_path: Path) -> None:
    common = ("float32", "int64", "uint16")
    tensors = {name: array for name, array in structured().items() if array.dtype.name in common}
    small, plain = tmp_path / "x.slimtensors", tmp_path / "x.safetensors"
    save_file(tensors, small, {"format": "np"})
    slimtensors.decompress(small, plain)
    again = safetensors.numpy.load_file(plain)
    assert all(same(again[name], tensors[name]) for name in tensors)


def test_metadata_of_null_are_none(tmp_path: Path) -> None:
    """As safetensors has it; the source comes back with its null."""
    header = b'{"__metadata__":null,"x":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}'
    plain, small, back = (tmp_path / name for name in ("x.safetensors", "x.slimtensors", "y.safetensors"))
    plain.write_bytes(struct.pack("<Q", len(header)) + header + b"abc")
    assert safetensors.numpy.load_file(plain)["x"].tolist() == [97, 98, 99]
    slimtensors.compress(plain, small)
    assert load_file(small)["x"].tolist() == [97, 98, 99]
    slimtensors.decompress(small, back)
    assert back.read_bytes() == plain.read_bytes()


OFFSETS = {"a": [8, 16], "b": [0, 8], "none": [3, 3], "c": [20, 28]}  # out of order, with a gap
ESCAPED = '\n  "none\\u00e9\u00e9":{"more":[{}],"shape":[2,0],"data_offsets":[0,0],"dtype":"BF16"},'


@pytest.mark.parametrize(
    "more",
    ["", '"__metadata__":{"dtype":"F32"},', '"__metadata__":null,', ESCAPED],
    ids=["plain", "metadata", "null", "escaped"],
)
@pytest.mark.parametrize("padding", ["", " " * 5, "\n" * 4096])
def test_odd_headers_come_back_and_pass_their_own_check(more: str, padding: str, tmp_path: Path) -> None:
    """What is given back says of its tensors what the compressed file says: the check of that refuses none of ours."""
    entries = {
        name: {"shape": [0 if begin == end else 8], "data_offsets": [begin, end], "dtype": "U8"}
        for name, (begin, end) in OFFSETS.items()
    }
    entries["none"]["data_offsets"] = [16, 16]
    header = ("{" + more + json.dumps(entries)[1:] + padding).encode()
    source = len(header).to_bytes(8, "little") + header + b"A" * 8 + b"B" * 8 + b"gap." + b"A" * 8 + b"behind"
    slimtensors.compress(source, tmp_path / "m.slimtensors")
    slimtensors.verify(tmp_path / "m.slimtensors")
    slimtensors.decompress(tmp_path / "m.slimtensors", tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == source
    slimtensors.flatten(tmp_path / "m.slimtensors", tmp_path / "flat.slimtensors")
    assert slimtensors.verify(tmp_path / "flat.slimtensors").source_sha256 == hashlib.sha256(source).hexdigest()


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (b'{"a":{"shape":"","data_offsets":[0,1],"dtype":"U8"}}', "shape or data_offsets are no array"),
        ('{"a":{"shape":[1],"data_offsets":[0,1],"dtype":"U8"}}'.encode("utf-16"), "its header is not JSON"),
        (b'{"__metadata__":{"k":"%s"}}' % (b"," * (1 << 24)), "more than 16777216 commas"),
    ],
    ids=["shape", "utf-16", "commas"],
)
def test_headers_that_no_reader_of_safetensors_takes_are_refused(header: bytes, words: str) -> None:
    with pytest.raises(slimtensors.FormatError, match=words):
        slimtensors.compress(len(header).to_bytes(8, "little") + header + b"A", io.BytesIO())


@pytest.mark.parametrize("ask", ["verify", "decompress"])
def test_a_file_that_gives_back_other_tensors_than_it_loads_is_refused(ask: str, tmp_path: Path) -> None:
    """Before any of it is written."""
    path, target = VECTORS / "invalid" / "image_two_faces.slimtensors", tmp_path / "out.safetensors"
    assert len(load_file(path)) == 4
    with pytest.raises(slimtensors.FormatError, match=r"it has another tensor 't.' than what is loaded"):
        slimtensors.verify(path) if ask == "verify" else slimtensors.decompress(path, target)
    assert list(tmp_path.iterdir()) == []


def test_encode_and_decode_one_array() -> None:
    array = structured()["bf16"]
    data = slimtensors.encode(array)
    out = np.empty_like(array)
    assert same(slimtensors.decode(data, verify="none"), array)
    assert slimtensors.decode(data, out=out) is out
    assert same(out, array)
    with pytest.raises(slimtensors.UsageError, match="out is"):
        slimtensors.decode(data, out=np.empty(3, np.float32))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    dtype=st.sampled_from([dtype.name for dtype in ARRAY_DTYPES]),
    units=st.integers(0, 20000),
    mix=st.sampled_from(["bits", "few", "runs", "sorted"]),
)
def test_any_array(seed: int, dtype: str, units: int, mix: str) -> None:
    array = of_dtype(dtype, (units,), seed)
    raw = array.view(np.uint8)
    if mix == "few" and dtype != "BOOL":
        raw = raw & 0x43
    elif mix == "runs":
        raw = np.repeat(raw[: raw.size // 64 + 1], 64)[: raw.size]
    elif mix == "sorted":
        raw = np.sort(raw)
    array = np.ascontiguousarray(raw).view(array.dtype)
    assert same(slimtensors.decode(slimtensors.encode(array, self_check=False)), array)
