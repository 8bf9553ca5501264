"""What a hub's repository holds, and what huggingface_hub's cache has of it."""

from __future__ import annotations

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


def list_repository(name: HubName, *, inner: bool) -> dict[str, str]:
    """Names of the files in a folder of a repository, pinned to a commit, by path within the folder."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        commit, files = _list_cached(name)
    else:
        found = listing.list_repository(name.repository, name.revision, kind=name.kind)
        commit, files = found.commit, list(found.files)
    start = f"{name.path}/" if name.path else ""
    within = [path.removeprefix(start) for path in sorted(files) if path.startswith(start)]
    pinned = name._replace(revision=commit)
    return {path: str(pinned._replace(path=start + path)) for path in within if inner or "/" not in path}


def _list_cached(name: HubName) -> tuple[str, list[str]]:
    """Commit and files of the cached snapshot of a revision."""
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
                    return revision.commit_hash, here
    raise RemoteError(f"{name} is not in the cache, and HF_HUB_OFFLINE forbids to ask for it; unset that")
