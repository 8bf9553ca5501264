"""Weights that stay compressed on a device, and the one buffer there into which they are decoded by turns."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from slimtensors.device.backend import Backend
from slimtensors.numpy import array_shape
from slimtensors.offload.stored import StoredWeight
from slimtensors.on_torch.device import range_there, read_there
from slimtensors.on_torch.tensors import torch_dtype
from slimtensors.reading.tensors import TensorFile

if TYPE_CHECKING:
    from slimtensors.device.loading import Filling

__all__ = ["DeviceBuffer", "WeightThere"]


class DeviceBuffer:
    """As `stored.Buffer`. What a thread computed with is checked when it asks for another weight, or by `check`."""

    def __init__(self, nbytes: int, threads: int, backend: Backend) -> None:
        self.backend, self.threads = backend, threads
        self.memory = backend.fresh(nbytes)
        self.nbytes = nbytes
        self.lock = threading.Lock()
        self.holds: StoredWeight | None = None
        self.closed = False
        self.filling: Filling | None = None  # of what it holds
        self.used: Any = None  # a mark behind what computes with it
        self._local = threading.local()

    def close(self) -> None:
        """As on the CPU."""
        with self.lock:
            self.closed, self.holds = True, None

    def use(self, filling: Filling) -> None:
        """This thread computes with what was decoded, unchecked; what it computed with before is checked."""
        before = self._unchecked()
        self._local.unchecked = [filling]
        self._check([each for each in before if each is not filling])

    def check(self) -> None:
        """Raises what was wrong with weights that this thread computed with."""
        fillings, self._local.unchecked = self._unchecked(), []
        self._check(fillings)

    def _unchecked(self) -> list[Filling]:
        return getattr(self._local, "unchecked", [])

    def _check(self, fillings: Sequence[Filling]) -> None:
        try:
            for filling in fillings:
                filling.check()
        except BaseException:
            self.holds = None
            raise


class WeightThere(StoredWeight):
    """Its stored bytes are on the device from the first use on; those of an embedding are uploaded as they are needed.

    Decoding is asked of the queue that computes.
    """

    buffer: DeviceBuffer  # type: ignore[assignment] # one of another kind, with a lock like the other's

    def __init__(self, file: TensorFile, name: str, buffer: DeviceBuffer) -> None:
        from slimtensors.device.loading import Kept  # loads Numba

        super().__init__(file, name, buffer)  # type: ignore[arg-type] # as above
        self.device = torch.as_tensor(buffer.memory).device
        self._kept = Kept(on_device=True)

    def shared(self) -> torch.Tensor:
        """As on the CPU."""
        from slimtensors.device.loading import begin_fill

        buffer, room = self.buffer, self.buffer.memory[: self.tensor.nbytes]
        if buffer.used is not None:
            buffer.backend.follow(buffer.used)  # by another queue perhaps
        if buffer.holds is not self:
            buffer.holds = None
            targets = {self._index: room}
            buffer.filling = begin_fill(self.file, targets, buffer.backend, self._threads, kept=self._kept)
            buffer.holds = self
        assert buffer.filling is not None
        buffer.use(buffer.filling)
        return torch.as_tensor(room).view(torch_dtype(self.tensor.dtype)).reshape(array_shape(self.tensor))

    def done(self) -> None:
        self.buffer.used = self.buffer.backend.mark()

    def settle(self) -> None:
        self.buffer.check()

    def fresh(self) -> torch.Tensor:
        """As on the CPU."""
        return read_there(self.file, [self._index], self.buffer.backend, self._threads)[self._index]

    def rows(self, wanted: Sequence[int]) -> torch.Tensor:
        """As on the CPU; checked at once."""
        columns = self.tensor.shape[1]
        found, begin = [], 0
        for i in range(1, len(wanted) + 1):
            if i == len(wanted) or (wanted[i] - wanted[i - 1]) * columns > self._gap:
                some = wanted[begin:i]
                low, high = some[0] * columns, (some[-1] + 1) * columns
                flat, first = range_there(self.file, self._index, low, high, self.buffer.backend, self._threads)
                matrix = flat.view(self.dtype)[low - first : high - first].reshape(-1, columns)
                found.append(matrix[torch.tensor([row - some[0] for row in some], device=self.device)])
                begin = i
        if not found:
            return torch.empty(0, columns, dtype=self.dtype, device=self.device)
        return torch.cat(found)
