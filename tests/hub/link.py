"""A network of limited speed: all connections of a server share it."""

from __future__ import annotations

import threading
import time

__all__ = ["Link"]


class Link:
    """`rate` bytes per second for all together (None: no limit); `latency` seconds before each answer."""

    def __init__(self, rate: float | None, latency: float) -> None:
        self.rate, self.latency = rate, latency
        self._free = 0.0
        self._lock = threading.Lock()

    def wait(self) -> None:
        if self.latency:
            time.sleep(self.latency)

    def take(self, count: int) -> None:
        """Returns when `count` bytes have had their time on the wire."""
        if self.rate is None:
            return
        with self._lock:
            self._free = max(self._free, time.monotonic()) + count / self.rate
            ready = self._free
        time.sleep(max(0.0, ready - time.monotonic()))
