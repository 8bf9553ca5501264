"""Weights in memory brought to what a file holds: all of them, or none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import slimtensors
from api.tuned import equal, model, tuned
from slimtensors import BaseError, UsageError
from slimtensors.numpy import apply_delta, save, save_file


def test_apply() -> None:
    """Arrays are base and destination; nothing changes if anything is wrong."""
    base = model()
    result = tuned(base)
    data = save(result, base=base)
    live = {name: array.copy() for name, array in base.items()}
    live["extra"] = np.ones(3)
    memory = {name: array.ctypes.data for name, array in live.items()}
    apply_delta(data, live)
    assert equal({name: live[name] for name in result}, result)
    assert memory == {name: array.ctypes.data for name, array in live.items()}
    assert live["extra"].tolist() == [1, 1, 1]

    wrong = {name: array.copy() for name, array in base.items()}
    wrong["b.weight"][200, 3] += 1
    before = {name: array.copy() for name, array in wrong.items()}
    with pytest.raises(BaseError, match="another version"):
        apply_delta(data, wrong)
    assert equal(wrong, before)
    with pytest.raises(UsageError, match="not among the arrays"):
        apply_delta(data, {"a.weight": wrong["a.weight"]})
    fixed = {name: array.copy() for name, array in base.items()}
    fixed["a.weight"].flags.writeable = False
    with pytest.raises(UsageError, match="writable"):
        apply_delta(data, fixed)
    damaged = bytearray(data)
    damaged[-100] ^= 1
    intact = {name: array.copy() for name, array in base.items()}
    with pytest.raises(slimtensors.FormatError):
        apply_delta(bytes(damaged), intact)
    assert equal(intact, base)


@pytest.mark.parametrize("named", ["", "model.slimtensors.index.json", "list"])
def test_apply_a_folder(tmp_path: Path, named: str) -> None:
    """All shards count as one: what is wrong with the last one changes nothing of the first."""
    base = model()
    result = tuned(base)
    shards = {"1.slimtensors": sorted(result)[:2], "2.slimtensors": sorted(result)[2:]}
    for shard, names in shards.items():
        save_file({name: result[name] for name in names}, tmp_path / shard, base=base)
    places = {name: shard for shard, names in shards.items() for name in names}
    (tmp_path / "model.slimtensors.index.json").write_text(json.dumps({"weight_map": places}))
    target: Any = [tmp_path / shard for shard in shards] if named == "list" else tmp_path / named
    live = {name: array.copy() for name, array in base.items()}
    apply_delta(target, live)
    assert equal({name: live[name] for name in result}, result)

    live = {name: array.copy() for name, array in base.items()}
    sound = (tmp_path / "2.slimtensors").read_bytes()
    for wrong, error in (
        (sound[:-100] + bytes([sound[-100] ^ 1]) + sound[-99:], slimtensors.FormatError),
        (save({name: result[name] for name in shards["2.slimtensors"]}, base=result), BaseError),
        (save(result, base=base), slimtensors.FormatError),  # names twice
        (None, slimtensors.FormatError if named != "list" else OSError),
    ):
        if wrong is None:
            (tmp_path / "2.slimtensors").unlink()
            (tmp_path / "model.slimtensors.index.json").write_text(json.dumps({"weight_map": places}))
        else:
            (tmp_path / "2.slimtensors").write_bytes(wrong)
        with pytest.raises(error):
            apply_delta(target, live)
        assert equal(live, base)


def test_what_the_file_does_not_have_may_be_anything() -> None:
    base = model()
    result = tuned(base)
    fixed = np.ones(3)
    fixed.flags.writeable = False
    live: Any = {name: array.copy() for name, array in base.items()}
    live |= {"x": fixed, "y": "no array", "z": np.array([{}])}
    apply_delta(save(result, base=base), live)
    assert equal({name: live[name] for name in result}, result)
    live["b.bias"] = "no array"
    with pytest.raises(UsageError, match=r"tensor 'b.bias' is a str, not a NumPy array; nothing was changed"):
        apply_delta(save(base, base=result), live)
    with pytest.raises(UsageError, match="a dict from names to arrays is needed"):
        apply_delta(save(base, base=result), list(live.values()))  # type: ignore[arg-type] # on purpose


def test_apply_to_memory_of_any_kind() -> None:
    """Other byte orders and strides are written to; shared memory, if it is given one content; else nothing is."""
    rng = np.random.default_rng(1)
    base = {name: rng.standard_normal((300, 300)) for name in "uvw"}
    result = {name: array * 1.0001 for name, array in base.items()}
    data = save(result, base=base)
    both = np.empty((300, 600))  # side by side in the same rows
    both[:, :300], both[:, 300:] = base["u"], base["v"]
    live: Any = {"u": both[:, :300], "v": both[:, 300:], "w": base["w"].astype(">f8")}
    apply_delta(data, live)
    assert all(np.array_equal(live[name], result[name]) for name in result)
    assert live["w"].dtype.byteorder == ">"

    alike = {"a": base["u"], "b": base["u"]}
    same_twice, unlike = (save({"a": result["u"], "b": other}, base=alike) for other in (result["u"], base["u"] * 1.01))
    tied = base["u"].copy()
    apply_delta(same_twice, {"a": tied, "b": tied})
    assert np.array_equal(tied, result["u"])
    tied[...] = base["u"]
    with pytest.raises(UsageError, match="tensors 'a' and 'b' share memory, and in the file they differ"):
        apply_delta(unlike, {"a": tied, "b": tied})
    assert np.array_equal(tied, base["u"])


def test_apply_to_memory_in_memory() -> None:
    """Views of a whole that is there too."""
    whole = np.random.default_rng(2).standard_normal(2000)
    base = {"all": whole.copy(), "part": whole[500:900].copy()}
    moved = whole * 1.0001
    fits, other = ({"all": moved, "part": moved[at : at + 400]} for at in (500, 501))
    live = {"all": whole, "part": whole[500:900]}
    with pytest.raises(UsageError, match=r"tensors '(all|part)' and '(all|part)' share memory"):
        apply_delta(save(other, base=base), live)
    assert np.array_equal(whole, base["all"])
    apply_delta(save(fits, base=base), live)
    assert np.array_equal(whole, moved)
