"""Where the two slots are, and how they are filled: the host's memory, or a device's, beside what is computed there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch

from slimtensors.container.source import aligned_empty
from slimtensors.device.backend import Backend
from slimtensors.device.uploads import Uploads
from slimtensors.numpy import array_shape, as_array
from slimtensors.on_torch.tensors import from_array, torch_dtype
from slimtensors.reading.scheduling import Piece
from slimtensors.reading.tensors import Load, TensorFile, load_all

if TYPE_CHECKING:
    from slimtensors.device.loading import Filling, Kept

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

    def close(self) -> None:
        """Wait for what is under way."""

    def check(self) -> None:
        """Raises what was wrong with layers that were made ready. Before it returns nobody else may see what was
        computed with them.
        """


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

    def check(self) -> None: ...

    def close(self) -> None: ...


class DeviceMemory:
    """A layer is decoded in a queue of its own, beside the computation; two marks for each slot keep them apart.

    pinned: compressed bytes are kept in memory that uploads are fast from, read once. The verdict on a layer is on its
    way to the host while the layer computes; `check` waits for it.
    """

    def __init__(self, backend: Backend, pinned: bool = False) -> None:
        self._backend, self._queue, self._pinned = backend, backend.new_queue(), pinned
        self._uploads = Uploads(backend)  # may begin before what decodes follows
        self._kept: dict[int, Kept] = {}  # by file
        self._used: dict[int, Any] = {}  # by slot: computed with
        self._filled: dict[int, Any] = {}  # by slot: decoded
        self._fillings: dict[int, list[Filling]] = {}  # by slot: decoded, or being, and not computed with
        self._unchecked: list[Filling] = []  # computed with

    def allocate(self, nbytes: int) -> Any:
        return self._backend.fresh(nbytes)

    def tensor(self, place: Place) -> torch.Tensor:
        tensor = place.file.header.tensors[place.position]
        return torch.as_tensor(place.room).view(torch_dtype(tensor.dtype)).reshape(array_shape(tensor))

    def fill(self, slot: int, places: Sequence[Place], threads: int) -> None:
        from slimtensors.device.loading import Kept, begin_fill  # loads Numba

        fillings = []
        with self._backend.using(self._queue):
            if slot in self._used:
                self._backend.follow(self._used[slot])
            for file in {id(place.file): place.file for place in places}.values():
                targets = {place.position: place.room for place in places if place.file is file}
                kept = self._kept.setdefault(id(file), Kept()) if self._pinned else None
                given = self._backend, threads
                fillings.append(begin_fill(file, targets, *given, kept=kept, uploads=self._uploads))
            self._filled[slot], self._fillings[slot] = self._backend.mark(), fillings

    def used(self, slot: int) -> None:
        self._used[slot] = self._backend.mark()

    def ready(self, slot: int) -> None:
        self._backend.follow(self._filled[slot])
        self._unchecked += self._fillings.pop(slot, [])

    def close(self) -> None:
        with self._backend.using(self._queue):
            self._backend.wait(self._backend.mark())

    def check(self) -> None:
        fillings, self._unchecked = self._unchecked, []
        for filling in fillings:
            filling.check()
