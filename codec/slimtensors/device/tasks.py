"""What there is to decode: chunks of one layout, by segments of whole chunks, and where each goes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slimtensors.device.backend import Buffer
from slimtensors.reading.tensors import TensorFile

__all__ = ["Part", "Segment", "Task", "segments_of"]

Array = npt.NDArray[Any]


class Task(NamedTuple):
    """A chunk to decode."""

    tensor: int
    stream: int
    chunk: int
    length: int  # stored
    size: int  # decoded
    digest: int  # of what is decoded
    begin: int  # its first byte in what is decoded of the tensor


class Part(NamedTuple):
    """Chunks of one tensor, next to each other."""

    tensor: int
    tasks: int  # how many
    begin: int  # bytes of what is decoded of the tensor
    end: int


class Segment:
    """Chunks of one layout, whose stored bytes lie one after another in memory."""

    def __init__(self, layout: Any, tasks: Sequence[Task]) -> None:
        self.layout, self.tasks = layout, tasks
        self.parts: list[Part] = []
        for task in tasks:
            last = self.parts[-1] if self.parts else None
            if last is not None and last.tensor == task.tensor:
                self.parts[-1] = last._replace(tasks=last.tasks + 1, end=task.begin + task.size)
            else:
                self.parts.append(Part(task.tensor, 1, task.begin, task.begin + task.size))
        self.sizes = np.array([task.size for task in tasks], np.int64)
        lengths = np.array([task.length for task in tasks], np.int64)
        self.ends = np.cumsum(lengths)
        self.length = int(self.ends[-1])  # stored
        self.lengths, self.starts = lengths, self.ends - lengths

    def runs(self, most: int) -> list[range]:
        """Its chunks by what can be read at once: neighbours of one stream, of up to so many bytes, or one."""
        found, begin = list[range](), 0
        for i in range(1, len(self.tasks) + 1):
            if i < len(self.tasks) and self.ends[i] - self.starts[begin] <= most:
                before, task = self.tasks[i - 1], self.tasks[i]
                if (task.stream, task.chunk) == (before.stream, before.chunk + 1):
                    continue
            found.append(range(begin, i))
            begin = i
        return found

    def targets(self, targets: Mapping[int, Buffer]) -> list[Buffer]:
        """Of its parts. targets: of what is decoded of each tensor."""
        return [targets[part.tensor][part.begin : part.end] for part in self.parts]

    def places(self, of_parts: Sequence[int]) -> Array:
        """Where its chunks begin in a buffer in which its parts begin there."""
        first = np.array([task.begin for task in self.tasks], np.int64)
        moved = np.array([at - part.begin for at, part in zip(of_parts, self.parts, strict=True)], np.int64)
        return first + np.repeat(moved, [part.tasks for part in self.parts])

    def decoded(self, targets: Mapping[int, Buffer], i: int) -> Buffer:
        """A chunk's buffer."""
        task = self.tasks[i]
        return targets[task.tensor][task.begin : task.begin + task.size]


def segments_of(
    file: TensorFile, by_layout: Mapping[Any, Sequence[int]], chunks: range | None, stored: int, decoded: int
) -> list[Segment]:
    """Of tensors, or of these chunks of each; a segment has up to so many bytes, or one chunk."""
    return [
        Segment(layout, tasks)
        for layout, tensors in by_layout.items()
        for tasks in _cut([task for index in tensors for task in _tasks(file, index, chunks)], stored, decoded)
    ]


def _tasks(file: TensorFile, index: int, chunks: range | None) -> Iterator[Task]:
    number = file.header.tensor_stream[index]
    assert number is not None
    records, at = file.reader.records(number)[0], 0
    for chunk in range(len(records)) if chunks is None else chunks:
        record = records[chunk]
        size = record.decoded_length
        yield Task(index, number, chunk, record.stored_length, size, record.decoded_digest, at)
        at += size


def _cut(tasks: Sequence[Task], stored: int, decoded: int) -> Iterator[list[Task]]:
    segment: list[Task] = []
    length = size = 0
    for task in tasks:
        if segment and (length + task.length > stored or size + task.size > decoded):
            yield segment
            segment, length, size = [], 0, 0
        segment.append(task)
        length, size = length + task.length, size + task.size
    if segment:
        yield segment
