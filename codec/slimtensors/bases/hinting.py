"""What a model says of the model that it was made from, and which local folder that may be. Nothing is downloaded, and
no path that a model names is opened: only its last names count, and they are looked up in the caller's folders.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from slimtensors.bases.resolving import BASE_DIR_VARIABLE, search_folders
from slimtensors.bases.tensors import base_files
from slimtensors.errors import NotSlimtensorsError

__all__ = ["Hinted", "find_hinted"]

MAX_HINT_BYTES = 1 << 20  # of a README or config; larger ones are no such thing
METADATA_KEYS = ("base_model", "base_model_name_or_path", "_name_or_path", "finetuned_from")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SUFFIXES = ("", ".safetensors", ".slimtensors")


class Hinted(NamedTuple):
    """A base that a model names, and that is there."""

    path: Path
    name: str
    where: str  # what named it


def find_hinted(
    source: Any, metadata: Mapping[str, str] | None, base_dirs: Sequence[Any], notes: list[str]
) -> Iterator[Hinted]:
    """Local candidates, the likeliest first; notes tell why there are no more."""
    folders = [Path(os.fspath(each.path)) for each in (*base_dirs, *search_folders())]
    hints = list(dict.fromkeys(_hints(source, metadata)))
    if not hints:
        notes.append("the model does not say what it was made from (README.md, config.json, adapter_config.json)")
    if not folders:
        notes.append(f"no folder to look for a base in: give --base-dir or set {BASE_DIR_VARIABLE}")
        return
    own = _own_folder(source)
    for where, hint in hints:
        names = _names(hint)
        found = [path for folder in folders for path in _places(folder, names) if path.resolve() != own]
        if not found:
            notes.append(f"{where} names {hint!r}, which is in none of {', '.join(map(str, folders))}")
        yield from (Hinted(path, "/".join(names), where) for path in found)


def _hints(source: Any, metadata: Mapping[str, str] | None) -> Iterator[tuple[str, str]]:
    """(what names it, name) of all bases that the model names."""
    for key in METADATA_KEYS:
        if metadata and metadata.get(key):
            yield f"the metadata's {key}", metadata[key]
    folder = _own_folder(source)
    if folder is None:
        return
    for name in _front_matter(_text(folder / "README.md")):
        yield "README.md", name
    for file, key in (("adapter_config.json", "base_model_name_or_path"), ("config.json", "_name_or_path")):
        try:
            value = json.loads(_text(folder / file) or "{}")
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and isinstance(value.get(key), str) and value[key]:
            yield file, value[key]


def _own_folder(source: Any) -> Path | None:
    if not isinstance(source, (str, os.PathLike)):
        return None
    path = Path(os.fspath(source)).resolve()
    return path if path.is_dir() else path.parent


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(MAX_HINT_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""


def _front_matter(text: str) -> list[str]:
    """`base_model` of a model card: one name, or a list in either of YAML's styles."""
    lines = text.splitlines()
    if not lines or lines[0].strip() != "---":
        return []
    found: list[str] = []
    inside = False
    for line in lines[1:]:
        if line.strip() == "---":
            break
        key = re.match(r"base_model\s*:(.*)", line)
        if key:
            inside = True
            found += [part for part in re.split(r"[\[\],]", key[1]) if part.strip()]
        elif inside and (item := re.match(r"\s*-\s+(.*)", line)):
            found.append(item[1])
        else:
            inside = False
    return [name.split(" #")[0].strip().strip("\"'") for name in found]


def _names(hint: str) -> list[str]:
    """The last one or two names of what may be a repository or somebody's path; empty if they are no plain names."""
    parts = [part for part in re.split(r"[/\\]", hint) if part][-2:]
    return parts if parts and all(_NAME.fullmatch(part) for part in parts) else []


def _places(folder: Path, names: list[str]) -> Iterator[Path]:
    """Where a folder of models may hold one of that name: as the Hub's users and its cache lay them out."""
    if not names:
        return
    plain = [Path(*names), Path("--".join(names)), Path("_".join(names)), Path(names[-1])]
    places = [folder / path.with_name(path.name + suffix) for path in dict.fromkeys(plain) for suffix in _SUFFIXES]
    snapshots = folder / f"models--{'--'.join(names)}" / "snapshots"
    if snapshots.is_dir():
        places += sorted(snapshots.iterdir())
    if folder.name in ("--".join(names), names[-1]):
        places.append(folder)
    yield from filter(_holds_weights, places)


def _holds_weights(place: Path) -> bool:
    try:
        return place.exists() and bool(base_files(place))
    except (OSError, NotSlimtensorsError):
        return False
