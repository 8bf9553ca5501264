"""Names of remote files: what hf://, https:// and s3:// names mean, and how they are shown."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address
from socket import inet_aton
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from slimtensors.errors import UsageError

__all__ = ["HubName", "Origin", "hub_name", "is_file", "is_inner", "is_local", "origin", "shown"]

_HUB = re.compile(
    r"hf://(?:(models|datasets)/)?([A-Za-z0-9._-]+/[A-Za-z0-9._-]+)(?:@(refs/(?:pr|convert)/[^/@]+|[^/@]+))?(?:/(.*))?"
)
# What the Hub's pages link to: /[datasets/]owner/name/resolve/revision/path.
_PAGE = re.compile(r"/(?:(datasets)/)?([^/]+/[^/]+)/(?:resolve|blob)/(refs/(?:pr|convert)/[^/]+|[^/]+)/(.+)")
_FILES = (".slimtensors", ".safetensors", ".gguf", ".json")  # what else a name ends with, it is a folder's
_LOCAL = re.compile(r"localhost|127\.\d+\.\d+\.\d+|::1")

Origin = tuple[str, str, int]


class HubName(NamedTuple):
    """A file or folder of a repository on a hub."""

    kind: str  # model or dataset
    repository: str  # owner/name
    revision: str | None  # None: the default branch
    path: str  # "" for the repository itself

    def __str__(self) -> str:
        kind = "" if self.kind == "model" else f"{self.kind}s/"
        at = f"@{self.revision}" if self.revision else ""
        path = f"/{self.path}" if self.path else ""
        return f"hf://{kind}{self.repository}{at}{path}"

    @property
    def pinned(self) -> bool:
        """Whether the revision is a commit, which cannot move."""
        return self.revision is not None and re.fullmatch("[0-9a-f]{40}", self.revision) is not None


def hub_name(name: str, endpoint: str) -> HubName | None:
    """What an hf:// name, or an address of a file on the hub's own pages, leads to; None for any other address."""
    if name.startswith("hf://"):
        found = _HUB.fullmatch(name)
        if found is None:
            raise UsageError(f"{name} is not of the form hf://owner/name[@revision][/file]")
        kind, repository, revision, path = found.groups()
        return _made(name, kind, repository, revision, (path or "").strip("/"))
    if origin(name) != origin(endpoint):
        return None
    page = _PAGE.fullmatch(urlsplit(name).path.removeprefix(urlsplit(endpoint).path.rstrip("/")))
    if page is None:
        return None
    kind, repository, revision, path = page.groups()
    return _made(name, kind, repository, revision, unquote(path))


def _made(name: str, kind: str | None, repository: str, revision: str | None, path: str) -> HubName:
    revision = None if revision is None else unquote(revision)  # refs%2Fpr%2F1
    steps = [*repository.split("/"), *(revision or "").split("/"), *path.split("/")]
    if not {".", ".."}.isdisjoint(steps):
        raise UsageError(f"{shown(name)} has steps that lead elsewhere; name the file itself")
    return HubName((kind or "models")[:-1], repository, revision, path)


def is_file(path: str) -> bool:
    """Whether a path within a repository or bucket is a file's, going by its name."""
    return path.endswith(_FILES)


def origin(address: str) -> Origin:
    """Scheme, host and port: what a credential is good for. Raises UsageError for what is no address."""
    try:
        parts = urlsplit(address)
        host, port = parts.hostname or "", parts.port
        if host.isascii():
            host.encode("idna")  # as the system will, to look it up
    except ValueError as error:
        said = re.sub("//[^/]*@", "//", address.partition("?")[0])
        why = "" if "@" in str(error) else f" ({error})"  # it may quote a password
        raise UsageError(f"{said} is not an address{why}: check the name") from None
    return parts.scheme, host, port or {"https": 443, "http": 80}.get(parts.scheme, 0)


def is_local(address: str) -> bool:
    """Whether an address is this machine's own."""
    return _LOCAL.fullmatch(urlsplit(address).hostname or "") is not None


def is_inner(address: str) -> bool:
    """Whether an address, however it is spelled, is this machine's own, or one of the link that it is on, where clouds
    have what tells a machine its credentials. A name that leads there is not looked up.
    """
    host = (urlsplit(address).hostname or "").rstrip(".").partition("%")[0]
    try:
        found: IPv4Address | IPv6Address = IPv6Address(host) if ":" in host else IPv4Address(inet_aton(host))
    except (OSError, ValueError):
        return host == "localhost" or host.endswith(".localhost")
    found = getattr(found, "ipv4_mapped", None) or found
    return found.is_loopback or found.is_link_local or found.is_unspecified


def shown(address: str) -> str:
    """An address for people and logs: without a password, and without the query, which may be a signature."""
    parts = urlsplit(address)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"
