"""A base's units as a tensor needs them: in its dtype, 0 beyond the base's end (expressions.md, section 8); and what it
takes to decode them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slimtensors.codecs.casts import cast_units
from slimtensors.container.header import Base, Stream
from slimtensors.dtypes import DType
from slimtensors.errors import BaseError
from slimtensors.expression import bases_of
from slimtensors.reading.scheduling import Piece

__all__ = ["Work", "base_units", "chunk_work", "decoded_there", "kept_work"]

Units = npt.NDArray[Any]
TensorFile = Any  # of reading/tensors.py, which imports this
BaseSource = Any  # likewise


class Work(NamedTuple):
    """What is decoded for one chunk of a stream of its bases, and of theirs, each time that it is: bytes; in which
    slimtensors files; and which packs of these, by file and stream, are decoded once for all that need them.
    """

    decoded: int
    files: frozenset[TensorFile]
    kept: frozenset[tuple[TensorFile, int]]


def base_units(base: Base, read: Callable[[int, int], Units], dtype: DType, start: int, count: int) -> Units:
    """Units [start, start + count) for a tensor of this dtype; `read` gives units of the base. Raises BaseError."""
    held = max(0, min(count, base.units - start))
    if held == 0:
        return np.zeros(count, dtype.unit)
    units = read(start, held)
    if units.dtype != base.dtype.unit or units.size != held:
        raise BaseError(f"a base gave {units.size} units of {units.dtype} where {held} of {base.dtype.unit} are needed")
    units = cast_units(units, base.dtype, dtype)
    if held < count:
        units = np.concatenate([units, np.zeros(count - held, dtype.unit)])
    return units


def decoded_there(source: BaseSource, bases: Sequence[Base], held: Iterable[tuple[int, int]]) -> dict[int, Units]:
    """Of those that slimtensors files have, by number: as many units as are needed, and each chunk there decoded once.

    held: a base's number, and how many of its first units; some more than once.
    """
    counts: dict[int, int] = {}
    for number, count in held:
        counts[number] = max(counts.get(number, 0), count)
    found: dict[int, Units] = {}
    pieces: dict[TensorFile, list[Piece]] = {}
    for number, count in counts.items():
        where = source.stored(bases[number])
        if where is not None:
            file, index = where
            tensor = file.header.tensors[index]
            found[number] = np.empty(min(count, tensor.units), tensor.dtype.unit)
            pieces.setdefault(file, []).append(Piece(index, 0, found[number]))
    for file, wanted in pieces.items():
        file.fill(wanted, 1)
    return found


def chunk_work(file: TensorFile, number: int) -> Work:
    """Of a stream's chunk, if only packs, as far as there is room, are kept from one to the next."""
    known: Work | None = file.work.get(number)
    if known is not None:
        return known
    stream, chunks = file.header.streams[number], dict[tuple[TensorFile, int], int]()
    lengths = stream.members or [min(stream.chunk, stream.units)]
    bases = () if file.bases is None else bases_of(stream.expression)
    for base, units in zip(bases, lengths, strict=bool(bases)):
        where = file.bases.stored(file.header.bases[base])
        held = None if where is None else where[0].header.tensor_stream[where[0].header.holder(where[1])]
        if where is not None and held is not None:
            needed = _chunks_of(where[0].header.streams[held], units, first=bool(stream.members))
            chunks[where[0], held] = max(chunks.get((where[0], held), 0), needed)
    decoded, files, kept = 0, frozenset(there for there, _ in chunks), set[tuple[TensorFile, int]]()
    for (there, held), count in chunks.items():
        chunk = there.header.streams[held]
        if there.keeps(held):
            kept.add((there, held))
            continue
        below = chunk_work(there, held)
        decoded += count * (chunk.chunk_units(0) * chunk.dtype.unit_bytes + below.decoded)
        files |= below.files
        kept |= below.kept
    found = file.work[number] = Work(decoded, files, frozenset(kept))
    return found


def kept_work(kept: Iterable[tuple[TensorFile, int]], known: AbstractSet[tuple[TensorFile, int]]) -> Work:
    """Of these packs and those that they need, each decoded once, but for what is known already."""
    decoded, files, found = 0, frozenset[TensorFile](), set[tuple[TensorFile, int]]()
    left = set(kept) - known
    while left:
        there, held = left.pop()
        found.add((there, held))
        below, pack = chunk_work(there, held), there.header.streams[held]
        decoded += pack.units * pack.dtype.unit_bytes + below.decoded
        files |= below.files
        left |= below.kept - known - found
    return Work(decoded, files, frozenset(found))


def _chunks_of(stream: Stream, units: int, *, first: bool) -> int:
    """How many of its chunks have the units of a chunk of so many, wherever that is or at the beginning."""
    if first or units % stream.chunk == 0 or stream.chunk % units == 0:
        needed = -(-units // stream.chunk)
    else:
        needed = units // stream.chunk + 2
    return min(needed, stream.chunks)
