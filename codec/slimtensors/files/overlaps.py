"""Whether memory that weights are to be copied to can take them, and all at once, before the first is copied."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slimtensors.container.system import find_read_only
from slimtensors.errors import UsageError

__all__ = ["Held", "check_memory", "check_writable"]


class Held(NamedTuple):
    """Where a tensor is to go. content: what it becomes, elements of bytes (dtype V) in the shape it has there.

    address: of the first element, on `device`. strides: in bytes.
    """

    name: str
    content: npt.NDArray[Any]
    address: int
    strides: tuple[int, ...]
    device: str = "cpu"

    @property
    def low(self) -> int:
        return self.address + sum(min(0, reach) for reach in self._reaches())

    @property
    def high(self) -> int:
        return self.address + sum(max(0, reach) for reach in self._reaches()) + self.content.dtype.itemsize

    def _reaches(self) -> list[int]:
        return [(length - 1) * stride for length, stride in zip(self.content.shape, self.strides, strict=True)]

    def within(self, memory: npt.NDArray[np.uint8], start: int) -> npt.NDArray[Any]:
        """The same elements of a copy of the memory from `start` on."""
        found: npt.NDArray[Any] = np.ndarray(
            self.content.shape, self.content.dtype, memory, self.address - start, self.strides
        )
        return found


def check_writable(places: Sequence[tuple[str, int, int]], so: str = "; nothing was changed") -> None:
    """Raises UsageError for a tensor, (name, address, end), in memory of this machine that cannot be written to."""
    wrong = find_read_only([(low, high) for _, low, high in places])
    if wrong is not None:
        raise UsageError(
            f"tensor {places[wrong][0]!r} lies in memory that can only be read, such as a file mapped for reading: put "
            f"a copy in its place, made by clone() or copy(){so}"
        )


def check_memory(places: Sequence[Held]) -> None:
    """Raises UsageError for a tensor in memory that can only be read, for one of which elements share memory, and for
    two that do and would differ there.
    """
    check_writable([(each.name, each.low, each.high) for each in places if each.device == "cpu" and each.content.size])
    first: dict[Any, Held] = {}
    for held in places:
        if not held.content.size:
            continue
        if _overlaps_itself(held.content.shape, held.strides, held.content.itemsize):
            raise UsageError(
                f"tensor {held.name!r} cannot be written to: several of its elements share memory, as after expand() "
                "or broadcast_to(); nothing was changed"
            )
        other = first.setdefault((held.device, held.address, held.content.shape, held.strides), held)
        if not _same(other.content, held.content):
            raise _differ(other, held)
    for group in _groups(list(first.values())):
        _check_group(group)


def _overlaps_itself(shape: Sequence[int], strides: Sequence[int], width: int) -> bool:
    """Also if it only might: each dimension has to step over all of the smaller ones."""
    reach = width
    for stride, length in sorted((abs(s), n) for n, s in zip(shape, strides, strict=True) if n > 1):
        if stride < reach:
            return True
        reach += (length - 1) * stride
    return False


def _groups(places: list[Held]) -> Iterator[list[Held]]:
    """Two or more whose memory lies in one another, or only side by side in the same rows."""
    group: list[Held] = []
    end = 0
    for held in sorted(places, key=lambda each: (each.device, each.low)):
        if group and (held.device != group[0].device or held.low >= end):
            if len(group) > 1:
                yield group
            group = []
        end = held.high if not group else max(end, held.high)
        group.append(held)
    if len(group) > 1:
        yield group


def _check_group(group: list[Held]) -> None:
    """By copying them to memory that lies alike."""
    start, end = min(each.low for each in group), max(each.high for each in group)
    memory = np.zeros(end - start, np.uint8)
    for each in group:
        each.within(memory, start)[...] = each.content
    for each in group:
        if _same(each.within(memory, start), each.content):
            continue
        each.within(memory, start)[...] = each.content
        for other in group:
            other.within(memory, start)[...] = other.content
            if not _same(each.within(memory, start), each.content):
                raise _differ(each, other)


def _same(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> bool:
    return a is b or np.array_equal(_bytes(a), _bytes(b))


def _bytes(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _differ(one: Held, other: Held) -> UsageError:
    return UsageError(
        f"tensors {one.name!r} and {other.name!r} share memory, and in the file they differ: untie them first; nothing "
        "was changed"
    )
