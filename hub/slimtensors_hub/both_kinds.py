"""Weights of one name that are there twice, compressed and plain: which file is of which kind, and what to do then."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable
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
    """Raises UsageError if plain weights of the same name lie beside compressed ones, or their index, and are not just
    what these give back.

    Whatever trains a model and saves it by its library's own save_pretrained leaves such a folder.
    """
    for path in weights:

        def same(name: str, source: RemoteFile, folder: Path = path.parent) -> bool:
            known = by_cache(folder / name)  # or as much would have to be read as is loaded
            if known is not None and known.sha256 is not None:
                return known.sha256 == source.sha256
            return matches(folder / name, source)

        plain = _plain_beside(path.name, (each.name for each in path.parent.iterdir()))
        if not plain or _gives_back(path.parent, plain, same):
            continue
        newer = max(path, *map(path.with_name, plain), key=lambda each: each.stat().st_mtime_ns)
        raise UsageError(
            f"{path} and {plain[0]} beside it hold weights of one name that differ: one of them is out of date. "
            f"{newer.name} is the newer file; remove the one that you do not want, with its index and shards"
        )


def check_repository(
    weights: Iterable[Path], repo_id: str, revision: str | None, place: Place, subfolder: str = ""
) -> None:
    """Warns if a repository holds plain weights of the same name, unless they are just what its compressed ones give
    back: there may be both on purpose, and who loads them cannot remove any.

    weights: compressed ones, or their index, downloaded. Says nothing where the hub is not to be asked, or cannot be.
    """
    from huggingface_hub import constants

    if place.local_files_only or constants.HF_HUB_OFFLINE:
        return
    with suppress(HubError):
        listing = list_repository(repo_id, revision, place.token)
        here = {Path(name).name: file for name, file in listing.files.items() if Path(name).parent == Path(subfolder)}
        for path in weights:
            plain = _plain_beside(path.name, here)
            if plain and not _gives_back(path.parent, plain, lambda name, source: here[name].sha256 == source.sha256):
                warnings.warn(
                    f"{repo_id} holds {path.name} and {plain[0]}, weights of one name that may differ: the compressed "
                    "ones are loaded. Whoever may write there should remove what is out of date; the plain ones are "
                    "loaded by the library's own classes",
                    stacklevel=4,
                )
                return


def _plain_beside(name: str, there: Iterable[str]) -> list[str]:
    """Plain files of the same name as a compressed one, or as its index; those of its folder are given."""
    family = family_of(name)
    return sorted(each for each in there if family_of(each) == family and kind_of(each) != kind_of(name))


def _gives_back(folder: Path, plain: Iterable[str], same: Callable[[str, RemoteFile], bool]) -> bool:
    """Whether each of these files is one that a compressed file of the folder was made of. same: tells that."""
    weights = [name for name in plain if COMPRESS.takes(name)]
    sources = [_source(folder / COMPRESS.renamed(name)) for name in weights]
    return bool(weights) and all(
        source is not None and same(name, source) for name, source in zip(weights, sources, strict=True)
    )


def _source(path: Path) -> RemoteFile | None:
    """The file that a compressed one gives back, if it does."""
    if not path.is_file():
        return None
    with open_file(path, verify="none") as file:
        image = file.header.image
        if image is None:
            return None
        size = image.literal_bytes + sum(file.header.nbytes[i] for i in image_tensors(image))
        return RemoteFile(size, None, LiteralBytes(file).sha256.hex())
