"""A remote file as a source of bytes: its front is kept, and neighbours that are expected share a request."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass

from slimtensors.container.source import KERNEL_ALIGNMENT, Bytes, buffer, short
from slimtensors_hub.remote.spans import RemoteFile, Span

__all__ = ["RemoteSource"]

SPAN_BYTES = 2 << 20  # of one request: some chunks, so that several requests are under way while chunks are decoded
MAX_SHARED = 32  # spans that were begun and are still to be read from; nobody may come for the rest


@dataclass(eq=False)
class _Shared:
    """A span that several reads share."""

    span: Span
    left: dict[int, int]  # offset and length of the reads to come


class RemoteSource:
    """A `ByteSource` over a file elsewhere. Memory: the file's front, and at most MAX_SHARED spans."""

    waits = True
    waited = True  # before every answer
    remote = True

    def __init__(self, file: RemoteFile, name: str, size: int, front: Bytes) -> None:
        self.label, self.name = file.label, name
        self._file, self._size, self._front = file, size, front
        self._expected: dict[int, _Shared] = {}  # by offset
        self._begun: dict[_Shared, None] = {}  # the oldest first
        self._lock = threading.Lock()

    def size(self) -> int:
        """See ByteSource."""
        return self._size

    def expect(self, ranges: Iterable[tuple[int, int]]) -> None:
        """See ByteSource. What is expected and never read is never asked for, unless a later neighbour is read."""
        run: dict[int, int] = {}
        end = 0
        wanted = list(ranges)  # which may have to read for it
        with self._lock:
            for offset, length in wanted:
                if offset < self._front.size or offset in self._expected or not length:
                    continue
                if run and (offset != end or offset + length - min(run) > SPAN_BYTES):
                    self._share(run, end)
                    run = {}
                run[offset] = length
                end = offset + length
            self._share(run, end)

    def _share(self, run: dict[int, int], end: int) -> None:
        if len(run) > 1:
            shared = _Shared(Span(self._file, min(run), end), run)
            self._expected |= dict.fromkeys(run, shared)

    def read(self, offset: int, length: int, scratch: Bytes | None = None) -> Bytes:
        """See ByteSource. Raises RemoteError, after some tries."""
        end, known = offset + length, self._front.size
        if end > self._size:
            raise short(self.label, offset, length, max(0, self._size - offset))
        if end <= known:
            return _aligned(self._front[offset:end], scratch)
        span = self._shared(offset, length)
        if span is not None:
            return _aligned(span.part(offset, length), scratch)
        target, have = buffer(length, scratch), max(0, known - offset)
        target[:have] = self._front[offset : offset + have]
        Span(self._file, offset + have, end, target[have:]).whole()
        return target

    def _shared(self, offset: int, length: int) -> Span | None:
        """The span that a read was planned to share, once."""
        forgotten = None
        with self._lock:
            shared = self._expected.pop(offset, None)
            if shared is None:
                return None
            expected = shared.left.pop(offset)
            if shared.left:
                self._begun[shared] = None
            else:
                self._begun.pop(shared, None)
            if len(self._begun) > MAX_SHARED:
                forgotten = next(iter(self._begun))
                del self._begun[forgotten]
                for other in forgotten.left:
                    del self._expected[other]
        if forgotten is not None:
            forgotten.span.close()
        return shared.span if expected == length else None

    def close(self) -> None:
        """Let go of all connections."""
        with self._lock:
            begun = list(self._begun)
            self._begun.clear()
            self._expected.clear()
        for shared in begun:
            shared.span.close()


def _aligned(piece: Bytes, scratch: Bytes | None) -> Bytes:
    if piece.size and piece.ctypes.data % KERNEL_ALIGNMENT:
        target = buffer(piece.size, scratch)
        target[:] = piece
        return target
    return piece
