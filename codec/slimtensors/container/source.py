"""Where bytes come from: a path, bytes, a file object, or anything with ranged reads."""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
from collections.abc import Iterable
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import numpy.typing as npt

from slimtensors.container.remote import is_remote, open_remote
from slimtensors.container.system import RandomAccessFile, huge_pages
from slimtensors.errors import TruncatedError, UsageError

__all__ = ["ByteSource", "Bytes", "FileObject", "LocalSource", "NamedSource", "RangedReads", "open_source", "to_map"]

Bytes = npt.NDArray[np.uint8]
HUGE_BYTES = 2 << 20  # of a huge page
KERNEL_ALIGNMENT = 16  # of what a kernel views as wider integers


@runtime_checkable
class RangedReads(Protocol):
    """What a caller may hand in: an object store's client, a cache, a decrypting reader."""

    def size(self) -> int:
        """Total bytes."""

    def read_range(self, offset: int, length: int) -> bytes:
        """Exactly these bytes; called from several threads."""


class FileObject(Protocol):
    """A binary file object that can seek."""

    def seek(self, offset: int, whence: int = 0, /) -> int: ...
    def tell(self) -> int: ...
    def read(self, size: int = -1, /) -> bytes: ...


class ByteSource(Protocol):
    """What readers here use."""

    label: str
    waits: bool  # whether reading may wait for something else than a processor
    remote: bool  # whether every read is a request over a network

    @property
    def waited(self) -> bool:
        """Whether the last read had to wait; true where that cannot be known. If not, more readers would not help."""

    def size(self) -> int: ...

    def expect(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Offsets and lengths that will be read soon, in this order: neighbours can share a request."""

    def read(self, offset: int, length: int, scratch: Bytes | None = None) -> Bytes:
        """These bytes as an aligned array, in `scratch` where that is given and a copy is needed. Never write to it."""

    def close(self) -> None: ...


class NamedSource(ByteSource, Protocol):
    """A source elsewhere."""

    name: str  # opens the same bytes again, for good where the place can promise that


class LocalSource:
    """What sources on this machine have in common."""

    remote = False

    @property
    def waited(self) -> bool:
        """See ByteSource."""
        return True

    def expect(self, _ranges: Iterable[tuple[int, int]]) -> None:
        """One read is as good as another."""


class FileSource(LocalSource):
    """A file by pread: safe against truncation, on network file systems and in forked processes."""

    waits = True

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.label = os.fspath(path)
        self._file = RandomAccessFile(path)

    @property
    def waited(self) -> bool:
        """See ByteSource."""
        return self._file.waited

    def size(self) -> int:
        return self._file.size()

    def read(self, offset: int, length: int, scratch: Bytes | None = None) -> Bytes:
        target = buffer(length, scratch)
        count = self._file.read_into(offset, target.data)
        if count != length:
            raise short(self.label, offset, length, count)
        return target

    def close(self) -> None:
        self._file.close()


class BufferSource(LocalSource):
    """Bytes in memory, or a mapped file."""

    waits = False

    def __init__(self, data: Any, label: str = "the bytes given") -> None:
        self.label = label
        self._data = memoryview(data).cast("B")
        self._array = _writable(self._data)
        self._address: int = self._array.ctypes.data  # asked for once: it takes as long as all else of a read

    def size(self) -> int:
        return len(self._data)

    def read(self, offset: int, length: int, scratch: Bytes | None = None) -> Bytes:
        piece = self._array[offset : offset + length]
        if piece.size != length:
            if self._address < 0:
                raise ValueError(f"{self.label} is closed")
            raise short(self.label, offset, length, piece.size)
        if length and (self._address + offset) % KERNEL_ALIGNMENT:
            target = buffer(length, scratch)
            target[:] = piece
            return target
        return piece

    def close(self) -> None:
        self._array, self._address = np.empty(0, np.uint8), -1
        self._data = memoryview(b"")


class RangedSource(LocalSource):
    """A file object (one read at a time), or an object with ranged reads (as many as there are threads)."""

    waits = True

    def __init__(self, target: RangedReads | FileObject, label: str) -> None:
        self.label = label
        self._target = target
        self._lock = threading.Lock()

    def size(self) -> int:
        if isinstance(self._target, RangedReads):
            return self._target.size()
        with self._lock:
            return self._target.seek(0, os.SEEK_END)

    def read(self, offset: int, length: int, scratch: Bytes | None = None) -> Bytes:
        if isinstance(self._target, RangedReads):
            data = self._target.read_range(offset, length)
        else:
            with self._lock:
                self._target.seek(offset)
                data = _read_all(self._target, length)
        if len(data) != length:
            raise short(self.label, offset, length, len(data))
        if isinstance(data, bytes) and length:  # which nobody can change: no copy is needed, as a rule
            held = _writable(memoryview(data))
            if held.ctypes.data % KERNEL_ALIGNMENT == 0:
                return held
        target = buffer(length, scratch)
        target[:] = np.frombuffer(data, np.uint8)
        return target

    def close(self) -> None:
        """The caller's object stays open; it is the caller's."""


def to_map(mmap: bool, backend: str | None) -> bool:
    """Whether files are mapped: as `mmap` says, or as safetensors' `backend`, if that is given. Raises UsageError."""
    if backend is None:
        return mmap
    if backend not in ("mmap", "pread"):
        raise UsageError(f"backend is {backend!r}; it can be mmap or pread")
    if mmap and backend == "pread":
        raise UsageError("mmap=True maps the file, and backend='pread' reads it: give one of them")
    return backend == "mmap"


def open_source(target: Any, *, use_mmap: bool = False) -> ByteSource:
    """A source for a path, a name such as hf://org/repo/file, bytes (an array of them, too), a seekable file object or
    an object with ranged reads. Raises RemoteError if a server refuses.
    """
    if is_remote(target):
        if use_mmap:
            raise UsageError(f"{target} cannot be mapped: only local files can")
        return open_remote(target)
    if isinstance(target, (str, os.PathLike)):
        if use_mmap:
            file = RandomAccessFile(target)
            try:
                mapped = mmap.mmap(file.descriptor, 0, access=mmap.ACCESS_READ) if file.size() else b""
            finally:
                file.close()
            return BufferSource(mapped, os.fspath(target))
        return FileSource(target)
    if isinstance(target, (bytes, bytearray, memoryview, mmap.mmap)):
        return BufferSource(target)
    if isinstance(target, np.ndarray) and target.dtype == np.uint8 and target.flags.c_contiguous:
        return BufferSource(target)
    if isinstance(target, RangedReads) or (hasattr(target, "seek") and hasattr(target, "read")):
        return RangedSource(target, str(getattr(target, "name", None) or type(target).__name__))
    raise UsageError(
        f"cannot read from {type(target).__name__}: give a path, bytes, a binary file object that can seek, "
        "or an object with size() and read_range(offset, length)"
    )


def buffer(length: int, scratch: Bytes | None) -> Bytes:
    if scratch is not None and scratch.size >= length:
        return scratch[:length]
    return aligned_empty(length)


def aligned_empty(length: int, alignment: int = 64) -> Bytes:
    """Uninitialised bytes that begin on a cache line."""
    raw = np.empty(length + alignment, np.uint8)
    # Its address; raw.ctypes.data takes three times as long.
    skip = -ctypes.addressof(ctypes.c_uint8.from_buffer(raw.data)) % alignment
    return raw[skip : skip + length]


def lasting_empty(length: int) -> Bytes:
    """As `aligned_empty`, for what stays for a while: in huge pages, whose first touches take a third of the time, but
    which are not used again by what comes after.
    """
    memory = huge_pages(length) if length >= HUGE_BYTES else None
    return aligned_empty(length) if memory is None else np.frombuffer(memory, np.uint8)


def _writable(view: memoryview) -> Bytes:
    """An array over read-only bytes that says it is writable.

    Numba compiles a kernel once more for read-only arrays; ours never write to their inputs, so the flag is all that
    differs.
    """
    array = np.frombuffer(view, np.uint8) if len(view) else np.empty(0, np.uint8)
    if array.flags.writeable:
        return array
    holder = _Holder()
    holder.owner = view
    holder.__array_interface__ = {
        "version": 3, "typestr": "|u1", "shape": (array.size,), "data": (array.ctypes.data, False),
    }  # fmt: skip
    return cast(Bytes, np.asarray(holder))


class _Holder:
    """Keeps the bytes alive for as long as the array over them."""

    owner: memoryview
    __array_interface__: dict[str, Any]


def _read_all(file: FileObject, length: int) -> bytes:
    parts = []
    while length and (part := file.read(length)):
        parts.append(part)
        length -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def short(label: str, offset: int, length: int, count: int) -> TruncatedError:
    return TruncatedError(
        f"{label}: {length} bytes wanted from offset {offset}, {count} were there; "
        "the file was cut off or has changed: copy or download it again"
    )
