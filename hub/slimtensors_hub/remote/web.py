"""Ranges of a file over HTTP, by the client that huggingface_hub has and lets its users configure.

Every answer is held against what is known of the file: its length, its ETag, and on a hub the commit, which pins it.
The hub redirects to where large files lie: that address is kept, and asked for again when it has expired. The token
goes to the hub's own host and nowhere else.
"""

from __future__ import annotations

import importlib
import math
import re
import time
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any
from urllib.parse import urljoin, urlsplit

from slimtensors._version import __version__
from slimtensors.errors import RemoteError, UsageError
from slimtensors.switches import ALLOW_HTTP, allows_http
from slimtensors.threads import given_up
from slimtensors_hub.remote import spans
from slimtensors_hub.remote.names import HubName, Origin, is_inner, is_local, origin, shown
from slimtensors_hub.remote.refusals import LOGIN, explained
from slimtensors_hub.remote.spans import PROGRESS, Interrupted, front_bytes

__all__ = ["WebFile", "address_of", "endpoint"]

MAX_REDIRECTS = 10
AGAIN = frozenset({408, 429, 500, 502, 503, 504})
EXPIRED = frozenset({400, 401, 403, 404, 410})  # what stores answer when an address that they signed is too old
_CONTENT_RANGE = re.compile(r"bytes +([0-9]{1,20})-([0-9]{1,20})/([0-9]{1,20})", re.IGNORECASE)
_COUNT = re.compile(r"[0-9]{1,20}")  # of bytes or seconds


class WebFile:
    """A file at an address: `hub` tells which one of a repository it is, if it is one."""

    def __init__(self, address: str, hub: HubName | None = None) -> None:
        self.label = str(hub) if hub is not None else shown(address)
        self.hub = hub
        self.size: int | None = None
        self._address = address
        self._target: str | None = None  # where the address leads to
        self._tags: dict[Origin, str] = {}  # by who gave it
        self._linked: str | None = None  # what the hub says of the file that it redirects to
        self._match = True  # whether servers are asked to look at the ETag first
        _check(address)

    @property
    def name(self) -> str:
        """Opens the same file again."""
        return str(self.hub) if self.hub is not None else self._address

    def open(self, start: int, stop: int | None) -> WebAnswer:
        """See RemoteFile."""
        for _ in range(3):
            kept = self._target
            try:
                response, stop = self._follow(kept or self._address, start, stop)
            except Interrupted:
                self._target = None
                raise
            if kept is not None and response.status_code in EXPIRED:
                self._target = None
            elif response.status_code == HTTPStatus.PRECONDITION_FAILED and "if-match" in response.request.headers:
                self._match = False  # some servers misjudge it: the ETag of what they send will tell
            else:
                break
            response.close()
        try:
            return self._judged(response, start, stop)
        except BaseException:
            response.close()
            raise

    def _follow(self, address: str, start: int, stop: int | None) -> tuple[Any, int | None]:
        """The first answer that is no redirect; and where the range ends that was asked for, if it is the front."""
        front = stop is None
        stop = front_bytes(None) if stop is None else stop
        for _ in range(MAX_REDIRECTS):
            response = self._ask(address, start, stop)
            try:
                self._note(response, address)
            except BaseException:
                response.close()
                raise
            to = response.headers.get("location")
            if response.status_code not in (301, 302, 303, 307, 308) or not to:
                return response, stop
            if front:
                size = response.headers.get("x-linked-size", "")
                stop = front_bytes(int(size) if _COUNT.fullmatch(size) else None)
            response.close()
            try:
                there = urljoin(address, to)
                origin(there)
            except (UsageError, ValueError):
                raise RemoteError(f"{self.label}: {shown(address)} leads to what is not an address") from None
            _check(there, address)
            if origin(there) != origin(address) or not self._is_hub(address):
                self._target = there
            address = there
        raise RemoteError(f"{self.label}: more than {MAX_REDIRECTS} redirects; the server is set up wrongly")

    def _ask(self, address: str, start: int, stop: int) -> Any:
        client, errors = _client()
        headers = _headers(self._is_hub(address))
        headers |= {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        tag = self._tags.get(origin(address))
        if tag is not None and tag.startswith('"') and tag.isascii() and self._match:  # a weak one never matches
            headers["If-Match"] = tag
        from huggingface_hub.constants import HF_HUB_DOWNLOAD_TIMEOUT
        from huggingface_hub.errors import OfflineModeIsEnabled

        try:
            request = client.build_request("GET", address, headers=headers, timeout=HF_HUB_DOWNLOAD_TIMEOUT)
            request.extensions["timeout"]["read"] = _Limit(HF_HUB_DOWNLOAD_TIMEOUT, "its headers did not end")
            return client.send(request, stream=True, follow_redirects=False)
        except OfflineModeIsEnabled:
            raise RemoteError(
                f"{self.label} is not in the cache, and HF_HUB_OFFLINE forbids to ask for it; unset that"
            ) from None
        except UnicodeEncodeError:  # of a header; addresses are quoted
            raise RemoteError(f"{self.label}: your token holds characters that no token has: {LOGIN}") from None
        except (errors.UnsupportedProtocol, errors.InvalidURL, ValueError) as error:
            raise RemoteError(f"{self.label}: {_words(error)}; check the name") from None
        except errors.TransportError as error:
            if "CERTIFICATE" in str(error):
                raise RemoteError(f"{self.label}: {origin(address)[1]} cannot prove who it is ({error})") from None
            if "WRONG_VERSION_NUMBER" in str(error):
                raise RemoteError(f"{self.label}: {origin(address)[1]} answers in the open; check the name") from None
            raise Interrupted(f"no answer from {origin(address)[1]} ({_words(error)})") from None
        except errors.HTTPError as error:
            raise RemoteError(f"{self.label}: {_words(error)}; check the name") from None
        except RuntimeError as error:  # huggingface_hub closes its client where a connection failed, and makes another
            raise Interrupted(f"the client was closed ({_words(error)})") from None

    def _is_hub(self, address: str) -> bool:
        """Whether the token may go there."""
        return self.hub is not None and origin(address) == origin(endpoint())

    def _note(self, response: Any, address: str) -> None:
        """What the hub tells of the file: the commit, and what it redirects to."""
        if not self._is_hub(address) or response.status_code >= HTTPStatus.BAD_REQUEST:
            return
        assert self.hub is not None
        commit, linked = response.headers.get("x-repo-commit"), response.headers.get("x-linked-etag")
        if commit and not self.hub.pinned:
            pinned = self.hub._replace(revision=commit)
            if pinned.pinned:
                self.hub, self._address = pinned, address_of(pinned)
        if linked:
            if self._linked not in (None, linked):
                raise self._changed(f"it was {self._linked} and is {linked} now")
            self._linked = linked

    def _judged(self, response: Any, start: int, stop: int | None) -> WebAnswer:
        """The answer, if it is what was asked for."""
        assert stop is not None
        status, headers = response.status_code, response.headers
        where = origin(str(response.url))
        if status in AGAIN:
            wait = headers.get("retry-after", "")
            raise Interrupted(f"{where[1]} answered {status}", float(wait) if _COUNT.fullmatch(wait) else None)
        if status == HTTPStatus.PRECONDITION_FAILED:
            raise self._changed("its ETag is another one now")
        if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            if self.size is None and headers.get("content-range", "").strip() == "bytes */0":
                self.size = 0
                return WebAnswer(response, 0)
            if self.size is not None and headers.get("content-range", "").strip() != f"bytes */{self.size}":
                raise self._changed(f"it has no byte {start} any more")
            empty = "" if self.size else ", as if the file were empty"
            raise RemoteError(
                f"{self.label}: the server refuses to send bytes {start} to {stop} (416){empty}; download the file"
            )
        if status not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
            raise RemoteError(f"{self.label}: {explained(status, headers, self.hub)}")
        if headers.get("content-encoding", "").strip().lower() not in ("", "identity"):
            raise RemoteError(f"{self.label}: the server packs what it sends, and no range fits; download the file")
        self._check_tag(headers, where)
        if status == HTTPStatus.OK:
            length = headers.get("content-length", "")
            if start or not _COUNT.fullmatch(length) or int(length) > stop or self.size not in (None, int(length)):
                raise RemoteError(f"{self.label}: the server sends whole files only, no ranges; download the file")
            self.size = int(length)
            return WebAnswer(response, self.size)
        found = _CONTENT_RANGE.fullmatch(headers.get("content-range", "").strip())
        if found is None:
            raise RemoteError(f"{self.label}: the server does not say which range it sends; download the file")
        first, end, size = int(found[1]), int(found[2]) + 1, int(found[3])
        if self.size is not None and size != self.size:
            raise self._changed(f"it had {self.size} bytes and has {size} now")
        # A server may send less at once than it is asked for; next to nothing would take as many requests.
        if first != start or not min(stop, size, start + PROGRESS) <= end <= min(stop, size):
            raise RemoteError(
                f"{self.label}: asked for bytes {start} to {min(stop, size)}, the server says that it sends {first} to "
                f"{end}: it is faulty; download the file"
            )
        self.size = size
        return WebAnswer(response, end)

    def _check_tag(self, headers: Any, where: Origin) -> None:
        tag = headers.get("etag") or headers.get("last-modified")
        if tag is None or (self._linked is not None and where != origin(endpoint())):
            return  # the commit and the hub's own ETag pin the file; stores name it in ways of their own
        known = self._tags.setdefault(where, tag)
        if tag != known:
            raise self._changed(f"its ETag was {known} and is {tag} now")

    def _changed(self, how: str) -> RemoteError:
        return RemoteError(f"{self.label} was changed while it was read ({how}): open it again")


class WebAnswer:
    """A response that is being read, up to the file's byte `stop`."""

    def __init__(self, response: Any, stop: int) -> None:
        self.stop = stop
        self._response = response

    def pieces(self) -> Iterator[bytes]:
        """See Answer."""
        _, errors = _client()
        limit = self._response.request.extensions["timeout"]["read"]
        limit.begin("it sent nothing")
        try:
            for piece in self._response.iter_raw():
                yield piece
                limit.begin("it sent nothing")
        except (errors.HTTPError, errors.StreamError) as error:
            raise Interrupted(f"the connection broke off ({_words(error)})") from None

    def close(self) -> None:
        """See Answer."""
        self._response.close()


class _Limit:
    """A time limit for all reads together that it takes until something is whole, where the client knows one for each.

    It stands where the client keeps that of a read, in seconds: the socket asks for the number before each. In whole
    seconds, as huggingface_hub's are: what is no float is asked for an index.
    """

    def __init__(self, each: float, late: str) -> None:
        self._each = each
        self._all = max(each, spans.PATIENCE)
        self.begin(late)

    def begin(self, late: str) -> None:
        """From now on. late: what has happened if it is too late."""
        self._late, self._end = late, time.monotonic() + self._all

    def __index__(self) -> int:
        if given_up():
            raise TimeoutError("given up")
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"{self._late} within {self._all:g} s")
        return math.ceil(min(self._each, left))


def endpoint() -> str:
    """Where the hub is: HF_ENDPOINT."""
    from huggingface_hub import constants

    return constants.ENDPOINT


def address_of(name: HubName) -> str:
    """Where the hub has a file."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.errors import HFValidationError

    try:
        return hf_hub_url(name.repository, name.path, repo_type=name.kind, revision=name.revision)
    except HFValidationError as error:
        raise UsageError(f"{name}: {error}") from None


def _client() -> tuple[Any, Any]:
    """huggingface_hub's HTTP client, and the library that it is of: httpx, or httpx2 since huggingface_hub 2."""
    from huggingface_hub.utils import get_session

    client = get_session()
    library = importlib.import_module(type(client).__module__.partition(".")[0])
    if not hasattr(client, "build_request"):
        raise UsageError("reading by range needs huggingface_hub 1.0 or newer: pip install -U huggingface_hub")
    return client, library


def _headers(hub: bool) -> dict[str, str]:
    """With the user's token, if they are for the hub."""
    if not hub:
        return {"user-agent": f"slimtensors/{__version__}"}
    from huggingface_hub.utils import build_hf_headers

    made: dict[str, str] = build_hf_headers(library_name="slimtensors", library_version=__version__)
    return made


def _check(address: str, via: str | None = None) -> None:
    """Refuse what would travel in the open, unless it stays on this machine or the user says so; and of redirects those
    that lead inside from outside.
    """
    if via is not None and is_inner(address) and not is_inner(via):
        raise RemoteError(f"{shown(via)} leads to {shown(address)}, which is this machine's own; it is not followed")
    allowed = allows_http()
    scheme = urlsplit(address).scheme
    if scheme == "https":
        return
    if scheme != "http":
        raise RemoteError(f"{shown(via or address)} leads to {scheme}://, which is not followed")
    if is_local(address) or allowed or origin(address) == origin(endpoint()):
        return
    if via is not None:
        raise RemoteError(f"{shown(via)} leads to {shown(address)}, which is not encrypted; it is not followed")
    raise UsageError(f"{shown(address)} is not encrypted: write https://, or set {ALLOW_HTTP}=1")


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
