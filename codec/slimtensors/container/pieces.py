"""An output in front of another: chunks are made where they are to lie, and written in large pieces."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from slimtensors.container.writer import Output

__all__ = ["PIECE", "ROOM", "PieceOutput"]

# Linux keeps what was written in blocks of memory as large as the write, as far as it begins at a multiple of that.
# Chunks written one by one take a third longer to write, and their file half as long again to remove.
PIECE = 1 << 19
ROOM = 4 * PIECE  # more would not stay in a processor's cache


class PieceOutput:
    """Writes to `output` up to multiples of PIECE bytes, and the rest before the first bytes are overwritten."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._room = np.empty(ROOM, np.uint8)
        self._begin = self._end = 0  # of what is not written yet, which is less than a piece
        self._left = PIECE  # bytes from `_begin` up to the next multiple

    def take(self, length: int) -> npt.NDArray[np.uint8]:
        """Memory for what is to be written next; written where it lies, it is not copied."""
        if self._end + length > ROOM:
            held = self._end - self._begin
            if held + length > ROOM:
                return np.empty(length, np.uint8)
            self._room[:held] = self._room[self._begin : self._end]
            self._begin, self._end = 0, held
        return self._room[self._end : self._end + length]

    def write(self, data: bytes | memoryview) -> None:
        """Append."""
        given = np.frombuffer(data, np.uint8)
        if given.size > ROOM - PIECE:
            self._pass(self._end - self._begin)
            self._output.write(data)
            self._left = PIECE - (given.size - self._left) % PIECE
            return
        place = self.take(given.size)
        if given.ctypes.data != place.ctypes.data:
            place[:] = given
        self._end += given.size
        if self._end - self._begin >= self._left:
            whole = (self._end - self._begin - self._left) // PIECE
            self._pass(self._left + whole * PIECE)

    def write_at_start(self, data: bytes) -> None:
        """Overwrite the first bytes, when all that was written is on its way."""
        self._pass(self._end - self._begin)
        self._output.write_at_start(data)

    def _pass(self, length: int) -> None:
        """Write so many of the bytes that are held."""
        if length:
            self._output.write(self._room[self._begin : self._begin + length].data)
            self._begin += length
            self._left = PIECE - (length - self._left) % PIECE
