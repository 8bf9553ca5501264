"""Tensors of a plan decoded on a device ahead of whoever takes them: a batch while the one before it is worked on."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import torch

from slimtensors.container.header import Tensor
from slimtensors.device.backend import Backend
from slimtensors.errors import UsageError
from slimtensors.on_torch.device import empty_there, read_into, read_slice_there
from slimtensors.stream.loader import Source
from slimtensors.stream.ordered import AHEAD_BYTES
from slimtensors.stream.plan import Wanted

__all__ = ["AheadThere", "as_decoded", "source_there"]

BATCH_BYTES = 64 << 20  # decoded together, at most; half of what may be ahead
UNDER_WAY = 2  # batches


def source_there(backend: Backend, threads: int, ahead: int, base: Any) -> Source:
    """What decodes ahead on a device, for `PrefetchLoader`; `as_decoded` is what converts for it."""
    return lambda wanted: AheadThere(wanted, backend, threads, ahead, base)


def as_decoded(tensor: torch.Tensor, _tensor: Tensor, _shape: tuple[int, ...]) -> torch.Tensor:
    """A tensor is what it should be already."""
    return tensor


class _Batch(NamedTuple):
    items: list[int]
    tensors: list[torch.Tensor]
    decoded: Future[Any]  # a mark behind it


class AheadThere:
    """As `stream.ordered.Ordered`, for tensors on a device.

    A thread of its own asks a queue of its own to decode, and sees to the verdict. Memory for what is handed out comes
    from the taker's queue, which is where it will be worked on and given back; the decoder's queue follows a mark made
    then, and the taker's follows one behind the batch.
    """

    def __init__(
        self, wanted: Sequence[Wanted], backend: Backend, threads: int, ahead: int = AHEAD_BYTES, base: Any = None
    ) -> None:
        self.wanted = wanted
        self._backend, self._threads, self._base = backend, threads, base
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="slimtensors-device")
        self._queue = backend.new_queue()
        self._batches = _batches(wanted, min(BATCH_BYTES, ahead // UNDER_WAY))
        self._under_way: deque[_Batch] = deque()
        self._made: dict[int, torch.Tensor] = {}
        self._taken: set[int] = set()
        self._error: BaseException | None = None
        self._closed = False
        self._lock = threading.Lock()
        try:
            for _ in range(UNDER_WAY):
                self._start()
        except BaseException:
            self.close()
            raise

    def take(self, item: int) -> torch.Tensor:
        """An item's tensor, once. What this thread asks its queue for from now on sees it whole. Raises the first error
        of all that was to be decoded.
        """
        name = self.wanted[item].name
        with self._lock:
            if item in self._taken:
                raise UsageError(f"tensor {name!r} has been taken already")
            while item not in self._made:
                if self._error is not None:
                    raise self._error
                if self._closed:
                    raise UsageError(f"tensor {name!r}: the loader has been closed")
                self._receive()
            self._taken.add(item)
            return self._made.pop(item)

    def left(self) -> Iterator[int]:
        """Items not taken, in order."""
        return (item for item in range(len(self.wanted)) if item not in self._taken)

    def stop(self) -> None:
        """Stop without waiting."""
        self._closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """Stop, and let go of what was not taken. What is in hand is brought to its end first."""
        with self._lock:
            self._closed = True
            self._pool.shutdown(wait=True, cancel_futures=True)
            while self._under_way:  # given back to the taker's queue, so not before the decoder's is done with it
                batch = self._under_way.popleft()
                if not batch.decoded.cancelled() and batch.decoded.exception() is None:
                    self._backend.follow(batch.decoded.result())
            self._made.clear()

    def _receive(self) -> None:
        """Wait for the next batch, and start one more."""
        batch = self._under_way.popleft()
        try:
            self._backend.follow(batch.decoded.result())
            self._made |= zip(batch.items, batch.tensors, strict=True)
            self._start()
        except BaseException as error:
            self._error = error
            self.stop()
            raise

    def _start(self) -> None:
        items = next(self._batches, None)
        if items is None or self._closed:
            return
        tensors = [empty_there(self.wanted[item], self._backend) for item in items]
        free = self._backend.mark()
        self._under_way.append(_Batch(items, tensors, self._pool.submit(self._decode, items, tensors, free)))

    def _decode(self, items: list[int], tensors: list[torch.Tensor], free: Any) -> Any:
        with self._backend.using(self._queue):
            self._backend.follow(free)
            try:
                self._fill(items, tensors)
            finally:
                # On an error too: the memory is not given back while a kernel may still write to it.
                mark = self._backend.mark()
                self._backend.wait(mark)
        return mark

    def _fill(self, items: list[int], tensors: list[torch.Tensor]) -> None:
        given = [(self.wanted[item], tensor) for item, tensor in zip(items, tensors, strict=True)]
        whole = [(each, tensor) for each, tensor in given if each.shape == _stored_shape(each)]
        for file in {id(each.file): each.file for each, _ in whole}.values():
            targets = {each.tensor: tensor for each, tensor in whole if each.file is file}
            read_into(file, targets, self._backend, self._threads, self._base)
        for each, tensor in given:
            if each.shape != _stored_shape(each):
                part = slice(each.start, each.start + each.shape[each.dimension])
                index = (*[slice(None)] * each.dimension, part)
                where = self._backend, tensor.device, self._threads, self._base
                tensor.copy_(read_slice_there(each.file, each.name, index, *where))


def _stored_shape(wanted: Wanted) -> tuple[int, ...]:
    return wanted.file.header.tensors[wanted.tensor].shape


def _batches(wanted: Sequence[Wanted], most: int) -> Iterator[list[int]]:
    """Positions of what is wanted, in order, of so many bytes together or of one."""
    batch: list[int] = []
    size = 0
    for item, each in enumerate(wanted):
        if batch and size + each.nbytes > most:
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += each.nbytes
    if batch:
        yield batch
