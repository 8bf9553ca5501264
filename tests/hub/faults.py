"""What goes wrong on demand. `hub.faults.add(path=..., status=503)` holds for the next request whose path matches."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Fault", "Faults"]


@dataclass
class Fault:
    """What happens to the requests that match.

    path: a pattern searched in the request's path. method: only this one. where: "hub" or "storage" (the server of
    large files), None for both. ranged: only requests with, or without, a Range. skip: let so many pass first.
    times: happen so often; None: always.
    """

    path: str = ""
    method: str | None = None
    where: str | None = None
    ranged: bool | None = None
    skip: int = 0
    times: int | None = 1
    # One or more of:
    status: int | None = None  # answer with this status ...
    code: str | None = None  # ... and this X-Error-Code
    words: str = "a fault on demand"
    delay: float = 0.0  # wait so many seconds before the answer
    drop_after: int | None = None  # close the connection after so many bytes of the body
    flip_at: int | None = None  # invert the byte of the body at this place: wrong bytes, right size
    stall_at: int | None = None  # stop for `delay` seconds after so many bytes of the body, not before it
    stale: str | None = None  # answer as if this commit were what the branch points to
    redirect: str | None = None  # send the client to another server: scheme and netloc
    answer: object = None  # JSON to answer with instead
    then: Callable[[], object] | None = None  # called before the answer, e.g. to commit a changed file

    def matches(self, where: str, method: str, path: str, ranged: bool) -> bool:
        return (
            (self.method is None or method == self.method)
            and (self.where is None or where == self.where)
            and (self.ranged is None or ranged == self.ranged)
            and re.search(self.path, path) is not None
        )


class Faults:
    """The faults that wait for their requests; `happened` counts those that came."""

    def __init__(self) -> None:
        self._waiting: list[Fault] = []
        self._lock = threading.Lock()
        self.happened = 0

    def add(self, **what: object) -> Fault:
        fault = Fault(**what)  # type: ignore[arg-type]
        with self._lock:
            self._waiting.append(fault)
        return fault

    def clear(self) -> None:
        with self._lock:
            self._waiting.clear()

    def of(self, where: str, method: str, path: str, ranged: bool) -> Fault | None:
        """The first fault that is for this request, counted down."""
        with self._lock:
            for fault in self._waiting:
                if not fault.matches(where, method, path, ranged):
                    continue
                if fault.skip:
                    fault.skip -= 1
                    continue
                if fault.times is not None:
                    fault.times -= 1
                    if not fault.times:
                        self._waiting.remove(fault)
                self.happened += 1
                return fault
        return None
