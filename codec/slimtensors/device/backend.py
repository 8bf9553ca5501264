"""What decoding needs of a device. Buffers are bytes of its memory; a slice of one is a buffer."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy.typing as npt

__all__ = ["Backend", "Buffer"]

Buffer = Any
Bytes = npt.NDArray[Any]  # uint8


class Backend(Protocol):
    """All that a queue is asked for happens in the order in which it is asked for; only `download` and `wait` wait."""

    def staging(self, length: int) -> Bytes:
        """Host memory that uploads are fast from."""

    def upload(self, data: Bytes) -> Buffer:
        """A copy on the device. `data` is read later: it stays as it is until `wait` for a mark made since."""

    def send(self, target: Buffer, data: Bytes) -> None:
        """As `upload`, into memory that is there."""

    def write(self, target: Buffer, data: Bytes) -> None:
        """Copy to a buffer; `data` may change afterwards."""

    def copy(self, target: Buffer, source: Buffer) -> None:
        """From one buffer to another."""

    def download(self, buffer: Buffer) -> Bytes: ...

    def fetch(self, buffer: Buffer) -> Bytes:
        """Host memory that holds what the buffer holds when the device gets here; to be read after `wait` for a mark
        made since.
        """

    def fresh(self, length: int) -> Buffer:
        """Memory that holds anything."""

    def zeros(self, length: int) -> Buffer: ...

    def window(self, targets: Sequence[Buffer]) -> tuple[Buffer, list[int]]:
        """A buffer that has all targets, and perhaps memory of others between them; where they begin in it. It begins
        with the first, or up to 7 bytes before it, at an address that 8 divides.
        """

    def holds(self, tensor: Any) -> bool:
        """Whether a torch tensor is in memory that kernels of this device can read."""

    def launch(self, kernel: str, blocks: int, buffers: Sequence[Buffer]) -> None:
        """Run a kernel of kernels/cuda/catalogue.py; `buffers` hold its arrays."""

    def mark(self) -> Any:
        """A point in what has been asked for."""

    def wait(self, mark: Any) -> None:
        """Until the device has got there."""

    def new_queue(self) -> Any:
        """Another queue, beside the one that the thread uses."""

    def helpers(self, count: int) -> list[Any]:
        """Queues beside those that threads use, the same ones each time, for all who ask."""

    def using(self, queue: Any) -> AbstractContextManager[Any]:
        """Inside, this thread asks that queue. What two queues are asked for happens in no order, but for `follow`."""

    def follow(self, mark: Any) -> None:
        """What this queue is asked for from now on happens when the mark, of another one, has been reached."""
