"""Ranges of an object in a bucket, by s3fs: credentials and endpoints are found as it finds them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from slimtensors.errors import RemoteError, UsageError
from slimtensors_hub.remote.spans import Interrupted, front_bytes

__all__ = ["StoredObject", "list_objects"]

_CLIENTS = ("aiobotocore", "aiohttp", "botocore")
PIECE_BYTES = 2 << 20  # of one request


def _store() -> Any:
    try:
        import s3fs
    except ImportError:
        raise UsageError("s3:// needs s3fs: pip install 'slimtensors[s3]'") from None
    return s3fs.S3FileSystem(use_listings_cache=False)


class StoredObject:
    """An object. Its handles hold its ETag and ask for nothing else."""

    def __init__(self, name: str) -> None:
        self.label = name
        self._store = _store()
        self._handles: list[Any] = []
        self._lock = threading.Lock()
        self._tag: str | None = None
        handle = self._take()
        self.size: int = handle.size
        self._give(handle)

    def open(self, start: int, stop: int | None) -> ObjectAnswer:
        """See RemoteFile."""
        if stop is None:
            stop = min(self.size, front_bytes(self.size))
        return ObjectAnswer(self, start, stop)

    def read(self, start: int, stop: int) -> bytes:
        """One request. Raises Interrupted, RemoteError."""
        handle = self._take()
        try:
            handle.seek(start)
            data: bytes = handle.read(stop - start)
        except Exception as error:
            raise self._judged(error) from None
        self._give(handle)
        return data

    def _take(self) -> Any:
        with self._lock:
            if self._handles:
                return self._handles.pop()
        try:
            handle = self._store.open(self.label, "rb", cache_type="none")
        except Exception as error:
            raise self._judged(error) from None
        tag = handle.details.get("ETag")
        with self._lock:
            self._tag = self._tag or tag
            if tag != self._tag:
                raise RemoteError(f"{self.label} was changed while it was read (another ETag): open it again")
        return handle

    def _give(self, handle: Any) -> None:
        with self._lock:
            self._handles.append(handle)

    def _judged(self, error: Exception) -> Exception:
        """What an error of the store means."""
        if isinstance(error, RemoteError):
            return error
        if type(error).__name__ == "FileExpired":
            return RemoteError(f"{self.label} was changed while it was read (another ETag): open it again")
        if isinstance(error, FileNotFoundError):
            return RemoteError(f"{self.label}: there is no such object: check the name")
        if isinstance(error, PermissionError) or type(error).__name__ == "NoCredentialsError":
            return RemoteError(f"{self.label}: access is refused ({error}): check your AWS credentials")
        if isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _CLIENTS:
            return Interrupted(f"no answer from the store ({error})")
        return error


class ObjectAnswer:
    """A range, read in pieces."""

    def __init__(self, stored: StoredObject, start: int, stop: int) -> None:
        self.stop = stop
        self._stored, self._start = stored, start

    def pieces(self) -> Iterator[bytes]:
        """See Answer."""
        for start in range(self._start, self.stop, PIECE_BYTES):
            yield self._stored.read(start, min(start + PIECE_BYTES, self.stop))

    def close(self) -> None:
        """Every piece was a request of its own."""


def list_objects(name: str, *, inner: bool) -> dict[str, str]:
    """Names of the objects in a folder, by path within it."""
    try:
        store = _store()
        found: list[str] = store.find(name) if inner else store.ls(name, detail=False)
        if not found:
            raise FileNotFoundError
    except (FileNotFoundError, ValueError):  # the second of no bucket at all
        raise RemoteError(f"{name}: there is no such bucket or folder: check the name") from None
    except OSError as error:
        raise RemoteError(f"{name}: {error}: check your AWS credentials") from None
    start = f"{name.removeprefix('s3://').rstrip('/')}/"
    return {each.removeprefix(start): f"s3://{each}" for each in sorted(found)}
