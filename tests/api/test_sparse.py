"""Units that are zero left out: found, worth it, and given back bit for bit."""

from __future__ import annotations

import io
from collections.abc import Callable

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

import slimtensors
from api.made import ARRAY_DTYPES, of_dtype, same, weights
from slimtensors.cli.why import explain
from slimtensors.codecs import layouts
from slimtensors.codecs.chunk import decode_chunk, encode_chunk
from slimtensors.codecs.planes import bits_lengths
from slimtensors.dtypes import DTYPES
from slimtensors.expression import Sparse, bits
from slimtensors.numpy import load, save

Array = npt.NDArray[np.generic]
SHARES = (0.0, 0.001, 0.05, 0.3, 0.5, 0.7, 0.9, 0.99, 1.0)


def dense(rows: int = 300, columns: int = 512) -> Array:
    return weights(np.random.default_rng(4), rows, columns)


def thinned(array: Array, share: float, seed: int = 6) -> Array:
    array = array.copy()
    array.reshape(-1)[np.random.default_rng(seed).random(array.size) < share] = 0
    return array


@pytest.mark.parametrize("dtype", [dtype.name for dtype in ARRAY_DTYPES])
def test_every_dtype_and_share(dtype: str) -> None:
    tensors = {str(share): thinned(of_dtype(dtype, (257, 1025), 3), share) for share in SHARES}
    again = load(save(tensors))
    assert all(same(again[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("units", [128, 129, 255, 1024, 1025, 1151, 40_000, 70_001])
@pytest.mark.parametrize("unit", [np.uint8, np.uint16, np.uint32, np.uint64])
def test_every_length(unit: type, units: int) -> None:
    size = 8 * np.dtype(unit).itemsize
    planes = {8: bits(8), 16: bits(6, 10, rotate=1), 32: bits(8, 8, 6, 10, rotate=1), 64: bits(16, 16, 16, 16)}
    values = np.random.default_rng(units).integers(1, 1 << size - 1, units).astype(unit)
    for share in SHARES:
        made = thinned(values, share)
        stored = np.frombuffer(bytearray(encode_chunk(made, Sparse(planes[size]))), np.uint8)
        assert stored.size <= made.nbytes + 16 + 63
        out = np.ones_like(made)
        decode_chunk(stored, Sparse(planes[size]), out)
        assert np.array_equal(out, made)


def pattern(make: Callable[[tuple[int, ...]], npt.NDArray[np.bool_]]) -> npt.NDArray[np.uint16]:
    array = dense().astype(ml_dtypes.bfloat16)
    array[~make(array.shape)] = 0
    return array.view(np.uint16)


def two_of_four(shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    rank = np.random.default_rng(8).random((*shape[:-1], shape[-1] // 4, 4)).argsort(-1)
    return (rank < 2).reshape(shape)


def blocks(shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    kept = np.random.default_rng(8).random((-(-shape[0] // 16), shape[1] // 16)) < 0.5
    return kept.repeat(16, 0).repeat(16, 1)[: shape[0]]


def rows(shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    return np.broadcast_to(np.random.default_rng(8).random((shape[0], 1)) < 0.5, shape)


def columns(shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    return np.broadcast_to(np.random.default_rng(8).random(shape[1]) < 0.5, shape)


# bits per weight of half of the weights: 10.5 / 2, tables and states of so small a tensor, and a mask
@pytest.mark.parametrize(
    ("make", "most"), [(two_of_four, 6.2), (blocks, 5.7), (rows, 5.7), (columns, 5.7)], ids=lambda value: str(value)
)
def test_patterns(make: Callable[[tuple[int, ...]], npt.NDArray[np.bool_]], most: float) -> None:
    tensors = {"w": pattern(make).view(ml_dtypes.bfloat16)}
    data = save(tensors)
    assert same(load(data)["w"], tensors["w"])
    (report,) = slimtensors.inspect(data).tensors
    assert report.bits_per_weight < most
    assert report.expression.startswith("scatter[mask bits[")
    assert "a mask says which numbers are not zero" in str(explain(data)["w"])


def test_other_zeros_are_values() -> None:
    words = pattern(lambda shape: np.random.default_rng(1).random(shape) < 0.4)
    words[::7, ::3] = 0x8000  # minus zero
    words[::5, ::11] = 0x7FA5  # NaN with a payload
    words[3::9, 5::13] = 0xFFFF
    tensors = {"w": words.view(ml_dtypes.bfloat16)}
    assert same(load(save(tensors))["w"], tensors["w"])


def test_slices() -> None:
    tensors = {"w": thinned(weights(np.random.default_rng(2), 1500, 700), 0.6)}
    with slimtensors.safe_open(io.BytesIO(save(tensors)), framework="np") as file:
        part = file.get_slice("w")
        assert same(part[700:703], tensors["w"][700:703])
        assert same(part[:, 50:60], tensors["w"][:, 50:60])


def test_nothing_changes_without_zeros() -> None:
    (report,) = slimtensors.inspect(save({"w": dense()})).tensors
    assert report.expression.startswith("bits[")


def test_chunks_that_are_dense_or_empty() -> None:
    array = weights(np.random.default_rng(2), 4000, 256)
    array[1000:2500] = 0
    array[2500:] = thinned(array[2500:], 0.8)
    tensors = {"w": array}
    data = save(tensors)
    assert same(load(data)["w"], array)
    assert slimtensors.inspect(data).ratio < 0.42


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.97])
@pytest.mark.parametrize("kind", ["weights", "BF16", "numbers of F16", "moments"])
def test_sizes_by_counts_are_those_of_chunks(kind: str, share: float) -> None:
    """What a plan goes by, of each layout that may be chosen."""
    made = thinned(dense(), share)
    dtype, array = {
        "weights": ("F32", made),
        "BF16": ("BF16", made.astype(ml_dtypes.bfloat16)),
        "numbers of F16": ("F32", made.astype(np.float16).astype(np.float32)),
        "moments": ("F32", made * made),
    }[kind]
    units = array.reshape(-1).view(f"<u{array.itemsize}")[: 1 << 16]
    of = DTYPES[dtype]
    some = [layouts.floats(of, "balanced"), layouts.floats(of, "fast"), layouts.finer(of)]
    some += [layouts.unsigned(of, "balanced")] if kind == "moments" else []
    for layout, length in zip(some, bits_lengths(units, some), strict=True):
        # Coded planes take up to 150 bytes more than is counted: their states do not carry as much as is assumed.
        assert length == pytest.approx(len(encode_chunk(units, layout)), rel=0.01, abs=1100)
    assert bits_lengths(units[:0], some[:1]) == [0]
