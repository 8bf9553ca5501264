"""The manifest: which files make a checkpoint, and where each part of each tensor is (format_spec/checkpoint.md)."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from slimtensors.checkpoint.plain import check_value
from slimtensors.container import canonical
from slimtensors.container.digest import new_identity
from slimtensors.container.values import check_name, shape_of
from slimtensors.dtypes import DTYPES
from slimtensors.errors import ChecksumError, FormatError, LimitError, NewerFormatError
from slimtensors.limits import MAX_BASE_DEPTH, MAX_ELEMENTS, MAX_MANIFEST_BYTES, MAX_MANIFEST_TOKENS
from slimtensors.sources.shards import RANK_FILE

__all__ = [
    "MANIFEST",
    "NAME",
    "OBJECTS",
    "Entry",
    "File",
    "Manifest",
    "check_checkpoint",
    "check_run",
    "check_version",
    "file_name",
    "need",
    "number",
    "part_name",
    "run_of",
    "seal",
    "unseal",
    "with_keys",
]  # fmt: skip

MANIFEST = "manifest.json"
STOCK = ".metadata"  # the manifest of checkpoints that torch writes itself
BOTH_KINDS = "each kind of reader would take its own; remove one, or name another place"
VERSION = 0
OBJECTS = "__objects__"  # the tensor of a file that holds what is no tensor
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+-]{0,199}")  # of a checkpoint beside others

_RUN = re.compile(r"[0-9a-f]{32}")
_HEAD = b'{"digest":"'
_MIDDLE = b'","value":'


def file_name(rank: int, run: str) -> str:
    """The file that a rank writes in a run: a run never touches the files of another."""
    return f"rank-{rank:05}.{run}.slimtensors"


def run_of(name: str) -> str | None:
    """The run that a file of ours, or the temporary file of one, belongs to; None for any other file."""
    stem = name[1:] if name.startswith(".") and name.endswith(".tmp") else name
    found = RANK_FILE.match(stem)
    if found is None or (stem is name and found.end() != len(name)):
        return None
    return found[2]


def part_name(name: str, shape: tuple[int, ...], offsets: tuple[int, ...], sizes: tuple[int, ...]) -> str:
    """What a part of a tensor is called in its file: the tensor's name, and "@" and its offsets if it is not all."""
    return name if sizes == shape else f"{name}@{','.join(map(str, offsets))}"


class File(NamedTuple):
    """One file of a checkpoint."""

    name: str
    size: int  # bytes
    file_id: str  # hex


class Entry(NamedTuple):
    """A tensor: parts are [file number, offset of each dimension, size of each dimension]."""

    dtype: str
    shape: tuple[int, ...]
    parts: list[list[int]]

    @property
    def told(self) -> int | list[list[int]]:
        """The parts as the manifest has them: the file's number, if it holds all of the tensor."""
        whole = [0] * len(self.shape) + list(self.shape)
        return self.parts[0][0] if len(self.parts) == 1 and self.parts[0][1:] == whole else self.parts

    def split(self, part: list[int]) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
        """(file number, offsets, sizes) of a part."""
        n = len(self.shape)
        return part[0], tuple(part[1 : 1 + n]), tuple(part[1 + n :])


@dataclass
class Manifest:
    """A whole checkpoint."""

    run: str
    files: list[File]
    tensors: dict[str, Entry]
    objects: dict[str, int] = field(default_factory=dict)  # name -> file number
    planner: Any = None  # what the planner keeps beside the tensors, as plain values
    bases: list[tuple[str, str]] = field(default_factory=list)  # (name, run), nearest first

    def to_bytes(self) -> bytes:
        """Sealed; raises FormatError for what a reader would refuse."""
        value = {
            "bases": [list(base) for base in self.bases],
            "files": [file._asdict() for file in self.files],
            "format": VERSION,
            "objects": self.objects,
            "planner": self.planner,
            "run": self.run,
            "tensors": {name: [each.dtype, list(each.shape), each.told] for name, each in self.tensors.items()},
        }
        _manifest(value)
        data = seal(value)
        if len(data) > MAX_MANIFEST_BYTES:
            raise LimitError(
                f"the manifest would take {len(data)} bytes; the limit is {MAX_MANIFEST_BYTES}: save from fewer ranks, "
                "or tensors in fewer parts"
            )
        _check_tokens(data)
        return data

    @classmethod
    def parse(cls, data: bytes, label: str) -> Manifest:
        """Raises FormatError, naming `label`, unless every rule of format_spec/checkpoint.md holds."""
        try:
            return _manifest(unseal(data))
        except FormatError as error:
            raise type(error)(f"{label}: {error}") from None


def seal(value: Any) -> bytes:
    """Canonical JSON with the BLAKE3 of itself: torn or flipped bytes are told from what was written."""
    body = canonical.dumps(value)
    digest: str = new_identity(body).hexdigest()
    return b"".join((_HEAD, digest.encode(), _MIDDLE, body, b"}"))


def _check_tokens(data: bytes) -> None:
    count = sum(map(data.count, b",:[{"))
    if count > MAX_MANIFEST_TOKENS:
        raise LimitError(f"{count} commas, colons and brackets; the limit is {MAX_MANIFEST_TOKENS}")


def unseal(data: bytes) -> Any:
    """What was sealed. Raises FormatError."""
    if len(data) > MAX_MANIFEST_BYTES:
        raise LimitError(f"{len(data)} bytes; the limit is {MAX_MANIFEST_BYTES}")
    _check_tokens(data)
    start = len(_HEAD) + 64 + len(_MIDDLE)
    whole = data.startswith(_HEAD) and data[start - len(_MIDDLE) : start] == _MIDDLE and data.endswith(b"}")
    if not whole:
        raise FormatError("it does not begin and end as it should: cut off, or not written by slimtensors")
    body = data[start:-1]
    if new_identity(body).hexdigest().encode() != data[len(_HEAD) : len(_HEAD) + 64]:
        raise ChecksumError("its content does not have its BLAKE3 digest: it was damaged or only partly written")
    try:
        return canonical.loads(body)
    except FormatError as error:
        raise type(error)(str(error).replace("the header", "the content")) from None


def need(condition: object, message: str) -> None:
    """Raises FormatError unless it holds."""
    if not condition:
        raise FormatError(message)


def check_version(value: Any, what: str) -> None:
    """What a newer version holds is its own affair: this comes first. Raises NewerFormatError, FormatError."""
    version = value.get("format") if isinstance(value, dict) else None
    if type(version) is not int or version < VERSION:
        raise FormatError(f"{what} has no version")
    if version > VERSION:
        raise NewerFormatError(f"{what} has version {version}, this reader knows {VERSION}")


def with_keys(value: Any, keys: str, what: str) -> dict[str, Any]:
    need(isinstance(value, dict), f"{what} is not an object")
    need(set(value) == set(keys.split()), f"{what} has the keys {sorted(value)}; expected are {keys}")
    found: dict[str, Any] = value
    return found


def number(value: Any, below: int, what: str) -> int:
    """A number from 0 up. Raises FormatError."""
    if type(value) is not int or not 0 <= value < below:
        raise FormatError(f"{what} is {value!r}; a number below {below} is expected")
    return value


def check_run(value: Any) -> str:
    """A run id. Raises FormatError."""
    need(isinstance(value, str) and _RUN.fullmatch(value), f"{value!r} is no run id")
    found: str = value
    return found


def check_checkpoint(value: Any) -> str:
    """The name of a checkpoint beside others: never a path. Raises FormatError."""
    need(isinstance(value, str) and NAME.fullmatch(value), f"{value!r} is not a plain name of a checkpoint")
    found: str = value
    return found


def _manifest(value: Any) -> Manifest:
    check_version(value, "the manifest")
    found = with_keys(value, "bases files format objects planner run tensors", "the manifest")
    run = check_run(found["run"])
    need(isinstance(found["files"], list) and found["files"], "files is not an array, or is empty")
    files = [_file(each, rank, run) for rank, each in enumerate(found["files"])]
    need(isinstance(found["tensors"], dict), "tensors is not an object")
    tensors = {name: _entry(name, each, len(files)) for name, each in found["tensors"].items()}
    _check_names(tensors)
    need(isinstance(found["objects"], dict), "objects is not an object")
    for name, at in found["objects"].items():
        need(name not in tensors, f"{name!r} is a tensor and an object")
        number(at, len(files), f"the file of object {name!r}")
    check_value(found["planner"])
    bases = found["bases"]
    need(isinstance(bases, list) and len(bases) <= MAX_BASE_DEPTH, f"bases is no array of at most {MAX_BASE_DEPTH}")
    for base in bases:
        need(isinstance(base, list) and len(base) == 2, "a base is not [name, run]")
    pairs = [(check_checkpoint(name), check_run(base)) for name, base in bases]
    need(run not in [base for _, base in pairs], "the checkpoint is its own base")
    return Manifest(run, files, tensors, found["objects"], found["planner"], pairs)


def _file(value: Any, rank: int, run: str) -> File:
    found = with_keys(value, "file_id name size", f"file {rank}")
    expected = file_name(rank, run)
    need(found["name"] == expected, f"file {rank} is called {found['name']!r}; {expected} is expected")
    identity = found["file_id"]
    need(isinstance(identity, str) and re.fullmatch("[0-9a-f]{64}", identity), f"file {rank}: {identity!r} is no id")
    return File(expected, number(found["size"], 1 << 62, f"the size of file {rank}"), identity)


def _entry(name: str, value: Any, files: int) -> Entry:
    check_name(name)
    need(name != OBJECTS, f"the name {OBJECTS!r} is kept for what is no tensor")
    try:
        return _entry_of(value, files)
    except FormatError as error:
        raise type(error)(f"tensor {name!r}: {error}") from None


def _entry_of(value: Any, files: int) -> Entry:
    need(isinstance(value, list) and len(value) == 3, "what it holds is not [dtype, shape, parts]")
    dtype, shape, parts = value
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise FormatError(f"unknown dtype {dtype!r}")
    shape_of(shape)
    need(math.prod(shape) * DTYPES[dtype].bits % 8 == 0, f"its elements of {dtype} do not fill whole bytes")
    if type(parts) is int:  # all of it
        number(parts, files, "the file that holds it")
        return Entry(dtype, tuple(shape), [[parts, *[0] * len(shape), *shape]])
    need(isinstance(parts, list) and parts, "it has no parts")
    width = 1 + 2 * len(shape)
    need(
        set(map(type, parts)) == {list}
        and set(map(len, parts)) == {width}
        and set(map(type, chain.from_iterable(parts))) == {int},
        f"a part is not {width} numbers",
    )
    try:
        _check_parts(np.array(parts, np.int64), np.array(shape, np.int64), files)
    except OverflowError:
        raise FormatError("a part has a number above 2^63") from None
    entry = Entry(dtype, tuple(shape), parts)
    need(entry.told is parts, "a part that is all of it, told as a box")
    need(not DTYPES[dtype].packed, f"elements of {dtype} are no whole bytes, and it is in parts")
    return entry


def _check_names(tensors: Mapping[str, Entry]) -> None:
    """No two parts are called the same in a file. Of one tensor, `_check_parts` has seen to that; of two, one has to be
    called as a part of the other is.
    """
    called: dict[str, set[tuple[int, str]]] = {}  # by tensor, once: many may be called as a part of one
    for name, entry in tensors.items():
        stem = name.rpartition("@")[0]
        if stem not in tensors:
            continue
        if stem not in called:
            other = tensors[stem]
            split = map(other.split, other.parts)
            called[stem] = {(number, part_name(stem, other.shape, *box)) for number, *box in split}
        whole = [0] * len(entry.shape) + list(entry.shape)
        for number, *box in entry.parts:
            clash = box == whole and (number, name) in called[stem]
            need(not clash, f"tensor {name!r} and a part of {stem!r} are called the same in file {number}")


def _check_parts(parts: Any, shape: Any, files: int) -> None:
    """Parts lie inside the tensor, do not overlap, and leave nothing out."""
    n = len(shape)
    need((parts >= 0).all() and (parts <= MAX_ELEMENTS).all(), "a part has a number beyond all limits")
    need((parts[:, 0] < files).all(), f"a part is in a file beyond the {files} that there are")
    low, high = parts[:, 1 : 1 + n], parts[:, 1 : 1 + n] + parts[:, 1 + n :]
    need((high <= shape).all(), "a part reaches out of it")
    volumes = (high - low).prod(axis=1)
    need(sum(volumes.tolist()) == math.prod(shape.tolist()), "its parts do not cover it, or overlap")
    some = volumes > 0
    if len(parts) > 1 and not some.all():  # those with elements overlap if they begin at the same place
        whole = (high - low == shape).all(axis=1)
        begins = np.column_stack([parts[:, : 1 + n], whole])
        need(len(np.unique(begins, axis=0)) == len(parts), "two parts are called the same in a file")
    need(_fill(low[some], high[some], shape), "its parts overlap")


def _fill(low: Any, high: Any, shape: Any) -> bool:
    """Whether boxes within a shape are all of it, each element in one of them: no more than one in 2^54 answers "yes"
    is wrong, whatever the boxes are.

    Each axis is measured anew, each of the places where boxes begin and end put at a number drawn at random: boxes that
    are the whole in such measures are the whole (Schwartz and Zippel: a polynomial is zero, or has few zeros).
    """
    if len(low) < 2:
        return True  # as much as there is, and within it
    prime, volumes = (1 << 31) - 1, np.ones((2, len(low) + 1), np.int64)  # two draws; the shape stands last
    for axis, size in enumerate(shape.tolist()):
        begins, ends = np.append(low[:, axis], 0), np.append(high[:, axis], size)
        places, at = np.unique(np.concatenate([begins, ends]), return_inverse=True)
        drawn = np.frombuffer(os.urandom(16 * len(places)), np.int64).reshape(2, -1) % prime
        volumes = volumes * (drawn[:, at[len(begins) :]] - drawn[:, at[: len(begins)]]) % prime
    difference = volumes[:, :-1].sum(axis=1) - volumes[:, -1]
    return not (difference % prime).any()
