"""What a repository holds at one commit: names, sizes and digests, checked before any of it is used as a path."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from slimtensors._version import __version__
from slimtensors.errors import UsageError
from slimtensors_hub.errors import TRIES, HubError, retried
from slimtensors_hub.variables import check_variables

__all__ = [
    "IDENTITY",
    "LIBRARY",
    "Listing",
    "RemoteFile",
    "api",
    "is_commit",
    "is_plain",
    "list_repository",
    "parse_name",
    "selected",
]

LIBRARY = "slimtensors"
IDENTITY: dict[str, Any] = {"library_name": LIBRARY, "library_version": __version__}  # what the hub is told of us
MAX_FILES = 100_000
RELIABLE = 1000  # so many files at most are named along with the commit; of more, some may be missing
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")


class RemoteFile(NamedTuple):
    """A file of a repository. sha256: of a large file; else `blob`, the SHA-1 of the git object, tells its content."""

    size: int
    blob: str | None
    sha256: str | None


class Listing(NamedTuple):
    """A repository at a commit."""

    repo_id: str
    commit: str
    files: dict[str, RemoteFile]
    private: bool
    gated: bool


def api(token: str | bool | None) -> Any:
    """The client, with our name in its user agent."""
    from huggingface_hub import HfApi

    return HfApi(token=token, **IDENTITY)


def parse_name(name: str, revision: str | None = None) -> tuple[str, str | None]:
    """(repository, revision) of "OWNER/NAME", "OWNER/NAME@REVISION" or either after "hf://". Raises UsageError."""
    check_variables()
    repo_id, at, found = name.removeprefix("hf://").partition("@")
    if not _NAME.fullmatch(repo_id) or ".." in repo_id or (at and not found):
        raise UsageError(f"{name!r} is no repository of a hub: name one as OWNER/NAME or OWNER/NAME@REVISION")
    if at and revision is not None and revision != found:
        raise UsageError(f"{name!r} names a revision, and revision={revision!r} another one")
    if revision == "":
        raise UsageError(f"{name!r}: the revision is empty; leave it out for the latest commit")
    return repo_id, found if at else revision


def is_commit(revision: str | None) -> bool:
    return revision is not None and re.fullmatch(r"[0-9a-f]{40}", revision) is not None


def list_repository(
    repo_id: str,
    revision: str | None = None,
    token: str | bool | None = None,
    kind: str = "model",
    *,
    tries: int = TRIES,
) -> Listing:
    """One request, whose answer pins the commit for all that follows. kind: or "dataset"; tries: see `retried`. Raises
    HubError.
    """

    def ask() -> Any:
        return api(token).repo_info(repo_id, revision=revision, repo_type=kind, files_metadata=True)

    info = retried(ask, repo_id, revision, tries)
    if not is_commit(info.sha):
        raise HubError(f"{repo_id}: the hub states no commit; check HF_ENDPOINT")
    entries = [(each.rfilename, each) for each in info.siblings or []]
    if len(entries) > RELIABLE:
        tree = retried(
            lambda: list(api(token).list_repo_tree(repo_id, recursive=True, revision=info.sha)), repo_id, tries=tries
        )
        entries = [(each.path, each) for each in tree if hasattr(each, "blob_id")]
    if len(entries) > MAX_FILES:
        raise HubError(f"{repo_id} lists {len(entries)} files; {MAX_FILES} are allowed")
    files: dict[str, RemoteFile] = {}
    for path, each in entries:
        _check_path(path, repo_id)
        if path in files:
            raise HubError(f"{repo_id} lists {path!r} twice: the hub is faulty; nothing was downloaded")
        lfs = each.lfs
        sha256 = None if lfs is None else lfs["sha256"] if isinstance(lfs, dict) else lfs.sha256
        files[path] = RemoteFile(each.size or 0, each.blob_id, sha256)
    return Listing(repo_id, info.sha, files, bool(info.private), bool(info.gated))


def selected(
    names: Iterable[str], allow_patterns: Sequence[str] | str | None, ignore_patterns: Sequence[str] | str | None
) -> list[str]:
    """The names that huggingface_hub would take, by its arguments of these names."""
    from huggingface_hub.utils import filter_repo_objects

    def as_list(patterns: Sequence[str] | str | None) -> list[str] | None:
        return None if patterns is None else [patterns] if isinstance(patterns, str) else list(patterns)

    allowed, ignored = as_list(allow_patterns), as_list(ignore_patterns)
    return list(filter_repo_objects(names, allow_patterns=allowed, ignore_patterns=ignored))


def is_plain(path: str) -> bool:
    """Whether it is a relative path on any system, whose steps cannot lead out of the folder that it is put into."""
    steps = path.split("/")
    return (
        path.isprintable()
        and not re.search(r'[\\:*?"<>|]', path)
        and all(step and step.strip(". ") and len(step.encode("utf-8", "replace")) <= 255 for step in steps)
        and ".git" not in (step.lower() for step in steps)
    )


def _check_path(path: str, repo_id: str) -> None:
    if not is_plain(path):
        raise HubError(f"{repo_id} lists the file {path!r}, which is no plain path; nothing was downloaded")
