"""Two buffers that a model's layers take turns in, filled from compressed files, one layer ahead where that pays."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from time import perf_counter, process_time
from typing import Any

import torch

from slimtensors.offload.memory import HostMemory, Memory, Place
from slimtensors.reading.tensors import TensorFile

__all__ = ["ALIGNMENT", "Slots", "size_of"]

ALIGNMENT = 64  # of each tensor in its slot
SLOTS = 2
LONG = 2  # a layer computes for so many times as long as it is decoded: then the next one is decoded meanwhile
BUSY = 0.5  # processors at work while a layer is decoded; with fewer, decoding waits for its source
MAX_SEEN = 1000  # sizes of inputs that times are kept of

Layer = Sequence[tuple[str, TensorFile]]  # tensors, and the files that have them


def size_of(layer: Layer) -> int:
    """Bytes that a layer's tensors take in a slot."""
    return sum(-(-file.tensor(name).nbytes // ALIGNMENT) * ALIGNMENT for name, file in layer)


class Slots:
    """Layer i lives in slot i modulo 2. A slot is filled while the layer in the other one computes, or before its own.

    ahead: which of the two. None: ahead if decoding waits for its source, or computing takes much longer. Else both
    want all processors at once, and are slower together than one after the other.

    lock: to be held while a layer is computed with, or another thread may decode another one into its slot.
    """

    def __init__(
        self, layers: Sequence[Layer], threads: int, ahead: bool | None = None, home: Memory | None = None
    ) -> None:
        self.lock = threading.RLock()
        self._home: Memory = HostMemory() if home is None else home
        self._threads, self._policy = threads, ahead
        self._computed: dict[int, float] = {}  # seconds, by the size of the input, of a layer by itself
        self._decoded, self._waits = 0.0, False  # seconds of the last layer that was decoded by itself
        self._last: tuple[int, int, float] | None = None  # the layer that was entered, its input's size, and when
        self._memory = [self._home.allocate(max(map(size_of, layers))) for _ in range(SLOTS)]
        self._places = [self._place(layer, self._memory[i % SLOTS]) for i, layer in enumerate(layers)]
        self._holds: list[int | None] = [None] * SLOTS  # which layer is decoded there
        self._entered: tuple[int, int] | None = None  # the layer that is there, and the thread that it is there for
        self._computing: int | None = None  # its slot, until it is marked as used
        self._ahead: threading.Thread | None = None
        self._error: BaseException | None = None

    def tensors(self, layer: int) -> Mapping[str, torch.Tensor]:
        """A layer's tensors, where they will be whenever it is that layer's turn."""
        return {place.name: self._home.tensor(place) for place in self._places[layer]}

    @property
    def nbytes(self) -> int:
        """Bytes of both buffers."""
        return sum(map(len, self._memory))

    def enter(self, layer: int, size: int = 0) -> None:
        """Wait until a layer is there, and perhaps begin to decode the one after it, in a circle. Raises what decoding
        did. size: of the layer's input, which tells how long it computes.
        """
        with self.lock:
            self.used()
            if self._last is not None and self._ahead is None and self._last[:2] == (layer - 1, size):
                if len(self._computed) > MAX_SEEN:
                    self._computed.clear()
                self._computed[size] = perf_counter() - self._last[2]
            self._entered = None
            self.join()
            self.check()  # of the layer before this one, which computes still or has
            if self._holds[layer % SLOTS] != layer:  # not ahead, out of turn, or the first
                began, computed = perf_counter(), process_time()
                self._fill(layer)
                self._decoded = perf_counter() - began
                self._waits = process_time() - computed < BUSY * self._decoded
            self._home.ready(layer % SLOTS)
            self._entered, self._computing = (layer, threading.get_ident()), layer % SLOTS
            following = (layer + 1) % len(self._places)
            free = following % SLOTS != layer % SLOTS and self._holds[following % SLOTS] != following
            if free and self._looks_ahead(size):
                fill, name = self._fill_quietly, "slimtensors-ahead"
                thread = threading.Thread(target=fill, args=(following,), name=name, daemon=True)
                with suppress(RuntimeError):  # no more threads to be had: then it is decoded when its turn comes
                    thread.start()
                    self._ahead = thread
            self._last = layer, size, perf_counter()

    def is_there(self, layer: int) -> bool:
        """Whether a layer is there that this thread has entered, and no other one after it. Called under the lock."""
        return self._entered == (layer, threading.get_ident())

    def used(self) -> None:
        """All that is computed with the layer that was entered has been asked for, by the thread that calls this."""
        if self._computing is not None:
            self._home.used(self._computing)
            self._computing = None

    def leave(self) -> None:
        """As `used`, and raises what was wrong. Called under the lock, before outputs are handed out."""
        self.used()
        self.check()

    def close(self) -> None:
        """Wait for what is under way, here and on the device. Raises its error."""
        try:
            self.join()
        finally:
            self._home.close()

    def check(self) -> None:
        """Raise what was wrong with layers that have been entered; they are decoded again when their turn comes."""
        try:
            self._home.check()
        except BaseException:
            self._holds, self._entered = [None] * SLOTS, None
            raise

    def keep(self) -> None:
        """Decode each layer once, for the memory to keep what it keeps. Raises what is wrong with any."""
        for layer in range(len(self._places)):
            self._fill(layer)
            self._home.ready(layer % SLOTS)
            self.check()
            self._home.used(layer % SLOTS)

    def _looks_ahead(self, size: int) -> bool:
        if self._policy is not None:
            return self._policy
        return size in self._computed and (self._waits or self._computed[size] > LONG * self._decoded)

    def join(self) -> None:
        """Wait for what is under way. Raises its error."""
        if self._ahead is not None:
            self._ahead.join()
            self._ahead = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _fill_quietly(self, layer: int) -> None:
        try:
            self._fill(layer)
        except BaseException as error:  # raised in the caller's thread, when the layer's turn comes
            self._error = error

    def _fill(self, layer: int) -> None:
        self._holds[layer % SLOTS] = None  # noise, until all of it is there
        self._home.fill(layer % SLOTS, self._places[layer], self._threads)
        self._holds[layer % SLOTS] = layer

    @staticmethod
    def _place(layer: Layer, memory: Any) -> list[Place]:
        placed, at = [], 0
        for name, file in layer:
            nbytes = file.tensor(name).nbytes
            placed.append(Place(name, file, file.find(name), memory[at : at + nbytes]))
            at += -(-nbytes // ALIGNMENT) * ALIGNMENT
        return placed
