"""A reference reader of checkpoints: chapter `checkpoint.md`, section by section. Quotations are from that text.

It is written from the specification alone, as `decode.py` is, which reads the files. It reads a whole checkpoint: every
file, every tensor and every object, each base that is needed.

    python format_spec/reference/checkpoint.py FOLDER        lists the tensors and objects
"""

from __future__ import annotations

import base64
import binascii
import math
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import combinations
from math import prod
from pathlib import Path

import decode
from coder import Refused, check
from decode import HEX, MAX_DIMENSIONS, MAX_ELEMENTS, MAX_NAME, array_of, canonical, digest, object_of, parse_json
from expressions import DTYPES, NeedsNewerReader, integer

# section 1
PLACE_NAME = re.compile("[A-Za-z0-9][A-Za-z0-9._=+-]{0,199}")
MANIFEST, LATEST = "manifest.json", "latest.json"
# section 2
MAX_SEALED = 1 << 28
MAX_BASES = 8
# section 3
OBJECTS = "__objects__"


@dataclass
class StoredFile:
    name: str
    size: int
    file_id: str


@dataclass
class Part:
    """ "a box of a tensor that lies in one file" """

    file: int
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]

    def overlaps(self, other: Part) -> bool:
        mine, others = zip(self.offsets, self.sizes, strict=True), zip(other.offsets, other.sizes, strict=True)
        return all(max(a, b) < min(a + m, b + n) for (a, m), (b, n) in zip(mine, others, strict=True))


@dataclass
class Tensor:
    dtype: str
    shape: tuple[int, ...]
    parts: list[Part]


@dataclass
class Manifest:
    run: str
    files: list[StoredFile]
    tensors: dict[str, Tensor]
    objects: dict[str, int]
    planner: object
    bases: list[tuple[str, str]]  # name, run


@dataclass
class Checkpoint:
    manifest: Manifest
    tensors: dict[str, tuple[str, tuple[int, ...], bytes]]
    objects: dict[str, object]


# -- section 1: places -----------------------------------------------------------------------------------------------


def place_name(value: object, what: str) -> str:
    """ "1 to 200 of the characters `A-Z a-z 0-9 . _ = + -` and begins with a letter or digit" """
    check(isinstance(value, str) and bool(PLACE_NAME.fullmatch(value)), f"{what}: not a name of a checkpoint")
    return value


def hexadecimal(value: object, digits: int, what: str) -> str:
    check(isinstance(value, str) and len(value) == digits and set(value) <= set(HEX), f"{what}: not {digits} digits")
    return value


def file_name(rank: int, run: str) -> str:
    """ "`rank-NNNNN.RUN.slimtensors`", "decimal, at least five digits" """
    return f"rank-{rank:05}.{run}.slimtensors"


# -- section 2: manifest ---------------------------------------------------------------------------------------------


def unseal(text: bytes) -> object:
    """ "`{"digest":"D","value":V}` without white space" """
    check(len(text) <= MAX_SEALED, "seal: longer than 2^28 bytes")
    before, value, after = text[:85], text[85:-1], text[-1:]
    check(before[:11] == b'{"digest":"' and before[75:] == b'","value":' and after == b"}", "seal: form")
    check(before[11:75] == digest(value).hex().encode(), "seal: digest")
    return parse_json(value)


def read_manifest(text: bytes) -> Manifest:
    value = unseal(text)
    check_format(value)
    value = object_of(value, "manifest", {"format", "run", "files", "tensors", "objects", "planner", "bases"})
    run = hexadecimal(value["run"], 32, "run")
    files = [read_file(entry, rank, run) for rank, entry in enumerate(array_of(value["files"], "files", 1, 1 << 17))]
    tensors = {name: read_tensor(name, entry, len(files)) for name, entry in mapping(value["tensors"], "tensors")}
    objects = {}
    for name, number in mapping(value["objects"], "objects"):
        objects[name] = integer(number, 0, len(files) - 1, "objects: number of a file")
        check(name not in tensors, "objects: a tensor's name")
    bases = [read_base(entry, run) for entry in array_of(value["bases"], "bases", 0, MAX_BASES)]
    return Manifest(run, files, tensors, objects, read_value(value["planner"]), bases)


def check_format(value: object) -> None:
    if not isinstance(value, dict) or type(value.get("format")) is not int:
        raise Refused("format: not a number")
    if value["format"] != 0:
        raise NeedsNewerReader(f"format {value['format']}")


def mapping(value: object, what: str) -> Iterator[tuple[str, object]]:
    if not isinstance(value, dict):
        raise Refused(f"{what}: not an object")
    yield from value.items()


def read_file(value: object, rank: int, run: str) -> StoredFile:
    value = object_of(value, "file", {"file_id", "name", "size"})
    check(value["name"] == file_name(rank, run), "file: not the name that its rank and run give")
    size = integer(value["size"], 0, (1 << 53) - 1, "file: size")
    return StoredFile(value["name"], size, hexadecimal(value["file_id"], 64, "file: id"))


def tensor_name(name: str) -> None:
    """ "names and shapes as in `container.md`, section 9" """
    check(1 <= len(name.encode()) <= MAX_NAME, "name: not 1 to 512 bytes")
    check(all(c >= " " and c != "\x7f" for c in name), "name: a control character")
    check(name != "__metadata__", "name: kept by safetensors")


def read_tensor(name: str, value: object, files: int) -> Tensor:
    tensor_name(name)
    dtype, shape, parts = array_of(value, "tensor", 3, 3)
    check(isinstance(dtype, str) and dtype in DTYPES, "tensor: dtype")
    product = 1
    for dimension in array_of(shape, "tensor: shape", 0, MAX_DIMENSIONS):
        product *= integer(dimension, 0, MAX_ELEMENTS, "tensor: dimension") or 1
        check(product <= MAX_ELEMENTS, "tensor: too many elements")
    shape = tuple(shape)
    if not isinstance(parts, list):
        # "If a file holds all of a tensor, that file's number stands in the place of the parts."
        number = integer(parts, 0, files - 1, "tensor: number of a file")
        return Tensor(dtype, shape, [Part(number, (0,) * len(shape), shape)])
    boxes = [read_part(part, shape, files) for part in array_of(parts, "tensor: parts", 1, 1 << 20)]
    check(all(box.sizes != shape for box in boxes), "tensor: a part that is all of it")
    # "The parts of a tensor do not overlap and together are the tensor"
    check(not any(a.overlaps(b) for a, b in combinations(boxes, 2)), "tensor: parts that overlap")
    check(sum(prod(box.sizes) for box in boxes) == prod(shape), "tensor: parts that are not all of it")
    return Tensor(dtype, shape, boxes)


def read_part(value: object, shape: tuple[int, ...], files: int) -> Part:
    """ "one array of the file's number, the box's offset on each dimension, and its size on each dimension" """
    d = len(shape)
    value = array_of(value, "part", 1 + 2 * d, 1 + 2 * d)
    number = integer(value[0], 0, files - 1, "part: number of a file")
    offsets = tuple(integer(value[1 + i], 0, shape[i], "part: offset") for i in range(d))
    sizes = tuple(integer(value[1 + d + i], 0, shape[i] - offsets[i], "part: size") for i in range(d))
    return Part(number, offsets, sizes)


def read_base(value: object, own_run: str) -> tuple[str, str]:
    name, run = array_of(value, "base", 2, 2)
    check(hexadecimal(run, 32, "base: run") != own_run, "base: this checkpoint's own run")
    return place_name(name, "base"), run


# -- section 3: what is no tensor ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tagged:
    """A value that a language may not have: its key of section 3, and what that holds."""

    kind: str
    content: object


def read_value(value: object) -> object:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, list):
        return [read_value(item) for item in value]
    check(isinstance(value, dict) and len(value) == 1, "value: not one key")
    (kind, content), = value.items()
    check(kind in CONTENTS, f"value: the key {kind}")
    return CONTENTS[kind](content)


def read_float(content: object) -> float:
    check(isinstance(content, str), "float: not a string")
    if content in ("nan", "inf", "-inf"):
        return float(content)
    check(bool(re.fullmatch(r"-?[0-9]+(\.[0-9]+)?(e[+-]?[0-9]+)?", content)), "float: not a number")
    check(math.isfinite(float(content)), "float: a number too large")
    return float(content)


def read_items(content: object) -> list:
    return [read_value(item) for item in array_of(content, "items", 0, MAX_SEALED)]


def read_tuple(content: object) -> tuple:
    return tuple(read_items(content))


def read_size(content: object) -> Tagged:
    return Tagged("size", tuple(integer(n, 0, (1 << 63) - 1, "size") for n in array_of(content, "size", 0, MAX_SEALED)))


def read_pairs(content: object) -> dict:
    found = {}
    for pair in array_of(content, "pairs", 0, MAX_SEALED):
        key, value = array_of(pair, "pair", 2, 2)
        key = read_value(key)
        found[key] = read_value(value)
    check(len(found) == len(content), "pairs: a key twice")
    return found


def read_paths(content: object) -> dict[str, tuple[str, ...]]:
    found = {}
    for item in array_of(content, "paths", 0, MAX_SEALED):
        name, dots = (item, []) if isinstance(item, str) else array_of(item, "path", 2, 2)
        check(isinstance(name, str), "path: name")
        begin, strings = 0, []
        for dot in array_of(dots, "path: dots", 0, MAX_SEALED):
            integer(dot, begin, len(name) - 1, "path: dot")
            check(name[dot] == ".", "path: no dot there")
            strings.append(name[begin:dot])
            begin = dot + 1
        found[name] = (*strings, name[begin:])
    check(len(found) == len(content), "paths: a name twice")
    return found


def read_bytes(content: object) -> bytes:
    check(isinstance(content, str), "base64: not a string")
    try:
        data = base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError):
        raise Refused("base64") from None
    check(base64.b64encode(data).decode() == content, "base64: bits left over")
    return data


def read_array(content: object) -> tuple[str, tuple[int, ...], bytes]:
    """ "`[dtype, shape, base64]`: little-endian numbers, dtype as NumPy writes it" """
    dtype, shape, data = array_of(content, "array", 3, 3)
    check(isinstance(dtype, str) and dtype in ARRAY_DTYPES, "array: dtype")
    shape = tuple(integer(n, 0, MAX_ELEMENTS, "array: dimension") for n in array_of(shape, "array: shape", 0, 64))
    data = read_bytes(data)
    check(prod(shape) * ARRAY_DTYPES[dtype] == len(data), "array: bytes that are not the shape's")
    return dtype, shape, data


ARRAY_DTYPES = {"|b1": 1, "|i1": 1, "|u1": 1} | {
    f"<{kind}{size}": size for kind, sizes in {"i": (2, 4, 8), "u": (2, 4, 8), "f": (2, 4, 8), "c": (8, 16)}.items()
    for size in sizes
}
CONTENTS: dict[str, Callable[[object], object]] = {
    "float": read_float,
    "tuple": read_tuple,
    "size": read_size,
    "dict": read_pairs,
    "ordered": lambda content: Tagged("ordered", read_pairs(content)),
    "counter": lambda content: Tagged("counter", read_pairs(content)),
    "paths": read_paths,
    "bytes": read_bytes,
    "array": lambda content: Tagged("array", read_array(content)),
    "number": lambda content: Tagged("number", read_array(content)),
    "dtype": lambda content: Tagged("dtype", content),
    "device": lambda content: Tagged("device", content),
    "stream": lambda content: Tagged("stream", read_bytes(content)),
}
