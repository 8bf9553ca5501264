"""A web server on localhost that serves bytes by range, counts what it is asked, and misbehaves as told."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Asked:
    """A request: what of, and the range, or None."""

    path: str
    range: tuple[int, int] | None
    headers: dict[str, str]


@dataclass
class Odd:
    """How an answer differs from a proper one; for `times` requests, after `skip` proper ones."""

    skip: int = 0
    times: int = 1
    status: int | None = None
    headers: dict[str, str | None] = field(default_factory=dict)  # set, or left out
    body: bytes | None = None
    drop_after: int | None = None  # bytes of the body, then the connection is closed
    flip: int | None = None  # byte of the file that is wrong
    pause: tuple[int, float] | None = None  # after so many bytes, so many seconds
    trickle: tuple[int, float] | None = None  # so many bytes at a time, with so many seconds between
    head_drip: float | None = None  # a header that grows by a byte every so many seconds, without end
    chunk_drip: float | None = None  # so does the line of the first chunk's size
    ignore_range: bool = False
    chunked: bool = False  # and thereby without a length
    then: Callable[[], object] | None = None


class Web:
    """Files by path; `asked` is what came in, `sent` the bytes of bodies that went out."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.files: dict[str, bytes] = {}
        self.tags: dict[str, str] = {}
        self.asked: list[Asked] = []
        self.sent = 0
        self.odd: list[Odd] = []
        self.never_matches = False  # whatever If-Match says
        self.most: int | None = None  # bytes of a range that are sent at once
        self._lock = threading.Lock()

    def put(self, path: str, data: bytes, tag: str | None = None) -> str:
        """Serve this; gives its address."""
        self.files[path] = data
        self.tags[path] = hashlib.sha256(data).hexdigest()[:16] if tag is None else tag
        return f"{self.address}/{path}"

    def take(self) -> list[Asked]:
        """What was asked since the last call."""
        with self._lock:
            asked, self.asked, self.sent = self.asked, [], 0
        return asked

    def note(self, asked: Asked) -> Odd | None:
        with self._lock:
            self.asked.append(asked)
            for odd in self.odd:
                if odd.skip:
                    odd.skip -= 1
                elif odd.times:
                    odd.times -= 1
                    return odd
        return None

    def count(self, sent: int) -> None:
        with self._lock:
            self.sent += sent


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    web: Web

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""

    def do_GET(self) -> None:
        path = self.path.lstrip("/").partition("?")[0]
        asked = self.headers.get("Range")
        first, last = (int(n) for n in asked.removeprefix("bytes=").split("-")) if asked else (0, 0)
        odd = self.web.note(Asked(path, (first, last + 1) if asked else None, dict(self.headers)))
        if odd is not None and odd.then is not None:
            odd.then()
        odd = odd or Odd()
        data, headers = self.web.files.get(path), dict[str, str | None]()
        if data is None:
            status, body = 404, b"not here"
        else:
            tag = f'"{self.web.tags[path]}"'
            headers["ETag"] = tag
            status, body = 200, data
            if "If-Match" in self.headers and (self.headers["If-Match"] != tag or self.web.never_matches):
                status, body = 412, b""
            elif asked and not odd.ignore_range:
                if first >= len(data):
                    status, body = 416, b""
                    headers["Content-Range"] = f"bytes */{len(data)}"
                else:
                    status, body = 206, data[first : last + 1][: self.web.most]
                    headers["Content-Range"] = f"bytes {first}-{first + len(body) - 1}/{len(data)}"
        if odd.flip is not None and first <= odd.flip < first + len(body):
            at = odd.flip - first
            body = body[:at] + bytes([body[at] ^ 0xFF]) + body[at + 1 :]
        status, body = odd.status or status, body if odd.body is None else odd.body
        self._answer(status, headers | {"Content-Length": str(len(body))} | odd.headers, body, odd)

    def _answer(self, status: int, headers: dict[str, str | None], body: bytes, odd: Odd) -> None:
        self.send_response(status)
        if odd.chunked:
            headers = headers | {"Content-Length": None, "Transfer-Encoding": "chunked"}
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, value)
        if odd.head_drip is not None:
            self._drip(b"".join(self._headers_buffer) + b"X-More: ", odd.head_drip)
            return
        self.end_headers()
        if odd.chunk_drip is not None:
            self._drip(b"%x;more=" % len(body), odd.chunk_drip)
            return
        try:
            for at, piece in enumerate(_pieces(body, odd)):
                if at and odd.pause is not None:
                    time.sleep(odd.pause[1])
                if at and odd.trickle is not None:
                    time.sleep(odd.trickle[1])
                self.web.count(len(piece))  # before it is there, so that whoever has it can look
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if odd.chunked else piece)
            if odd.chunked:
                self.wfile.write(b"0\r\n\r\n")
        except OSError:  # the client has had enough
            self.close_connection = True
        if odd.drop_after is not None:
            self.close_connection = True

    def _drip(self, begin: bytes, seconds: float) -> None:
        """What is begun goes on until the client has had enough."""
        self.close_connection = True
        try:
            self.wfile.write(begin)
            while True:
                self.wfile.write(b"x")
                time.sleep(seconds)
        except OSError:
            self._headers_buffer = []


def _pieces(body: bytes, odd: Odd) -> Iterator[bytes]:
    if odd.drop_after is not None:
        yield body[: odd.drop_after]
    elif odd.pause is not None:
        yield body[: odd.pause[0]]
        yield body[odd.pause[0] :]
    elif odd.trickle is not None:
        yield from (body[at : at + odd.trickle[0]] for at in range(0, len(body), odd.trickle[0]))
    elif odd.chunked:
        yield from (body[at : at + 65536] for at in range(0, len(body), 65536))
    else:
        yield body


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """A client that closes early is none of ours."""


@contextmanager
def serving() -> Iterator[Web]:
    """A server for as long as the context lasts."""
    handler = type("Handler", (_Handler,), {})
    server = _Server(("127.0.0.1", 0), handler)
    handler.web = Web(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield handler.web
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
