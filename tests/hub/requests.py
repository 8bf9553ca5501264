"""What a Hub was asked: every request with its range, the bytes that were sent, and who asked."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass

__all__ = ["Request", "Requests"]


@dataclass
class Request:
    where: str  # "hub" or "storage"
    method: str
    path: str  # decoded, without the query
    query: str
    range: str | None  # the header, as sent
    authorization: str | None  # the header, as sent
    agent: str
    status: int = 0
    sent: int = 0  # bytes of the answer's body
    received: int = 0  # bytes of the request's body


class Requests:
    """All requests since the last `clear`, in the order in which they came."""

    def __init__(self) -> None:
        self._all: list[Request] = []
        self._lock = threading.Lock()

    def append(self, request: Request) -> None:
        with self._lock:
            self._all.append(request)

    def clear(self) -> None:
        with self._lock:
            self._all.clear()

    def __iter__(self) -> Iterator[Request]:
        with self._lock:
            return iter(list(self._all))

    def __len__(self) -> int:
        return len(self._all)

    def paths(self, method: str | None = None) -> list[str]:
        """The paths asked for, of one method or as "METHOD path"."""
        if method is None:
            return [f"{request.method} {request.path}" for request in self]
        return [request.path for request in self if request.method == method]

    def sent(self) -> int:
        """Bytes of all answers' bodies."""
        return sum(request.sent for request in self)

    def json(self) -> list[dict[str, object]]:
        return [asdict(request) for request in self]
