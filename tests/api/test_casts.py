"""Tensors that are casts of others: found, stored once, given back whole and in parts."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

import slimtensors
from api.made import same, weights
from slimtensors.numpy import load, save

DTYPES: list[Any] = [np.float16, ml_dtypes.bfloat16, np.float64]


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("shape", [(700, 500), (40,)])
def test_casts_cost_nothing(first: bool, shape: tuple[int, ...]) -> None:
    master = weights(np.random.default_rng(1), *shape)
    copies = {np.dtype(dtype).name: master.astype(dtype) for dtype in DTYPES[:2]}
    copies["again"] = copies["bfloat16"].copy()
    tensors = {"master": master, **copies} if first else {**copies, "master": master}
    data = save(tensors)
    again = load(data)
    assert all(same(again[name], tensors[name]) for name in tensors)
    report = {tensor.name: tensor for tensor in slimtensors.inspect(data).tensors}
    assert all(report[name].storage == "cast" and report[name].stored_bytes == 0 for name in copies)
    with slimtensors.safe_open(data) as file:
        for name, array in tensors.items():
            part = file.get_slice(name)
            assert same(part[3:17], array[3:17])
            assert same(part[-1:], array[-1:])
    slimtensors.verify(data)


def test_wide_copies_of_narrow_tensors() -> None:
    half = weights(np.random.default_rng(2), 300, 300).astype(np.float16)
    tensors = {"half": half, "f64": half.astype(np.float64), "f32": half.astype(np.float32)}
    data = save(tensors)
    assert all(same(array, tensors[name]) for name, array in load(data).items())
    assert sorted(t.storage for t in slimtensors.inspect(data).tensors)[:2] == ["cast", "cast"]


def test_one_bit_is_enough_to_be_stored() -> None:
    master = weights(np.random.default_rng(3), 600, 500)
    copy = master.astype(ml_dtypes.bfloat16)
    copy.view(np.uint16)[599, 499] ^= 1
    data = save({"master": master, "copy": copy})
    assert same(load(data)["copy"], copy)
    assert "cast" not in {t.storage for t in slimtensors.inspect(data).tensors}


def test_source_files_come_back(tmp_path: Any) -> None:
    master = weights(np.random.default_rng(4), 600, 500)
    path, small, back = tmp_path / "a.safetensors", tmp_path / "a.slimtensors", tmp_path / "b.safetensors"
    few = master[:30].copy()
    tensors = {"a": master.astype(np.float16), "b": master, "c": few.astype(np.float64), "d": few}
    safetensors.numpy.save_file(tensors, path)
    slimtensors.compress(path, small)
    slimtensors.decompress(small, back)
    assert path.read_bytes() == back.read_bytes()
