"""Weights packed by hand as libraries pack them: numbers, and what is no such weight."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import slimtensors
from slimtensors.numpy import load, load_file, save, save_file

Arrays = dict[str, Any]
RANDOM = np.random.default_rng(3)
MAP = np.sort(RANDOM.standard_normal(16)).astype(np.float32)
STATE = "w.weight.quant_state.bitsandbytes__nf4"


def state(**changes: Any) -> Any:
    return np.frombuffer(json.dumps({"blocksize": 64, "shape": [5, 70], **changes}).encode(), np.uint8)


def four_bits() -> Arrays:
    """350 weights in blocks of 64, of which the last is short."""
    return {
        "w.weight": RANDOM.integers(0, 256, (175, 1), np.uint8),
        "w.weight.absmax": RANDOM.random(6, np.float32),
        "w.weight.quant_map": MAP,
        STATE: state(),
        "w.bias": np.ones(5, np.float32),
    }


def words() -> Arrays:
    """Codes of three bits, with scales for groups of 20 columns."""
    return {
        "w.weight_packed": RANDOM.integers(-(1 << 31), 1 << 31, (5, 4), np.int32),
        "w.weight_scale": RANDOM.random((5, 2), np.float32).astype(ml_dtypes.bfloat16),
        "w.weight_shape": np.array([5, 40]),
        "w.bias": np.ones(5, np.float32),
    }


def gptq() -> Arrays:
    """Four bits, 64 inputs in groups of 24 (the last smaller), 40 outputs."""
    return {
        "w.qweight": RANDOM.integers(-(1 << 31), 1 << 31, (8, 40), np.int32),
        "w.qzeros": RANDOM.integers(-(1 << 31), 1 << 31, (3, 5), np.int32),
        "w.scales": RANDOM.random((3, 40), np.float32).astype(np.float16),
    }


def awq() -> Arrays:
    return gptq() | {"w.qweight": RANDOM.integers(-(1 << 31), 1 << 31, (64, 5), np.int32)}


def spread(words: Any, axis: int) -> Any:
    """Eight codes of four bits in the place of each word."""
    codes = words.view(np.uint32)[..., None] >> np.arange(0, 32, 4, dtype=np.uint32) & 15
    return np.moveaxis(codes, -1, axis + 1).reshape([n * (8 if i == axis else 1) for i, n in enumerate(words.shape)])


@pytest.mark.parametrize("less", [0, 1])
@pytest.mark.parametrize("indexed", [False, True])
def test_gptq(less: int, indexed: bool, tmp_path: Path) -> None:
    made, group = gptq(), np.minimum(np.arange(64) // 22, 2)
    if indexed:
        group = RANDOM.integers(0, 3, 64).astype(np.int32)
        made["w.g_idx"] = group
    if not less:
        (tmp_path / "config.json").write_text('{"quantization_config":{"checkpoint_format":"gptq_v2"}}')
    zeros = (spread(made["w.qzeros"], 1) + less) % 16
    numbers = (spread(made["w.qweight"], 0).astype(np.float16) - zeros[group].astype(np.float16)) * made["w.scales"][
        group
    ]
    save_file(made, tmp_path / "model")
    found = load_file(tmp_path / "model", dequantise="F16")
    assert list(found) == ["w.weight"]
    assert np.array_equal(found["w.weight"], numbers.T)


def test_awq() -> None:
    made, group = awq(), np.minimum(np.arange(64) // 22, 2)
    order = (np.arange(40) // 8 * 8).reshape(5, 8) + np.array([0, 4, 1, 5, 2, 6, 3, 7])  # where an output's code is
    codes, zeros = (spread(made[name], 1)[:, order.reshape(-1)] for name in ("w.qweight", "w.qzeros"))
    numbers = (codes.astype(np.float16) - zeros[group].astype(np.float16)) * made["w.scales"][group]
    found = load(save(made), dequantise="F16")
    assert list(found) == ["w.weight"]
    assert np.array_equal(found["w.weight"], numbers.T)


def text(value: str) -> Any:
    return np.frombuffer(value.encode(), np.uint8)


def hqq() -> Arrays:
    """Codes of three bits: 25 groups of 8."""
    return {
        "w.W_q": RANDOM.integers(0, 1 << 30, (3, 8), np.int32),
        "w.scale": RANDOM.random((25, 1), np.float32).astype(np.float16),
        "w.zero": RANDOM.random((25, 1), np.float32).astype(np.float16) * np.float16(7),
        "w.shape": np.array([10, 20]),
        "w.packing": text("3bit_32"),
        "w.compute_dtype": text("torch.float16"),
        "w.nbits": np.int32(3),
    }


def test_hqq() -> None:
    made = hqq()
    codes = np.concatenate([made["w.W_q"] >> 3 * i & 7 for i in range(9, -1, -1)])[:25].astype(np.float16)
    expected = ((codes - made["w.zero"]) * made["w.scale"]).reshape(10, 20)
    found = load(save(made), dequantise="F16")
    assert list(found) == ["w.weight"]
    assert np.array_equal(found["w.weight"], expected)


def sparse(values: tuple[int, ...] = (13,)) -> Arrays:
    """13 of 5 x 9."""
    mask = np.zeros((5, 9), bool)
    mask.reshape(-1)[RANDOM.permutation(45)[:13]] = True
    return {
        "w.weight.shape": np.array([5, 9]),
        "w.weight.bitmask": np.packbits(mask, axis=1, bitorder="little"),
        "w.weight.compressed": RANDOM.random(values, np.float32).astype(ml_dtypes.bfloat16),
        "w.weight.row_offsets": np.cumsum(mask.sum(1)) - mask.sum(1),
    }


@pytest.mark.parametrize("kind", [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, np.float32])
def test_bitmask(kind: Any) -> None:
    made = sparse()
    made["w.weight.compressed"] = made["w.weight.compressed"].astype(kind)
    mask = np.unpackbits(made["w.weight.bitmask"], axis=1, bitorder="little")[:, :9] != 0
    expected = np.zeros((5, 9), np.float32)
    expected[mask] = made["w.weight.compressed"]
    found = load(save(made), dequantise="F32")
    assert list(found) == ["w.weight"]
    assert np.array_equal(found["w.weight"], expected)
    renamed = {name.replace("w.weight.", "w."): each for name, each in made.items() if "row" not in name}  # 2 of 4
    assert np.array_equal(load(save(renamed), dequantise="F32")["w.weight"], expected)


def test_four_bits() -> None:
    made = four_bits()
    data = made["w.weight"].reshape(-1)
    codes = np.stack([data >> 4, data & 15], 1).reshape(-1)
    expected = (MAP[codes] * np.repeat(made["w.weight.absmax"], 64)[:350]).reshape(5, 70)
    packed = save(made)
    found = load(packed, dequantise="F32")
    assert sorted(found) == ["w.bias", "w.weight"]
    assert np.array_equal(found["w.weight"], expected)
    halves = load(packed, dequantise="BF16")
    assert np.array_equal(halves["w.weight"], expected.astype(ml_dtypes.bfloat16))
    assert halves["w.bias"].dtype == np.float32
    assert sorted(load(packed)) == sorted(made)
    with slimtensors.safe_open(packed, dequantise="F16") as file:
        assert file.keys() == ["w.bias", "w.weight"]
        assert np.array_equal(file.get_tensor("w.weight"), expected.astype(np.float16))
        assert np.array_equal(file.get_slice("w.bias")[1:], np.ones(4, np.float32))
        with pytest.raises(slimtensors.UsageError, match="get_tensor gives all"):
            file.get_slice("w.weight")


def test_words() -> None:
    made = words()
    bits = np.unpackbits(made["w.weight_packed"].view(np.uint8), axis=1, bitorder="little")[:, :120]
    codes = bits.reshape(5, 40, 3) @ np.array([1, 2, 4]) - 4
    scales = np.repeat(made["w.weight_scale"].astype(np.float32), 20, axis=1)
    found = load(save(made), dequantise="F32")
    assert sorted(found) == ["w.bias", "w.weight"]
    rounded = (codes * scales).astype(ml_dtypes.bfloat16)  # in the scales' dtype
    assert np.array_equal(found["w.weight"], rounded.astype(np.float32))


def test_blocks_that_only_the_config_tells(tmp_path: Path) -> None:
    codes = RANDOM.integers(-128, 128, (6, 8), np.int8)
    scales = RANDOM.random((3, 2), np.float32)
    save_file({"w.weight": codes, "w.weight_scale": scales}, tmp_path / "model.slimtensors")
    with pytest.raises(slimtensors.UsageError, match=r"block_structure"):
        load_file(tmp_path / "model.slimtensors", dequantise="F32")
    config = {"quantization_config": {"config_groups": {"a": {"weights": {"block_structure": [2, 4]}}}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = load_file(tmp_path / "model.slimtensors", dequantise="F32")
    assert np.array_equal(found["w.weight"], codes * np.repeat(np.repeat(scales, 2, 0), 4, 1))
    for odd in ("[", "[]", '{"quantization_config":7}', '{"quantization_config":{"config_groups":{"a":[]}}}'):
        (tmp_path / "config.json").write_text(odd)
        with pytest.raises(slimtensors.UsageError, match="block_structure"):
            load_file(tmp_path / "model.slimtensors", dequantise="F32")


WRONG: list[tuple[Callable[[], Arrays], dict[str, Any], str]] = [
    (four_bits, {"w.weight": np.zeros((9, 1), np.uint8)}, r"9 bytes of codes, and 175 are"),
    (four_bits, {STATE: state(shape=[1 << 40, 1 << 40])}, "bytes of codes"),
    (four_bits, {STATE: state(shape=[-5, 70])}, "has no shape"),
    (four_bits, {STATE: state(shape=7)}, "has no shape"),
    (four_bits, {STATE: state(blocksize=0)}, "blocksize is no number"),
    (four_bits, {STATE: state(blocksize=True)}, "blocksize is no number"),
    (four_bits, {STATE: state(blocksize=32)}, "6 scales for 11 blocks"),
    (four_bits, {STATE: np.frombuffer(b"[" * 60_000, np.uint8)}, "not JSON"),
    (four_bits, {STATE: np.frombuffer(b"[]", np.uint8)}, "no object"),
    (four_bits, {STATE: np.zeros(1 << 17, np.uint8)}, "of at most 65536 bytes"),
    (four_bits, {"w.weight.quant_map": MAP[:15]}, "has 15 numbers, not 16"),
    (four_bits, {"w.weight.absmax": np.arange(6)}, "I64, not floats"),
    (four_bits, {"w.weight.absmax": np.zeros(6, np.uint8), "w.weight.nested_absmax": np.ones(1)}, "their map"),
    (four_bits, {"w.weight.absmax": None}, "'w.weight.absmax' is not in this file"),
    (words, {"w.weight_scale": None}, "'w.weight_scale' is not in this file"),
    (words, {"w.weight_shape": np.array([5, 1 << 60])}, "words for rows of"),
    (words, {"w.weight_shape": np.array([4, 40])}, "5 rows of words, and 4"),
    (words, {"w.weight_shape": np.array([5.0, 40.0])}, "not two integers"),
    (words, {"w.weight_scale": np.ones((5, 3), np.float32)}, r"scales of shape \[5, 3\]"),
    (words, {"w.weight_scale": np.ones((5, 2), np.float64)}, "F64"),
    (words, {"w.weight_g_idx": np.full(40, 9)}, "g_idx"),
    (words, {"w.weight_zero_point": np.ones((5, 1), np.int8)}, "zero points of shape"),
    (words, {"w.weight": np.ones((5, 40), np.float32)}, "is in this file twice"),
    (gptq, {"w.qzeros": np.zeros((2, 5), np.int32)}, r"qzeros of shape \[2, 5\]"),
    (gptq, {"w.qzeros": np.zeros((3, 5), np.float32)}, "not a matrix of I32"),
    (gptq, {"w.qzeros": None}, "'w.qzeros' is not in this file"),
    (gptq, {"w.scales": np.ones((3, 41), np.float16)}, "for 40 outputs"),
    (gptq, {"w.g_idx": np.full(64, 3)}, "g_idx is not 64 numbers of 3 groups"),
    (gptq, {"w.g_idx": np.zeros(63, np.int32)}, "g_idx is not 64"),
    (gptq, {"w.scales": np.ones((60, 40), np.float16), "w.qzeros": np.zeros((60, 5), np.int32)}, "60 groups of 64"),
    (hqq, {"w.packing": text("5bit")}, "packing '5bit'"),
    (hqq, {"w.packing": np.zeros(99, np.uint8)}, "no short text"),
    (hqq, {"w.compute_dtype": text("torch.save")}, "is not known"),
    (hqq, {"w.shape": np.array([1 << 30, 1 << 30])}, r"W_q of shape \[3, 8\]"),
    (hqq, {"w.shape": np.array([-10, 20])}, "not a few numbers"),
    (hqq, {"w.W_q": np.zeros((3, 8), np.uint8)}, "a matrix of int32"),
    (hqq, {"w.zero": np.ones((3, 1), np.float16)}, "zero of shape"),
    (hqq, {"w.view_as_float": np.uint8(1)}, "held as floats"),
    (hqq, {"w.scale": None}, "'w.scale' is not in this file"),
    (sparse, {"w.weight.compressed": np.ones(12, np.float32)}, "12 values for 13 bits"),
    (sparse, {"w.weight.shape": np.array([5, 1 << 60])}, "a mask of"),
    (sparse, {"w.weight.shape": np.array([5, 9, 1])}, "not two integers"),
    (sparse, {"w.weight.bitmask": np.full((5, 2), 255, np.uint8)}, "beyond the mask"),
    (sparse, {"w.weight_scale": np.ones(5, np.float32)}, "that have scales"),
    (awq, {"w.qzeros": np.zeros((3, 6), np.int32)}, r"qzeros of shape \[3, 6\]"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "changes", "message"), WRONG)
def test_what_is_no_weight(make: Callable[[], Arrays], changes: dict[str, Any], message: str) -> None:
    made = {name: array for name, array in {**make(), **changes}.items() if array is not None}
    packed = save(made)
    with pytest.raises(slimtensors.UsageError, match=message) as caught:
        load(packed, dequantise="F32")
    assert "'w.weight'" in str(caught.value)
    assert "without dequantise" in str(caught.value)
    assert sorted(load(packed)) == sorted(made)
