"""Weights that stay compressed, and the one buffer into which they are decoded by turns."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import NoReturn

import torch

from slimtensors.container.source import aligned_empty
from slimtensors.errors import UsageError
from slimtensors.numpy import as_array
from slimtensors.on_torch.tensors import from_array, torch_dtype
from slimtensors.reading.scheduling import Piece
from slimtensors.reading.tensors import TensorFile

__all__ = ["Buffer", "StoredWeight"]

CHUNKS_EACH = 4  # of a thread: to start one for less takes longer than it saves


class Buffer:
    """Memory that all weights share. Whoever decodes into it, or computes with what is there, holds its lock."""

    def __init__(self, nbytes: int, threads: int) -> None:
        self.memory = aligned_empty(nbytes)
        self.nbytes = nbytes
        self.threads = threads
        self.lock = threading.Lock()
        self.holds: StoredWeight | None = None
        self.closed = False

    def close(self) -> None:
        """The files are closed next; copies of the model have their weights still."""
        with self.lock:
            self.closed, self.holds = True, None


class StoredWeight:
    """A weight in its file. It never changes, so that copies of a module share it."""

    def __init__(self, file: TensorFile, name: str, buffer: Buffer) -> None:
        self._file, self._index, self.buffer = file, file.find(name), buffer
        self.requires_grad = False  # in the plain layer
        self.tensor = file.tensor(name)
        self.dtype = torch_dtype(self.tensor.dtype)
        number = file.header.tensor_stream[self._index]
        chunks = 1 if number is None else file.header.streams[number].chunks
        self._gap = 0 if number is None else file.header.streams[number].chunk  # units between rows read together
        self.device = torch.device("cpu")
        self._threads = min(buffer.threads, max(1, chunks // CHUNKS_EACH))

    def __deepcopy__(self, _memo: object) -> StoredWeight:
        return self

    @property
    def file(self) -> TensorFile:
        """Raises UsageError after it was closed."""
        if self.buffer.closed:
            raise UsageError(
                "the file of this layer's weight was closed, by what `keep_compressed` returned: make another model"
            )
        return self._file

    def __reduce__(self) -> NoReturn:
        raise UsageError(
            "a compressed layer cannot be pickled: its weight is in a file; save model.state_dict() instead"
        )

    def shared(self) -> torch.Tensor:
        """The weight, in the buffer: good for as long as the caller holds the buffer's lock."""
        units = self.buffer.memory[: self.tensor.nbytes].view(self.tensor.dtype.unit)
        if self.buffer.holds is not self:
            self.buffer.holds = None  # noise, until all of it is there
            self.file.fill([Piece(self._index, 0, units)], self._threads)
            self.buffer.holds = self
        return from_array(as_array(units, self.tensor), self.tensor.dtype, "cpu")

    def done(self) -> None:
        """What computes with the weight in the buffer has been asked for."""

    def settle(self) -> None:
        """Wait for the verdict on what was decoded, if there is none yet. Raises its error."""

    def fresh(self) -> torch.Tensor:
        """The weight, in memory of its own."""
        units = self.file.read(self._index, self._threads)
        return from_array(as_array(units, self.tensor), self.tensor.dtype, "cpu")

    def rows(self, wanted: Sequence[int]) -> torch.Tensor:
        """Rows of a matrix, [len(wanted), columns]; wanted rises. Only the chunks that they touch are decoded."""
        columns = self.tensor.shape[1]
        units = aligned_empty(len(wanted) * columns * self.tensor.dtype.unit_bytes).view(self.tensor.dtype.unit)
        pieces, begin = [], 0
        for i in range(1, len(wanted) + 1):
            if i == len(wanted) or wanted[i] != wanted[i - 1] + 1:  # a run of rows ends
                pieces.append(Piece(self._index, wanted[begin] * columns, units[begin * columns : i * columns]))
                begin = i
        self.file.fill(pieces, self._threads)
        return from_array(as_array(units, self.tensor, (len(wanted), columns)), self.tensor.dtype, "cpu")
