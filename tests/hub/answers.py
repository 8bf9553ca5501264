"""Reads requests and sends answers over HTTP/1.1, with the faults that are due and at the link's speed."""

from __future__ import annotations

import json
import time
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING

from .faults import Fault
from .requests import Request
from .store import RefusedError

if TYPE_CHECKING:
    from .server import HubServer

__all__ = ["Answers"]

PIECE = 16 << 10


class Answers(BaseHTTPRequestHandler):
    """One connection. What is asked for is found by `route`."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    hub: HubServer
    where: str

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Nothing: `hub.requests` has it."""

    def route(self) -> None:
        raise NotImplementedError

    def answer(self) -> None:
        if self.hub.closed:  # a connection that outlives the server is not answered
            self.close_connection = True
            return
        parts = urllib.parse.urlsplit(self.path)
        self.address = urllib.parse.unquote(parts.path)
        self.query = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))
        self.body = self._read_body()
        self.record = Request(
            self.where,
            self.command,
            self.address,
            parts.query,
            self.headers.get("Range"),
            self.headers.get("Authorization"),
            self.headers.get("User-Agent", ""),
            received=len(self.body),
        )
        if not self.address.startswith("/_hub/"):
            self.hub.requests.append(self.record)
        self.fault = self.hub.faults.of(self.where, self.command, self.address, self.headers.get("Range") is not None)
        self.hub.link.wait()
        try:
            self._begin(self.fault or Fault())
        except RefusedError as refused:
            headers = {"X-Error-Message": refused.words, **refused.headers}
            if refused.code:
                headers["X-Error-Code"] = refused.code
            self.send_json({"error": refused.words}, refused.status, headers)

    def _begin(self, fault: Fault) -> None:
        if fault.delay and fault.stall_at is None:
            time.sleep(fault.delay)
        if fault.then is not None:
            fault.then()
        if fault.redirect is not None:
            raise RefusedError(302, "elsewhere", Location=fault.redirect + self.path)
        if fault.status is not None:
            raise RefusedError(fault.status, fault.words, fault.code)
        if fault.answer is not None:
            return self.send_json(fault.answer)
        return self.route()

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer  # noqa: N815

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        whole = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            whole += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return whole

    @property
    def base(self) -> str:
        return f"http://{self.headers['Host']}"

    def json(self) -> dict:
        return json.loads(self.body)

    def send_json(self, value: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send(status, {"Content-Type": "application/json", **(headers or {})}, json.dumps(value).encode())

    def send_file(self, source: bytes | Path, size: int, headers: dict[str, str]) -> None:
        """A file or the range of it that was asked for, if it still is what the client saw before."""
        etag = headers["ETag"]
        headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", **headers}
        if self.headers.get("If-Match", etag) not in (etag, "*"):
            raise RefusedError(412, f"it is {etag} now", "PreconditionFailed")
        asked = self.headers.get("Range")
        if asked is None or self.headers.get("If-Range", etag) != etag:
            return self.send(200, headers, source, 0, size)
        first, count = span(asked, size)
        headers["Content-Range"] = f"bytes {first}-{first + count - 1}/{size}"
        return self.send(206, headers, source, first, count)

    def send(
        self, status: int, headers: dict[str, str], source: bytes | Path, first: int = 0, count: int | None = None
    ) -> None:
        count = len(source) if isinstance(source, bytes) and count is None else count
        assert count is not None
        self.record.status = status
        self.send_response(status)
        for name, value in ({"Content-Length": str(count)} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self._send_body(pieces(source, first, count), self.fault or Fault())

    def _send_body(self, body: Iterator[bytes], fault: Fault) -> None:
        for piece in body:
            at, end = self.record.sent, self.record.sent + len(piece)
            if fault.flip_at is not None and at <= fault.flip_at < end:
                cut = fault.flip_at - at
                piece = piece[:cut] + bytes([piece[cut] ^ 255]) + piece[cut + 1 :]
            if fault.drop_after is not None and end > fault.drop_after:
                self.wfile.write(piece[: fault.drop_after - at])
                self.record.sent = fault.drop_after
                self.close_connection = True
                return
            if fault.stall_at is not None and at <= fault.stall_at < end:
                time.sleep(fault.delay)
            self.hub.link.take(len(piece))
            self.record.sent = end
            try:
                self.wfile.write(piece)
            except OSError:  # the client has gone
                self.close_connection = True
                return


def span(asked: str, size: int) -> tuple[int, int]:
    """First byte and count of a Range header of one range."""
    unit, _, text = asked.partition("=")
    low, dash, high = text.partition("-")
    if unit != "bytes" or not dash or "," in text or not (low or high):
        raise RefusedError(416, f"no range: {asked}", **{"Content-Range": f"bytes */{size}"})
    first = int(low) if low else max(0, size - int(high))
    last = min(int(high), size - 1) if low and high else size - 1
    if first > last:
        raise RefusedError(416, f"no bytes there: {asked}", **{"Content-Range": f"bytes */{size}"})
    return first, last - first + 1


def pieces(source: bytes | Path, first: int, count: int) -> Iterator[bytes]:
    if isinstance(source, bytes):
        yield from (source[at : min(at + PIECE, first + count)] for at in range(first, first + count, PIECE))
        return
    with source.open("rb") as file:
        file.seek(first)
        while count:
            piece = file.read(min(PIECE, count))
            assert piece
            count -= len(piece)
            yield piece
