"""The preset `small`: rows' and columns' scales told by side planes, and every bit given back."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from api.made import same
from slimtensors import safe_open
from slimtensors.cli.why import explain
from slimtensors.codecs import coded
from slimtensors.detect.classes import fit_classes, upper_median
from slimtensors.kernels.cpu import scales
from slimtensors.kernels.cpu.contexts import class_contexts
from slimtensors.kernels.status import OK
from slimtensors.numpy import load, save
from slimtensors.sources.inputs import ArrayInput

Array = npt.NDArray[np.generic]

DTYPES = ["bfloat16", "float16", "float32", "float64", "float8_e4m3fn", "float8_e5m2"]
SHAPES = [(257, 385), (400, 2049), (64, 33, 3, 3), (129, 40, 96), (1, 50_000), (50_000, 1), (0, 40)]


def scaled(shape: tuple[int, ...], seed: int = 5) -> npt.NDArray[np.float64]:
    """Numbers whose rows and columns have scales of their own, four octaves apart at most."""
    rng = np.random.default_rng(seed)
    rows = 2 ** rng.uniform(-2, 2, (shape[0], *[1] * (len(shape) - 1)))
    columns = 2 ** rng.uniform(-2, 2, (1, *shape[1:]))
    found: npt.NDArray[np.float64] = rng.normal(0, 0.04, shape) * rows * columns
    return found


def of(dtype: str, values: npt.NDArray[np.float64]) -> Array:
    found: Array = values.astype(getattr(ml_dtypes, dtype, dtype))
    return found


@pytest.mark.parametrize("dtype", DTYPES)
def test_round_trip(dtype: str) -> None:
    tensors = {str(shape): of(dtype, scaled(shape)) for shape in SHAPES}
    odd = of(dtype, scaled((300, 300)))
    odd[7] = 0
    odd[:, 9] = 0
    odd[11, 13] = np.nan
    odd[12] = odd[12] * odd.dtype.type(1e-5)  # subnormal in the narrow dtypes
    tensors["odd"] = odd
    tensors["zeros"] = np.zeros((300, 300), odd.dtype)
    data = save(tensors, preset="small", threads=1)
    again = load(data)
    assert all(same(again[name], tensors[name]) for name in tensors)
    assert save(tensors, preset="small", threads=3) == data


@pytest.mark.parametrize("dtype", DTYPES)
def test_smaller_and_said_so(dtype: str) -> None:
    tensors = {"weight": of(dtype, scaled((700, 500)))}
    small = save(tensors, preset="small")
    saved = len(save(tensors)) - len(small)
    assert saved * 8 / 350_000 > 0.1  # bits per weight
    assert "scales of its row" in str(explain(small)["weight"])
    if dtype.startswith("float8"):
        return  # NumPy has no slices of them
    with safe_open(small, framework="np") as file:
        rows = file.get_slice("weight")
        for low, high in ((0, 1), (3, 4), (211, 699), (699, 700)):
            assert same(rows[low:high], tensors["weight"][low:high])


def test_not_where_it_gains_nothing() -> None:
    array = of("bfloat16", np.random.default_rng(3).normal(0, 0.04, (1000, 700)))
    assert len(save({"a": array}, preset="small")) == len(save({"a": array}))


def test_rows_that_lack_bits_too() -> None:
    array = scaled((600, 700)).astype(np.float32)
    array[::2] = array[::2].astype(np.float16)
    data = save({"a": array}, preset="small")
    assert same(load(data)["a"], array)
    assert len(data) < len(save({"a": array}))


def test_scales_are_fitted_by_turns() -> None:
    """Rows first, then columns, with the rows' new scales; more than an octave below counts as that."""
    logs = np.full((2, 32), 10, np.int16)
    logs[1] = 30
    logs[:, 3] += 6
    logs[0, 9] = -500
    rows, columns = np.array([0, 64 * 40]), np.zeros(32, np.int64)
    work = np.empty(32, np.uint16), np.empty(32, np.uint32)
    assert scales.fit_scales(logs.view(np.uint16).ravel(), 1, -8, True, rows, columns, *work) == OK
    # 30 numbers lie 10 above 0, one 16 and one, at most, 8 below; 31 lie 8 or more below 40, one 4
    assert rows.tolist() == [64 * (30 * 10 + 16 - 8) // 32, 64 * 40 + 64 * (31 * -8 - 4) // 32]
    # rounded, the rows are 10 and 32
    assert columns[[0, 3, 9]].tolist() == [64 * (0 - 2) // 2, 64 * (6 + 4) // 2, 64 * (-8 - 2) // 2]


@pytest.mark.parametrize("length", [1, 5, 31, 32, 33, 64, 127])
def test_classes_of_units(length: int) -> None:
    rng = np.random.default_rng(length)
    rows, columns = rng.integers(0, 120, 40).astype(np.uint8), rng.integers(0, 120, length).astype(np.uint8)
    expected = np.add.outer(rows, columns).ravel()
    for first in (0, 1, length - 1, 3 * length + length // 2):
        for count in (1, length, 2 * length + 1, expected.size - first):
            out = np.empty(min(count, expected.size - first), np.uint8)
            assert class_contexts(rows, columns, first, out) == OK
            assert np.array_equal(out, expected[first : first + out.size])


def test_scales_are_found() -> None:
    rows, columns = np.arange(64) % 9, np.arange(512) % 5
    noise = np.random.default_rng(8).normal(0, 0.01, (64, 512))
    array = of("bfloat16", noise * 2 ** (rows[:, None] / 4) * 2 ** (columns / 4))
    found = fit_classes(ArrayInput("a", array))
    assert found is not None
    assert np.abs(found.rows.astype(int) - rows).max() <= 1
    assert np.mean(found.rows == rows) > 0.8


def test_medians_by_counting() -> None:
    rng = np.random.default_rng(2)
    for size in (1, 2, 3, 8192, 16385):
        numbers = np.abs(rng.normal(0, 1, size)).astype(np.float32).view(np.uint32)
        logarithms = rng.integers(0, 1 << 16, size).astype(np.uint16)
        assert upper_median(numbers, 19) == np.sort(numbers)[size // 2]
        assert upper_median(logarithms) == np.sort(logarithms)[size // 2]
    assert upper_median(np.zeros(100, np.uint32), 19) == 0


@pytest.mark.parametrize("width", [1, 2, 5, 8])
def test_fields_counted_by_twos(width: int) -> None:
    for count in (128, 1 << 16, 128 * 1001):
        fields = np.random.default_rng(width).integers(0, 1 << width, count).astype(np.uint8)
        assert np.array_equal(coded.count_plane(fields, width), np.bincount(fields, minlength=1 << width))
