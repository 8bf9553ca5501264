"""`salvage`: what is whole of a damaged file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from slimtensors.bases.resolving import open_with
from slimtensors.codecs.casts import cast_units
from slimtensors.container.header import Tensor
from slimtensors.container.writer import Output
from slimtensors.dtypes import bytes_of
from slimtensors.errors import FormatError, check_callable
from slimtensors.files.converting import plain_front
from slimtensors.reading.tensors import TensorFile
from slimtensors.reading.verifying import checked, damage, is_damage, take
from slimtensors.reading.walking import walk
from slimtensors.threads import pool_of, thread_count
from slimtensors.writing.destinations import check_destination, write_to

__all__ = ["ENCODINGS", "LOST", "ZEROS", "Lost", "Salvaged", "salvage"]

# In the metadata of what is written, as JSON.
LOST = "slimtensors.lost"  # the names of tensors that it lacks
ZEROS = "slimtensors.zeros"  # by name: pairs [first, end) of elements, in the order of memory, that are zeros by damage
ENCODINGS = "slimtensors.encodings"  # by name: the type of blocks of GGUF, which are bytes there

Span = tuple[int, int]
T = TypeVar("T", list[Any], dict[str, Any])
Units = npt.NDArray[Any]


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
    these, and zeros for the others. The metadata of what is written name what it lacks ("slimtensors.lost"), what is
    zeros ("slimtensors.zeros"), and the types of blocks of GGUF, which are bytes there ("slimtensors.encodings").

    src, base, threads, max_bytes, progress: as for `decompress`; each decoded byte is reported twice. Raises
    the first tensor's error if nothing is whole; then, and on every other error, `dst` stays as it was.
    """
    check_callable("numbers of bytes", progress=progress)
    check_destination(dst, src, ".safetensors")
    count = thread_count(threads)
    with open_with(src, base, max_bytes=max_bytes, partial=True) as file, pool_of(count) as pool:
        tensors, faults = file.header.tensors, damage(file, count, pool, progress)
        holes = {index: _holes(file, index) if zeros else () for index in faults}  # in units
        kept = [index for index in range(len(tensors)) if index not in faults or holes[index]]
        if tensors and not kept:
            raise faults[0]
        lost = tuple(
            Lost(tensors[i].name, tensors[i].dtype.name, tensors[i].shape, str(fault), _elements(tensors[i], holes[i]))
            for i, fault in faults.items()
        )
        metadata = _told(file.header.metadata, lost) | _encodings(tensors[index] for index in kept)

        def write(output: Output) -> None:
            output.write(plain_front(file, kept, metadata))
            runs = checked(file, walk(file, [index for index in kept if index not in faults], count, pool))
            for index in kept:
                whole = index not in faults
                for piece in take(runs, tensors[index].nbytes) if whole else _filled(file, index, holes[index]):
                    output.write(piece)
                    if progress is not None:
                        progress(len(piece))
            for _ in runs:  # lets the last tensor's identity be checked
                raise AssertionError("bytes of tensors are left over")

        write_to(dst, write, durable=durable, like=src)
        return Salvaged(len(kept), sum(tensors[i].nbytes for i in kept), lost)


def _spans(file: TensorFile, index: int) -> Iterator[tuple[int, int, Span]]:
    """Of a tensor with chunks of its own: each one's stream, number, and span of units."""
    holder = file.header.holder(index)
    number = file.header.tensor_stream[holder]
    if number is None or file.header.tensors[holder].pack is not None:
        return
    file.sides_of(holder)
    file.reader.records(number)
    stream = file.header.streams[number]
    for chunk in range(stream.chunks):
        yield number, chunk, (chunk * stream.chunk, chunk * stream.chunk + stream.chunk_units(chunk))


def _decoded(file: TensorFile, index: int, number: int, chunk: int) -> Units:
    stream = file.header.streams[number]
    out: Units = np.empty(stream.chunk_units(chunk), stream.dtype.unit)
    file.decode_chunk(number, chunk, out)
    return cast_units(out, stream.dtype, file.header.tensors[index].dtype)


def _holes(file: TensorFile, index: int) -> tuple[Span, ...]:
    """Spans of a tensor's units that cannot be had; none if that is all of it."""
    try:
        spans = list(_spans(file, index))
    except (FormatError, OSError) as error:  # of what all its chunks need
        if not is_damage(error):
            raise
        return ()
    lost = [span for number, chunk, span in spans if not _is_whole(file, index, number, chunk)]
    return _united(lost) if len(lost) < len(spans) else ()


def _is_whole(file: TensorFile, index: int, number: int, chunk: int) -> bool:
    try:
        _decoded(file, index, number, chunk)
    except (FormatError, OSError) as error:
        if not is_damage(error):
            raise
        return False
    return True


def _filled(file: TensorFile, index: int, holes: tuple[Span, ...]) -> Iterator[memoryview]:
    """A tensor's bytes, zeros in its holes. What could be had before and now cannot is an error."""
    unit, passed = file.header.tensors[index].dtype.unit, 0
    for number, chunk, (first, end) in _spans(file, index):
        while passed < len(holes) and holes[passed][1] <= first:
            passed += 1
        lost = passed < len(holes) and holes[passed][0] <= first
        yield bytes_of(np.zeros(end - first, unit) if lost else _decoded(file, index, number, chunk))


def _united(spans: Iterable[Span]) -> tuple[Span, ...]:
    """The same in order, those that touch as one."""
    found: list[Span] = []
    for first, end in sorted(spans):
        if found and first <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((first, end))
    return tuple(found)


def _elements(tensor: Tensor, spans: Iterable[Span]) -> tuple[Span, ...]:
    """Spans of units as spans of elements, which have other sizes below a byte; one that is partly lost is lost."""
    bits, unit = tensor.dtype.bits, tensor.dtype.unit_bits
    return _united((first * unit // bits, -(-end * unit // bits)) for first, end in spans)


def _told(metadata: Mapping[str, str], lost: Iterable[Lost]) -> dict[str, str]:
    """A file's metadata, and what is lost, beside what they said before: it may have been salvaged once already."""
    absent, filled = _read(metadata.get(LOST), list), _read(metadata.get(ZEROS), dict)
    for each in lost:
        if each.zeros:
            filled[each.name] = _united([*filled.get(each.name, ()), *each.zeros])
        else:
            absent.append(each.name)
            filled.pop(each.name, None)
    others = {key: value for key, value in metadata.items() if key not in (LOST, ZEROS)}
    return others | {key: json.dumps(value) for key, value in ((LOST, absent), (ZEROS, filled)) if value}


def _read(text: str | None, kind: type[T]) -> T:
    """A value of ours among the metadata; an empty one for what is none."""
    try:
        found = json.loads(text or "null")
        if isinstance(found, dict):
            found = {name: [(int(first), int(end)) for first, end in spans] for name, spans in found.items()}
    except (TypeError, ValueError, OverflowError, RecursionError):
        return kind()
    return found if isinstance(found, kind) else kind()


def _encodings(tensors: Iterable[Tensor]) -> dict[str, str]:
    """Of blocks of GGUF, which are written as bytes, the type of each."""
    found = {tensor.name: tensor.encoding for tensor in tensors if tensor.encoding is not None}
    return {ENCODINGS: json.dumps(found)} if found else {}
