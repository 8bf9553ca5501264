"""Where the two slots are, and how they are filled: the host's memory, or a device's, beside what is computed there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch

from slimtensors.container.source import aligned_empty
from slimtensors.device.backend import Backend
from slimtensors.numpy import array_shape, as_array
from slimtensors.reading import Load, Piece, TensorFile, load_all
from slimtensors.torch_tensors import from_array, torch_dtype

__all__ = ["DeviceMemory", "HostMemory", "Memory", "Place"]


class Place(NamedTuple):
    """A tensor, its file, its position there, and its bytes in a slot."""

    name: str
    file: TensorFile
    position: int
    room: Any  # a slice of what `allocate` gave


class Memory(Protocol):
    """Of slots."""

    def allocate(self, nbytes: int) -> Any: ...

    def tensor(self, place: Place) -> torch.Tensor:
        """The tensor, whatever it holds at the time."""

    def fill(self, slot: int, places: Sequence[Place], threads: int) -> None:
        """Decode a layer into a slot, when what was computed with the slot is done. From any thread."""

    def used(self, slot: int) -> None:
        """All that is computed with the slot's layer has been asked for."""

    def ready(self, slot: int) -> None:
        """What is computed from now on sees the layer that `fill` put there."""


class HostMemory:
    """Where torch computes at once, so that nothing is ever under way."""

    def allocate(self, nbytes: int) -> Any:
        return aligned_empty(nbytes)

    def tensor(self, place: Place) -> torch.Tensor:
        tensor = place.file.header.tensors[place.position]
        return from_array(as_array(place.room.view(tensor.dtype.unit), tensor), tensor.dtype, "cpu")

    def fill(self, _slot: int, places: Sequence[Place], threads: int) -> None:
        files, loads = [], list[Load]()
        for file in {id(place.file): place.file for place in places}.values():
            unit = [tensor.dtype.unit for tensor in file.header.tensors]
            pieces = [Piece(p.position, 0, p.room.view(unit[p.position])) for p in places if p.file is file]
            files.append(file)
            loads += file.loads(pieces)
        load_all(loads, min(threads, max(1, len(loads))), files)

    def used(self, _slot: int) -> None: ...

    def ready(self, _slot: int) -> None: ...


class DeviceMemory:
    """A layer is decoded in a queue of its own, beside the computation; two marks for each slot keep them apart."""

    def __init__(self, backend: Backend) -> None:
        self._backend, self._queue = backend, backend.new_queue()
        self._used: dict[int, Any] = {}  # by slot: computed with
        self._filled: dict[int, Any] = {}  # by slot: decoded

    def allocate(self, nbytes: int) -> Any:
        return self._backend.fresh(nbytes)

    def tensor(self, place: Place) -> torch.Tensor:
        tensor = place.file.header.tensors[place.position]
        return torch.as_tensor(place.room).view(torch_dtype(tensor.dtype)).reshape(array_shape(tensor))

    def fill(self, slot: int, places: Sequence[Place], threads: int) -> None:
        from slimtensors.device.loading import fill_device  # loads Numba

        with self._backend.using(self._queue):
            if slot in self._used:
                self._backend.follow(self._used[slot])
            for file in {id(place.file): place.file for place in places}.values():
                targets = {place.position: place.room for place in places if place.file is file}
                fill_device(file, targets, self._backend, threads)
            self._filled[slot] = self._backend.mark()

    def used(self, slot: int) -> None:
        self._used[slot] = self._backend.mark()

    def ready(self, slot: int) -> None:
        self._backend.follow(self._filled[slot])
