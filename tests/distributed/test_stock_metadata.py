"""Metadata of DCP's own checkpoints that were made to do harm: they are pickles, and are not unpickled."""

from __future__ import annotations

import io
import pathlib
import pickle
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file
from torch.distributed.checkpoint import filesystem, metadata

import slimtensors
from faults import processes
from slimtensors.torch.distributed import convert_checkpoint
from slimtensors.torch.distributed.stock_metadata import read_metadata

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")

CLASS = b"cpathlib\nPurePosixPath\n"
INDEX = b"ctorch.distributed.checkpoint.metadata\nMetadataIndex\n"
ORDERED = b"ccollections\nOrderedDict\n"
LAYOUT = b"ctorch.serialization\n_get_layout\n"


def text(value: str) -> bytes:
    return b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()


def beside(snippet: bytes) -> bytes:
    """Metadata without tensors, with what the snippet makes as a version, at which nobody looks."""
    state = text("state_dict_metadata") + b"}" + text("storage_data") + b"}" + text("version") + snippet
    return b"\x80\x04ctorch.distributed.checkpoint.metadata\nMetadata\n)\x81}(" + state + b"ub."


def read(path: Path, data: bytes) -> metadata.Metadata:
    path.write_bytes(data)
    return read_metadata(path)


SLOT = b"N}" + text("name") + text("x") + b"s\x86b"  # (None, {"name": "x"}) as a state: setattr
HARMLESS = {
    "nothing": b"N",
    "a value of each kind": b"(" + b"\x88\x89K\x01M\x01\x01J\xff\xff\xff\xff\x8a\x01\x05\x8b\x01\x00\x00\x00\x05"
    + b"G" + bytes(8) + text("x") + b"\x8c\x01x\x8d\x01" + bytes(7) + b"xC\x01xB\x01\x00\x00\x00x\x8e\x01" + bytes(7)
    + b"x])N\x85NN\x86NNN\x87t",
    "a memo": b"}q\x00h\x00r\x01\x00\x00\x00j\x01\x00\x00\x00\x87",
    "a frame": b"\x95" + bytes(8) + b"N",
    "a path": CLASS + text("/") + b"\x85R",
    "an ordered dict": ORDERED + b")R" + text("a") + b"K\x01s",
}  # fmt: skip
TWICE = b")q\x00" + b"h\x00h\x00\x86q\x00" * 60  # the last of them has 2 ** 60 parts
STATE, CALLS, KEYS = "sets the state", "calls what is no class", "neither text nor an index"
ITEMS, APPENDS, OPCODE = "sets items of what has none", "appends to what is no list", "which torch does not write there"
GETATTR, FORMATS = b"cbuiltins\ngetattr\n", f"c{metadata.__name__}\n_MEM_FORMAT_ENCODING\n".encode()
HARMLESS["a member, as Python 3.11.2 pickles it"] = GETATTR + FORMATS + text("TORCH_CONTIGUOUS_FORMAT") + b"\x86R"
HARMFUL = {
    "an attribute of something else": (GETATTR + CLASS + text("name") + b"\x86R", "no memory format"),
    "an attribute with a default": (GETATTR + FORMATS + text("x") + b"N\x87R", "no memory format"),
    "an attribute of a class": (CLASS + SLOT, STATE),
    "an attribute of a class of DCP's": (INDEX + SLOT, STATE),
    "an attribute of a function": (LAYOUT + b"N}" + text("__defaults__") + b")s\x86b", STATE),
    "the dict of a class": (CLASS + b"}" + text("name") + text("x") + b"sb", STATE),
    "a state of an ordered dict": (ORDERED + b")R}" + text("clear") + b"Nsb", STATE),
    "a state of a dict": (b"}}b", STATE),
    "a state of None": (b"NNb", STATE),
    "a state of a dtype": (b"ctorch\nfloat32\n" + SLOT, STATE),
    "a second state": (INDEX + b")\x81}" + text("fqn") + text("x") + b"sb}b", STATE),
    "a call of what a call gave": (INDEX + b")\x81)R", CALLS),
    "a call of text": (text("x") + b")R", CALLS),
    "a call without a tuple": (CLASS + b"]R", CALLS),
    "an object of an object": (INDEX + b")\x81)\x81", CALLS),
    "an object with names": (INDEX + b")}\x92", OPCODE),
    "an old call": (b"(" + CLASS + b"o", OPCODE),
    "an old call by name": (b"(ipathlib\nPurePosixPath\n", OPCODE),
    "append to what was called": (INDEX + b")\x81Na", APPENDS),
    "append to an ordered dict": (ORDERED + b")RNa", APPENDS),
    "extend what was called": (INDEX + b")\x81(NNe", APPENDS),
    "extend a tuple": (b")(NNe", APPENDS),
    "an item of what was called": (INDEX + b")\x81" + text("a") + b"Ns", ITEMS),
    "an item of a list": (b"]Na" + b"K\x00Ns", ITEMS),
    "items of a class": (CLASS + b"(" + text("a") + b"Nu", ITEMS),
    "a key without a value": (b"}(" + text("a") + b"u", ITEMS),
    "a key that is a class": (b"}" + CLASS + b"Ns", KEYS),
    "a key that is a tuple": (b"})Ns", KEYS),
    "a set": (b"\x8f(K\x01\x90", OPCODE),
    "a frozen set": (b"(K\x01\x91", OPCODE),
    "something outside": (b"Pa\n", OPCODE),
    "something outside, by a value": (b"NQ", OPCODE),
    "a buffer outside": (b"\x97", OPCODE),
    "a buffer outside, for reading": (b"N\x98", OPCODE),
    "an extension": (b"\x82\x01", OPCODE),
    "an extension of two bytes": (b"\x83\x01\x00", OPCODE),
    "an extension of four bytes": (b"\x84\x01\x00\x00\x00", OPCODE),
    "bytes that can be changed": (b"\x96" + bytes(8), OPCODE),
    "pop": (b"NN0", OPCODE),
    "pop to a mark": (b"N(N1", OPCODE),
    "dup": (b"N2", OPCODE),
    "a number in digits": (b"I1\n", OPCODE),
    "text in quotes": (b"S'a'\n", OPCODE),
    "a module": (b"ctorch\nnn\n", "names torch.nn"),
    "a module that is imported when it is asked for": (b"ctorch\n_inductor\n", "names torch._inductor"),
    "a name by what is no text": (b")" + text("system") + b"\x93", "by what is no text"),
    "a name with dots": (b"\x8c\x07pathlib\x8c\x0bPath.unlink\x93", "names pathlib.Path.unlink"),
    "eval": (b"cbuiltins\neval\n", "names builtins.eval"),
    "more than the stack has": (b"(\x87", "more than there is"),
    "no mark": (b"t" * 9, "IndexError"),
    "what was not remembered": (b"h\x07", "KeyError"),
    "text without an end": (b"\x8d" + b"\xff" * 7 + b"\x0f", "ValueError"),
    "bytes without an end": (b"\x8e" + b"\xff" * 7 + b"\x0f", "ValueError"),
    "a number without an end": (b"\x8b\xff\xff\xff\x7f", "ValueError"),
    "no opcode": (b"\xff", "ValueError"),
    "deep lists": (b"]" * 100_000 + b"a" * 99_999, "deep"),
    "deep tuples": (b")" + b"\x85" * 100_000, "deep"),
    "deep calls": (CLASS * 100 + b")" + b"R\x85" * 100, "deep"),
    "a list that holds itself": (b"]q\x00h\x00a", "deep"),
    "a list that holds itself twice": (b"]q\x00(h\x00h\x00e", "again and again"),
    "tuples of the same tuple twice": (b"](" + TWICE + b"e", "again and again"),
    "a list that is held often": (b"](](" + b"N" * 999 + b"eq\x00" + b"h\x00" * 999 + b"e", "again and again"),
    "a dict that is held often": (
        b"](}(" + b"".join(text(f"{i}") + b"N" for i in range(99)) + b"uq\x00" + b"h\x00" * 999 + b"e",
        "again and again",
    ),
    "a name by such tuples": (b"](" + TWICE + text("system") + b"\x93e", "by what is no text"),
    "a key by such tuples": (b"](}" + TWICE + b"h\x00N\x86e" + b"}h\x00Ns", KEYS),
}  # fmt: skip


@pytest.mark.parametrize("snippet", HARMLESS.values(), ids=HARMLESS)
def test_what_torch_may_write(tmp_path: Path, snippet: bytes) -> None:
    """Else the next test would show nothing."""
    assert pickle.loads(beside(snippet))  # noqa: S301 # made above
    assert read(tmp_path / "a", beside(snippet)) == metadata.Metadata({}, None, {})


@pytest.mark.parametrize(("snippet", "told"), HARMFUL.values(), ids=HARMFUL)
def test_what_torch_does_not_write(tmp_path: Path, snippet: bytes, told: str) -> None:
    before, name = set(sys.modules), pathlib.PurePosixPath.name
    with pytest.raises(slimtensors.FormatError, match=told):
        read(tmp_path / "a", beside(snippet))
    assert set(sys.modules) == before
    assert pathlib.PurePosixPath.name is name
    assert pathlib.PurePosixPath("/a/b").name == "b"


LIMITED = """
import json, resource, sys
from pathlib import Path
from faults.measured import limit_memory
from slimtensors.torch.distributed.stock_metadata import read_metadata
limit_memory(512)
print(json.dumps(len(read_metadata(Path(sys.argv[1])).state_dict_metadata)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limited by RLIMIT_AS")
def test_a_high_place_in_the_memo_takes_no_memory(tmp_path: Path) -> None:
    """Pickle's own would make a table of 64 GiB for it."""
    (tmp_path / "a").write_bytes(beside(b"Nr\xff\xff\xff\xff"))
    assert processes.run(LIMITED, tmp_path / "a") == 0


def test_no_file_elsewhere_is_read(tmp_path: Path) -> None:
    """Not even where the metadata have changed what tells a file's name from a path."""
    folder, secret = tmp_path / "a", tmp_path / "secret.distcp"
    dcp.save({"x": torch.arange(6)}, storage_writer=dcp.FileSystemWriter(folder))
    (data,) = folder.glob("*.distcp")
    data.rename(secret)
    found = pickle.loads((folder / ".metadata").read_bytes())  # noqa: S301 # torch has just written it
    for info in found.storage_data.values():
        info.relative_path = "../secret.distcp"
    patch = CLASS + b"N}" + text("name") + text("../secret.distcp") + b"s\x86b0"
    (folder / ".metadata").write_bytes(b"\x80\x02" + patch + pickle.dumps(found, 2)[2:])
    with pytest.raises(slimtensors.FormatError):
        convert_checkpoint(folder, tmp_path / "b", "safetensors")
    assert pathlib.PurePosixPath("/a/b").name == "b"


def stock(**changed: Any) -> bytes:
    """Metadata of one tensor, some of it otherwise."""
    given: dict[str, Any] = {
        "name": "x", "offsets": torch.Size([0, 0]), "sizes": torch.Size([2, 3]), "size": torch.Size([2, 3]),
        "path": "__0_0.distcp", "offset": 0, "length": 9, "dtype": torch.float32, "layout": torch.strided,
        "planner": {"x": ("x",)}, "number": 0, "transforms": None, "objects": ["step"],
    } | changed  # fmt: skip
    properties = metadata.TensorProperties(given["dtype"], given["layout"])
    chunks = given.get("chunks", [metadata.ChunkStorageMetadata(given["offsets"], given["sizes"])])
    entry = given.get("entry", metadata.TensorStorageMetadata(properties, given["size"], chunks))
    index = metadata.MetadataIndex(given["name"], None, given["number"])
    vars(index)["offset"] = given["offsets"]
    place = filesystem._StorageInfo(given["path"], given["offset"], given["length"])
    place.transform_descriptors = given["transforms"]
    names = {given["name"]: entry, **dict.fromkeys(given["objects"], metadata.BytesStorageMetadata())}
    places = given.get("places", {index: place, metadata.MetadataIndex("step"): place})
    return pickle.dumps(metadata.Metadata(names, given["planner"], places, metadata.StorageMeta(Path("/x"))))


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"size": torch.Size([]), "sizes": torch.Size([]), "offsets": torch.Size([])},
        {"offsets": torch.Size([4, 3]), "size": torch.Size([9, 9])},
        {"dtype": torch.float8_e5m2, "transforms": ["zstd"], "planner": None},
        {"planner": OrderedDict(x=("a", 1, "b"), y=[1.5, True, None, b"z", torch.Size([2]), torch.int8, {}])},
    ],
)
def test_other_metadata_come_back(tmp_path: Path, changed: dict[str, Any]) -> None:
    data = stock(**changed)
    expected = pickle.loads(data)  # noqa: S301 # made above
    found = read(tmp_path / "a", data)
    assert found.state_dict_metadata == expected.state_dict_metadata
    assert found.storage_data == expected.storage_data
    assert [each.index for each in found.storage_data] == [each.index for each in expected.storage_data]
    assert found.planner_data == expected.planner_data
    assert type(found.planner_data) is type(expected.planner_data)


class Size(metadata.BytesStorageMetadata):
    """Something in place of another thing that its pickle names."""


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        *(
            ({"path": path}, "is no plain file name")
            for path in ("", ".", "..", "../x", "/x", "x/", "a/b", "a\\b", "c:x", "x\0", 1, ["x"], Path("x"))
        ),
        *(({name: wrong}, "no number") for name in ("offset", "length") for wrong in (-1, 1.0, True, 1 << 70)),
        ({"number": "0"}, "number of a part"),
        *(({name: (2, 3)}, "a size is none") for name in ("size", "sizes", "offsets")),
        ({"sizes": torch.Size([2])}, "other dimensions"),
        ({"size": torch.Size([2, 2])}, "not within"),
        ({"offsets": torch.Size([1, 0])}, "not within"),
        ({"size": torch.Size([-2, 3])}, "a size is none"),
        ({"sizes": torch.Size([1 << 62, 3])}, "a size is none"),
        ({"dtype": torch.Size([1])}, "dtype is none"),
        ({"dtype": None}, "dtype is none"),
        ({"layout": torch.sparse_coo}, "not strided"),
        ({"layout": None}, "not strided"),
        ({"chunks": None}, "parts of a tensor"),
        ({"chunks": [metadata.BytesStorageMetadata()]}, "no ChunkStorageMetadata"),
        ({"entry": None}, "no TensorStorageMetadata"),
        ({"entry": metadata.MetadataIndex("x")}, "no TensorStorageMetadata"),
        ({"places": None}, "no places"),
        ({"places": {"x": 1}}, "no MetadataIndex"),
        ({"places": {metadata.MetadataIndex("x"): 1}}, "no _StorageInfo"),
        ({"places": {metadata.MetadataIndex(("x",)): 1}}, "no text"),  # type: ignore[arg-type] # that is what is tried
        ({"transforms": [1]}, "transformation"),
        ({"transforms": "zstd"}, "transformation"),
        ({"planner": {1: 2}}, "keys"),
        ({"planner": Path("x")}, "a size is none"),
        ({"planner": {"x": {1, 2}}}, "which torch does not write there"),
        ({"planner": Size()}, "no part of DCP's"),
    ],
    ids=lambda given: repr(given)[:60] if isinstance(given, dict) else "",
)
def test_parts_that_are_something_else(tmp_path: Path, changed: dict[str, Any], told: str) -> None:
    with pytest.raises(slimtensors.FormatError, match=told):
        read(tmp_path / "a", stock(**changed))


def test_a_tensor_of_which_no_memory_has_room(tmp_path: Path) -> None:
    size = torch.Size([1 << 40, 1 << 10])
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ".metadata").write_bytes(stock(size=size, sizes=size, objects=()))
    with pytest.raises(slimtensors.FormatError, match="'x'"):
        convert_checkpoint(tmp_path / "a", tmp_path / "b", "safetensors")
    assert [each.name for each in tmp_path.iterdir()] == ["a"]


def saved(value: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


ITEMS_THAT_ARE = {
    "what it should be": saved(torch.ones(2, 3)), "a tuple": saved((1, 2)), "another size": saved(torch.ones(3)),
    "nothing": b"", "no stack": b"\x80\x02.", "no end": b"\x80\x02", "no state": b"\x80\x02}b.", "zeros": bytes(99),
}  # fmt: skip


@pytest.mark.parametrize("data", ITEMS_THAT_ARE.values(), ids=ITEMS_THAT_ARE)
def test_items_that_are_no_tensors(tmp_path: Path, data: bytes) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / ".metadata").write_bytes(stock(length=len(data), objects=()))
    (folder / "__0_0.distcp").write_bytes(data)
    if data == saved(torch.ones(2, 3)):
        convert_checkpoint(folder, tmp_path / "b", "safetensors")
        assert torch.equal(load_file(tmp_path / "b" / "model.safetensors")["x"], torch.ones(2, 3))
        return
    with pytest.raises(slimtensors.FormatError, match="'x' cannot be read"):
        convert_checkpoint(folder, tmp_path / "b", "safetensors")
