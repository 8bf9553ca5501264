"""slow://: a file system of fsspec's that takes what is written no faster than a store 50 MB/s away would."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

if TYPE_CHECKING:
    from typing_extensions import Self

RATE = 50e6  # bytes a second, of all that is written


class SlowFile:
    """A file that is written at the store's rate. The store is busy until a moment that all files share."""

    _free_at, _lock = 0.0, threading.Lock()

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, data: Any) -> int:
        length = memoryview(data).nbytes
        with SlowFile._lock:
            SlowFile._free_at = due = max(SlowFile._free_at, time.perf_counter()) + length / RATE
        self._file.write(data)
        while (left := due - time.perf_counter()) > 0:
            time.sleep(left)
        return length

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


class SlowFileSystem(LocalFileSystem):
    """Files of this machine, written slowly."""

    protocol = ("slow",)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.removeprefix("slow://"))

    def _open(self, path: str, mode: str = "rb", **more: Any) -> Any:
        file = super()._open(path, mode, **more)
        return SlowFile(file) if "w" in mode else file


fsspec.register_implementation("slow", SlowFileSystem, clobber=True)
