"""The files that are looked at, where a folder or an index of shards may be named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from slimtensors.container.remote import is_remote, last_part, list_remote
from slimtensors.errors import NotSlimtensorsError, UsageError
from slimtensors.files.folders import COMPRESS, DECOMPRESS, walk_folder
from slimtensors.sources.shards import is_index, weight_files

__all__ = ["Stored", "sources_of", "stored_files"]


class Stored(NamedTuple):
    """Compressed files, by path within their folder or by name elsewhere. Of a local folder, also itself, and the paths
    of all files in it.
    """

    files: dict[str, Any]
    folder: Path | None = None
    names: Sequence[str] = ()


def stored_files(given: str, wrong: Callable[[OSError | UsageError], object] | None = None) -> Stored:
    """What a path or name stands for: a file, all files of a folder and the folders in it, an index for its folder, or,
    if it lies elsewhere, for its shards. wrong: as for `walk_folder`.

    Raises NotSlimtensorsError for a folder without any.
    """
    if is_remote(given):
        there = list_remote(given, inner=True)
        if there is None:  # a file, or an index of shards
            return Stored({last_part(name): name for name, _ in weight_files(given)})
        files = {path: name for path, name in there.items() if DECOMPRESS.takes(path)}
        if not files:
            raise NotSlimtensorsError(f"{given} holds no *{DECOMPRESS.before} file")
        return Stored(files)
    path = _folder_of(given)
    if not path.is_dir():
        return Stored({path.name: given})
    names = list(walk_folder(path, wrong=wrong))
    within = {name: path / name for name in names if DECOMPRESS.takes(name)}
    if not within:
        raise NotSlimtensorsError(f"{path} holds no *{DECOMPRESS.before} file that can be read")
    return Stored(within, path, names)


def sources_of(given: str) -> dict[str, Any] | None:
    """The files that can be compressed in a folder, by the name that `compress` gives to what each becomes; None if it
    is no folder.
    """
    if is_remote(given):
        there = list_remote(given, inner=True)
        return None if there is None else {COMPRESS.renamed(n): there[n] for n in there if COMPRESS.takes(n)}
    path = _folder_of(given)
    if not path.is_dir():
        return None
    return {COMPRESS.renamed(name): path / name for name in walk_folder(path) if COMPRESS.takes(name)}


def _folder_of(given: str) -> Path:
    path = Path(given)
    if any(is_index(path.name, each.before) for each in (COMPRESS, DECOMPRESS)):
        path.stat()  # raises for a path that leads nowhere
        return path.parent
    return path
