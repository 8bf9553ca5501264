"""Blocks as numbers: bit for bit those of gguf-py, whole and in part, in three dtypes, for NumPy and PyTorch."""

from __future__ import annotations

from pathlib import Path

import gguf
import ml_dtypes
import numpy as np
import pytest
import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

import slimtensors.numpy
import slimtensors.torch
from gguf_files import made
from slimtensors import safe_open
from slimtensors.dtypes import DTYPES
from slimtensors.errors import LimitError, UsageError
from slimtensors.gguf.blocks import BLOCKS
from slimtensors.gguf.numbers import dequantised


def theirs(packed: np.ndarray, kind: str) -> np.ndarray:
    with np.errstate(all="ignore"):
        return gguf.quants.dequantize(packed, GGMLQuantizationType[kind])


def test_all_types_are_known() -> None:
    sizes = {kind: GGML_QUANT_SIZES[GGMLQuantizationType[kind]] for kind in made.TYPES}
    assert {block.name: (block.weights, block.size) for block in BLOCKS.values() if block.name in sizes} == sizes


@pytest.mark.parametrize("kind", made.TYPES)
def test_every_bit(kind: str) -> None:
    """Any bytes at all: scales that are infinite or not numbers too."""
    block = BLOCKS[GGMLQuantizationType[kind]]
    random = np.random.default_rng(5).integers(0, 256, (48, 40 * block.size), dtype=np.uint8)
    every = np.arange(256, dtype=np.uint8).repeat(block.size).reshape(-1, block.size)  # all bytes alike
    for packed in (random, every, made.blocks(kind, 100)):
        want = theirs(packed, kind)
        found = dequantised(packed, block, DTYPES["F32"])
        assert found.shape == want.shape
        assert np.array_equal(found.view(np.uint32), want.view(np.uint32))


@pytest.fixture(scope="module")
def model(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("numbers")
    tensors = {kind: (made.packed(minilm, kind), kind) for kind in ("Q4_0", "Q8_0", "Q6_K", "IQ3_S")}
    tensors["small"] = made.packed(minilm, "Q5_1", 2), "Q5_1"
    tensors["Q1_0"] = np.zeros((4, 18), np.uint8), "Q1_0"
    tensors["norm"] = np.linspace(0, 1, 384, dtype=np.float32), ""
    slimtensors.compress(made.write(folder / "model.gguf", tensors), folder / "model")
    return folder / "model"


KINDS = {"Q4_0": "Q4_0", "Q8_0": "Q8_0", "Q6_K": "Q6_K", "IQ3_S": "IQ3_S", "small": "Q5_1"}
AS = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


def bits(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1).view(f"u{array.itemsize}")


def rounded(numbers: np.ndarray, dtype: str) -> np.ndarray:
    """As NumPy and ml_dtypes round. What is not a number keeps the upper bits of its own, as NumPy has it."""
    with np.errstate(all="ignore"):
        out = numbers.astype(AS[dtype])
    if dtype == "BF16":
        upper = (numbers.view(np.uint32) >> 16).astype(np.uint16) | np.uint16(0x40)
        out.view(np.uint16)[np.isnan(numbers)] = upper[np.isnan(numbers)]
    return out


TORCH = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@pytest.mark.parametrize("dtype", AS)
def test_files(model: Path, dtype: str) -> None:
    with safe_open(model, dequantise=dtype) as file, safe_open(model) as plain:
        for name, kind in KINDS.items():
            want = rounded(theirs(plain.get_tensor(name), kind), dtype)
            found = file.get_tensor(name)
            assert found.dtype == want.dtype
            wrong = np.flatnonzero(bits(found) != bits(want))
            assert not wrong.size, (name, wrong[:9], bits(found)[wrong[:9]], bits(want)[wrong[:9]])
            part = file.get_slice(name)
            assert part.get_shape() == list(want.shape)
            assert part.get_dtype() == dtype
            rows = want.shape[0]
            basic = 1, -1, slice(0, 2), slice(None, None, -1), (slice(1), slice(3, 90)), (0, 5), ..., (..., 7)
            for index in (*basic, [-1, 0], ([0], slice(9))):
                assert part[index].shape == want[index].shape
                assert part[index].tobytes() == want[index].tobytes(), index
            assert part[rows:].shape == (0, 1536)
            for index in (slice(-rows - 9, None, -1), (slice(1), slice(-1600, 5, -1)), (..., slice(5, 5, -1))):
                assert part[index].shape == want[index].shape
        assert np.array_equal(file.get_tensor("norm"), plain.get_tensor("norm"))
        with pytest.raises(UsageError, match="Q1_0"):
            file.get_tensor("Q1_0")
        with pytest.raises(IndexError):
            file.get_slice("small")[2]
        with pytest.raises(UsageError, match="dequantise"):
            file.prefetch()


def test_load_file(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Q1_0"):
        slimtensors.numpy.load_file(model, dequantise="F32")
    tensors = {"a": (made.blocks("Q8_0", 4096).reshape(64, -1), "Q8_0"), "b": (np.ones(5, np.float32), "")}
    slimtensors.compress(made.write(tmp_path / "m.gguf", tensors), tmp_path / "m")
    want = theirs(tensors["a"][0], "Q8_0")
    for dtype in AS:
        numbers = rounded(want, dtype)
        found = slimtensors.numpy.load_file(tmp_path / "m", dequantise=dtype)
        assert np.array_equal(found["a"].view(np.uint8), numbers.view(np.uint8))
        assert found["b"].dtype == np.float32
        for tensors_ in (
            slimtensors.torch.load_file(tmp_path / "m", dequantise=dtype),
            slimtensors.torch.load((tmp_path / "m").read_bytes(), dequantise=dtype),
            slimtensors.torch.load_file(tmp_path / "m", dequantise=TORCH[dtype]),
        ):
            assert tensors_["a"].dtype == TORCH[dtype]
            assert tensors_["a"].view(torch.uint8).numpy().tobytes() == numbers.tobytes()
    with safe_open(tmp_path / "m", "pt", dequantise=torch.bfloat16) as file:
        assert file.get_tensor("a").dtype == torch.bfloat16
        assert file.get_slice("a")[3:5].shape == (2, 2048)
    assert slimtensors.numpy.load_file(tmp_path / "m")["a"].dtype == np.uint8
    with safe_open(tmp_path / "m", dequantise="F32", max_bytes=200_000) as file:  # 139,284 as blocks
        assert file.get_slice("a")[:20].nbytes == 163_840
        for ask in (lambda: file.get_tensor("a"), lambda: file.get_slice("a")[:]):
            with pytest.raises(LimitError, match="'a' takes 524288 bytes as numbers"):
                ask()


@pytest.mark.parametrize("wrong", ["F64", "f32", True, None, "", torch.bfloat16])
def test_what_is_not_a_dtype(model: Path, wrong: object) -> None:
    with pytest.raises(UsageError, match=r"dequantise is .*'F32', 'F16', 'BF16', or of torch tensors torch\.float32"):
        slimtensors.numpy.load_file(model, dequantise=wrong)


def test_encodings_that_do_not_fit(tmp_path: Path) -> None:
    """A file may say so of any tensor; it is handed out as it is."""
    from parts import Parts

    arrays = {"f": np.zeros(64, np.float32), "u": np.zeros(35, np.uint8), "s": np.array(1, np.uint8)}
    data = slimtensors.numpy.save(arrays)
    parts = Parts.split(data)
    for tensor in parts.json["tensors"]:
        tensor["encoding"] = "GGUF_Q4_0"
    parts.set_json()
    odd = parts.join()
    found = slimtensors.numpy.load(odd, dequantise="F16")
    assert {name: (array.dtype.name, array.shape) for name, array in found.items()} == {
        "f": ("float32", (64,)), "u": ("uint8", (35,)), "s": ("uint8", ()),
    }  # fmt: skip
    assert [each.bits_per_weight > 0 for each in slimtensors.inspect(odd).tensors] == [True, True, True]
    slimtensors.flatten(odd, tmp_path / "flat")
    assert slimtensors.numpy.load_file(tmp_path / "flat").keys() == {"f", "u", "s"}
