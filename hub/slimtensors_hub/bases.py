"""Bases of differences, fetched from the repositories that a file's header names: at that commit, only those files."""

from __future__ import annotations

import os
import re
import threading
import warnings
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from slimtensors.container.header import Base
from slimtensors.errors import BaseError, FormatError, RemoteError, UsageError
from slimtensors.limits import MAX_BASE_DEPTH
from slimtensors_hub.errors import HubError
from slimtensors_hub.fetching import Place, cached, fetch
from slimtensors_hub.listing import Listing, is_commit, list_repository, parse_name
from slimtensors_hub.variables import check_variables

if TYPE_CHECKING:
    from slimtensors.bases.resolving import Resolver

__all__ = ["Origin", "access_to", "fetch_bases", "hub_base", "named_base", "origin_of"]

WEIGHTS = (".safetensors", ".slimtensors")


class Origin(NamedTuple):
    """A file of a repository at a commit."""

    repo_id: str
    commit: str
    file: str


def hub_base(
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> Callable[[Base], Path | None]:
    """What to pass as `base=` to whatever opens a slimtensors file: bases then come from the Hub, by way of its cache.

    A file is fetched if the header names it with its repository and a commit, it is not in the cache, and its own
    header, which is read before, says that it has such a tensor: a header may name anything that its reader may read.
    What it holds counts only if it has the digests that the file which needs it states.
    """
    check_variables()
    place = Place(cache_dir=cache_dir, token=token, local_files_only=local_files_only)
    known: dict[Origin, Path | BaseError] = {}
    lock = threading.Lock()

    def find(base: Base) -> Path | None:
        origin = origin_of(base)
        if origin is None:
            return None
        with lock:
            if origin not in known:
                try:
                    _look_ahead(origin, base, place)
                    known[origin] = fetch(origin.repo_id, origin.commit, [origin.file], place, None) / origin.file
                except (BaseError, HubError) as error:
                    known[origin] = BaseError(str(error))
            found = known[origin]
        if isinstance(found, BaseError):
            raise BaseError(str(found))
        return found

    return find


def _look_ahead(origin: Origin, base: Base, place: Place) -> None:
    """Raises BaseError if a file that would have to be fetched has no such tensor, as its header says."""
    from huggingface_hub import constants

    from slimtensors.bases.tensors import open_base

    asked = not (place.local_files_only or constants.HF_HUB_OFFLINE)
    if not asked or cached(origin.repo_id, origin.commit, [origin.file], place):
        return
    name = f"hf://{origin.repo_id}@{origin.commit}/{origin.file}"
    try:
        with closing(open_base(name, None)) as model:
            held = [*model.tensors.values(), *model.namesakes]
            if any(
                (each.dtype, each.shape) == (base.dtype, base.shape) and each.stored in (None, base.identity)
                for each in held
            ):
                return
    except (RemoteError, UsageError):  # it cannot be read by range; who fetches it has the words if there is more
        return
    except FormatError as error:
        raise BaseError(f"{error}; it is not fetched") from None
    raise BaseError(f"{name} has no {base.dtype.name}{list(base.shape)} with that digest, and is not fetched")


def origin_of(base: Base) -> Origin | None:
    """Where a base comes from, if its hints say it in full and are no more than names: a header may say anything."""
    hints = base.hints
    repo_id, commit, file = hints.get("repository", ""), hints.get("revision", ""), hints.get("file", "")
    try:
        repo_id, _ = parse_name(repo_id)
    except UsageError:
        return None
    plain = re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9._-]{0,200}/)*[A-Za-z0-9][A-Za-z0-9._-]{0,200}", file) is not None
    return Origin(repo_id, commit, file) if plain and file.endswith(WEIGHTS) and is_commit(commit) else None


def fetch_bases(files: Iterable[Path], find: Callable[[Base], Path | None]) -> None:
    """Fetch the bases that files need, and theirs, so that they open without a network. Raises BaseError.

    Bases that no repository is named for, or that are in a folder of SLIMTENSORS_BASE_DIR, are left to whoever opens
    the files.
    """
    from slimtensors.bases.resolving import Resolver
    from slimtensors.reading.tensors import open_file

    waiting = [(path, 0) for path in files]
    seen: set[Path] = set()
    while waiting:
        path, depth = waiting.pop()
        if path in seen or path.suffix != ".slimtensors":
            continue
        if depth > MAX_BASE_DEPTH:
            raise BaseError(f"{path.name}: more than {MAX_BASE_DEPTH} differences on top of each other")
        seen.add(path)
        with open_file(path, verify="none") as file:
            bases = file.header.bases
        for base in bases:
            try:
                found = find(base)
            except BaseError as error:
                _find_here(Resolver(), base, BaseError(f"{path.name} needs {base}: {error}"))
                continue
            if found is not None:
                waiting.append((found, depth + 1))


def _find_here(resolver: Resolver, base: Base, problem: BaseError) -> None:
    """Raises what is the problem unless a local folder has the base."""
    try:
        resolver.find(base)
    except BaseError:
        raise problem from None
    finally:
        resolver.close()


def named_base(base: Any, place: Place) -> tuple[Any, Listing | None]:
    """What `push` and `convert` take as base: a repository of the Hub is fetched, everything else is as it was.

    What the repository holds may be differences itself: their bases then come from the Hub as well.
    """
    if not isinstance(base, str) or base == "auto" or (not base.startswith("hf://") and Path(base).exists()):
        return base, None
    repo_id, revision = parse_name(base)
    listing = list_repository(repo_id, revision, place.token)
    names = [name for name in listing.files if name.endswith(WEIGHTS)]
    top = [name for name in names if "/" not in name] or names
    kinds = {Path(name).suffix for name in top}
    wanted = [name for name in top if name.endswith(".safetensors") or kinds == {".slimtensors"}]
    if not wanted:
        raise UsageError(f"the base {repo_id} has no .safetensors or .slimtensors file")
    folder = fetch(repo_id, listing.commit, wanted, place, listing)
    find = hub_base(cache_dir=place.cache_dir, token=place.token, local_files_only=place.local_files_only)
    return [str(folder), find], listing


def access_to(listing: Listing | None, repo_id: str, token: str | bool | None) -> str:
    """ "gated", "private", or nothing if everybody can read a base's repository; a warning says what that means."""
    try:
        listing = listing or list_repository(repo_id, None, token)
        access = "private" if listing.private else "gated" if listing.gated else ""
    except HubError:
        access = "private"  # or gone: who reads this cannot tell either
    if access:
        warnings.warn(
            f"the base {repo_id} is {access}: only those who may read it can read what is stored as a difference from "
            "it; leave out the base for a repository that everybody can read",
            stacklevel=5,
        )
    return access
