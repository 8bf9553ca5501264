"""Codes whose scales are another tensor of the file, which says what codes to expect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
import safetensors.numpy
from click.testing import CliRunner

import slimtensors
from slimtensors.cli.main import cli
from slimtensors.errors import ChecksumError
from slimtensors.expression import FieldScale, Record
from slimtensors.files.inspecting import inspect
from slimtensors.numpy import load, load_file, save, save_file
from slimtensors.reading.tensors import open_file

Array = npt.NDArray[Any]
ROWS, COLUMNS, BLOCK = 512, 768, 64


def quantised(seed: int = 0) -> tuple[Array, Array]:
    """Nibbles of a matrix with heavy tails in blocks of 64, [ROWS, COLUMNS / 2], and the blocks' scales in F32."""
    random = np.random.default_rng(seed)
    spread = np.exp2(random.normal(0, 0.5, (ROWS, 1)) + random.normal(0, 0.2, COLUMNS)) / 30
    blocks = (random.standard_t(3, (ROWS, COLUMNS)) * spread).astype(np.float32).reshape(-1, BLOCK)
    scales = np.abs(blocks).max(axis=1)
    codes = np.rint(blocks / scales[:, None] * 7 + 7).astype(np.uint8).reshape(ROWS, -1)
    return codes[:, ::2] << 4 | codes[:, 1::2], scales


CODES, SCALES = quantised()
STORED = {
    "F32": SCALES,
    "F16": SCALES.astype(np.float16),
    "BF16": SCALES.astype(ml_dtypes.bfloat16),
    "U8": np.clip(np.log2(SCALES) * 20 + 150, 0, 255).astype(np.uint8),
    "I8": np.clip(np.log2(SCALES) * 20 + 22, -128, 127).astype(np.int8),
}


def expression_of(data: Any, name: str) -> Any:
    with open_file(data) as file:
        tensor = file.tensor(name)
        return None if tensor.expression is None else file.header.expressions[tensor.expression]


def given(data: Any, name: str = "layer.weight") -> str | None:
    """The name of the tensor that has this one's scales, if its codes are given them."""
    found = expression_of(data, name)
    if not isinstance(found, Record) or not isinstance(found.fields[-1].context, FieldScale):
        return None
    with open_file(data) as file:
        position = file.tensor(name).scale
        assert position is not None
        return file.header.tensors[position].name


@pytest.mark.parametrize(("dtype", "later"), [*zip(STORED, (True, False, True, True, False), strict=True)])
def test_codes_are_given_their_scale(dtype: str, later: bool) -> None:
    """In tensors before or after them, in a pack with another."""
    scales = {"other": np.arange(40).astype(STORED[dtype].dtype), "layer.weight.absmax": STORED[dtype]}
    tensors = {"layer.weight": CODES.reshape(-1, 1), **scales} if later else {**scales, "layer.weight": CODES}
    data = save(tensors, preset="small")
    assert given(data) == "layer.weight.absmax"
    for threads in (1, 2):
        found = load(data, threads=threads)
        assert all(np.array_equal(found[name].view(np.uint8), tensors[name].view(np.uint8)) for name in tensors)
    alone = save({**tensors, "layer.weight.absmax": STORED[dtype][::-1].copy()}, preset="small")
    assert len(data) < len(alone) - 1500
    assert save(tensors, preset="small") == data


def test_words_and_bytes_are_given_it_too() -> None:
    eight = (np.stack([CODES >> 4, CODES & 15], axis=-1).reshape(ROWS, -1) + 100).astype(np.uint8).view(np.int8)
    for array in (CODES.view("<i4"), eight):
        data = save({"layer.weight": array, "layer.scale": SCALES}, preset="small")
        assert given(data) == "layer.scale"
        assert np.array_equal(load(data)["layer.weight"], array)


def test_other_presets_and_modules_do_without() -> None:
    assert given(save({"layer.weight": CODES, "layer.weight.absmax": SCALES})) is None
    assert given(save({"layer.weight": CODES, "other.absmax": SCALES}, preset="small")) is None


def test_slices_and_streams_decode_the_scales_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slimtensors.detect.packed.CHUNK_BYTES", 50_000)  # chunks that end within no record
    path = tmp_path / "packed.slimtensors"
    save_file({"layer.weight": CODES, "layer.weight.absmax": SCALES}, path, preset="small")
    assert given(path) == "layer.weight.absmax"
    for low in (0, 1, 200, ROWS - 9):
        with slimtensors.safe_open(path, framework="np") as file:
            assert np.array_equal(file.get_slice("layer.weight")[low : low + 9, 3:50], CODES[low : low + 9, 3:50])
    with slimtensors.safe_open(path, framework="np") as file:
        found = {name: array.copy() for name, array in file.prefetch()}
    assert np.array_equal(found["layer.weight"], CODES)


def test_scales_of_a_tensor_that_has_chunks_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slimtensors.planning.building.PACK_TENSOR_BYTES", 4096)
    monkeypatch.setattr("slimtensors.planning.building.chunk_units", lambda units, *_: min(units, 1000))
    data = save({"layer.weight": CODES, "layer.weight.absmax": SCALES}, preset="small")
    assert given(data) == "layer.weight.absmax"
    with open_file(data) as file:
        stream = file.header.tensor_stream[1]
        assert stream is not None
        assert file.header.streams[stream].chunks > 5
    assert np.array_equal(load(data)["layer.weight"], CODES)


@pytest.mark.parametrize("first", [True, False])
def test_scales_of_scales_lead_to_no_third_tensor(first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scales are codes that have scales: one of both is named, whichever is asked for first."""
    monkeypatch.setattr("slimtensors.planning.building.PACK_TENSOR_BYTES", 4096)
    monkeypatch.setattr("slimtensors.detect.packed.FEWEST", 4096)
    random = np.random.default_rng(2)
    nested = np.exp2(random.normal(0, 1, 4 * ROWS * COLUMNS // BLOCK // 16)).astype(np.float32)
    blocks = random.standard_t(3, (nested.size, 16)) * nested[:, None]
    nested = np.abs(blocks).max(axis=1).astype(np.float32)
    absmax = np.rint(blocks / nested[:, None] * 127 + 128).astype(np.uint8).reshape(-1, 96)
    large = np.repeat(absmax > 140, BLOCK // 2).reshape(-1, COLUMNS // 2)
    codes = {"m.w": np.where(large, 0x33, 0xFF).astype(np.uint8) & np.concatenate([quantised(i)[0] for i in range(4)])}
    scales = {"m.w.absmax": absmax, "m.w.absmax.absmax": nested}
    tensors = {**scales, **codes} if first else {**codes, **scales}
    data = save(tensors, preset="small")
    assert [given(data, name) for name in ("m.w", "m.w.absmax")] in (["m.w.absmax", None], [None, "m.w.absmax.absmax"])
    found = load(data)
    assert all(np.array_equal(found[name], array) for name, array in tensors.items())


def test_scales_without_bytes_of_their_own_are_not_named() -> None:
    """Where scales are stored as other tensors are, which a reader would have to follow."""
    tensors = {"a.absmax": SCALES, "layer.weight": CODES, "layer.weight.absmax": SCALES.copy()}
    data = save(tensors, preset="small")
    assert given(data) is None
    assert np.array_equal(load(data)["layer.weight"], CODES)
    wide = {"layer.absmax": SCALES.astype(ml_dtypes.bfloat16), "layer.weight": CODES, "layer.master": SCALES}
    assert given(save(wide, preset="small")) == "layer.master"


def test_a_request_for_codes_asks_for_scales_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, asked = tmp_path / "packed.slimtensors", []
    save_file({"layer.weight": CODES, "layer.weight.absmax": SCALES}, path, preset="small")
    with open_file(path) as file:
        monkeypatch.setattr(file.reader.source, "expect", lambda ranges: asked.extend(ranges))
        codes, scales = (file.header.tensor_stream[file.find(name)] for name in ("layer.weight", "layer.weight.absmax"))
        assert codes is not None
        assert scales is not None
        file.expect([(codes, 0)])
        where = [file.reader.records(stream)[1][0] for stream in (scales, codes)]
    assert [offset for offset, _length in asked][-2:] == where


def test_damaged_scales_refuse_the_codes(tmp_path: Path) -> None:
    path = tmp_path / "packed.slimtensors"
    save_file({"layer.weight": CODES, "layer.weight.absmax": SCALES}, path, preset="small")
    with open_file(path) as file:
        stream = file.header.tensor_stream[file.find("layer.weight.absmax")]
        assert stream is not None
        at = file.reader.records(stream)[1][0]
    data = bytearray(path.read_bytes())
    data[at + 40] ^= 1
    with slimtensors.safe_open(bytes(data), framework="np") as file, pytest.raises(ChecksumError, match="pack 0"):
        file.get_tensor("layer.weight")


def test_an_estimate_is_near(tmp_path: Path) -> None:
    source, path = tmp_path / "packed.safetensors", tmp_path / "packed.slimtensors"
    safetensors.numpy.save_file({"layer.weight": CODES, "layer.weight.absmax": SCALES}, source)
    guess = slimtensors.estimate(source, preset="small")
    slimtensors.compress(source, path, preset="small")
    assert given(path) == "layer.weight.absmax"
    assert guess.compressed_bytes == pytest.approx(path.stat().st_size, rel=0.01)
    slimtensors.decompress(path, tmp_path / "back.safetensors")
    assert (tmp_path / "back.safetensors").read_bytes() == source.read_bytes()


def test_it_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "packed.slimtensors"
    save_file({"layer.weight": CODES, "layer.weight.absmax": SCALES}, path, preset="small")
    report = {tensor.name: tensor for tensor in inspect(path).tensors}
    assert "given scale, row and column] of layer.weight.absmax" in report["layer.weight"].expression
    result = CliRunner().invoke(cli, ["inspect", "--why", str(path)])
    assert result.exit_code == 0
    said = " ".join(result.output.split())
    assert "given their scale, and what is usual in their row and column" in said
    assert "the scale is in weight.absmax beside it, which is decoded first" in said
    slimtensors.verify(path)
    assert np.array_equal(load_file(path)["layer.weight"], CODES)
