"""What a hub's repository holds, and what huggingface_hub's cache has of it."""

from __future__ import annotations

from collections.abc import Iterable

from slimtensors.errors import RemoteError
from slimtensors_hub import listing
from slimtensors_hub.remote.names import HubName

__all__ = ["cached", "list_repository"]


def cached(name: HubName) -> str | None:
    """The path of a file in huggingface_hub's cache, if it is certainly the one meant, or the hub must not be asked.

    A branch or a tag may have moved since, so without HF_HUB_OFFLINE only a commit is looked up.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    if not (name.pinned or constants.HF_HUB_OFFLINE):
        return None
    found = try_to_load_from_cache(name.repository, name.path, revision=name.revision, repo_type=name.kind)
    return found if isinstance(found, str) else None


def list_repository(name: HubName) -> list[str]:
    """Names of the files right in a folder of a repository, pinned to a commit."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return _list_cached(name)
    found = listing.list_repository(name.repository, name.revision, kind=name.kind)
    return _within(name._replace(revision=found.commit), found.files)


def _within(name: HubName, paths: Iterable[str]) -> list[str]:
    """Those right in the folder."""
    start = f"{name.path}/" if name.path else ""
    right = [path for path in paths if path.startswith(start) and "/" not in path.removeprefix(start)]
    return sorted(str(name._replace(path=path)) for path in right)


def _list_cached(name: HubName) -> list[str]:
    """Files of the cached snapshot of a revision."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        repositories = frozenset()
    wanted = name.revision or "main"
    for repository in repositories:
        if (repository.repo_id, repository.repo_type) == (name.repository, name.kind):
            for revision in repository.revisions:
                if wanted == revision.commit_hash or wanted in revision.refs:
                    here = [each.file_path.relative_to(revision.snapshot_path).as_posix() for each in revision.files]
                    return _within(name._replace(revision=revision.commit_hash), here)
    raise RemoteError(f"{name} is not in the cache, and HF_HUB_OFFLINE forbids to ask for it; unset that")
