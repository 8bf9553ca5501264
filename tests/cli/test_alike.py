"""What `inspect --why` says of many tensors that are alike."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
from click.testing import Result

import slimtensors
from slimtensors.cli.alike import Reason, figure, grouped, names_together, reason
from slimtensors.cli.why import explain
from slimtensors.numpy import save, save_file
from slimtensors.reading.tensors import open_file

Invoke = Callable[..., Result]


def said(chunks: int, cost: float, nmse: float) -> Reason:
    coded = "exponent: uneven in " + figure(3) + " of " + figure(chunks) + " chunks, " + figure(cost, ".2f")
    return coded + " of 10 bits; NMSE " + figure(nmse, ".3g")


def test_figures_become_ranges() -> None:
    reasons = {
        "a.0": said(4, 4.49, 1.2e-05),
        "b": reason("has no elements"),
        "a.1": said(16, 10.5, 9e-06),
        "a.2": said(8, 4.5, 0),
    }
    assert str(reasons["a.0"]) == "exponent: uneven in 3 of 4 chunks, 4.49 of 10 bits; NMSE 1.2e-05"
    assert grouped(reasons.items()) == [
        (
            ["a.0", "a.1", "a.2"],
            "exponent: uneven in 3 of 4 to 16 chunks, 4.49 to 10.50 of 10 bits; NMSE 0 to 1.2e-05",
        ),
        (["b"], "has no elements"),
    ]


def test_what_is_another_thing_stays_apart() -> None:
    texts = [
        "sign and 21 mantissa bits: noise, 22 bits",
        "sign and 5 mantissa bits: noise, 6 bits",
        "has the bytes of layers.0.5.weight, which are stored once",
        "has the bytes of layers.0.6.weight, which are stored once",
        "has the bytes of a tensor named 0.5 in pack 1 with 2 others",
        "has the bytes of a tensor named 0.6 in pack 2 with 3 others",
        "is w.1 converted to F32, which is stored once",
        "is w.1 converted to F64, which is stored once",
    ]
    assert [each for _, each in grouped((text, reason(text)) for text in texts)] == texts


def test_names_become_one() -> None:
    names = [f"layers.{i}.up" for i in (0, 1, 2, 10, 4, 11)]
    assert names_together([*names, "head", "layers.3.down"]) == ["layers.{0-2,4,10-11}.up (6)", "head", "layers.3.down"]
    experts = [f"layers.{i}.experts.{k}.up" for i in range(3) for k in range(8)]
    assert names_together(experts) == ["layers.{0-2}.experts.{0-7}.up (24)"]
    assert names_together(["one"]) == ["one"]


def test_a_model_of_hundreds(invoke: Invoke, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    tensors = {}
    for i in range(100):
        tensors[f"layers.{i}.up.weight"] = (random.standard_normal((96, 256)) * (1 + i)).astype(np.float32)
        tensors[f"layers.{i}.norm.weight"] = random.standard_normal(64).astype(np.float32)
    path = tmp_path / "a.slimtensors"
    save_file(tensors, path)
    short = invoke("inspect", path).stdout
    said = invoke("inspect", "--why", path).stdout
    why = [line for line in said.splitlines() if line and line not in short.splitlines()]
    assert len(why) == 4, why
    assert "layers.{0-99}.up.weight (100)" in said
    assert "layers.{0-99}.norm.weight (100)" in said
    each = invoke("inspect", "--why", "-v", path).stdout.splitlines()
    assert all(name in each for name in tensors)  # a line of its own
    rows = json.loads(invoke("inspect", "--why", "--json", path).stdout)["tensors"]
    assert {row["name"] for row in rows if row["why"]} == set(tensors)


def test_names_less_what_tensors_share(tmp_path: Path) -> None:
    """Else nothing would be said once of the copies of many layers."""
    random = np.random.default_rng(5)
    weights = {f"{i}.weight": random.standard_normal((300, 300)).astype(np.float32) for i in range(2)}
    tensors = {f"master.{name}": array for name, array in weights.items()}
    tensors |= {f"model.{name}": array.astype(ml_dtypes.bfloat16) for name, array in weights.items()}
    tensors["master.1.copy"] = tensors["master.1.weight"]
    save_file(tensors, tmp_path / "state.slimtensors")
    why = {name: str(each) for name, each in explain(tmp_path / "state.slimtensors").items()}
    assert why["model.0.weight"] == why["model.1.weight"]
    assert why["model.1.weight"] == "is master.* (its own name) converted to BF16, which is stored once"
    assert {why["master.1.copy"], why["master.1.weight"]} & {
        "has the bytes of weight beside it, which are stored once",
        "has the bytes of copy beside it, which are stored once",
    }


def test_damaged_chunks_are_looked_at_all_the_same() -> None:
    """Nothing of them is decoded, so nothing is found wrong; but nor is what they say of themselves believed."""
    rng = np.random.default_rng(3)
    arrays = {"ones": np.ones(5000), "noise": rng.integers(0, 256, 300, np.uint8), "rows": rng.normal(size=(90, 60))}
    for name, array in arrays.items():
        whole = save({name: array})
        with open_file(whole) as file:
            places = file.reader.records(0)[1]
        for at in range(places[0], min(places[0] + 48, len(whole))):
            for value in (0, 1, 2, 255):
                damaged = bytearray(whole)
                damaged[at] = value
                assert slimtensors.inspect(bytes(damaged)).tensors[0].name == name
                assert explain(bytes(damaged)).keys() == {name}
