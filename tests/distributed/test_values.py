"""What is no tensor in a checkpoint: values as JSON, no pickles, and what is refused."""

from __future__ import annotations

import io
from collections import Counter, OrderedDict
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner

import slimtensors
from distributed.states import load, same, save
from slimtensors.checkpoint import plain
from slimtensors.torch.distributed import StorageWriter, values

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


class Colour(Enum):
    RED = 1


def test_values_come_back_as_they_were() -> None:
    made = {
        "plain": [None, True, 0, -(1 << 70), "ä\ud800", 0.1, 1e-320, -0.0],
        "odd": (float("inf"), b"\x00\xff", {1: "a", (2, None): [3]}, OrderedDict(b=1, a=2), Counter("aab")),
        "torch": [torch.Size([2, 3]), torch.bfloat16, torch.device("cpu")],
        "random": np.random.RandomState(3).get_state(),  # what trainers keep
        "number": np.float32(0.1),
        "paths": [{"a.b.c": ("a", "b.c"), "d": ("d",), "..": ("", "", "")}, {"a.b": ("a", 0)}, {"a": ("b",)}, {"": ()}],
    }
    again = read(plain.dumps({"x": values.encode(made, "x")}))["x"]
    assert str(again) == str(made)
    assert type(again["odd"][3]) is OrderedDict
    assert type(again["odd"][4]) is Counter
    assert again["random"][1].dtype == made["random"][1].dtype
    assert values.encode(made["paths"][0], "x") == {"paths": [["a.b.c", 1], "d", ["..", 0, 1]]}
    nan = values.decode(values.encode(float("nan"), "x"))
    assert nan != nan  # which is what it is
    for wrong in (Colour.RED, {1, 2}, object(), np.array([object()]), print, complex(1, 2), 10**4300, nested(256)):
        with pytest.raises(slimtensors.UsageError, match="state x"):
            values.encode({"a": wrong}, "x")
    deep = nested(256)
    assert values.decode(values.encode(deep, "x")) == deep


@pytest.mark.parametrize(
    "text",
    ["[]", '{"a":', '{"x":{"array":["O",[1],"AA=="]}}', '{"x":{"array":["<f4",[5],"AA=="]}}', '{"x":{"dtype":"save"}}',
     '{"x":{"dtype":"_inductor"}}',
     '{"x":{"float":[]}}', '{"x":{"a":1,"b":2}}', '{"x":{"dict":[[{"dict":[]},1]]}}', '{"x":{"device":"nowhere"}}',
     '{"x":{"bytes":"?"}}', "[" * 100_000, '{"x":{"paths":[["a.b",2]]}}', '{"x":{"paths":[["a.b.c",3,1]]}}',
     '{"x":{"paths":[["a.b",-2]]}}', '{"x":{"paths":[["a.b",9]]}}', '{"x":{"paths":[["a.b",true]]}}',
     '{"x":{"paths":[[]]}}', '{"x":{"paths":[7]}}', '{"x":{"paths":[["a.b",1,1]]}}'],
)  # fmt: skip
def test_values_that_nobody_wrote(text: str) -> None:
    with pytest.raises(slimtensors.FormatError):
        read(text.encode())


def read(data: bytes) -> dict[str, Any]:
    found = plain.parse_objects(data)
    for each in found.values():
        plain.check_named(each)
    return {name: values.decode(each) for name, each in found.items()}


def nested(deep: int) -> object:
    value: object = None
    for _ in range(deep):
        value = [value]
    return value


def test_values_nested_deeply() -> None:
    for deep in (257, 5000):
        with pytest.raises(slimtensors.FormatError, match="nested too deeply"):
            plain.check_value(nested(deep))


def test_no_pickle_is_written_or_asked_for(tmp_path: Path) -> None:
    save(tmp_path / "a", {"x": torch.ones(3), "what": "text"})
    data = b"".join(each.read_bytes() for each in (tmp_path / "a").iterdir())
    assert b"PK\x03\x04" not in data
    assert b"\x80\x02" not in data

    class Pickles(DefaultSavePlanner):
        lookup_object = None

        def resolve_data(self, _item: Any) -> Any:
            stream = io.BytesIO()
            torch.save(1, stream)
            return stream

    with pytest.raises(CheckpointException, match="gives a pickle"):
        dcp.save({"what": "text"}, storage_writer=StorageWriter(tmp_path / "b"), planner=Pickles())
    with pytest.raises(CheckpointException, match=r"state what is a .*Colour.*pickles are not written"):
        save(tmp_path / "b", {"what": Colour.RED})
    assert not (tmp_path / "b" / "manifest.json").exists()


def test_what_cannot_be_saved(tmp_path: Path) -> None:
    for wrong, message in (
        ({"x": torch.zeros(2, 2).to_sparse()}, "to_dense"),
        ({"x" * 600: torch.zeros(2)}, "512"),
        ({"__objects__": torch.zeros(2)}, "only one of that name"),
        ({"x": torch.zeros(2, dtype=torch.complex128)}, "complex128"),
    ):
        with pytest.raises(CheckpointException, match=message):
            save(tmp_path / "a", wrong)
    for options, message in (
        ({"keep": 0}, "keep"),
        ({"full_every": 9}, "full_every"),
        ({"preset": "tiny"}, "preset"),
        ({"timeout": 0}, "timeout"),
    ):
        with pytest.raises(slimtensors.UsageError, match=message):
            StorageWriter(tmp_path, **options)
    for path in ("a b", "ä", ".hidden"):
        with pytest.raises(CheckpointException, match="no name for a checkpoint"):
            save(tmp_path / path, {})
    with pytest.raises(CheckpointException, match="no place to save to"):
        dcp.save({}, storage_writer=StorageWriter())


def test_how_much_can_be_saved(tmp_path: Path) -> None:
    for length, taken in ((1 << 24, True), ((1 << 24) + 1, False)):
        made = {"a": torch.ones(3), "text": "x" * (length - len(b'{"text":""}'))}
        if taken:
            save(tmp_path / "a", made)
            assert same(load(tmp_path / "a", made), made)
        else:
            with pytest.raises(CheckpointException, match=r"take 16777217 bytes .* save large ones, such as 'text'"):
                save(tmp_path / "b", made)
