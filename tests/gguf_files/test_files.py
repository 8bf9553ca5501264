"""GGUF files: given back byte for byte, smaller, tensor by tensor; both decoders agree; bad ones are refused."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType

import decode
import slimtensors
from gguf_files import made
from slimtensors.container.source import open_source
from slimtensors.errors import FormatError, LimitError, SlimtensorsError, TruncatedError
from slimtensors.gguf.blocks import BLOCKS
from slimtensors.gguf.file import read_gguf
from slimtensors.numpy import load_file

# Bits a weight of MiniLM's weights as gguf-py quantises them, and what they must come to here.
SMALLER = {"Q4_0": 4.5, "Q4_1": 5.0, "Q5_0": 5.5, "Q5_1": 6.0, "Q8_0": 8.5, "MXFP4": 4.25}


@pytest.fixture(scope="module")
def every(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A file with a tensor of every type, small ones beside large, and what it compresses to."""
    folder = tmp_path_factory.mktemp("gguf")
    tensors: dict[str, tuple[np.ndarray, str]] = {}
    for kind in made.TYPES:
        tensors[f"blk.{kind}.weight"] = made.packed(minilm, kind), kind
        tensors[f"blk.{kind}.small"] = made.packed(minilm, kind, 1)[:, : BLOCKS[GGMLQuantizationType[kind]].size], kind
    for dtype in (np.float32, np.float16, np.float64, np.int8, np.int16, np.int32, np.int64):
        tensors[f"plain.{np.dtype(dtype).name}"] = np.arange(24, dtype=dtype).reshape(2, 3, 4), ""
    tensors["tied"] = tensors["blk.Q4_0.weight"]
    source = made.write(folder / "every.gguf", tensors)
    slimtensors.compress(source, folder / "every.gguf.slimtensors")
    return source, folder / "every.gguf.slimtensors"


def test_given_back(every: tuple[Path, Path], tmp_path: Path) -> None:
    source, target = every
    slimtensors.decompress(target, tmp_path / "back.gguf")
    assert (tmp_path / "back.gguf").read_bytes() == source.read_bytes()
    assert slimtensors.verify(target).tensors == 2 * len(made.TYPES) + 8


def test_tensors_are_those_that_gguf_py_reads(every: tuple[Path, Path]) -> None:
    source, target = every
    found = load_file(target)
    reader = gguf.GGUFReader(source)
    assert found.keys() == {tensor.name for tensor in reader.tensors}
    for tensor in reader.tensors:
        assert found[tensor.name].tobytes() == tensor.data.tobytes()
        if tensor.tensor_type in BLOCKS:
            assert found[tensor.name].shape == tensor.data.shape
    with slimtensors.safe_open(target) as file:
        assert file.metadata()["general.name"] == "made for a test"
        rows = file.get_slice("blk.Q6_K.weight")[100:130]
        assert np.array_equal(rows, found["blk.Q6_K.weight"][100:130])


def test_tensors_say_what_they_are(every: tuple[Path, Path]) -> None:
    report = slimtensors.inspect(every[1])
    assert report.source == "gguf"
    for tensor in report.tensors:
        if tensor.name.endswith(".weight"):
            kind = tensor.name.split(".")[1]
            assert tensor.encoding == f"GGUF_{kind}"
            assert "record" in tensor.expression
    assert {tensor.name: tensor.encoding for tensor in report.tensors}["plain.float32"] is None


def test_both_decoders(minilm: Path, tmp_path: Path) -> None:
    """On parts of the file: the reference decoder takes a second for 100 KB."""
    tensors = {kind: (made.packed(minilm, kind, 64 if kind == "Q4_0" else 16), kind) for kind in made.TYPES[::3]}
    source = made.write(tmp_path / "few.gguf", {**tensors, "Q8_0": (made.packed(minilm, "Q8_0", 48), "Q8_0")})
    slimtensors.compress(source, tmp_path / "few")
    assert decode.decode_file((tmp_path / "few").read_bytes()).image == source.read_bytes()


@pytest.mark.parametrize("kind", SMALLER)
def test_smaller(minilm: Path, tmp_path: Path, kind: str) -> None:
    array = made.packed(minilm, kind)
    source = made.write(tmp_path / "model.gguf", {"w": (array, kind)}, metadata=False)
    slimtensors.compress(source, tmp_path / "model")
    (tensor,) = slimtensors.inspect(tmp_path / "model").tensors
    assert tensor.bits_per_weight < 0.95 * SMALLER[kind]
    assert tensor.decoded_bytes * 8 == SMALLER[kind] * 384 * 1536


def test_codes_given_their_scale_beside_its_rows(minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks begin and end within rows; both decoders have the same means, and a slice has those of its chunks."""
    monkeypatch.setattr("slimtensors.planning.building.CHUNK_BYTES", 60_000)
    array = gguf.quants.quantize(made.weights(minilm, made.WEIGHTS)[:405], GGMLQuantizationType.Q4_0)
    source = made.write(tmp_path / "model.gguf", {"w": (array, "Q4_0")}, metadata=False)
    slimtensors.compress(source, tmp_path / "model", preset="small")
    (tensor,) = slimtensors.inspect(tmp_path / "model").tensors
    assert "given 1 less its mean" in tensor.expression
    assert tensor.chunks == 2
    assert decode.decode_file((tmp_path / "model").read_bytes()).image == source.read_bytes()
    with slimtensors.safe_open(tmp_path / "model") as file:
        for low in (0, 201, 202, 404):
            assert np.array_equal(file.get_slice("w")[low : low + 2], array[low : low + 2])


def test_flatten_keeps_it(every: tuple[Path, Path], tmp_path: Path) -> None:
    slimtensors.flatten(every[1], tmp_path / "flat")
    assert (tmp_path / "flat").read_bytes() == every[1].read_bytes()


def test_estimate(every: tuple[Path, Path]) -> None:
    found = slimtensors.estimate(every[0])
    assert found.compressed_bytes == pytest.approx(every[1].stat().st_size, rel=0.03)


def test_alignment_and_no_tensors(tmp_path: Path) -> None:
    for alignment in (8, 64, 4096):
        tensors = {"a": (np.arange(3, dtype=np.float32), ""), "b": (np.arange(5, dtype=np.float32), "")}
        source = made.write(tmp_path / f"{alignment}.gguf", tensors, alignment=alignment)
        _there_and_back(source, tmp_path)
    _there_and_back(made.write(tmp_path / "none.gguf", {}), tmp_path)


def _there_and_back(source: Path, folder: Path) -> None:
    slimtensors.compress(source, folder / "there")
    slimtensors.decompress(folder / "there", folder / "back")
    assert (folder / "back").read_bytes() == source.read_bytes()


# ---- bad files


def text(value: bytes | str) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def start(tensors: int = 0, entries: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, entries)


def tensor(name: bytes | str = "t", shape: tuple[int, ...] = (32,), kind: int = 2, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


HUGE = (1 << 64) - 1
BAD: dict[str, tuple[bytes, type[SlimtensorsError], str]] = {
    "magic alone": (b"GGUF", TruncatedError, "ends inside its header"),
    "version 1": (start(version=1), FormatError, "of version 1"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), FormatError, "big-endian"),
    "many tensors": (start(HUGE), LimitError, "tensors"),
    "many entries": (start(0, HUGE), LimitError, "entries"),
    "more tensors than bytes": (start(100_000), TruncatedError, "ends inside its header"),
    "long key": (start(0, 1) + struct.pack("<Q", HUGE), LimitError, "a key"),
    "key that is no text": (start(0, 1) + text(b"\xff") + bytes(8), FormatError, "UTF-8"),
    "key twice": (start(0, 2) + 2 * (text("a") + struct.pack("<IB", 0, 1)), FormatError, "twice"),
    "long text": (start(0, 1) + text("a") + struct.pack("<IQ", 8, HUGE), TruncatedError, "ends inside"),
    "long array": (start(0, 1) + text("a") + struct.pack("<IIQ", 9, 12, HUGE), TruncatedError, "ends inside"),
    "many strings": (start(0, 1) + text("a") + struct.pack("<IIQ", 9, 8, HUGE), LimitError, "strings"),
    "many arrays": (start(0, 1) + text("a") + struct.pack("<IIQ", 9, 9, HUGE), LimitError, "strings"),
    "deep arrays": (start(0, 1) + text("a") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 9, FormatError, "9 in"),
    "unknown value": (start(0, 1) + text("a") + struct.pack("<I", 13), FormatError, "type 13"),
    "alignment 0": (start(0, 1) + text("general.alignment") + struct.pack("<II", 4, 0), FormatError, "alignment"),
    "alignment 12": (start(0, 1) + text("general.alignment") + struct.pack("<II", 4, 12), FormatError, "alignment"),
    "alignment of 64 bits": (
        start(0, 1) + text("general.alignment") + struct.pack("<IQ", 10, 64),
        FormatError,
        "not a multiple of 8 in 32 bits",
    ),
    "alignment text": (start(0, 1) + text("general.alignment") + struct.pack("<IQ", 8, 0), FormatError, "alignment"),
    "unknown type": (start(1) + tensor(kind=99) + bytes(64), FormatError, "type 99"),
    "old type": (start(1) + tensor(kind=4) + bytes(64), FormatError, "type 4"),
    "many dimensions": (start(1) + text("t") + struct.pack("<I", 1 << 31), FormatError, "dimensions"),
    "no rows": (start(1) + tensor(shape=()) + bytes(64), FormatError, "rows of Q4_0"),
    "part of a block": (start(1) + tensor(shape=(33,)) + bytes(64), FormatError, "multiples of 32"),
    "large": (start(1) + tensor(shape=(1 << 40, 1 << 40), kind=0) + bytes(64), LimitError, "2^48"),
    "large and none": (start(1) + tensor(shape=(1 << 40, 0, 1 << 40), kind=0) + bytes(64), LimitError, "2^48"),
    "not aligned": (start(1) + tensor(offset=1) + bytes(64), FormatError, "not aligned"),
    "beyond the end": (start(1) + tensor(offset=1 << 40) + bytes(64), TruncatedError, "it was cut off"),
    "overlap": (start(2) + tensor("a") + tensor("b") + bytes(128), FormatError, "overlaps"),
    "names alike": (start(2) + tensor("a") + tensor("a", offset=32) + bytes(128), FormatError, "the same name"),
    "cut off": (start(1) + tensor() + bytes(20), TruncatedError, "it was cut off"),
    "no name": (start(1) + tensor("") + bytes(64), SlimtensorsError, "name"),
    "name of safetensors": (start(1) + tensor("__metadata__") + bytes(64), SlimtensorsError, "__metadata__"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused(tmp_path: Path, name: str) -> None:
    data, kind, words = BAD[name]
    source = tmp_path / "bad.gguf"
    source.write_bytes(data)
    with pytest.raises(kind) as refused:
        slimtensors.compress(source, tmp_path / "there")
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.gguf"]


def test_every_truncation_and_noise(minilm: Path, tmp_path: Path) -> None:
    """Of a header: FormatError, or a file that is sound; nothing else is ever raised."""
    tensors = {"w": (made.packed(minilm, "Q8_0", 2), "Q8_0"), "b": (np.zeros(5, np.float32), "")}
    data = made.write(tmp_path / "m.gguf", tensors).read_bytes()
    assert len(read_gguf(open_source(data)).inputs) == 2
    rng = np.random.default_rng(7)
    for length in range(0, len(data) - 1, 97):
        with pytest.raises(FormatError):
            read_gguf(open_source(data[:length]))
    for _ in range(2000):
        wrong = bytearray(data)
        for _ in range(rng.integers(1, 4)):
            wrong[rng.integers(0, 400) if rng.integers(2) else rng.integers(0, len(data))] = rng.integers(0, 256)
        with contextlib.suppress(SlimtensorsError):
            read_gguf(open_source(bytes(wrong)))
