"""A Hub on two ports of localhost: the one that is asked, and the storage that holds large files."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path

from . import api, downloads, uploads
from .answers import Answers
from .faults import Faults
from .link import Link
from .requests import Requests
from .store import ALICE, RefusedError, Store

__all__ = ["HubServer"]

ID = r"(?:(?P<kind>datasets|spaces)/)?(?P<id>[^/]+/[^/]+)"


class Front(Answers):
    """The server that clients know."""

    where = "hub"

    def route(self) -> None:
        fixed = {
            "/api/whoami-v2": api.whoami,
            "/api/validate-yaml": api.validate_yaml,
            "/api/repos/create": api.create_repository,
            "/api/repos/delete": api.delete_repository,
            "/_hub/requests": self._requests,
        }
        if self.address in fixed:
            return fixed[self.address](self)
        if found := re.fullmatch(r"/api/(models|datasets|spaces)/([^/]+/[^/]+)(?:/([^/]+)(?:/(.+))?)?", self.address):
            return api.about(self, found[1][:-1], found[2], found[3] or "", found[4] or "")
        if found := re.fullmatch(rf"/{ID}/resolve/(?P<revision>refs/[^/]+/[^/]+|[^/]+)/(?P<path>.+)", self.address):
            return downloads.resolve(self, self._kind(found), found["id"], found["revision"], found["path"])
        if found := re.fullmatch(rf"/{ID}\.git/info/lfs/objects/batch", self.address):
            return uploads.batch(self, self.hub.store.repository(found["id"], self._kind(found)))
        if re.fullmatch(rf"/{ID}\.git/info/lfs/verify", self.address):
            return uploads.verify(self)
        raise RefusedError(404, f"no route: {self.command} {self.address}")

    @staticmethod
    def _kind(found: re.Match[str]) -> str:
        return (found["kind"] or "models")[:-1]

    def _requests(self, _: Answers) -> None:
        if self.command == "DELETE":
            self.hub.requests.clear()
        self.send_json(self.hub.requests.json())


class Storage(Answers):
    """The server of large files."""

    where = "storage"

    def route(self) -> None:
        if found := re.fullmatch(r"/files/([0-9a-f]{64})", self.address):
            return downloads.stored(self, found[1])
        if found := re.fullmatch(r"/upload/([0-9a-f]{64})", self.address):
            return uploads.put(self, found[1])
        if found := re.fullmatch(r"/upload/([0-9a-f]{64})/(\d+)", self.address):
            return uploads.put_part(self, found[1], int(found[2]))
        if found := re.fullmatch(r"/complete/([0-9a-f]{64})", self.address):
            return uploads.complete(self, found[1])
        raise RefusedError(404, f"no route: {self.command} {self.address}")


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that go away are part of the tests; anything else is a fault of the server."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class HubServer:
    """A Hub. redirect: large files come from `storage`. part_size: larger uploads come in parts of so many bytes."""

    def __init__(
        self,
        *,
        port: int = 0,
        rate: float | None = None,
        latency: float = 0.0,
        redirect: bool = True,
        part_size: int | None = None,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="hub-")
        self.store = Store(Path(self._folder.name))
        self.requests, self.faults, self.link = Requests(), Faults(), Link(rate, latency)
        self.signatures = downloads.Signatures()
        self.redirect, self.part_size = redirect, part_size
        self.closed = False
        self.parts: dict[tuple[str, int], bytes] = {}
        self._front = self._listen(Front, port)
        self._storage = self._listen(Storage, 0)
        self.endpoint = f"http://127.0.0.1:{self._front.server_port}"
        self.storage = f"http://127.0.0.1:{self._storage.server_port}"

    def _listen(self, handler: type[Answers], port: int) -> ThreadingHTTPServer:
        server = _Listener(("127.0.0.1", port), type(handler.__name__, (handler,), {"hub": self}))
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return server

    def __enter__(self) -> HubServer:  # noqa: PYI034 (Self needs Python 3.11)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.closed = True
        for server in (self._front, self._storage):
            server.shutdown()
            server.server_close()
        self._folder.cleanup()

    def environment(self, home: Path, token: str | None = ALICE, **variables: str) -> dict[str, str]:
        """The variables for a client's process: this one's, the Hub's address, a home folder of its own."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        given = {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",  # the client would ask for another protocol, with no way back to LFS
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        if token is not None:
            given["HF_TOKEN"] = token
        return kept | given | variables
