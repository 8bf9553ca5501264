"""A model's weight files: one, those of a folder, or those that an index names."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from slimtensors.container.remote import is_remote, last_part, list_remote, open_remote, sibling
from slimtensors.errors import FormatError, NotSlimtensorsError, UsageError

__all__ = ["RANK_FILE", "Shard", "is_index", "read_index", "remote_shards", "shard_names", "weight_files", "weight_map"]

SUFFIX = ".slimtensors"
MAX_INDEX_BYTES = 100_000_000
RANK_FILE = re.compile(r"rank-([0-9]{5,7})\.([0-9a-f]{32})\.slimtensors")  # format_spec/checkpoint.md, section 1
SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class Shard(NamedTuple):
    """A file to open, or what it holds, and the names that an index says are in it (none without an index)."""

    file: Any
    names: frozenset[str] = frozenset()


def is_index(name: str, suffix: str) -> bool:
    """Whether this is an index of shards that end in `suffix`: model.safetensors.index.json, or ....index.fp16.json."""
    return re.fullmatch(r".+" + re.escape(suffix) + r"\.index(\.[A-Za-z0-9_-]+)?\.json", name) is not None


def read_index(path: Path, suffix: str) -> tuple[bytes, dict[str, str]]:
    """(content, tensor -> shard). Raises FormatError for an unsound index, or if a shard is not there."""
    data, places = _content(path)
    for shard in _shards(places, suffix, str(path)):
        if not (path.parent / shard).is_file():
            raise FormatError(f"{path} names {shard}, which is not there: an incomplete download? fetch the file")
    return data, places


def shard_names(path: Path, suffix: str) -> list[str]:
    """The shards that an index names, whether they are there or not. Raises FormatError for an unsound index."""
    return _shards(_content(path)[1], suffix, str(path))


def _content(path: Path) -> tuple[bytes, dict[str, str]]:
    if path.stat().st_size > MAX_INDEX_BYTES:
        raise FormatError(f"{path}: an index of shards of {path.stat().st_size} bytes; {MAX_INDEX_BYTES} are allowed")
    data = path.read_bytes()
    return data, weight_map(data, str(path))


def _shards(places: dict[str, str], suffix: str, label: str) -> list[str]:
    """The files that an index names, sorted. Raises FormatError for a name that leads elsewhere."""
    found = sorted(set(places.values()))
    for shard in found:
        if not SHARD_NAME.fullmatch(shard) or not shard.endswith(suffix):
            raise FormatError(f"{label}: {shard!r} is not a plain file name that ends in {suffix}")
    return found


def weight_map(data: bytes, label: str) -> dict[str, str]:
    """Tensor -> shard, of an index's content. Raises FormatError."""
    try:
        places: Any = json.loads(data)["weight_map"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise FormatError(f"{label} is not an index of shards: it has no weight_map") from None
    if not isinstance(places, dict) or not all(isinstance(shard, str) for shard in places.values()):
        raise FormatError(f"{label} is not an index of shards: its weight_map does not lead to file names")
    return places


def weight_files(target: Any) -> list[Shard]:
    """Files to open, in order.

    target: what `safe_open` takes; a folder or repository, whose index is used if it has one; an index; what this
    gives; or a list of these.
    """
    if isinstance(target, Shard):
        return [target]
    if isinstance(target, Sequence) and not isinstance(target, (str, bytes, bytearray, memoryview)):
        return [each for one in target for each in weight_files(one)]
    if not isinstance(target, (str, os.PathLike)):
        return [Shard(target)]
    if is_remote(target):
        return _remote_files(target)
    path = Path(target)
    if is_index(path.name, SUFFIX):
        return _indexed(path)
    if not path.is_dir():
        return [Shard(target)]
    indexes = sorted(each for each in path.iterdir() if is_index(each.name, SUFFIX))
    if len(indexes) > 1:
        raise UsageError(f"{path} has {len(indexes)} indexes: name one of them, such as {indexes[0]}")
    if indexes:
        return _indexed(indexes[0])
    files = sorted(each for each in path.iterdir() if each.name.endswith(SUFFIX) and each.is_file())
    if not files:
        raise NotSlimtensorsError(f"{path} holds no *{SUFFIX} file")
    _refuse_ranks(str(path), [each.name for each in path.iterdir()])
    return [Shard(each) for each in files]


def _refuse_ranks(label: str, names: list[str]) -> None:
    """Raises UsageError for a checkpoint of many ranks, or what a save that did not finish left of one. What a single
    rank saved whole is a model's file like others.
    """
    ranks = sum(RANK_FILE.fullmatch(name) is not None for name in names)
    if ranks > 1 or (ranks and "manifest.json" not in names):
        raise UsageError(
            f"{label} holds what {ranks} ranks of a job saved, which may be parts of tensors: read the checkpoint with "
            "slimtensors.torch.distributed.StorageReader, or make a model's files of it with `slimtensors convert`"
        )


def _indexed(path: Path) -> list[Shard]:
    _, places = read_index(path, SUFFIX)
    held = _by_shard(places)
    return [Shard(path.parent / shard, held[shard]) for shard in _shards(places, SUFFIX, str(path))]


def _by_shard(places: dict[str, str]) -> dict[str, frozenset[str]]:
    """The tensors of each shard, of a map from tensors to shards."""
    found: dict[str, list[str]] = {}
    for name, shard in places.items():
        found.setdefault(shard, []).append(name)
    return {shard: frozenset(names) for shard, names in found.items()}


def _remote_files(name: str) -> list[Shard]:
    if is_index(last_part(name), SUFFIX):
        return _remote_indexed(name)
    found = list_remote(name)
    if found is None:
        return [Shard(name)]
    indexes = [name for path, name in found.items() if is_index(path, SUFFIX)]
    if len(indexes) > 1:
        raise UsageError(f"{name} has {len(indexes)} indexes: name one of them, such as {indexes[0]}")
    if indexes:
        return _remote_indexed(indexes[0])
    files = [name for path, name in found.items() if path.endswith(SUFFIX)]
    if not files:
        raise NotSlimtensorsError(f"{name} itself holds no *{SUFFIX} file; a folder in it is {name}/FOLDER")
    _refuse_ranks(name, list(found))
    return [Shard(each) for each in files]


def _remote_indexed(name: str) -> list[Shard]:
    return [Shard(*found) for found in remote_shards(name, SUFFIX).items()]


def remote_shards(name: str, suffix: str) -> dict[str, frozenset[str]]:
    """The shards beside an index elsewhere, of the same commit, and the tensors that each should have."""
    source = open_remote(name)
    try:
        size = source.size()
        if size > MAX_INDEX_BYTES:
            raise FormatError(f"{name}: an index of shards of {size} bytes; {MAX_INDEX_BYTES} are allowed")
        data, pinned = source.read(0, size).tobytes(), source.name
    finally:
        source.close()
    places = weight_map(data, name)
    held = _by_shard(places)
    return {sibling(pinned, shard): held[shard] for shard in _shards(places, suffix, name)}
