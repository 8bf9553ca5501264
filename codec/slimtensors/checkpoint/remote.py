"""Checkpoints in object stores, by way of fsspec: a file is there when its upload is completed, and not before."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from slimtensors.checkpoint.manifest import run_of
from slimtensors.checkpoint.places import Finishable
from slimtensors.errors import LimitError, UsageError
from slimtensors.threads import submit

__all__ = ["RemotePlace"]

PART_BYTES = 8 << 20  # S3 takes parts of 5 MiB and more
MOST_PARTS = 9000  # S3 takes 10,000
UPLOADS = 4  # parts under way


class RemotePlace:
    """A prefix of a store's keys, or a folder of a remote file system."""

    reads_back = False

    def __init__(self, fs: Any, path: str) -> None:
        self._fs, self._path = fs, path.rstrip("/")
        self.label, self.name = fs.unstrip_protocol(self._path), self._path.rpartition("/")[2]

    @classmethod
    def from_url(cls, url: str, storage_options: dict[str, Any]) -> RemotePlace:
        """Raises UsageError where fsspec, or the package for this kind of URL, is not installed."""
        try:
            from fsspec.core import url_to_fs  # type: ignore[import-untyped] # has no types

            return cls(*url_to_fs(url, **storage_options))
        except (ImportError, ValueError) as error:
            raise UsageError(f"{url}: {error}") from None

    def _at(self, name: str) -> str:
        return f"{self._path}/{name}"

    def sizes(self) -> dict[str, int]:
        self._fs.invalidate_cache()
        try:
            found = self._fs.ls(self._path, detail=True)
        except FileNotFoundError:
            return {}
        return {each["name"].rpartition("/")[2]: each["size"] for each in found if each["type"] == "file"}

    def read(self, name: str, most: int) -> bytes:
        data: bytes = self._fs.cat_file(self._at(name), start=0, end=most + 1)
        if len(data) > most:
            raise LimitError(f"{self.label}/{name} has more than {most} bytes")
        return data

    def replace(self, name: str, data: bytes, *, durable: bool) -> None:  # noqa: ARG002 # a store has nothing to flush
        if _is_file_system(self._fs):
            self._fs.makedirs(self._path, exist_ok=True)
        self._fs.pipe_file(self._at(name), data)

    def create(self, name: str, front: int, expected: int) -> Finishable:
        if hasattr(self._fs, "call_s3"):
            return MultipartOutput(self._fs, self._at(name), front, expected)
        if _is_file_system(self._fs):
            self._fs.makedirs(self._path, exist_ok=True)
        return StreamOutput(self._fs, self._at(name))

    def source(self, name: str) -> Any:
        return _RangedFile(self._fs, self._at(name))

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._at(name))

    def abandon(self, keep: str) -> None:
        if not hasattr(self._fs, "call_s3"):
            return
        bucket, prefix, _ = self._fs.split_path(self._path + "/")
        marks: dict[str, str] = {}
        while True:
            listed = self._fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=prefix, **marks)
            for upload in listed.get("Uploads", []):
                run = run_of(upload["Key"].rpartition("/")[2])
                if run is not None and run != keep:
                    self._fs.call_s3(
                        "abort_multipart_upload", Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                    )
            before, marks = marks, {name: listed.get(f"Next{name}") or "" for name in ("KeyMarker", "UploadIdMarker")}
            if not listed.get("IsTruncated") or marks == before:  # a store that has no marks would list for ever
                return

    def exists(self) -> bool:
        return not _is_file_system(self._fs) or bool(self._fs.exists(self._path))

    def remove_if_empty(self) -> None:
        if _is_file_system(self._fs):
            with contextlib.suppress(OSError):
                self._fs.rmdir(self._path)

    def child(self, name: str) -> RemotePlace:
        return RemotePlace(self._fs, self._at(name))

    def parent(self) -> RemotePlace | None:
        above = self._path.rpartition("/")[0]
        return RemotePlace(self._fs, above) if above.strip("/") else None


def _is_file_system(fs: Any) -> bool:
    """Whether folders have to be made before files are put into them."""
    return not hasattr(fs, "call_s3")


class _RangedFile:
    """Ranged reads of one file."""

    def __init__(self, fs: Any, path: str) -> None:
        self._fs, self._path, self.name = fs, path, fs.unstrip_protocol(path)

    def size(self) -> int:
        found: int = self._fs.info(self._path)["size"]
        return found

    def read_range(self, offset: int, length: int) -> bytes:
        data: bytes = self._fs.cat_file(self._path, start=offset, end=offset + length) if length else b""
        return data


class StreamOutput:
    """A file that fsspec writes from front to back. Where it cannot go back to the front, which is known last, the
    whole is kept in a temporary file here until then.
    """

    def __init__(self, fs: Any, path: str) -> None:
        self._fs, self._path = fs, path
        self._file = fs.open(path, "wb")
        self._spool: Any = None if self._file.seekable() else tempfile.TemporaryFile("w+b")  # noqa: SIM115 # as long as this
        self._target = self._file if self._spool is None else self._spool

    def write(self, data: bytes | memoryview) -> None:
        self._target.write(data)

    def write_at_start(self, data: bytes) -> None:
        self._target.seek(0)
        self._target.write(data)
        self._target.seek(0, 2)

    def commit(self, *, durable: bool = True) -> None:  # noqa: ARG002 # a store has nothing to flush
        if self._spool is not None:
            self._spool.seek(0)
            while block := self._spool.read(PART_BYTES):
                self._file.write(block)
            self._spool.close()
        self._file.close()

    def discard(self) -> None:
        """Leave nothing behind, if that can be done; the error that led here matters more than one from this."""
        with contextlib.suppress(Exception):
            if self._spool is not None:
                self._spool.close()
                self._file.discard()
                self._file.closed = True  # or closing it later would upload what there is
                return
            self._file.close()
            self._fs.rm_file(self._path)


class MultipartOutput:
    """An object of S3. Parts are sent as they fill up; the first, which holds the front, is sent last, and completing
    the upload makes the object.
    """

    def __init__(self, fs: Any, path: str, front: int, expected: int) -> None:
        self._call: Callable[..., Any] = fs.call_s3
        bucket, key, _ = fs.split_path(path)
        self._object = {"Bucket": bucket, "Key": key}
        self._size = max(PART_BYTES, -(-expected // MOST_PARTS))
        self._room = max(self._size, front)  # of the first part
        self._first, self._next = bytearray(), bytearray()
        self._upload: str | None = None
        self._pool = ThreadPoolExecutor(UPLOADS, "slimtensors-upload")
        self._sent: list[Future[str]] = []  # ETags of parts 2, 3, ...

    def write(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        room = self._room - len(self._first)
        if room > 0:
            self._first += view[:room]
            view = view[room:]
        self._next += view
        while len(self._next) >= self._size:
            self._send(bytes(self._next[: self._size]))
            del self._next[: self._size]

    def write_at_start(self, data: bytes) -> None:
        assert len(data) <= len(self._first)
        self._first[: len(data)] = data

    def commit(self, *, durable: bool = True) -> None:  # noqa: ARG002 # a store has nothing to flush
        if self._upload is None and not self._next:
            self._call("put_object", **self._object, Body=bytes(self._first))
            self._pool.shutdown()
            return
        if self._next:
            self._send(bytes(self._next))
        tags = [each.result() for each in self._sent]
        tags.insert(0, self._put(1, bytes(self._first)))
        parts = [{"PartNumber": i, "ETag": tag} for i, tag in enumerate(tags, 1)]
        self._call("complete_multipart_upload", **self._object, UploadId=self._upload, MultipartUpload={"Parts": parts})
        self._upload = None
        self._pool.shutdown()

    def discard(self) -> None:
        """Abort the upload, if that can be done; the error that led here matters more than one from this."""
        self._pool.shutdown(cancel_futures=True)
        if self._upload is not None:
            with contextlib.suppress(Exception):
                self._call("abort_multipart_upload", **self._object, UploadId=self._upload)

    def _send(self, data: bytes) -> None:
        if self._upload is None:
            self._upload = self._call("create_multipart_upload", **self._object)["UploadId"]
        if len(self._sent) >= UPLOADS:
            self._sent[-UPLOADS].result()  # raises what went wrong
        self._sent.append(submit(self._pool, self._put, len(self._sent) + 2, data))

    def _put(self, number: int, data: bytes) -> str:
        answer = self._call("upload_part", **self._object, UploadId=self._upload, PartNumber=number, Body=data)
        tag: str = answer["ETag"]
        return tag
