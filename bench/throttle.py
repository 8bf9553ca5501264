"""A reader that is as slow as a disk of a given rate: one request after another, and never faster than the rate."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path


class Throttled:
    """Ranged reads of a file, whose pages should be in the cache. The disk's queue is kept as a clock, so that a reader
    who comes back late has lost that time, as with a disk.
    """

    def __init__(self, path: Path, bytes_per_second: float) -> None:
        self.name = str(path)
        self._descriptor = os.open(path, os.O_RDONLY)
        self._rate = bytes_per_second
        self._free_at = 0.0
        self._lock = threading.Lock()

    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def read_range(self, offset: int, length: int) -> bytes:
        with self._lock:
            self._free_at = max(self._free_at, time.perf_counter()) + length / self._rate
            due = self._free_at
        data = os.pread(self._descriptor, length, offset)
        while (left := due - time.perf_counter()) > 0:
            time.sleep(left)
        return data

    def read_all(self, piece: int = 1 << 20) -> bytearray:
        """Everything, by two requests at a time: the best that a loader of plain bytes can do."""
        made = bytearray(self.size())
        offsets = iter(range(0, len(made), piece))

        def work() -> None:
            while True:
                with self._taking:
                    offset = next(offsets, None)
                if offset is None:
                    return
                data = self.read_range(offset, min(piece, len(made) - offset))
                made[offset : offset + len(data)] = data

        helper = threading.Thread(target=work)
        helper.start()
        work()
        helper.join()
        return made

    _taking = threading.Lock()

    def close(self) -> None:
        os.close(self._descriptor)
