"""Codes of quantised weights in tensors of integers: what is recognised, and that the same bytes come back."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import safetensors.numpy
from click.testing import CliRunner

import slimtensors
from slimtensors.cli.main import cli
from slimtensors.cli.why import explain
from slimtensors.expression import FieldLines, Record
from slimtensors.numpy import load_file, save_file
from slimtensors.reading.tensors import open_file

Array = npt.NDArray[Any]
ROWS, COLUMNS = 512, 768


def codes(levels: int, seed: int = 0) -> Array:
    """Codes from 0 to `levels` - 1 of a matrix whose rows and columns are spread more and less."""
    random = np.random.default_rng(seed)
    scale = np.exp2(random.normal(0, 0.6, (ROWS, 1)) + random.normal(0, 0.6, COLUMNS))
    spread = random.normal(0, levels / 12, (ROWS, COLUMNS)) * scale + levels / 2
    return np.clip(np.rint(spread), 0, levels - 1).astype(np.uint8)


def nibbles(upper_first: bool) -> Array:
    found = codes(16)
    even, odd = found[:, ::2], found[:, 1::2]
    return even << 4 | odd if upper_first else even | odd << 4


def words(order: tuple[int, ...], down: bool) -> Array:
    """Eight codes in each I32, the first of `order` lowest: along a row, or (`down`) down a column."""
    found = codes(16).astype(np.uint32)
    groups = found.T.reshape(COLUMNS, -1, 8) if down else found.reshape(ROWS, -1, 8)
    packed = np.zeros(groups.shape[:2], np.uint32)
    for place, member in enumerate(order):
        packed |= groups[:, :, member] << np.uint32(4 * place)
    return np.ascontiguousarray(packed.T if down else packed).view("<i4")


PACKED = {
    "bytes, upper nibble first": nibbles(True),
    "bytes, lower nibble first": nibbles(False),
    "one long column": nibbles(True).reshape(-1, 1),
    "one long row": nibbles(True).reshape(1, -1),
    "words of eight codes": nibbles(False).view("<i4"),
    "words as GPTQ packs them": words((0, 1, 2, 3, 4, 5, 6, 7), down=True),
    "words as AWQ packs them": words((0, 2, 4, 6, 1, 3, 5, 7), down=False),
    "one dimension": nibbles(True).reshape(-1),
    "int8": (codes(256) ^ 128).view(np.int8),
    "bytes of eight bits": codes(256),
}


def expression_of(path: Path) -> Any:
    with open_file(path) as file:
        tensor = file.header.tensors[0]
        return None if tensor.expression is None else file.header.expressions[tensor.expression]


@pytest.mark.parametrize("name", PACKED)
def test_codes_are_given_row_and_column(name: str, tmp_path: Path) -> None:
    array, path = PACKED[name], tmp_path / "packed.slimtensors"
    save_file({"w": array}, path)
    found = expression_of(path)
    assert isinstance(found, Record)
    assert isinstance(found.fields[-1].context, FieldLines)
    assert found.fields[-1].width == (8 if "int8" in name or "eight bits" in name else 4)
    back = load_file(path)["w"]
    assert back.dtype == array.dtype
    assert np.array_equal(back, array)


@pytest.mark.parametrize("low", [0, 1, 77, ROWS - 1])
def test_a_slice_of_codes(low: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slimtensors.detect.packed.CHUNK_BYTES", 50_000)  # chunks that end within no record
    array, path = PACKED["bytes, upper nibble first"], tmp_path / "packed.slimtensors"
    save_file({"w": array}, path)
    with slimtensors.safe_open(path, framework="np") as file:
        assert np.array_equal(file.get_slice("w")[low : low + 9, 3:50], array[low : low + 9, 3:50])


def test_smaller_than_bytes(tmp_path: Path) -> None:
    array = PACKED["words of eight codes"]
    save_file({"w": array}, tmp_path / "bytes.slimtensors", preset="fast")
    save_file({"w": array}, tmp_path / "codes.slimtensors")
    as_bytes, as_codes = ((tmp_path / f"{name}.slimtensors").stat().st_size for name in ("bytes", "codes"))
    assert as_codes < 0.95 * as_bytes


@pytest.mark.parametrize(
    "array",
    [
        np.random.default_rng(1).integers(0, 256, (256, 512)).astype(np.uint8),
        np.frombuffer(b"the quick brown fox jumps over the lazy dog. " * 4000, np.uint8),
        np.random.default_rng(1).integers(0, 256, 65537).astype(np.uint8),  # a prime
        np.arange(1 << 16, dtype=np.int32),
        np.zeros((256, 512), np.uint8),
    ],
    ids=["noise", "text", "prime", "range", "zeros"],
)
def test_what_is_no_codes_stays_as_it_was(array: Array, tmp_path: Path) -> None:
    path = tmp_path / "plain.slimtensors"
    save_file({"w": array}, path)
    assert not isinstance(expression_of(path), Record)
    assert np.array_equal(load_file(path)["w"], array)


def test_the_same_bytes_twice(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save_file({"w": PACKED["int8"]}, tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_why_says_that_codes_are_given_row_and_column(tmp_path: Path) -> None:
    path = tmp_path / "packed.slimtensors"
    save_file({"w": PACKED["one long column"]}, path)
    result = CliRunner().invoke(cli, ["inspect", "--why", str(path)])
    assert result.exit_code == 0
    assert "given what is usual in their row and column" in " ".join(result.output.split())


@pytest.mark.parametrize("name", PACKED)
def test_why_says_what_a_code_takes(name: str, tmp_path: Path) -> None:
    path = tmp_path / "packed.slimtensors"
    save_file({"w": PACKED[name]}, path)
    width = expression_of(path).fields[-1].width
    codes_of_it = 8 * PACKED[name].nbytes / width
    with open_file(path) as file:
        payload = sum(stream.stored_length for stream in file.reader.stream_records)
    (cost, of), *_ = re.findall(r"([0-9.]+) of (\d+) bits$", str(explain(path)["w"]))
    assert int(of) == width
    assert float(cost) == pytest.approx(8 * payload / codes_of_it, rel=0.02)


def test_an_estimate_is_near(tmp_path: Path) -> None:
    source, path = tmp_path / "packed.safetensors", tmp_path / "packed.slimtensors"
    safetensors.numpy.save_file({"w": PACKED["words of eight codes"], "v": PACKED["int8"]}, source)
    guess = slimtensors.estimate(source)
    slimtensors.compress(source, path)
    assert guess.compressed_bytes == pytest.approx(path.stat().st_size, rel=0.02)


def test_small_fits_classes_to_what_codes_take(tmp_path: Path) -> None:
    """Other classes than the first guess, which take less and the same room at every run."""
    path, sizes = tmp_path / "packed.slimtensors", {}
    array = nibbles(True)
    for preset in ("balanced", "small"):
        save_file({"w": array}, path, preset=preset)
        sizes[preset] = path.stat().st_size
        assert np.array_equal(load_file(path)["w"], array)
    first = path.read_bytes()
    save_file({"w": array}, path, preset="small")
    assert path.read_bytes() == first
    assert sizes["small"] < 0.998 * sizes["balanced"]


def test_small_takes_gains_that_cost_speed(tmp_path: Path) -> None:
    """Codes that are nearly as long raw: less than one percent is a reason to code them in `small` alone."""
    random = np.random.default_rng(5)
    share = np.where(np.arange(16) == 7, 2.1, 1)
    array = random.choice(16, (256, 2048), p=share / share.sum()).astype(np.uint8)
    array = array[:, ::2] | array[:, 1::2] << 4
    sizes = {}
    for preset in ("balanced", "small"):
        path = tmp_path / preset
        save_file({"w": array}, path, preset=preset)
        sizes[preset] = path.stat().st_size
        assert np.array_equal(load_file(path)["w"], array)
    assert sizes["balanced"] > array.nbytes
    assert sizes["small"] < 0.997 * array.nbytes
