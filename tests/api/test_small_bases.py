"""Small tensors, which share a chunk, as differences from their bases."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file as save_plain

import slimtensors
from api.made import same
from api.tuned import deltas, equal, small, tuned
from slimtensors import BaseDir, BaseError
from slimtensors.numpy import apply_delta, load_file, save, save_file


def test_small_tensors_have_bases_too() -> None:
    base = small()
    result = tuned(base)
    grown = np.concatenate([result["3.bias"], result["4.bias"][:9]])
    model_ = {"new": small(1, 5)["0.bias"], **result, "3.bias": grown}
    data = save(model_, base=base)
    assert deltas(data) == 12
    assert len(data) < 0.8 * len(save(model_))
    assert save(model_, base=base, threads=3) == data
    assert equal(slimtensors.numpy.load(data, base=base), model_)
    with slimtensors.safe_open(data, base=base) as opened:
        assert same(opened.get_slice("3.bias")[380:390], grown[380:390])
    with slimtensors.safe_open(data) as opened:
        assert same(opened.get_tensor("scale"), result["scale"])
    changed = {**base, "7.bias": base["7.bias"] * 2}
    with pytest.raises(BaseError, match=r"pack 1, chunk 0: the base has digest.*and 11 more"):
        slimtensors.numpy.load(data, base=changed)
    live = {name: array.copy() for name, array in base.items()} | {"new": np.zeros_like(model_["new"])}
    live["3.bias"] = np.zeros_like(grown)
    with pytest.raises(BaseError, match="another version"):
        apply_delta(data, live)
    plain = save(result, base=base)
    live = {name: array.copy() for name, array in base.items()}
    apply_delta(plain, live)
    assert equal(live, result)


def test_small_tensors_without_kin_stay_plain() -> None:
    base, other = small(), small(seed=7)
    assert save(other, base=base) == save(other)


def test_a_cycle_by_way_of_a_shared_chunk(tmp_path: Path) -> None:
    """One tensor leads to another of the same chunk, whose base is made from the first."""
    one, two = small(seed=1), tuned(small(seed=1), 2)
    save_file(one, tmp_path / "one.slimtensors", base=two)
    save_file(two, tmp_path / "two.slimtensors", base=one)
    with pytest.raises(BaseError, match="a cycle"):
        load_file(tmp_path / "one.slimtensors", base=BaseDir(tmp_path))
    three = tuned(two, 3)
    save_plain(one, tmp_path / "one.safetensors")
    (tmp_path / "one.slimtensors").unlink()
    save_file(three, tmp_path / "three.slimtensors", base=[tmp_path / "two.slimtensors", BaseDir(tmp_path)])
    assert equal(load_file(tmp_path / "three.slimtensors", base=BaseDir(tmp_path)), three)


def test_hints_have_the_length_of_names() -> None:
    """So that what is told of every base that follows cannot be much."""
    made = small(40)
    name = next(iter(made))
    for length in (512, 513):
        base, base_map = {"n" * length: made[name]}, {"n" * length: name}
        data = save(tuned(made), base=base, base_map=base_map)
        (found,) = slimtensors.dependencies(data)
        assert found.hints == ({"tensor": "n" * length} if length == 512 else {})
        assert slimtensors.numpy.load(data, base=base).keys() == made.keys()


def test_hints_are_stated_once() -> None:
    base = {f"layer.{i}": array for i, array in enumerate(small(40).values())}
    data = save(tuned(base), base=base)
    assert data.count(b'"layer.7"') == 1
    assert all(each.hints == {"tensor": each.tensors[0]} for each in slimtensors.dependencies(data))
