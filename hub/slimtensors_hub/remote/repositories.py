"""What a hub's repository holds, and what huggingface_hub's cache has of it."""

from __future__ import annotations

from slimtensors.errors import RemoteError
from slimtensors_hub.remote.names import HubName
from slimtensors_hub.remote.refusals import explained

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
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    if constants.HF_HUB_OFFLINE:
        return _list_cached(name)
    try:
        info = HfApi(library_name="slimtensors").repo_info(
            name.repository, revision=name.revision, repo_type=name.kind, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
        )
    except HfHubHTTPError as error:
        status, headers = error.response.status_code, error.response.headers
        raise RemoteError(f"{name}: {explained(status, headers, name)}") from None
    except HFValidationError as error:
        raise RemoteError(f"{name}: {error}") from None
    except OfflineModeIsEnabled:
        return _list_cached(name)
    except Exception as error:  # of the HTTP library, whichever it is
        if not hasattr(error, "request"):
            raise
        raise RemoteError(f"{name}: the hub gave no answer ({error}); try again later") from None
    pinned = name._replace(revision=info.sha)
    return _within(pinned, [each.rfilename for each in getattr(info, "siblings", None) or []])


def _within(name: HubName, paths: list[str]) -> list[str]:
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
