"""A reference reader of checkpoints: chapter `checkpoint.md`, section by section. Quotations are from that text.

It is written from the specification alone, as `decode.py` is, which reads the files. It reads all that the manifest
names: every file, every part of every tensor, every object, and of other checkpoints the bases that these need.

    python format_spec/reference/checkpoint.py FOLDER        lists the tensors and objects
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from math import prod
from pathlib import Path

import decode
from coder import Refused, check
from decode import HEX, MAX_DIMENSIONS, MAX_ELEMENTS, MAX_NAME, array_of, digest, object_of, parse_json
from expressions import DTYPES, NeedsNewerReader, integer

__all__ = ["Checkpoint", "Manifest", "NeedsNewerReader", "Refused", "Tagged", "read_checkpoint", "read_latest"]

# section 1
CHECKPOINT_NAME = re.compile("[A-Za-z0-9][A-Za-z0-9._=+-]{0,199}")
MANIFEST, LATEST = "manifest.json", "latest.json"
# sections 2 and 5
BEFORE_DIGEST, BEFORE_VALUE = b'{"digest":"', b'","value":'
MAX_MANIFEST = 1 << 28
MAX_TOKENS = 1 << 26
MAX_LATEST = 1 << 24
MAX_SIZE = (1 << 62) - 1
MAX_BASES = 8
MAX_DIFFERENCES = 8
# section 3
OBJECTS = "__objects__"
MAX_OBJECTS = 1 << 24
MAX_NUMBER = 10**4300
MAX_NESTING = 256
ANY = sys.maxsize  # entries of an array: as many as there are


@dataclass(frozen=True)
class StoredFile:
    name: str
    size: int
    file_id: str


@dataclass(frozen=True)
class Part:
    """ "a box of a tensor that lies in one file" """

    file: int
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]

    def overlaps(self, other: Part) -> bool:
        """Whether an element is in both: then there is one in both on each dimension."""
        boxes = zip(self.offsets, self.sizes, other.offsets, other.sizes, strict=True)
        return all(max(a, b) < min(a + m, b + n) for a, m, b, n in boxes)


@dataclass(frozen=True)
class Tensor:
    dtype: str
    shape: tuple[int, ...]
    parts: list[Part]

    def name_of(self, part: Part, name: str) -> str:
        """ "a part that is the whole tensor has the tensor's name; any other one that name, `@`, and its offsets" """
        return name if part.sizes == self.shape else f"{name}@{','.join(map(str, part.offsets))}"


@dataclass(frozen=True)
class Manifest:
    run: str
    files: list[StoredFile]
    tensors: dict[str, Tensor]
    objects: dict[str, int]
    planner: object
    bases: list[tuple[str, str]]  # name, run


@dataclass(frozen=True)
class Checkpoint:
    manifest: Manifest
    tensors: dict[str, tuple[str, tuple[int, ...], bytes]]
    objects: dict[str, object]


# -- section 1: places -----------------------------------------------------------------------------------------------


def checkpoint_name(value: object) -> str:
    """ "1 to 200 of the characters `A-Z a-z 0-9 . _ = + -` and begins with a letter or digit" """
    check(isinstance(value, str) and bool(CHECKPOINT_NAME.fullmatch(value)), "not a name of a checkpoint")
    return value


def run_id(value: object) -> str:
    return digits(value, 32, "run")


def digits(value: object, count: int, what: str) -> str:
    """Lower-case hexadecimal ones."""
    good = isinstance(value, str) and len(value) == count and set(value) <= set(HEX)
    check(good, f"{what}: not {count} hexadecimal digits")
    return value


def file_name(rank: int, run: str) -> str:
    """ "rank NNNNN (from 0, decimal, with zeros in front up to five digits)" """
    return f"rank-{rank:05}.{run}.slimtensors"


def find(folder: Path) -> Path:
    """ "A folder that has a `manifest.json` is a checkpoint" """
    if (folder / MANIFEST).is_file():
        return folder
    # "one that has none, but a `latest.json`, stands for the checkpoint in it that this names"
    check((folder / LATEST).is_file(), "no checkpoint")
    latest = read_latest((folder / LATEST).read_bytes())
    check(latest != "" and (folder / latest / MANIFEST).is_file(), "latest: no checkpoint of that name")
    return folder / latest


# -- section 2: manifest ---------------------------------------------------------------------------------------------


def unseal(text: bytes, most: int, keys: set[str]) -> dict:
    """ "`{"digest":"D","value":V}` without white space"; `keys`: those of V """
    check(len(text) <= most, "seal: too long")
    check(sum(map(text.count, b",:[{")) <= MAX_TOKENS, "seal: too many tokens")
    stated, value = len(BEFORE_DIGEST), len(BEFORE_DIGEST) + 64 + len(BEFORE_VALUE)
    check(text.startswith(BEFORE_DIGEST) and text.endswith(b"}"), "seal: form")
    check(text[stated + 64 : value] == BEFORE_VALUE, "seal: form")
    check(text[stated : stated + 64] == digest(text[value:-1]).hex().encode(), "seal: digest")
    found = parse_json(text[value:-1], "seal")
    # "If its `format` is a number from 1 up, a newer reader is needed, whatever else it holds"
    if isinstance(found, dict) and type(found.get("format")) is int and found["format"] >= 1:
        raise NeedsNewerReader(f"format {found['format']}")
    object_of(found, "value", keys)
    integer(found["format"], 0, 0, "format")
    return found


def read_manifest(text: bytes) -> Manifest:
    value = unseal(text, MAX_MANIFEST, {"format", "run", "files", "tensors", "objects", "planner", "bases"})
    run = run_id(value["run"])
    files = [read_file(entry, rank, run) for rank, entry in enumerate(array_of(value["files"], "files", 1, ANY))]
    tensors = {}
    for name, entry in any_object(value["tensors"], "tensors").items():
        check_name(name)
        tensors[name] = read_tensor(entry, len(files))
    check_part_names(tensors)
    objects = any_object(value["objects"], "objects")
    for name, number in objects.items():
        integer(number, 0, len(files) - 1, "objects: number of a file")
        check(name not in tensors, "objects: a tensor's name")
    planner = read_value(value["planner"])
    bases = []
    for entry in array_of(value["bases"], "bases", 0, MAX_BASES):
        name, base_run = array_of(entry, "base", 2, 2)
        check(run_id(base_run) != run, "base: this checkpoint's own run")
        bases.append((checkpoint_name(name), base_run))
    return Manifest(run, files, tensors, objects, planner, bases)


def any_object(value: object, what: str) -> dict:
    """Whatever its keys are."""
    if not isinstance(value, dict):
        raise Refused(f"{what}: not an object")
    return value


def read_file(value: object, rank: int, run: str) -> StoredFile:
    value = object_of(value, "file", {"file_id", "name", "size"})
    check(value["name"] == file_name(rank, run), "file: not the name that its rank and run give")
    size = integer(value["size"], 0, MAX_SIZE, "file: size")
    return StoredFile(value["name"], size, digits(value["file_id"], 64, "file: id"))


def check_name(name: str) -> None:
    """ "names and shapes as in `container.md`, section 9, no name `__objects__`" """
    check(1 <= len(name.encode()) <= MAX_NAME, "name: not 1 to 512 bytes")
    check(all(c >= " " and c != "\x7f" for c in name), "name: a control character")
    check(name not in ("__metadata__", OBJECTS), "name: kept for something else")


def read_shape(value: object, what: str, dimensions: int = MAX_DIMENSIONS) -> tuple[int, ...]:
    elements = 1
    for dimension in array_of(value, f"{what}: shape", 0, dimensions):
        # "a dimension, and the product of those that are not 0"
        elements *= integer(dimension, 0, MAX_ELEMENTS, f"{what}: dimension") or 1
        check(elements <= MAX_ELEMENTS, f"{what}: too many elements")
    return tuple(value)


def read_tensor(value: object, files: int) -> Tensor:
    """ "array of three: the dtype, the shape, and the parts" """
    dtype, shape, parts = array_of(value, "tensor", 3, 3)
    check(isinstance(dtype, str) and dtype in DTYPES, "tensor: dtype")
    shape, bits = read_shape(shape, "tensor"), DTYPES[dtype][0]
    check(prod(shape) * bits % 8 == 0, "tensor: not whole bytes")
    if not isinstance(parts, list):
        number = integer(parts, 0, files - 1, "tensor: number of a file")
        return Tensor(dtype, shape, [Part(number, (0,) * len(shape), shape)])
    boxes = [read_part(part, shape, files) for part in array_of(parts, "parts", 1, ANY)]
    # "If there is one part alone, and it is all of the tensor, its file's number stands in the place of the array"
    check(len(boxes) > 1 or boxes[0].sizes != shape, "parts: one that is all of the tensor")
    check(bits % 8 == 0, "parts: of elements that are no whole bytes")
    check(not any(a.overlaps(b) for a, b in combinations(boxes, 2)), "parts: some overlap")
    # Parts that lie inside and do not overlap are the tensor if they have as many elements.
    check(sum(prod(box.sizes) for box in boxes) == prod(shape), "parts: not all of the tensor")
    return Tensor(dtype, shape, boxes)


def read_part(value: object, shape: tuple[int, ...], files: int) -> Part:
    """ "one array of the file's number, the box's offset on each dimension, and its size on each dimension" """
    d = len(shape)
    value = array_of(value, "part", 1 + 2 * d, 1 + 2 * d)
    number = integer(value[0], 0, files - 1, "part: number of a file")
    offsets = tuple(integer(value[1 + i], 0, shape[i], "part: offset") for i in range(d))
    sizes = tuple(integer(value[1 + d + i], 0, shape[i] - offsets[i], "part: size") for i in range(d))
    return Part(number, offsets, sizes)


def check_part_names(tensors: dict[str, Tensor]) -> None:
    """ "No two parts have the same name in the same file." """
    names = [(part.file, tensor.name_of(part, name)) for name, tensor in tensors.items() for part in tensor.parts]
    check(len(set(names)) == len(names), "parts: two of one name in one file")


class Bases:
    """The bases of the files of one rank: "the files of the same rank of the checkpoints in `bases`"."""

    def __init__(self, folder: Path, manifest: Manifest, rank: int) -> None:
        paths = [folder.parent / name / file_name(rank, run) for name, run in manifest.bases]
        # "With a file that it reads it refuses the checkpoint unless they are all there, needed or not."
        check(all(path.is_file() for path in paths), "base: a file that is not there")
        self.files = [path.read_bytes() for path in paths]

    def get(self, identity: bytes, above: tuple[bytes, ...] = ()) -> bytes | None:
        """The bytes of a tensor of this identity. `above`: the identities of the differences that lead here."""
        # "at most 8 differences lie on each other, and none leads back to itself"
        if identity in above or len(above) == MAX_DIFFERENCES:
            return None
        for data in self.files:
            for i, found in enumerate(decode.read_layout(data)[2]):
                if found == identity:
                    try:
                        return OpenFile(data, lambda base: self.get(base, (*above, identity))).decode(i)
                    except Refused:
                        continue  # another one of this identity may be had
        return None


class OpenFile:
    """A file of which tensors are decoded one by one, and for each no stream that it does not need:
    "chunks are checked of the tensors that parts, objects or differences need"
    """

    def __init__(self, data: bytes, bases: Callable[[bytes], bytes | None]) -> None:
        self.header, self.streams, self.identities, self.file_id = decode.read_layout(data)
        decode.check_total(self.header, len(data) + decode.put_bases(self.header, bases))
        self.places = {tensor.name: i for i, tensor in enumerate(self.header.tensors)}

    def decode(self, i: int) -> bytes:
        needed = streams_of(self.header, i)
        decoded = [b""] * len(self.header.streams)
        for s in decode.decoding_order(self.header.streams):
            if s in needed:
                sides = decode.sides_of(self.header, s, decoded)
                decode.check_side(self.header.streams[s], sides)
                decoded[s] = decode.decode_stream(self.streams[s], sides)
        found = decode.assemble(self.header, decoded)[i]
        check(digest(found) == self.identities[i], "tensor: identity")
        return found

    def stated(self, name: str) -> tuple[str, tuple[int, ...]] | None:
        """A tensor's dtype and shape; None: no such tensor."""
        tensor = self.header.tensors[self.places[name]] if name in self.places else None
        return tensor and (tensor.dtype, tensor.shape)

    def get(self, name: str) -> bytes:
        return self.decode(self.places[name])


def streams_of(header: decode.Header, i: int) -> set[int]:
    """Those that a tensor needs: its own, its side planes', its pack's, those of the tensor that it names."""
    tensor = header.tensors[i]
    target = tensor.ref if tensor.cast is None else tensor.cast
    if target is not None:
        return streams_of(header, target)
    packs = [s for s in header.streams if s.kind == "pack"]
    own = [*tensor.sides, tensor.data, None if tensor.pack is None else packs[tensor.pack]]
    needed = {s for s, stream in enumerate(header.streams) if any(stream is each for each in own)}
    return needed if tensor.scale is None else needed | streams_of(header, tensor.scale)


# -- section 3: what is no tensor ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tagged:
    """A value that this language, by itself, does not have: its key of section 3, and what that holds."""

    kind: str
    content: object


def read_objects(text: bytes, names: Collection[str] | None = None) -> dict[str, object]:
    """ "holds JSON: an object from names to values"; `names`: those wanted, which are there. None: all."""
    held = any_object(parse_objects(text), "objects")
    check(held.keys() >= set(names or ()), "object: not in its file")
    # "what a value holds is checked of the names only that the manifest gives to this file"
    return {name: read_named(value) for name, value in held.items() if names is None or name in names}


def parse_objects(text: bytes) -> object:
    """ "the canonical form of `container.md`, section 3, but for three things" """

    def no_floats(number: str) -> object:
        raise Refused(f"objects: the number {number}")

    try:
        value = json.loads(text.decode(errors="surrogatepass"), parse_float=no_floats, parse_constant=no_floats)
        again = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="surrogatepass")
    except (ValueError, RecursionError) as error:  # bad UTF-8, bad JSON, endless numbers, endless nesting
        raise Refused(f"objects: {error}") from None
    check(again == text, "objects: not canonical")
    return value


def read_named(value: object) -> object:
    """ "`stream` ... Only as the whole of a named value" """
    if isinstance(value, dict) and value.keys() == {"stream"}:
        return Tagged("stream", read_base64(value["stream"]))
    return read_value(value)


def read_value(value: object) -> object:
    check_nesting(value)
    return read_inner(value)


def check_nesting(value: object) -> None:
    """ "Arrays and objects, the outermost of a value counted as one, are nested at most 256 deep." """
    level, depth = [value], 0
    while level := [each for each in level if isinstance(each, list | dict)]:
        depth += 1
        check(depth <= MAX_NESTING, "value: nested too deep")
        level = [inner for each in level for inner in (each.values() if isinstance(each, dict) else each)]


def read_inner(value: object) -> object:
    if type(value) is int:
        check(abs(value) < MAX_NUMBER, "number: of more than 4300 digits")
    if isinstance(value, list):
        return [read_inner(item) for item in value]
    if not isinstance(value, dict):
        return value
    check(len(value) == 1, "value: not one key")
    ((kind, content),) = value.items()
    check(kind in CONTENTS, "value: no such key")
    return CONTENTS[kind](content)


def text_of(content: object, pattern: str, what: str) -> str:
    check(isinstance(content, str) and bool(re.fullmatch(pattern, content)), f"{what}: form")
    return content


def read_float(content: object) -> float:
    if content in ("nan", "inf", "-inf"):
        return float(content)
    number = text_of(content, r"-?[0-9]+(\.[0-9]+)?(e[+-]?[0-9]+)?", "float")
    check(len(number) <= 32, "float: more than 32 characters")
    check(math.isfinite(float(number)), "float: infinite")
    return float(number)


def read_tuple(content: object) -> tuple:
    return tuple(read_inner(item) for item in array_of(content, "tuple", 0, ANY))


def read_size(content: object) -> tuple[int, ...]:
    return tuple(integer(size, 0, (1 << 63) - 1, "size") for size in array_of(content, "size", 0, ANY))


def read_pairs(content: object) -> dict:
    pairs = [array_of(pair, "pair", 2, 2) for pair in array_of(content, "pairs", 0, ANY)]
    for key, _ in pairs:
        check_key(key)
    check(len({json.dumps(key) for key, _ in pairs}) == len(pairs), "pairs: a key twice")
    found = {read_inner(key): read_inner(value) for key, value in pairs}
    # "A reader to whom two are equal all the same ... MAY refuse them."
    check(len(found) == len(pairs), "pairs: keys that are equal here")
    return found


def check_key(value: object) -> None:
    """ "Keys of pairs are not, and do not contain, arrays (lists) or ..." """
    check(not isinstance(value, list), "key: a list")
    if isinstance(value, dict):
        check(not value.keys() & {"dict", "ordered", "counter", "paths", "array"}, "key: of a kind that is none")
        if isinstance(value.get("tuple"), list):
            for item in value["tuple"]:
                check_key(item)


def read_paths(content: object) -> dict[str, tuple[str, ...]]:
    found = {}
    for item in array_of(content, "paths", 0, ANY):
        name, *dots = [item] if isinstance(item, str) else array_of(item, "path", 2, ANY)
        check(isinstance(name, str) and name not in found, "path: no name, or one twice")
        strings, begin = [], 0
        for dot in dots:
            # "rising, where in it the dots between the strings are"
            check(name[integer(dot, begin, len(name) - 1, "path: dot")] == ".", "path: no dot there")
            strings.append(name[begin:dot])
            begin = dot + 1
        found[name] = (*strings, name[begin:])
    return found


def read_base64(content: object) -> bytes:
    """ "that of RFC 4648, section 4, with its `=`, unused bits 0, and nothing between" """
    try:
        data = base64.b64decode(content, validate=True) if isinstance(content, str) else b""
    except (binascii.Error, ValueError) as error:
        raise Refused(f"base64: {error}") from None
    check(base64.b64encode(data).decode() == content, "base64: not as it would be written")
    return data


ARRAY_DTYPES = {"|b1", "|i1", "|u1", "<i2", "<i4", "<i8", "<u2", "<u4", "<u8"}
ARRAY_DTYPES |= {"<f2", "<f4", "<f8", "<f16", "<c8", "<c16", "<c32"}


def read_array(content: object) -> tuple[str, tuple[int, ...], bytes]:
    """ "`[dtype, shape, base64]`: little-endian numbers, row by row" """
    dtype, shape, data = array_of(content, "array", 3, 3)
    check(isinstance(dtype, str) and dtype in ARRAY_DTYPES, "array: dtype")
    shape, data = read_shape(shape, "array", 64), read_base64(data)
    check(prod(shape) * int(dtype[2:]) == len(data), "array: not as many bytes as the shape has")
    check(dtype != "|b1" or set(data) <= {0, 1}, "array: neither 0 nor 1")
    return dtype, shape, data


def read_number(content: object) -> tuple[str, tuple[int, ...], bytes]:
    found = read_array(content)
    check(found[1] == (), "number: of a shape")
    return found


def read_device(content: object) -> str:
    name = text_of(content, "[a-z][a-z0-9_]{0,31}(:(0|[1-9][0-9]{0,2}))?", "device")
    check(int(name.partition(":")[2] or 0) <= 127, "device: a number above 127")
    return name


def tagged(kind: str, read: Callable[[object], object]) -> Callable[[object], Tagged]:
    return lambda content: Tagged(kind, read(content))


CONTENTS: dict[str, Callable[[object], object]] = {
    "float": read_float,
    "tuple": read_tuple,
    "size": tagged("size", read_size),
    "dict": read_pairs,
    "ordered": tagged("ordered", read_pairs),
    "counter": tagged("counter", read_pairs),
    "paths": read_paths,
    "bytes": read_base64,
    "array": tagged("array", read_array),
    "number": tagged("number", read_number),
    "dtype": tagged("dtype", lambda content: text_of(content, "[a-z0-9_]{1,64}", "dtype")),
    "device": tagged("device", read_device),
}


# -- the whole checkpoint --------------------------------------------------------------------------------------------


def read_checkpoint(folder: Path) -> Checkpoint:
    folder = find(folder)
    manifest = read_manifest((folder / MANIFEST).read_bytes())
    files = [read_rank(folder, manifest, rank) for rank in range(len(manifest.files))]
    tensors = {}
    for name, tensor in manifest.tensors.items():
        tensors[name] = tensor.dtype, tensor.shape, assemble(name, tensor, files)
    objects: dict[str, object] = {}
    for rank in set(manifest.objects.values()):
        objects |= read_held(files[rank], {name for name, holder in manifest.objects.items() if holder == rank})
    return Checkpoint(manifest, tensors, {name: objects[name] for name in manifest.objects})


def read_rank(folder: Path, manifest: Manifest, rank: int) -> OpenFile:
    """ "a file that is not there, or whose length or file id is not the manifest's" """
    stated = manifest.files[rank]
    bases = Bases(folder, manifest, rank)
    check((folder / stated.name).is_file(), "file: not there")
    data = (folder / stated.name).read_bytes()
    check(len(data) == stated.size, "file: of another length")
    file = OpenFile(data, bases.get)
    check(file.file_id.hex() == stated.file_id, "file: of another id")
    return file


def read_held(file: OpenFile, names: Collection[str]) -> dict[str, object]:
    stated = file.stated(OBJECTS)
    check(stated is not None, "objects: none in the file")
    dtype, shape = stated
    check(dtype == "U8" and len(shape) == 1, "objects: not U8 of one dimension")
    check(shape[0] <= MAX_OBJECTS, "objects: too long")
    return read_objects(file.get(OBJECTS), names)


def assemble(name: str, tensor: Tensor, files: Sequence[OpenFile]) -> bytes:
    """A tensor from its parts, row by row of each."""
    found = []
    for part in tensor.parts:
        file, stored_name = files[part.file], tensor.name_of(part, name)
        stated = file.stated(stored_name)
        check(stated is not None, "part: not in its file")
        # "It has the tensor's dtype and the box's sizes as shape."
        check(stated == (tensor.dtype, part.sizes), "part: of another dtype or shape")
        found.append((part, file.get(stored_name)))
    if len(found) == 1:
        return found[0][1]
    each = DTYPES[tensor.dtype][0] // 8
    out = bytearray(prod(tensor.shape) * each)
    for part, data in found:
        row = part.sizes[-1] * each
        for n, place in enumerate(product(*map(range, part.sizes[:-1]))):
            at = 0  # of the row's first element, in the tensor
            for size, offset, i in zip(tensor.shape, part.offsets, (*place, 0), strict=True):
                at = at * size + offset + i
            out[at * each : at * each + row] = data[n * row : (n + 1) * row]
    return bytes(out)


# -- section 5: latest -----------------------------------------------------------------------------------------------


def read_latest(text: bytes) -> str:
    """The name of the latest checkpoint; "" if there is none."""
    value = unseal(text, MAX_LATEST, {"format", "known", "latest"})
    names, before = [], -1
    for known in array_of(value["known"], "known", 0, ANY):
        known = object_of(known, "known", {"name", "number", "run", "bases"})
        check(checkpoint_name(known["name"]) not in names, "known: a name twice")
        names.append(known["name"])
        before = integer(known["number"], before + 1, (1 << 53) - 1, "known: number")
        run_id(known["run"])
        for base in array_of(known["bases"], "known: bases", 0, ANY):
            checkpoint_name(base)
    # "the `name` of one of these; "" if there are none, and only then"
    check(value["latest"] in (names or [""]), "latest: none of the known")
    return value["latest"]


def main(folders: list[str]) -> int:
    for folder in folders:
        try:
            found = read_checkpoint(Path(folder))
        except Refused as refused:
            print(f"{folder}: refused: {refused}", file=sys.stderr)
            return 1
        print(f"{folder}: run {found.manifest.run}, files: {len(found.manifest.files)}, bases: {found.manifest.bases}")
        for name, (dtype, shape, data) in found.tensors.items():
            print(f"  {name}  {dtype}{list(shape)}  {len(data)} bytes  {digest(data).hex()[:16]}")
        for name, value in found.objects.items():
            print(f"  {name}  {value!r:.200}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
