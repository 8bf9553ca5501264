"""`salvage`: what is whole of a damaged file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slimtensors.bases.resolving import open_with
from slimtensors.codecs.casts import cast_units
from slimtensors.container.writer import Output
from slimtensors.dtypes import bytes_of
from slimtensors.errors import FormatError
from slimtensors.files.converting import plain_front
from slimtensors.reading.tensors import TensorFile
from slimtensors.reading.verifying import checked, damage, is_damage
from slimtensors.reading.walking import walk
from slimtensors.threads import Pool, thread_count
from slimtensors.writing.destinations import write_to

__all__ = ["LOST", "ZEROS", "Lost", "Salvaged", "salvage"]

# In the metadata of what is written, as JSON.
LOST = "slimtensors.lost"  # the names of tensors that it lacks
ZEROS = "slimtensors.zeros"  # by name: pairs [first, end) of elements, in the order of memory, that are zeros by damage

Span = tuple[int, int]


class Lost(NamedTuple):
    """A tensor that could not be had, or not all of it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    why: str
    zeros: tuple[Span, ...]  # [first, end) of its elements that were written as zeros; none: it was left out


class Salvaged(NamedTuple):
    """What `salvage` wrote, and what it could not."""

    tensors: int  # written
    decoded_bytes: int  # of these
    lost: tuple[Lost, ...]


def salvage(
    src: Any,
    dst: Any,
    *,
    base: Any = None,
    zeros: bool = False,
    threads: int | None = None,
    durable: bool = True,
    max_bytes: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> Salvaged:
    """Write the tensors of a damaged or cut-off file that are whole, bit for bit, as a .safetensors file.

    Its prefix, header and index must be whole: they come first and are small. Every tensor is decoded and checked
    against its digests, and left out if any of its chunks is damaged, lies behind the file's end, or cannot be read
    from the disk (EIO), or if its base is not found. zeros: of a large tensor of which some chunks are whole, write
    these, and zeros for the others. The metadata of what is written name what it lacks ("slimtensors.lost") and what
    is zeros ("slimtensors.zeros").

    src, base, threads, max_bytes, progress: as for `decompress`; each decoded byte is reported twice. Raises
    FormatError if nothing is whole; then, and on every other error, `dst` stays as it was.
    """
    count = thread_count(threads)
    with open_with(src, base, max_bytes=max_bytes, partial=True) as file, _pool(count) as pool:
        tensors, faults = file.header.tensors, damage(file, count, pool, progress)
        holes = {index: _holes(file, index) if zeros else () for index in faults}
        kept = [index for index in range(len(tensors)) if index not in faults or holes[index]]
        if tensors and not kept:
            raise faults[0]
        lost = tuple(
            Lost(tensors[i].name, tensors[i].dtype.name, tensors[i].shape, str(fault), holes[i])
            for i, fault in faults.items()
        )
        absent = [each.name for each in lost if not each.zeros]
        filled = {each.name: each.zeros for each in lost if each.zeros}
        more = {key: json.dumps(value) for key, value in ((LOST, absent), (ZEROS, filled)) if value}

        def write(output: Output) -> None:
            output.write(plain_front(file, kept, more))
            for index in kept:
                whole = index not in faults
                for piece in checked(file, walk(file, [index], count, pool)) if whole else _filled(file, index):
                    output.write(piece)
                    if progress is not None:
                        progress(len(piece))

        write_to(dst, write, durable=durable, like=src)
        return Salvaged(len(kept), sum(tensors[i].nbytes for i in kept), lost)


def _pool(count: int) -> Any:
    return Pool(count) if count > 1 else nullcontext()


def _chunks(file: TensorFile, index: int) -> Iterator[tuple[Span, npt.NDArray[Any] | None]]:
    """Of each chunk of a tensor its span of units, and these; None where they cannot be had."""
    holder, tensor = file.header.holder(index), file.header.tensors[index]
    number = file.header.tensor_stream[holder]
    if number is None or file.header.tensors[holder].pack is not None:
        return
    stream = file.header.streams[number]
    for chunk in range(stream.chunks):
        first, units = chunk * stream.chunk, stream.chunk_units(chunk)
        out: npt.NDArray[Any] = np.empty(units, stream.dtype.unit)
        try:
            file.load_sides(holder)
            file.decode_chunk(number, chunk, out)
        except (FormatError, OSError) as error:
            if not is_damage(error):
                raise
            yield (first, first + units), None
        else:
            yield (first, first + units), cast_units(out, stream.dtype, tensor.dtype)


def _holes(file: TensorFile, index: int) -> tuple[Span, ...]:
    """Spans of a tensor's elements that cannot be had, neighbours as one; none if that is all of it."""
    dtype = file.header.tensors[index].dtype
    spans: list[Span] = []
    some = False
    for units, found in _chunks(file, index):
        first, end = (unit * dtype.unit_bits // dtype.bits for unit in units)  # F4 has two elements in a unit
        if found is not None:
            some = True
        elif spans and spans[-1][1] == first:
            spans[-1] = spans[-1][0], end
        else:
            spans.append((first, end))
    return tuple(spans) if some else ()


def _filled(file: TensorFile, index: int) -> Iterator[memoryview]:
    """A tensor's bytes, zeros where they cannot be had."""
    unit = file.header.tensors[index].dtype.unit
    for (first, end), found in _chunks(file, index):
        yield bytes_of(np.zeros(end - first, unit) if found is None else found)
