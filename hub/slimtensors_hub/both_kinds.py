"""Weights of one name that are there twice, compressed and plain: which file is of which kind, and what to do then."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from slimtensors.errors import UsageError
from slimtensors.files.folders import COMPRESS
from slimtensors.reading.tensors import open_file
from slimtensors.reading.walking import LiteralBytes, image_tensors
from slimtensors_hub.errors import HubError
from slimtensors_hub.fetching import Place, by_cache, matches
from slimtensors_hub.listing import RemoteFile, list_repository

__all__ = ["check_folder", "check_repository", "family_of", "kind_of"]

# model-00001-of-00002.safetensors, model.safetensors.index.fp16.json: the name without what tells shards and kind.
_SHARD = re.compile(r"(?P<stem>.+?)(-\d{5}-of-\d{5})?\.(?P<kind>safetensors|slimtensors)")
_INDEX = re.compile(r"(?P<stem>.+)\.(?P<kind>safetensors|slimtensors)\.index(?P<variant>\.[A-Za-z0-9_-]+)?\.json")


def kind_of(name: str) -> str:
    """Of weights or an index of them."""
    return ".slimtensors" if ".slimtensors" in name else ".safetensors"


def family_of(name: str) -> str | None:
    """Weights of one model and variant have one name: that of their shards and index, without number and kind."""
    name = Path(name).name
    index, shard = _INDEX.fullmatch(name), _SHARD.fullmatch(name)
    if index is not None:
        return index["stem"] + (index["variant"] or "")
    return None if shard is None else shard["stem"]


def check_folder(weights: Iterable[Path]) -> None:
    """Raises UsageError if plain weights of the same name lie beside compressed ones, or their index, are newer than
    all of these, and are not known to be what these were made of.

    weights: compressed ones, or their index. Whatever trains a model and saves it by its library's own save_pretrained
    leaves such a folder. In the hub's cache times are those of downloads: there it is a warning, as of a repository.
    """
    for folder, family in dict.fromkeys((path.parent, family_of(path.name)) for path in weights):
        there = {each.name: each for each in folder.iterdir() if each.is_file()}
        ours, plain = _both(there, family)
        if not ours or not plain:
            continue
        latest = max(there[name].stat().st_mtime_ns for name in ours)
        for name in plain:
            path, cached = there[name], by_cache(there[name]) is not None
            if (not cached and path.stat().st_mtime_ns <= latest) or _is_source(path):
                continue
            if cached:
                warnings.warn(_both_held(folder, ours[0], name), stacklevel=4)
                break
            raise UsageError(
                f"{path} was written after {ours[0]} beside it, weights of one name that may differ, and it is not "
                "known which are wanted: move the others, with their index and shards, to another folder. Delete none "
                "unless you know what it holds: each may be the only copy, and compressed ones may be quantised"
            )


def check_repository(
    weights: Iterable[Path], repo_id: str, revision: str | None, place: Place, subfolder: str = ""
) -> None:
    """Warns if a repository holds plain weights of the same name, unless they are known to be what its compressed ones
    were made of: there may be both on purpose, and who loads them cannot remove any.

    weights: compressed ones, or their index, downloaded. Says nothing where the hub is not to be asked, or cannot be;
    it is asked once, since the cache may do without it.
    """
    from huggingface_hub import constants

    if place.local_files_only or constants.HF_HUB_OFFLINE:
        return
    with suppress(HubError):
        listing = list_repository(repo_id, revision, place.token, tries=1)
        here = {Path(name).name: file for name, file in listing.files.items() if Path(name).parent == Path(subfolder)}
        for folder, family in dict.fromkeys((path.parent, family_of(path.name)) for path in weights):
            ours, plain = _both(here, family)
            for name in plain if ours else ():
                known = {source.sha256 for source in _sources(folder / COMPRESS.renamed(name))}
                if here[name].sha256 not in known:
                    warnings.warn(_both_held(repo_id, ours[0], name), stacklevel=4)
                    return


def _both_held(where: object, ours: str, plain: str) -> str:
    return (
        f"{where} holds {ours} and {plain}, weights of one name that may differ: the compressed ones are loaded; the "
        "library's own classes load the plain ones"
    )


def _both(there: Iterable[str], family: str | None) -> tuple[list[str], list[str]]:
    """(compressed weights and indexes, plain weights) of one name among a folder's files."""
    if family is None:
        return [], []
    named = sorted(name for name in there if family_of(name) == family)
    return [name for name in named if kind_of(name) == ".slimtensors"], [name for name in named if COMPRESS.takes(name)]


def _is_source(plain: Path) -> bool:
    """Whether the compressed file of that name says that it was made of this one, which is read only if need be."""
    known = by_cache(plain)
    return any(
        matches(plain, source) if known is None or known.sha256 is None else source.sha256 == known.sha256
        for source in _sources(plain.with_name(COMPRESS.renamed(plain.name)))
    )


def _sources(path: Path) -> list[RemoteFile]:
    """What a compressed file says that it was made of: the file that it gives back, and if it is lossy the one that it
    is near to. Nothing of weights that were saved from memory.
    """
    if not path.is_file():
        return []
    found = []
    with open_file(path, verify="none") as file:
        image, near = file.header.image, file.header.source
        if image is not None:
            size = image.literal_bytes + sum(file.header.nbytes[i] for i in image_tensors(image))
            found.append(RemoteFile(size, None, LiteralBytes(file).sha256.hex()))
        if near is not None:
            found.append(RemoteFile(-1, None, near.hex()))
    return found
