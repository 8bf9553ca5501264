"""`flatten` and `rebase`: the same tensors without bases, or with another base; the source image is kept."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import accumulate
from typing import Any

import numpy as np

from slimtensors.bases.matching import MatchReport, matched_bases
from slimtensors.bases.resolving import BaseDir, also, folders_of, open_with
from slimtensors.bases.tensors import StoredInput
from slimtensors.container.header import Image
from slimtensors.container.source import Bytes, LocalSource, aligned_empty
from slimtensors.dtypes import bytes_of
from slimtensors.errors import check_callable
from slimtensors.expression import bases_of
from slimtensors.reading.scheduling import Piece
from slimtensors.reading.tensors import TensorFile
from slimtensors.reading.walking import LiteralBytes
from slimtensors.sources.inputs import CopiedInput, Input
from slimtensors.writing.destinations import check_destination
from slimtensors.writing.saving import Progress, SourceImage
from slimtensors.writing.store import refuse_own_base, store

__all__ = ["flatten", "rebase"]


def flatten(
    src: Any,
    dst: Any,
    *,
    base: Any = None,
    preset: str = "balanced",
    threads: int | None = None,
    self_check: bool = True,
    durable: bool = True,
    max_bytes: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Write a file of the same tensors that needs no base; it gives back the same source file.

    base: where the bases of `src` are, as for `safe_open`. Quantised tensors that need no base stay as they are stored;
    all others are compressed anew, with this preset. threads, self_check, durable, progress: as for `compress`. Raises
    BaseError if a base is not to be had.
    """
    _convert(src, dst, base, None, None, (), preset, threads, self_check, durable, max_bytes, progress, None)


def rebase(
    src: Any,
    dst: Any,
    base: Any,
    *,
    old_base: Any = None,
    base_map: Mapping[str, str] | None = None,
    base_dirs: Sequence[BaseDir | str | os.PathLike[str]] = (),
    preset: str = "balanced",
    threads: int | None = None,
    self_check: bool = True,
    durable: bool = True,
    max_bytes: int | None = None,
    progress: Progress | None = None,
    on_match: Callable[[MatchReport], object] | None = None,
) -> None:
    """Write a file of the same tensors as differences from `base`.

    old_base: where the bases of `src` are, if it has any, as for `safe_open`. Quantised tensors that need no base stay
    as they are stored. The rest, progress too: as for `compress`.
    """
    _convert(
        src, dst, old_base, base, base_map, base_dirs, preset, threads, self_check, durable, max_bytes, progress,
        on_match,
    )  # fmt: skip


def _convert(
    src: Any,
    dst: Any,
    old_base: Any,
    base: Any,
    base_map: Mapping[str, str] | None,
    base_dirs: Sequence[BaseDir | str | os.PathLike[str]],
    preset: str,
    threads: int | None,
    self_check: bool,
    durable: bool,
    max_bytes: int | None,
    progress: Progress | None,
    on_match: Callable[[MatchReport], object] | None,
) -> None:
    check_destination(dst, src, ".slimtensors")
    check_callable("numbers of bytes", progress=progress)
    check_callable("a MatchReport", on_match=on_match)
    folders = folders_of(base_dirs)
    with open_with(src, also(old_base, folders), max_bytes=max_bytes) as file:
        header = file.header
        inputs = [_input(file, i) for i in range(len(header.tensors))]
        image = None
        if header.image is not None:
            image = SourceImage(DecodedSource(file, header.image), header.image.segments, header.image.format)
        with matched_bases(
            inputs, base, base_map, source=src, metadata=header.metadata, base_dirs=folders
        ) as matched:
            if on_match is not None and matched.report is not None:
                on_match(matched.report)
            refuse_own_base(src, matched.bases, "is itself what it would be the difference from: name another base")
            store(
                inputs, dst, header.metadata, preset, threads, self_check, durable, image, progress,
                bases=matched.bases, near=header.source, like=src,
            )  # fmt: skip


def _input(file: TensorFile, index: int) -> Input:
    """A tensor of the file. One that is quantised is copied if it needs no base: its codes would not be found again."""
    header, source = file.header, StoredInput(file, index)
    tensor, number = header.tensors[index], header.tensor_stream[index]
    alone = tensor.pack is None and tensor.scale is None and header.holder(index) == header.target(index) == index
    if tensor.lossy is None or not alone or number is None or bases_of(header.streams[number].expression):
        return source
    streams = [*header.side_streams.get(index, []), number]

    def chunk(stream: int, position: int) -> bytes:
        return file.stored_chunk(streams[stream], position)

    return CopiedInput(source, tensor, header.expressions, partial(file.sides_of, index), chunk)


class DecodedSource(LocalSource):
    """The source file that a slimtensors file gives back, as bytes to read from; tensors are decoded when read."""

    def __init__(self, file: TensorFile, image: Image) -> None:
        self.label = file.reader.source.label
        self.waits = file.reader.source.waits
        self._file = file
        self._literal = np.frombuffer(b"".join(LiteralBytes(file).take(image.literal_bytes)), np.uint8)
        # In the file's order: (bytes, tensor), or (bytes, None) for the next ones of `_literal`.
        self._pieces: list[tuple[int, int | None]] = []
        for segment in image.segments:
            if isinstance(segment, int):
                self._pieces.append((segment, None))
            else:
                self._pieces += [(file.header.tensors[i].nbytes, i) for i in range(segment[0], sum(segment))]
        self._ends = np.array([*accumulate(size for size, _ in self._pieces)], np.int64)
        literal = [*accumulate(size if tensor is None else 0 for size, tensor in self._pieces)]
        self._literal_ends = np.array(literal, np.int64)

    def size(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def read(self, offset: int, length: int, _scratch: Bytes | None = None) -> Bytes:
        """These bytes of the source file."""
        out = aligned_empty(length)
        done = 0
        k = int(np.searchsorted(self._ends, offset, "right"))
        while done < length:
            size, tensor = self._pieces[k]
            at = offset + done - (int(self._ends[k]) - size)
            count = min(size - at, length - done)
            if tensor is None:
                start = int(self._literal_ends[k]) - size + at
                out[done : done + count] = self._literal[start : start + count]
            elif count:
                out[done : done + count] = self._tensor(tensor, at, count)
            done += count
            k += 1
        return out

    def _tensor(self, index: int, at: int, count: int) -> Bytes:
        """Bytes of a tensor, which need not be whole units."""
        unit = self._file.header.tensors[index].dtype.unit
        first, end = at // unit.itemsize, -(-(at + count) // unit.itemsize)
        units = aligned_empty((end - first) * unit.itemsize).view(unit)
        self._file.fill([Piece(index, first, units)], 1)
        skip = at - first * unit.itemsize
        return np.frombuffer(bytes_of(units), np.uint8)[skip : skip + count]

    def close(self) -> None:
        """The file is its opener's."""
