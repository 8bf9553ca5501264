"""Sends files: GET and HEAD of /{id}/resolve/{revision}/{path}, and the storage that large files are redirected to."""

from __future__ import annotations

import hmac
import urllib.parse

from . import access
from .answers import Answers
from .store import RefusedError

__all__ = ["Signatures", "resolve", "stored"]


class Signatures:
    """Addresses that are valid without a token."""

    def __init__(self) -> None:
        self._key = b"of this server"

    def of(self, path: str) -> str:
        return hmac.new(self._key, path.encode(), "sha256").hexdigest()[:32]

    def sign(self, base: str, path: str) -> str:
        return f"{base}{urllib.parse.quote(path)}?signature={self.of(path)}"

    def check(self, request: Answers) -> None:
        if request.headers.get("Authorization"):
            raise RefusedError(400, "Only one auth mechanism allowed: this address is signed, and a token came with it")
        if request.query.get("signature") != self.of(request.address):
            raise RefusedError(403, "The signature does not match")


def resolve(request: Answers, kind: str, id: str, revision: str, path: str) -> None:  # noqa: A002
    hub = request.hub
    repository = hub.store.repository(id, kind)
    access.may_read(repository, access.user_of(hub.store, request.headers.get("Authorization")))
    commit = repository.commit_id(revision)
    if request.fault and request.fault.stale:
        commit = request.fault.stale
    entry = repository.commits[commit].get(path)
    if entry is None:
        raise RefusedError(404, "Entry not found", "EntryNotFound", **{"X-Repo-Commit": commit})
    headers = {"X-Repo-Commit": commit, "ETag": f'"{entry.digest}"'}
    source = hub.store.path(entry.digest)
    if entry.large:
        headers |= {"X-Linked-Size": str(entry.size), "X-Linked-ETag": f'"{entry.digest}"'}
        if hub.redirect:
            address = f"/files/{entry.digest}"
            headers["Location"] = hub.signatures.sign(hub.storage, address)
            return request.send(302, headers, b"")
    return request.send_file(source, entry.size, headers)


def stored(request: Answers, digest: str) -> None:
    """A large file from the storage."""
    request.hub.signatures.check(request)
    path = request.hub.store.path(digest)
    if not path.exists():
        raise RefusedError(404, "no such object")
    request.send_file(path, path.stat().st_size, {"ETag": f'"{digest}"'})
