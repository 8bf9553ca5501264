"""Files of a repository, through huggingface_hub's cache or into a folder, with the digests that were committed."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from glob import escape
from pathlib import Path
from typing import Any, NamedTuple

from slimtensors_hub.errors import HubError, retried, told
from slimtensors_hub.listing import IDENTITY, Listing, RemoteFile

__all__ = ["Place", "by_cache", "cached", "check_files", "fetch", "matches", "remember"]


class Place(NamedTuple):
    """Where files go and by which rules, as huggingface_hub's own arguments of these names."""

    cache_dir: str | os.PathLike[str] | None = None
    local_dir: str | os.PathLike[str] | None = None
    token: str | bool | None = None
    force_download: bool = False
    local_files_only: bool = False
    max_workers: int = 8
    tqdm_class: Any = None


def fetch(
    repo_id: str,
    revision: str | None,
    files: Iterable[str] | None,
    place: Place,
    listing: Listing | None,
    *,
    check_cached: bool = False,
    **patterns: Any,
) -> Path:
    """Download what is not there yet; gives the folder. files: all if None, or if the hub must not be asked those that
    fit `patterns`, snapshot_download's arguments, without which it wants the whole repository. listing: to check
    digests by.

    What does not have its digest is fetched once more, then refused. check_cached: also what the cache had, which takes
    as long as to read it. Raises HubError; OSError if the disk refuses.
    """
    names = None if files is None else sorted(files)
    there = set() if check_cached or names is None else cached(repo_id, revision, names, place)
    folder = _snapshot(repo_id, revision, names, place, patterns)
    fresh = None if names is None else [name for name in names if name not in there]
    wrong = check_files(folder, fresh, listing)
    for name in wrong:
        _remove(folder / name)
    if wrong and not place.local_files_only:
        folder = _snapshot(repo_id, revision, names, place._replace(force_download=False))
        wrong = check_files(folder, names, listing)
        for name in wrong:
            _remove(folder / name)
    if wrong:
        raise HubError(
            f"{repo_id}: {wrong[0]} has not the digest that the hub states (damaged on the way, in a mirror or in the "
            "cache); it was removed: try again, or name another endpoint"
        )
    return folder


def cached(repo_id: str, revision: str | None, names: list[str], place: Place) -> set[str]:
    """Those that need not be downloaded."""
    from huggingface_hub import try_to_load_from_cache

    if place.force_download or place.local_dir is not None:
        return set()
    cache = None if place.cache_dir is None else Path(place.cache_dir)
    found = {name: try_to_load_from_cache(repo_id, name, cache, revision) for name in names}
    return {name for name, path in found.items() if isinstance(path, str)}


def _snapshot(
    repo_id: str, revision: str | None, names: list[str] | None, place: Place, patterns: dict[str, Any] | None = None
) -> Path:
    from huggingface_hub import snapshot_download

    if names is not None:
        patterns = {"allow_patterns": [escape(name) for name in names]}
    options: dict[str, Any] = IDENTITY | place._asdict() | (patterns or {})

    def download() -> Path:
        return Path(snapshot_download(repo_id, revision=revision, **options))

    if place.local_files_only:
        with told(repo_id, revision):
            return download()
    return retried(download, repo_id, revision)


def remember(repo_id: str, revision: str | None, commit: str, cache_dir: str | os.PathLike[str] | None) -> None:
    """Note in the cache what a branch pointed to, where huggingface_hub notes it, for when there is no network."""
    from huggingface_hub import constants

    cache = Path(cache_dir or constants.HF_HUB_CACHE) / f"models--{repo_id.replace('/', '--')}"
    path = cache / "refs" / (revision or constants.DEFAULT_REVISION)
    with suppress(OSError):  # a cache that is only read serves as well
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(commit)


def check_files(folder: Path, names: list[str] | None, listing: Listing | None) -> list[str]:
    """Those of the files that have not the digests that the listing states, or after which the cache has named them."""
    if names is None:
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
        names = [name for name in names if not name.startswith(".cache/")]
    known = {} if listing is None else listing.files

    def sound(name: str) -> bool:
        path = folder / name
        return matches(path, known.get(name) or by_cache(path))

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # hashing leaves the interpreter to others
        return [name for name, good in zip(names, pool.map(sound, names), strict=True) if not good]


def by_cache(path: Path) -> RemoteFile | None:
    """The cache keeps each file under its digest, and links to it."""
    name = path.resolve().name if path.is_symlink() else ""
    if re.fullmatch(r"[0-9a-f]{64}", name):
        return RemoteFile(-1, None, name)
    return RemoteFile(-1, name, None) if re.fullmatch(r"[0-9a-f]{40}", name) else None


def matches(path: Path, known: RemoteFile | None) -> bool:
    """Whether a file has the content that is known of it; True if nothing is."""
    if not path.is_file():
        return False
    if known is None or (known.blob is None and known.sha256 is None):
        return True
    size = path.stat().st_size
    if known.size not in (-1, size):
        return False
    if known.sha256 is not None:
        return _digest(path, hashlib.sha256()) == known.sha256
    return _digest(path, hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)) == known.blob


def _digest(path: Path, hasher: Any) -> str:
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            hasher.update(piece)
    return str(hasher.hexdigest())


def _remove(path: Path) -> None:
    """The link and what it leads to, so that the cache fetches both again."""
    target = path.resolve()
    path.unlink(missing_ok=True)
    if "blobs" in target.parts:
        target.unlink(missing_ok=True)
