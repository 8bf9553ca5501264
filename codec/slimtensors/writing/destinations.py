"""Where a file goes: a path (by way of a temporary file), or a file object."""

from __future__ import annotations

import errno
import io
import os
import tempfile
from collections.abc import Callable
from typing import Any

from slimtensors.container.remote import is_remote
from slimtensors.container.system import TemporaryOutput
from slimtensors.container.writer import Output
from slimtensors.errors import UsageError

__all__ = ["write_to"]

COPY_BYTES = 1 << 20


def write_to(
    target: Any,
    write: Callable[[Output], None],
    check: Callable[[Any], None] | None = None,
    *,
    durable: bool = True,
    like: Any = None,
) -> None:
    """Let `write` fill an output, let `check` read it back, and only then put it where it belongs.

    target: a path, or a binary file object, which gets the whole file at its position once it is complete (it is
    spooled beside the system's other temporary files until then, so it need not be able to seek). like: what it is made
    from; if that is a path, nobody may read a new file who may not read that one.
    """
    if is_remote(target):
        way = "upload it then" if not target.startswith("hf://") else "then `slimtensors push` or slimtensors_hub.push"
        raise UsageError(f"{target} lies elsewhere, where nothing can be saved to: save to a local file, {way}")
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
    elif hasattr(target, "write"):
        with tempfile.TemporaryFile("w+b") as spool:
            write(_Spool(spool))
            if check is not None:
                check(spool)
            spool.seek(0)
            while block := spool.read(COPY_BYTES):
                _write_all(target, block)
    else:
        raise UsageError(f"cannot write to {type(target).__name__}: give a path or a binary file object")


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
