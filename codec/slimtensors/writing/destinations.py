"""Where a file goes: a path (by way of a temporary file), or a file object."""

from __future__ import annotations

import errno
import io
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from slimtensors.container.remote import is_remote
from slimtensors.container.system import TemporaryOutput, file_identity
from slimtensors.container.writer import Output
from slimtensors.errors import UsageError

__all__ = ["check_destination", "write_to"]

COPY_BYTES = 1 << 20
_NAMED = {".slimtensors": "slimtensors", ".safetensors": "safetensors", ".gguf": "GGUF"}  # suffixes that say what it is


def check_destination(target: Any, source: Any = None, suffix: str | None = None) -> None:
    """Raises UsageError for what cannot be written to, what would replace its own source, and names that say that the
    file is something else. Called before any work is done.

    target: as for `write_to`. source: what it is made from, if that is a file: a path, or a file object. suffix: of
    files of the kind that is made.
    """
    if is_remote(target):
        way = "upload it then" if not target.startswith("hf://") else "then `slimtensors push` or slimtensors_hub.push"
        raise UsageError(f"{target} lies elsewhere, where nothing can be saved to: save to a local file, {way}")
    named = isinstance(target, (str, os.PathLike))
    if not named:
        _check_object(target)
    same = None if source is None else _identity(source)
    if source is target or (same is not None and same == _identity(target)):
        what = os.fsdecode(source) if isinstance(source, (str, os.PathLike)) else "the source"
        raise UsageError(f"{what} would be replaced by what is made from it; name another file")
    if named and suffix is not None:
        _check_name(Path(os.fsdecode(target)), suffix)


def _check_object(target: Any) -> None:
    if not hasattr(target, "write"):
        raise UsageError(f"cannot write to {type(target).__name__}: give a path or a binary file object")
    if isinstance(target, io.TextIOBase):
        raise UsageError("cannot write to a file object that takes text: open it with mode 'wb'")
    # Of others that derive from io's classes, `writable` may be none of theirs.
    if isinstance(target, (io.FileIO, io.BufferedReader)) and not target.writable():
        raise UsageError("cannot write to a file object that is open for reading only: open it with mode 'wb'")


def _identity(place: Any) -> tuple[int, int] | None:
    """What tells a file from all others, whatever path, link or file object leads to it; None of what is no file."""
    if isinstance(place, (str, os.PathLike)):
        return None if is_remote(place) else file_identity(place)
    if isinstance(place, tempfile.SpooledTemporaryFile):
        return None  # whose number would take it out of memory
    try:
        found = os.fstat(place.fileno())
    except (AttributeError, TypeError, ValueError, io.UnsupportedOperation):  # ways of having no number
        return None
    return found.st_dev, found.st_ino


def _check_name(path: Path, suffix: str) -> None:
    if path.suffix in _NAMED and path.suffix != suffix:
        name = path.stem if path.stem.endswith(suffix) else path.stem + suffix
        raise UsageError(
            f"{path} has the name of a {_NAMED[path.suffix]} file, and what is made is a {_NAMED[suffix]} file: "
            f"name it {name}"
        )


def write_to(
    target: Any,
    write: Callable[[Output], None],
    check: Callable[[Any], None] | None = None,
    *,
    durable: bool = True,
    like: Any = None,
) -> None:
    """Let `write` fill an output, let `check` read it back, and only then put it where it belongs.

    target: what `check_destination` has looked at: a path, or a binary file object, which gets the whole file at its
    position once it is complete (it is spooled beside the system's other temporary files until then, so it need not be
    able to seek). like: what it is made from; if that is a path, nobody may read a new file who may not read that one.
    """
    if isinstance(target, (str, os.PathLike)):
        output = TemporaryOutput(target)
        try:
            write(output)
            if check is not None:
                check(output.path)
            output.commit(durable=durable, like=like if _is_local(like) else None)
        except BaseException:
            output.discard()
            raise
    else:
        with tempfile.TemporaryFile("w+b") as spool:
            write(_Spool(spool))
            if check is not None:
                check(spool)
            spool.seek(0)
            while block := spool.read(COPY_BYTES):
                _write_all(target, block)


def _is_local(target: Any) -> bool:
    return isinstance(target, (str, os.PathLike)) and not is_remote(target)


def _write_all(target: Any, block: bytes) -> None:
    """Raw file objects may take less than they are given; what only looks like a file object may not tell."""
    view = memoryview(block)
    while len(view):
        count = target.write(view)
        if count is None and not isinstance(target, io.RawIOBase):
            return
        if not count:
            raise BlockingIOError(errno.EAGAIN, "the file object to write to would block", len(block) - len(view))
        view = view[count:]


class _Spool:
    """A temporary file as an output."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, data: bytes | memoryview) -> None:
        self._file.write(data)

    def write_at_start(self, data: bytes) -> None:
        self._file.seek(0)
        self._file.write(data)
        self._file.seek(0, os.SEEK_END)
