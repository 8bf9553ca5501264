"""Ranges of a remote file on their way: read on by whoever needs their bytes, resumed where a connection dropped."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Protocol

from slimtensors.container.source import Bytes, aligned_empty
from slimtensors.errors import RemoteError
from slimtensors.threads import given_up

__all__ = ["PROGRESS", "Answer", "Interrupted", "RemoteFile", "Span", "front_bytes"]

TRIES = 5  # in a row that brought next to nothing
PROGRESS = 16 * 1024  # bytes that are more than that
FIRST_WAIT, MAX_WAIT = 0.5, 8.0  # seconds, doubled from try to try
WAIT_STEP = 0.25
MAX_ASKED_WAIT = 60.0  # of what a server asks for
FRONT_BYTES = 64 * 1024  # asked for first: prefix, header, index and table of most files
FRONT_SHARE = 8192  # of large files, one byte in so many: they have more chunks, and a longer table
MAX_FRONT_BYTES = 4 << 20
SLOWEST = 1024  # bytes a second; a server that keeps a connection open for less is as good as gone
PATIENCE = 30.0  # seconds over which that is looked at


def front_bytes(size: int | None) -> int:
    """How many bytes to ask for first, of a file of this size, if that is known."""
    return FRONT_BYTES if size is None else max(FRONT_BYTES, min(MAX_FRONT_BYTES, size // FRONT_SHARE))


def _wait(seconds: float) -> None:
    """In short steps, in case it is given up."""
    while seconds > 0 and not given_up():
        time.sleep(min(seconds, WAIT_STEP))
        seconds -= WAIT_STEP


class Interrupted(Exception):  # noqa: N818 # what happened to a request; nobody outside sees it
    """A request came to nothing, and may be made again. `wait`: seconds that the server asks for."""

    def __init__(self, why: str, wait: float | None = None) -> None:
        super().__init__(why)
        self.wait = wait


class Answer(Protocol):
    """What a server sends for a range."""

    stop: int  # where it ends, which may be before what was asked for

    def pieces(self) -> Iterator[bytes]:
        """The bytes, in pieces as they come. Raises Interrupted."""

    def close(self) -> None:
        """Let go of the connection."""


class RemoteFile(Protocol):
    """Used from several threads."""

    label: str

    def open(self, start: int, stop: int | None) -> Answer:
        """Ask for bytes [start, stop), or for the front of the file, how much of it is the file's to say.

        Raises Interrupted where trying again may help, RemoteError where it will not.
        """


class Span:
    """Bytes [start, stop) of a file; `stop` is None for its front, until that has been asked for.

    There is no thread behind it: whoever waits for a part reads on to its end, and those who wait for later parts take
    turns. An answer that breaks off is asked for again from where it ended.
    """

    def __init__(self, file: RemoteFile, start: int, stop: int | None, into: Bytes | None = None) -> None:
        self.start, self.stop = start, stop
        self._file = file
        self._data = into
        self._filled = 0
        self._answer: Answer | None = None
        self._pieces: Iterator[bytes] = iter(())
        self._lock = threading.Lock()

    def whole(self) -> Bytes:
        """All of it, and the connection given back."""
        with self._lock:
            data = self._fill(None)
            assert self.stop is not None
            return data[: self.stop - self.start]

    def part(self, offset: int, length: int) -> Bytes:
        """Bytes of the file that lie in it."""
        first = offset - self.start
        with self._lock:
            return self._fill(first + length)[first : first + length]

    def close(self) -> None:
        """Let go of the connection; what is not there yet is asked for again when it is needed."""
        with self._lock:
            self._drop()

    def _fill(self, wanted: int | None) -> Bytes:
        tries = 0
        while not self._has(wanted):
            if given_up():
                raise RemoteError(f"{self._file.label}: nobody waits for it any more")
            before = self._filled
            try:
                self._read_on(wanted)
            except Interrupted as error:
                self._drop()
                tries = 1 if self._filled - before >= PROGRESS else tries + 1
                if tries == TRIES:
                    raise RemoteError(f"{self._file.label}: {error}, {TRIES} times in a row; try again later") from None
                asked = min(MAX_ASKED_WAIT, error.wait or 0)
                _wait(max(asked, min(MAX_WAIT, FIRST_WAIT * 2 ** (tries - 1))))
            except BaseException:
                self._drop()
                raise
        if self._has(None):
            self._drop()
        assert self._data is not None
        return self._data

    def _has(self, wanted: int | None) -> bool:
        return self._data is not None and self.stop is not None and self._filled >= (wanted or self.stop - self.start)

    def _read_on(self, wanted: int | None) -> None:
        if self._answer is None:
            self._answer = self._file.open(self.start + self._filled, self.stop)
            self._pieces = self._answer.pieces()
            if self.stop is None:
                self.stop = self._answer.stop
        assert self.stop is not None
        length, end = self.stop - self.start, self._answer.stop - self.start
        if self._data is None:
            self._data = aligned_empty(length)
        began, before = time.monotonic(), self._filled
        while self._filled < min(end, wanted or length):
            piece = next(self._pieces, b"")
            if not piece:
                raise Interrupted("the connection ended too early")
            count = min(len(piece), end - self._filled)  # a server may send more than it was asked for
            self._data.data[self._filled : self._filled + count] = piece[:count]
            self._filled += count
            if time.monotonic() - began > PATIENCE:
                if self._filled - before < SLOWEST * PATIENCE:
                    raise Interrupted("the server hardly sends anything")
                began, before = time.monotonic(), self._filled
        if self._filled == end < length:  # the server sends no more at once
            self._drop()

    def _drop(self) -> None:
        answer, pieces = self._answer, self._pieces
        self._answer, self._pieces = None, iter(())
        if answer is not None:
            answer.close()
        del pieces  # after that, as it would close the answer too, where an interrupt is lost: by its destructor
