"""The `.metadata` of DCP's own FileSystemWriter, which is a pickle, read without unpickling.

There is no other form of it. The opcodes that torch writes there are followed here, and make lists, tuples, dicts and
notes of what would have been called; nothing is called, no attribute set, nothing imported. What this gave is then
looked through, and made into DCP's metadata part by part, each of the type that it has to be.
"""

from __future__ import annotations

import pathlib
import pickletools
from collections import OrderedDict
from collections.abc import Iterable
from itertools import chain
from typing import Any

import torch
from torch.distributed.checkpoint import filesystem, metadata

from slimtensors.checkpoint.manifest import need
from slimtensors.errors import FormatError, LimitError

__all__ = ["read_metadata"]

MAX_METADATA_BYTES = 1 << 30
MAX_DEPTH = 64  # DCP nests a dozen deep
MAX_SIZE = 1 << 62  # of a dimension, a file

_DTYPES = {str(each): each for each in vars(torch).values() if isinstance(each, torch.dtype)}
_METADATA, _STORAGE = metadata.__name__, filesystem.__name__
_FORMATS, _GETATTR = f"{_METADATA}._MEM_FORMAT_ENCODING", "builtins.getattr"  # as Python 3.11.2 pickles its members
_KNOWN = {
    _GETATTR,
    *(
        f"{_METADATA}.{name}"
        for name in (
            "BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta",
            "TensorProperties", "TensorStorageMetadata", "_MEM_FORMAT_ENCODING",
        )
    ),
    f"{_STORAGE}._StorageInfo",
    "torch.Size",
    "torch.serialization._get_layout",
    "collections.OrderedDict",
    *(
        f"{module}.{name}"
        for module in ("pathlib", "pathlib._local")
        for name in ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")
    ),
    *_DTYPES,
}  # fmt: skip


class _Name:
    """What is to be looked up, and is not: one of _KNOWN."""

    __slots__ = ("name",)

    def __init__(self, module: Any, name: Any) -> None:
        need(type(module) is type(name) is str, "it names something by what is no text")
        self.name = f"{module}.{name}"
        need(self.name in _KNOWN, f"it names {self.name:.200}, which is no part of DCP's metadata")


class _Call:
    """What is to be called, and is not; and the state that the object would have been given."""

    __slots__ = ("arguments", "name", "state")

    def __init__(self, name: Any, arguments: Any) -> None:
        need(type(name) is _Name and type(arguments) is tuple, "it calls what is no class, or without arguments")
        if name.name == _GETATTR:
            member = len(arguments) == 2 and type(arguments[0]) is _Name and type(arguments[1]) is str
            need(member and arguments[0].name == _FORMATS, "it asks for what is no memory format")
        self.name, self.arguments, self.state = name.name, arguments, None


_VALUES = {
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8",
    "SHORT_BINBYTES", "BINBYTES", "BINBYTES8",
}  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def read_metadata(path: pathlib.Path) -> metadata.Metadata:
    """A stock checkpoint's metadata. Raises FormatError for anything else."""
    data = path.read_bytes() if path.stat().st_size <= MAX_METADATA_BYTES else None
    if data is None:
        raise LimitError(f"{path} has {path.stat().st_size} bytes; the limit is {MAX_METADATA_BYTES}")
    try:
        found = _follow(data)
        _check_extent(found, len(data))
        return _metadata(found)
    except Exception as error:  # whatever such bytes lead to
        told = str(error) if isinstance(error, FormatError) else f"{type(error).__name__}: {error}"
        raise FormatError(f"{path} is not what torch writes there: {told}") from None


def _follow(data: bytes) -> Any:
    """What a pickle holds, with _Name and _Call for what it would look up and call. Raises any error."""
    stack: list[Any] = []
    marked: list[list[Any]] = []  # what the stack was at each mark
    memo: dict[int, Any] = {}
    argument: Any

    def since_mark() -> list[Any]:
        nonlocal stack
        found, stack = stack, marked.pop()
        return found

    for opcode, argument, _ in pickletools.genops(data):
        name = opcode.name
        if name in _VALUES:
            stack.append(argument)
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in _TUPLES:
            at = len(stack) - _TUPLES[name]
            need(at >= 0, "it takes more than there is")
            stack[at:] = [tuple(stack[at:])]
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name == "MARK":
            marked.append(stack)
            stack = []
        elif name == "TUPLE":
            items = since_mark()
            stack.append(tuple(items))
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name in ("SETITEM", "SETITEMS"):
            items = [stack.pop(-2), stack.pop()] if name == "SETITEM" else since_mark()
            _set(stack[-1], items)
        elif name in ("APPEND", "APPENDS"):
            items = [stack.pop()] if name == "APPEND" else since_mark()
            need(type(stack[-1]) is list, "it appends to what is no list")
            stack[-1].extend(items)
        elif name in ("NEWOBJ", "REDUCE"):
            arguments = stack.pop()
            call = _Call(stack.pop(), arguments)
            stack.append(OrderedDict() if call.name == "collections.OrderedDict" and not arguments else call)
        elif name == "BUILD":
            state = stack.pop()
            need(type(stack[-1]) is _Call and stack[-1].state is None, "it sets the state of what has none")
            stack[-1].state = state
        elif name == "GLOBAL":
            stack.append(_Name(*argument.split(" ")))
        elif name == "STACK_GLOBAL":
            last = stack.pop()
            stack.append(_Name(stack.pop(), last))
        elif name == "STOP":
            return stack.pop()
        elif name not in ("PROTO", "FRAME"):
            raise FormatError(f"it has a {name}, which torch does not write there")
    raise FormatError("it does not end")  # genops raises before


def _set(target: Any, items: list[Any]) -> None:
    need(type(target) in (dict, OrderedDict) and len(items) % 2 == 0, "it sets items of what has none")
    # Of a tuple that holds another one twice, and so on, the hash may take for ever.
    need({type(key) for key in items[::2]} <= {str, _Call}, "its keys are neither text nor an index")
    target.update(zip(items[::2], items[1::2], strict=True))


def _check_extent(found: Any, most: int) -> None:
    """Refuse what has parts in many places, or in itself, so that it takes for ever to look at: each part of what
    torch writes takes bytes of its own.
    """
    level, count = [found], 1
    for _ in range(MAX_DEPTH):
        count += sum(map(_width, level))
        need(count <= most, "it holds the same parts again and again")
        level = [part for each in level for part in _parts(each)]
        if not level:
            return
    raise FormatError(f"it is nested more than {MAX_DEPTH} deep")


def _width(value: Any) -> int:
    """How many parts there are."""
    kind = type(value)
    if kind is _Call:
        return 2
    if kind in (dict, OrderedDict):
        return 2 * len(value)
    return len(value) if kind in (list, tuple) else 0


def _parts(value: Any) -> Iterable[Any]:
    kind = type(value)
    if kind is _Call:
        return value.arguments, value.state
    if kind in (dict, OrderedDict):
        return chain(value, value.values())
    return value if kind in (list, tuple) else ()


def _metadata(found: Any) -> metadata.Metadata:
    state = _state(found, _METADATA, "Metadata")
    entries, places = state["state_dict_metadata"], state.get("storage_data")
    need(isinstance(entries, dict) and isinstance(places, dict), "it has no tensors, or no places of theirs")
    need(all(type(name) is str for name in entries), "a name is no text")
    return metadata.Metadata(
        {name: _entry(each) for name, each in entries.items()},
        _plain(state.get("planner_data")),
        {_index(index): _place(each) for index, each in places.items()},
    )


def _entry(value: Any) -> metadata.TensorStorageMetadata | metadata.BytesStorageMetadata:
    if type(value) is _Call and value.name == f"{_METADATA}.BytesStorageMetadata":
        return metadata.BytesStorageMetadata()
    state = _state(value, _METADATA, "TensorStorageMetadata")
    properties, size = _state(state["properties"], _METADATA, "TensorProperties", tuple), _size(state["size"])
    dtype, layout = properties[:2]
    need(type(dtype) is _Name and dtype.name in _DTYPES, "a dtype is none")
    strided = type(layout) is _Call and layout.name.endswith("._get_layout") and layout.arguments == ("torch.strided",)
    need(strided, "a tensor is not strided")
    need(type(state["chunks"]) is list, "the parts of a tensor are no list")
    chunks = [_chunk(each, size) for each in state["chunks"]]
    return metadata.TensorStorageMetadata(metadata.TensorProperties(_DTYPES[dtype.name]), size, chunks)


def _chunk(value: Any, shape: torch.Size) -> metadata.ChunkStorageMetadata:
    state = _state(value, _METADATA, "ChunkStorageMetadata")
    offsets, sizes = _size(state["offsets"]), _size(state["sizes"])
    need(len(offsets) == len(sizes) == len(shape), "a part has other dimensions than its tensor")
    within = all(first + size <= most for first, size, most in zip(offsets, sizes, shape, strict=True))
    need(within, "a part is not within its tensor")
    return metadata.ChunkStorageMetadata(offsets, sizes)


def _index(value: Any) -> metadata.MetadataIndex:
    state = _state(value, _METADATA, "MetadataIndex")
    name, offset, index = state["fqn"], state.get("offset"), state.get("index")
    need(type(name) is str, "a name is no text")
    need(index is None or _is_number(index), "the number of a part is none")
    return metadata.MetadataIndex(name, None if offset is None else _size(offset), index)


def _place(value: Any) -> Any:
    state = _state(value, _STORAGE, "_StorageInfo")
    name, offset, length = state["relative_path"], state["offset"], state["length"]
    plain = type(name) is str and name not in ("", ".", "..") and not {"/", "\\", ":", "\0"} & set(name)
    need(plain, f"{name!r:.200} is no plain file name")
    need(_is_number(offset) and _is_number(length), "where a part is in its file is no number")
    made = filesystem._StorageInfo(name, offset, length)
    transforms = state.get("transform_descriptors")  # of torch 2.6 and later
    if transforms is not None:
        need(type(transforms) in (list, tuple) and {*map(type, transforms)} <= {str}, "a transformation is no text")
        made.transform_descriptors = transforms
    return made


def _plain(value: Any) -> Any:
    """What a planner keeps, of plain values."""
    kind = type(value)
    if kind in (dict, OrderedDict):
        need(all(type(key) is str for key in value), "a key is no text")
        return kind((key, _plain(each)) for key, each in value.items())
    if kind in (list, tuple):
        return kind(map(_plain, value))
    if kind is _Name and value.name in _DTYPES:
        return _DTYPES[value.name]
    if kind in (_Name, _Call):
        return _size(value)
    return value


def _state(value: Any, module: str, name: str, kind: type = dict) -> Any:
    """The state of an object of a class."""
    need(type(value) is _Call and value.name == f"{module}.{name}" and not value.arguments, f"no {name} where one is")
    need(type(value.state) is kind, f"a {name} has no state")
    return value.state


def _size(value: Any) -> torch.Size:
    need(type(value) is _Call and value.name == "torch.Size" and len(value.arguments) == 1, "a size is none")
    numbers = value.arguments[0]
    need(type(numbers) is tuple and all(map(_is_number, numbers)), "a size is none")
    return torch.Size(numbers)


def _is_number(value: Any) -> bool:
    return type(value) is int and 0 <= value < MAX_SIZE
