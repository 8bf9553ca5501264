"""A file of a checkpoint, and what it is made from."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from slimtensors.bases.resolving import LastResort, open_with
from slimtensors.checkpoint.ledger import read_manifest
from slimtensors.checkpoint.manifest import MANIFEST, OBJECTS, Entry, Manifest, file_name, part_name
from slimtensors.checkpoint.places import LocalPlace, StorePlace
from slimtensors.checkpoint.plain import check_named, parse_objects
from slimtensors.container.reader import Verify
from slimtensors.container.remote import is_remote, last_part, open_remote, sibling
from slimtensors.errors import BaseError, FormatError, LimitError, SlimtensorsError, TensorNotFoundError
from slimtensors.limits import MAX_MANIFEST_BYTES, MAX_OBJECTS_BYTES
from slimtensors.reading.tensors import TensorFile

__all__ = ["bases_beside", "check_parts", "find_part", "open_rank", "parts_by_file", "read_objects"]


def open_rank(place: StorePlace, manifest: Manifest, number: int, *, verify: Verify = "full") -> TensorFile:
    """File `number` of a checkpoint, with its bases. Raises FormatError unless it is the one that was committed."""
    expected = manifest.files[number]
    above = place.parent()
    bases = []
    for name, run in manifest.bases:
        if above is None:
            raise BaseError(f"{place.label} is stored as differences from {name} beside it, and nothing is beside it")
        base = above.child(name)
        if file_name(number, run) not in base.sizes():
            raise BaseError(
                f"{place.label} is stored as differences from {base.label}, whose {file_name(number, run)} is not "
                "there: put it back, or load an older checkpoint"
            )
        bases.append(base.source(file_name(number, run)))
    label = f"{place.label}/{expected.name}"
    try:
        file = open_with(place.source(expected.name), bases, verify=verify)
    except FileNotFoundError:
        raise FormatError(f"{label}, which the manifest names, is not there: restore it, or load another one") from None
    found = file.reader.file_id.hex()
    if found != expected.file_id or file.reader.prefix.file_length != expected.size:
        file.close()
        raise FormatError(
            f"{label} is another file than the one committed: {file.reader.prefix.file_length} bytes, id {found}; the "
            f"manifest says {expected.size} bytes, id {expected.file_id}"
        )
    return file


def bases_beside(file: str) -> list[Any]:
    """What a rank's file is made from, as the manifest beside it says; nothing if there is none that names this file.

    file: a path, or a name elsewhere. Only what is there: whoever wants another base is told that it is not found.
    """
    name, elsewhere = last_part(file), is_remote(file)
    try:
        folder = sibling(file, "") if elsewhere else str(Path(file).absolute().parent)
        manifest = _manifest_of(folder, 0 if elsewhere else (Path(folder) / MANIFEST).stat().st_mtime_ns)
    except (SlimtensorsError, OSError):  # said by who looks at the folder
        return []
    for number, each in enumerate(manifest.files):
        if each.name == name:
            wanted = [(base, file_name(number, run)) for base, run in manifest.bases]
            if elsewhere:
                above = sibling(folder[:-1], "")
                return [LastResort(partial(_ask, f"{above}{base}/{own}")) for base, own in wanted]
            paths = [Path(folder).parent / base / own for base, own in wanted]
            return [path for path in paths if path.is_file()]
    return []


def _ask(name: str, _base: object) -> str:
    return name


@lru_cache(maxsize=1)  # as many files as ranks are looked at in turn
def _manifest_of(folder: str, _state: int) -> Manifest:
    """folder: with a slash behind it, if it is elsewhere."""
    if is_remote(folder):
        source = open_remote(folder + MANIFEST)
        try:
            if source.size() > MAX_MANIFEST_BYTES:
                raise LimitError(f"{folder}{MANIFEST} has more than {MAX_MANIFEST_BYTES} bytes")
            return Manifest.parse(source.read(0, source.size()).tobytes(), folder + MANIFEST)
        finally:
            source.close()
    found = read_manifest(LocalPlace(folder))
    if found is None:
        raise FileNotFoundError(folder)
    return found


def find_part(file: TensorFile, name: str, entry: Entry, part: list[int]) -> str:
    """What a part is called in its file. Raises FormatError unless that file holds it as the manifest says."""
    _, offsets, sizes = entry.split(part)
    called = part_name(name, entry.shape, offsets, sizes)
    try:
        found = file.tensor(called)
    except TensorNotFoundError as error:
        raise FormatError(f"{error}; the manifest says that it is there") from None
    if (found.dtype.name, found.shape) != (entry.dtype, sizes):
        raise FormatError(
            f"tensor {called!r} is {found.dtype.name}{list(found.shape)} in its file; the manifest says "
            f"{entry.dtype}{list(sizes)}"
        )
    return called


def parts_by_file(manifest: Manifest) -> list[list[tuple[str, list[int]]]]:
    """For each file, the parts that it holds: the tensor's name, and where it is."""
    found: list[list[tuple[str, list[int]]]] = [[] for _ in manifest.files]
    for name, entry in manifest.tensors.items():
        for part in entry.parts:
            found[part[0]].append((name, part))
    return found


def check_parts(file: TensorFile, manifest: Manifest, parts: Iterable[tuple[str, list[int]]]) -> None:
    """Raises FormatError unless a file holds these, as the manifest says. Reads nothing of it."""
    for name, part in parts:
        find_part(file, name, manifest.tensors[name], part)


def read_objects(file: TensorFile, names: Iterable[str], threads: int) -> dict[str, Any]:
    """Those of a file that the manifest says are in it, encoded. Raises FormatError."""
    try:
        tensor = file.tensor(OBJECTS)
    except TensorNotFoundError as error:
        raise FormatError(f"{error}; the manifest says that it holds what is no tensor") from None
    if tensor.dtype.name != "U8" or len(tensor.shape) != 1:
        raise FormatError(f"tensor {OBJECTS!r} is {tensor.dtype.name}{list(tensor.shape)}; bytes in a row are expected")
    if tensor.shape[0] > MAX_OBJECTS_BYTES:
        raise LimitError(f"tensor {OBJECTS!r} has {tensor.shape[0]} bytes; the limit is {MAX_OBJECTS_BYTES}")
    held = parse_objects(file.read(file.find(OBJECTS), threads).tobytes())
    found = {}
    for name in names:
        if name not in held:
            raise FormatError(f"the file does not hold {name!r}, which the manifest says is in it")
        check_named(held[name])
        found[name] = held[name]
    return found
