"""Weights packed by hand as libraries pack them: numbers, and what is no such weight."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import slimtensors
from packed.made import (
    CONFIG,
    MAP,
    METADATA,
    RANDOM,
    STATE,
    Arrays,
    ao_float8,
    ao_int8,
    ao_mx,
    ao_nvfp4,
    aqlm,
    awq,
    bitnet,
    four_bits,
    gptq,
    hqq,
    numbers_of,
    saved,
    sparse,
    state,
    text,
    torchao,
    words,
)
from slimtensors.numpy import load, load_file, save, save_file


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


def test_hqq() -> None:
    made = hqq()
    codes = np.concatenate([made["w.W_q"] >> 3 * i & 7 for i in range(9, -1, -1)])[:25].astype(np.float16)
    expected = ((codes - made["w.zero"]) * made["w.scale"]).reshape(10, 20)
    found = load(save(made), dequantise="F16")
    assert list(found) == ["w.weight"]
    assert np.array_equal(found["w.weight"], expected)


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


@pytest.mark.parametrize("layers", ["bitlinear", "autobitlinear"])
def test_bitnet(layers: str, tmp_path: Path) -> None:
    made, expected = bitnet(layers), np.zeros((20, 7), ml_dtypes.bfloat16)
    scale = made["w.weight_scale"]
    for row in range(20):
        for column in range(7):
            code = int(made["w.weight"][row % 5, column]) // 4 ** (row // 5) % 4 - 1
            expected[row, column] = (code / scale if layers == "bitlinear" else code * scale)[0]
    found = numbers_of(made, tmp_path, "BF16")
    assert list(found) == ["w.weight"]
    assert np.array_equal(found["w.weight"].view("<u2"), expected.view("<u2"))


def test_bytes_beside_another_scale_are_not_bitnet(tmp_path: Path) -> None:
    made = bitnet(None) | {"w.weight_scale": np.ones((5, 7), np.float32)}
    assert sorted(numbers_of(made, tmp_path, "BF16")) == ["w.weight", "w.weight_scale"]


def test_torchao_integers(tmp_path: Path) -> None:
    made, expected = ao_int8(), np.zeros((2, 6, 8), ml_dtypes.bfloat16)
    for i, j, k in np.ndindex(2, 6, 8):
        at = i, j // 3, k // 4
        less = int(made["w._weight_qdata"][i, j, k]) - int(made["w._weight_zero_point"][at])
        expected[i, j, k] = np.float32(less) * made["w._weight_scale"][at]
    found = numbers_of(made, tmp_path, "BF16")
    assert sorted(found) == ["w.bias", "w.weight"]
    assert np.array_equal(found["w.weight"], expected)
    assert sorted(load(saved(made))) == ["w._weight_qdata", "w._weight_scale", "w._weight_zero_point", "w.bias"]


@pytest.mark.parametrize("whole", [False, True])
def test_torchao_float8(whole: bool, tmp_path: Path) -> None:
    made = ao_float8()
    if whole:
        made["w._weight_scale"] = np.float32(0.3)
    codes = made["w._weight_qdata"].astype(np.float32)
    expected = codes * np.kron(np.broadcast_to(made["w._weight_scale"], (2, 2)), np.ones((3, 4), np.float32))
    assert np.array_equal(numbers_of(made, tmp_path, "F16")["w.weight"], expected.astype(np.float16))


E2M1 = [0, 0.5, 1, 1.5, 2, 3, 4, 6]


def of_tile(row: int, column: int, across: int) -> int:
    """Where a scale is."""
    tile = row // 128 * across + column // 4
    return 512 * tile + 16 * (row % 32) + 4 * (row % 128 // 32) + column % 4


@pytest.mark.parametrize("tiles", [False, True])
def test_torchao_mx(tiles: bool, tmp_path: Path) -> None:
    made, expected = ao_mx(tiles), np.zeros((130, 320), np.float64)
    scale = made["w._weight_scale"].view(np.uint8).reshape(-1)
    for row, column in np.ndindex(130, 320):
        code = int(made["w._weight_qdata"][row, column // 2]) >> 4 * (column % 2)
        at = of_tile(row, column // 32, 3) if tiles else 10 * row + column // 32
        expected[row, column] = (1 - (code & 8) / 4) * E2M1[code & 7] * 2.0 ** (int(scale[at]) - 127)
    with np.errstate(over="ignore"):
        rounded = expected.astype(np.float32).astype(ml_dtypes.bfloat16)
    assert np.array_equal(numbers_of(made, tmp_path, "BF16")["w.weight"].view("<u2"), rounded.view("<u2"))


def test_torchao_mx_without_a_scale(tmp_path: Path) -> None:
    made = ao_mx()
    made["w._weight_scale"].view(np.uint8)[3, 4] = 255
    found = np.isnan(numbers_of(made, tmp_path, "F32")["w.weight"])
    assert found[3, 128:160].all()
    assert found.sum() == 32


@pytest.mark.parametrize("experts", [False, True])
def test_torchao_nvfp4(experts: bool, tmp_path: Path) -> None:
    made, expected = ao_nvfp4(experts), np.zeros((3, 4, 32), ml_dtypes.bfloat16)
    whole = np.broadcast_to(made["w._weight_per_tensor_scale"], (3, 1, 1))
    for i, j, k in np.ndindex(3, 4, 32):
        code = int(made["w._weight_qdata"][i, j, k // 2]) >> 4 * (k % 2)
        scale = whole[i, 0, 0] * made["w._weight_scale"][i, j, k // 16].astype(np.float32)
        expected[i, j, k] = np.float32((1 - (code & 8) / 4) * E2M1[code & 7]) * scale
    assert np.array_equal(numbers_of(made, tmp_path, "BF16")["w.weight"].view("<u2"), expected.view("<u2"))


@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_aqlm(kind: Any, tmp_path: Path) -> None:
    made, expected = aqlm(kind), np.zeros((6, 12), kind)
    for row, column in np.ndindex(6, 12):
        codes = made["w.codes"][row // 2, column // 4]
        first, second = (made["w.codebooks"][i, int(codes[i]) % 8, row % 2, column % 4] for i in range(2))
        expected[row, column] = (first + second) * made["w.scales"][row // 2, 0, 0, 0]
    found = numbers_of(made, tmp_path, "F16" if kind is np.float16 else "F32")
    assert list(found) == ["w.weight"]
    assert np.array_equal(found["w.weight"], expected)


def test_ties_of_aqlm_in_bf16() -> None:
    """1 + 2^-8 lies in the middle; FBGEMM takes the number farther from zero, and so for 1 + 3 2^-8."""
    half = ml_dtypes.bfloat16
    books = np.array([[1, -1, 1, -1], [2**-8, -(2**-8), 3 * 2**-8, -(2**-9)]], half).reshape(2, 1, 1, 4)
    made = {"w.codes": np.zeros((1, 1, 2), np.int8), "w.codebooks": books, "w.scales": np.ones((1, 1, 1, 1), half)}
    found = load(save(made), dequantise="BF16")["w.weight"].astype(np.float64)
    assert found.tolist() == [[1 + 2**-7, -1 - 2**-7, 1 + 2**-6, -1]]


NESTED = {
    "w.weight.absmax": np.zeros(6, np.uint8),
    "w.weight.nested_absmax": np.ones(1, np.float32),
    "w.weight.nested_quant_map": np.ones(256, np.float32),
}
FP8 = np.ones((4, 8), ml_dtypes.float8_e4m3fn)
WRONG: list[tuple[Callable[[], Arrays], dict[str, Any], str]] = [
    (four_bits, {"w.weight": np.zeros((9, 1), np.uint8)}, r"9 bytes of codes, and 175 are"),
    (four_bits, {STATE: state(shape=[1 << 40, 1 << 40])}, "a shape that no array has"),
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
    (four_bits, {STATE: state(shape=[0, *[1 << 47] * 3])}, "a shape that no array has"),
    (four_bits, {STATE: state(shape=[350] + [1] * 64)}, "a shape that no array has"),
    (four_bits, NESTED | {STATE: state(nested_blocksize=256, nested_offset=10**400)}, "nested_offset is no number"),
    (words, {"w.weight_packed": np.zeros((4, 8), np.uint8), "w.weight_scale": np.uint8(1)}, r"shape \[\] for 4 x 16"),
    (words, {"w.weight_packed": None, "w.weight": FP8, "w.weight_scale": np.uint8(1)}, r"shape \[\] for 4 x 8"),
    (words, {"w.weight_zero_point": np.ones((5, 2), np.complex64)}, "zero points are C64"),
    (words, {"w.weight_g_idx": np.zeros(40, np.complex64)}, "g_idx is not 40"),
    (words, {"w.weight_scale": None}, "'w.weight_scale' is not in this file"),
    (words, {"w.weight_shape": np.array([5, 1 << 60])}, "words for rows of"),
    (words, {"w.weight_shape": np.array([4, 40])}, "5 rows of words, and 4"),
    (words, {"w.weight_shape": np.array([5.0, 40.0])}, "not two integers"),
    (words, {"w.weight_scale": np.ones((5, 3), np.float32)}, r"scales of shape \[5, 3\]"),
    (words, {"w.weight_scale": np.ones((5, 2), np.float64)}, "F64"),
    (words, {"w.weight_scale": np.ones(0, np.float32)}, r"scales of shape \[0\]"),
    (words, {"w.weight_g_idx": np.full(40, 9)}, "g_idx"),
    (words, {"w.weight_zero_point": np.ones((5, 1), np.int8)}, "zero points of shape"),
    (words, {"w.weight": np.ones((5, 40), np.float32)}, "is in this file twice"),
    (words, {"w.weight_packed": np.zeros((1 << 40, 0), np.int32)}, "holds nothing"),
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
    (bitnet, {CONFIG: {}}, "whether its scale divides or multiplies"),
    (bitnet, {CONFIG: {"quant_method": "bitnet", "linear_class": [[]]}}, "whether its scale divides or multiplies"),
    (partial(bitnet, quantization_mode="online"), {}, "not online"),
    (bitnet, {"w.weight_scale": np.ones(5, np.float32)}, "weight_scale has 5 numbers"),
    (bitnet, {"w.weight_scale": np.ones(1, np.float64)}, "weight_scale are F64"),
    (bitnet, {"w.weight_scale": None}, "'w.weight_scale' is not in this file"),
    (bitnet, {"w.weight": np.zeros((1 << 45, 0), np.uint8)}, "holds nothing"),
    (partial(ao_int8, block_size=[1, 3, 5]), {}, "scale has 8 numbers for blocks of"),
    (partial(ao_int8, block_size=[1, 3, 1 << 70]), {}, "scale has 8 numbers for blocks of"),
    (partial(ao_int8, block_size=[1, 3, 0]), {}, "block_size is"),
    (partial(ao_int8, block_size=[3, 4]), {}, "block_size is"),
    (partial(ao_int8, block_size=7), {}, "block_size is 7"),
    (partial(ao_int8, dtype="float64"), {}, "dtype 'float64' is not one of"),
    (partial(ao_int8, dtype=[]), {}, "dtype '' is not one of"),
    (ao_int8, {"w._weight_zero_point": np.zeros(7, np.int8)}, "zero_point has 7 numbers"),
    (ao_int8, {"w._weight_zero_point": np.zeros(8, np.int32)}, "zero points are I32"),
    (ao_int8, {"w._weight_qdata": np.zeros((2, 6, 8), np.uint8)}, "qdata is U8"),
    (ao_int8, {"w._weight_qdata": np.int8(1)}, r"of shape \[\]"),
    (ao_int8, {"w._weight_qdata": np.zeros((1 << 20, 0, 1 << 20), np.int8)}, "holds nothing"),
    (ao_int8, {"w._weight_scale": None}, "'w._weight_scale' is not in this file"),
    (ao_int8, {"w._weight_act_pre_scale": np.ones(8, np.float32)}, "act_pre_scale"),
    (ao_int8, {"w.weight": np.ones(8, np.float32)}, "is in this file twice"),
    (ao_int8, {METADATA: {"tensor_names": '["w.weight"]'}}, "its class is None"),
    (ao_int8, {METADATA: {"tensor_names": '["w.weight"]', "w.weight": "[" * 60_000}}, "its class is None"),
    (ao_int8, {METADATA: {"tensor_names": '["w.weight"]', "w.weight": '{"_type":["Int8Tensor"]}'}}, "its class is"),
    (ao_int8, {METADATA: {"tensor_names": '["w.weight"]', "w.weight": '{"_type":"Int8Tensor"}'}}, "attributes"),
    (partial(torchao, "Int4Tensor", {"qdata": np.zeros((4, 4), np.int8)}), {}, "its class is 'Int4Tensor'; Int8Tensor"),
    (ao_float8, {"w._weight_scale": np.ones((4, 2), np.float32)}, r"scales of shape \[4, 2\]"),
    (ao_float8, {"w._weight_scale": np.ones((6,), np.float32)}, r"scales of shape \[6\]"),
    (ao_float8, {"w._weight_qdata": np.zeros((6, 8), np.int8)}, "qdata is I8"),
    (partial(ao_mx, True), {"w._weight_scale": np.zeros(99, np.uint8)}, "99 scales in 2 x 3 tiles"),
    (partial(ao_mx, is_swizzled_scales=1), {}, "neither true nor false"),
    (partial(ao_mx, block_size=33), {}, "block_size is 33 for rows of 320"),
    (partial(ao_mx, block_size="32"), {}, "block_size is '32'"),
    (partial(ao_mx, block_size=16), {}, "scale has 1300 numbers"),
    (partial(ao_mx, elem_dtype="fp6_e3m2"), {}, "elem_dtype 'fp6_e3m2'"),
    (partial(ao_mx, elem_dtype="float8_e5m2"), {}, "not F8_E5M2"),
    (ao_mx, {"w._weight_scale": np.ones((130, 10), np.float32)}, "scales are F32"),
    (ao_nvfp4, {"w._weight_per_tensor_scale": np.ones((4, 1, 1), np.float32)}, "per_tensor_scale of shape"),
    (ao_nvfp4, {"w._weight_scale": np.ones((3, 4, 2), np.float32)}, "scales are F32"),
    (partial(ao_nvfp4, True), {"w._weight_scale": np.ones(7, ml_dtypes.float8_e4m3fn)}, "scale has 7 numbers"),
    (partial(ao_nvfp4, True), {"w._weight_qdata": np.zeros(3, np.uint8)}, r"per_tensor_scale of shape \[3, 1, 1\]"),
    (aqlm, {"w.codes": np.zeros((3, 3, 3), np.int8)}, "for 2 codebooks"),
    (aqlm, {"w.codes": np.zeros((3, 3, 2), np.uint8)}, "codes are uint8"),
    (aqlm, {"w.codes": np.zeros((1 << 20, 0, 2), np.int8)}, "holds nothing"),
    (aqlm, {"w.codebooks": np.ones((2, 7, 2, 4), np.float16)}, "a power of two of groups"),
    (aqlm, {"w.codebooks": np.ones((2, 1, 2, 1 << 16), np.float16)}, "at most 256"),
    (aqlm, {"w.codebooks": np.ones((2, 8, 2, 4), np.int8)}, "codebooks are I8"),
    (aqlm, {"w.scales": np.ones((1, 1, 1, 1), np.float16)}, "scales of shape"),
    (aqlm, {"w.scales": None}, "'w.scales' is not in this file"),
]  # fmt: skip


def test_numbers_have_the_files_limit() -> None:
    """A code of one byte may stand for 256 numbers, and take a thousandth of that in the file."""
    made = {
        "w.codebooks": np.ones((1, 2, 16, 16), np.float16),
        "w.codes": np.zeros((1024, 512, 1), np.int8),
        "w.scales": np.ones((1024, 1, 1, 1), np.float16),
    }
    packed = save(made)
    for ask in (
        lambda: load(packed, dequantise="F32"),
        lambda: slimtensors.safe_open(packed, dequantise="F32").get_tensor("w.weight"),
        lambda: load(packed, dequantise="F16", max_bytes=1 << 27),
    ):
        with pytest.raises(slimtensors.LimitError, match=r"'w\.weight' takes \d+ bytes as numbers.* pass max_bytes"):
            ask()
    made = {"a.codebooks" if name == "w.codebooks" else name: each[:64] for name, each in made.items()}
    made |= {"a.codes": made["w.codes"], "a.scales": made["w.scales"], "w.codebooks": made["a.codebooks"]}
    most = 64 * 512 * 256 * 2  # one weight's
    with slimtensors.safe_open(save(made), dequantise="F16", max_bytes=most) as file:
        assert [file.get_tensor(name).nbytes for name in ("a.weight", "w.weight")] == [most, most]
    with pytest.raises(slimtensors.LimitError, match="with those before it"):
        load(save(made), dequantise="F16", max_bytes=most)


@pytest.mark.parametrize(("make", "changes", "message"), WRONG)
def test_what_is_no_weight(make: Callable[[], Arrays], changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    made = {name: array for name, array in {**make(), **changes}.items() if array is not None}
    with pytest.raises(slimtensors.UsageError, match=message) as caught:
        numbers_of(made, tmp_path, "F32")
    assert "'w.weight'" in str(caught.value)
    assert "without dequantise" in str(caught.value)
    assert sorted(load_file(tmp_path / "model")) == sorted(name for name in made if name not in (METADATA, CONFIG))
