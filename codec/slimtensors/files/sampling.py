"""How small safetensors and GGUF files elsewhere would become, from their headers and a few MiB of their tensors."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slimtensors.codecs.chunk import encode_chunk
from slimtensors.codecs.place import Place
from slimtensors.container.header import Stream
from slimtensors.container.layout import CHUNK_RECORD_BYTES, DIGEST_BYTES, PREFIX_BYTES, STREAM_RECORD_BYTES
from slimtensors.container.remote import last_part, list_remote
from slimtensors.container.source import ByteSource, open_source
from slimtensors.dtypes import DType
from slimtensors.errors import NotSlimtensorsError
from slimtensors.files.folders import COMPRESS, DECOMPRESS, PLAIN
from slimtensors.files.weights import open_weights
from slimtensors.limits import CHUNK_BYTES
from slimtensors.planning.plan import Job
from slimtensors.planning.planner import make_plan
from slimtensors.sources.inputs import ArrayInput, Input, SourceFile, unit_count
from slimtensors.sources.shards import is_index, remote_shards
from slimtensors.threads import run_all

__all__ = ["SAMPLE_BYTES", "Sizes", "sampled_sizes", "stream_size"]

Units = npt.NDArray[Any]

SAMPLE_BYTES = 8 << 20  # of all files together, or a quarter of them
PIECE_BYTES = 256 * 1024  # of one tensor, in whole rows
REQUESTS = 8  # at a time

Alike = tuple[DType, str | None, str, tuple[int, ...]]  # the second says what the elements are, if the dtype does not


class Sizes(NamedTuple):
    """A file, its bytes, and those that it would take."""

    name: str
    before: int
    after: float


class _Piece(NamedTuple):
    """Some rows of a tensor."""

    alike: Alike
    tensor: Input
    start: int
    units: int
    shape: tuple[int, ...]


def sampled_sizes(
    name: str, preset: str, threads: int, progress: Callable[[int], object] | None = None
) -> list[Sizes]:
    """For every safetensors or GGUF file that the name stands for. Raises RemoteError, FormatError.

    Tensors are taken for alike whose names differ in numbers only, and whose dtype and shape are the same: a block of
    rows of some of them tells for all. progress: called with bytes of the sample as they come, and again as they have
    been compressed: twice SAMPLE_BYTES in all, about.
    """
    with ExitStack() as stack:
        names = _files(name)
        opened: dict[str, tuple[ByteSource, SourceFile]] = {}

        def open_one(each: str) -> None:
            source = stack.enter_context(closing(open_source(each)))
            opened[each] = source, open_weights(source)

        run_all(open_one, names, REQUESTS)
        sources, found = zip(*(opened[each] for each in names), strict=True)
        groups: dict[Alike, list[Input]] = defaultdict(list)
        for file in found:
            for tensor in file.inputs:
                if unit_count(tensor):
                    groups[_alike(tensor)].append(tensor)
        shares = _measured(_pieces(groups), preset, threads, progress)
        made = []
        for source, file in zip(sources, found, strict=True):
            literal = sum(each for each in file.segments if isinstance(each, int))
            after = float(PREFIX_BYTES + literal)  # the text of the source's header, about: once packed, once rewritten
            after += len(file.inputs) * (STREAM_RECORD_BYTES + DIGEST_BYTES)
            for tensor in file.inputs:
                size = tensor.dtype.bytes_of(tensor.shape)
                after += size * shares(_alike(tensor)) + -(-size // CHUNK_BYTES) * CHUNK_RECORD_BYTES
            made.append(Sizes(source.label, source.size(), after))
        return made


def _files(name: str) -> list[str]:
    """The files that a name stands for: an index's shards; in a folder or a repository all that can be compressed, as
    `convert` would. Raises NotSlimtensorsError if there is none.
    """
    if is_index(last_part(name), COMPRESS.before):
        return list(remote_shards(name, COMPRESS.before))
    found = list_remote(name, inner=True)
    if found is None:
        return [name]
    files = [found[path] for path in found if COMPRESS.takes(path)]
    if files:
        return files
    more = ": it is compressed already" if any(map(DECOMPRESS.takes, found)) else ""
    raise NotSlimtensorsError(f"{name} holds no *{' or *'.join(PLAIN)} file{more}")


def _alike(tensor: Input) -> Alike:
    return tensor.dtype, tensor.encoding, re.sub(r"\d+", "#", tensor.name), tuple(tensor.shape)


def _pieces(groups: Mapping[Alike, Sequence[Input]]) -> list[_Piece]:
    """Blocks of rows to look at: every group's share of the sample, the largest groups first, at least one of each for
    as long as the sample lasts; from tensors and places spread evenly.
    """
    sizes = {alike: sum(unit_count(each) * each.dtype.unit_bytes for each in held) for alike, held in groups.items()}
    whole, pieces = sum(sizes.values()), list[_Piece]()
    left = sample = min(SAMPLE_BYTES, whole // 4)
    for alike in sorted(sizes, key=lambda each: -sizes[each]):
        wanted = max(1, round(sample * sizes[alike] / whole / PIECE_BYTES))
        for k in range(wanted):
            if left <= 0 and pieces:
                return pieces
            piece = _piece(alike, groups[alike], (k + 0.5) / wanted)
            left -= piece.units * piece.tensor.dtype.unit_bytes
            pieces.append(piece)
            if piece.units == unit_count(piece.tensor) and k + 1 == len(groups[alike]):
                break  # small tensors: all of them have been looked at
    return pieces


def _piece(alike: Alike, held: Sequence[Input], where: float) -> _Piece:
    """The block of rows at a place of a group, between 0 and 1."""
    number, within = divmod(where * len(held), 1)
    tensor = held[int(number)]
    units = unit_count(tensor)
    rows = tensor.shape[0] if len(tensor.shape) > 1 else units
    each = units // rows
    count = min(rows, max(1, PIECE_BYTES // (each * tensor.dtype.unit_bytes)))
    if each * tensor.dtype.unit_bytes > CHUNK_BYTES:  # rows too long to take one: a part, as if it were flat
        rows, each = units, 1
        count = PIECE_BYTES // tensor.dtype.unit_bytes
    start = round(within * (rows - count))
    whole_rows = len(tensor.shape) > 1 and rows == tensor.shape[0] and not tensor.dtype.packed
    shape = (count, *tensor.shape[1:]) if whole_rows else (count * each,)
    return _Piece(alike, tensor, start * each, count * each, shape)


def _measured(
    pieces: Sequence[_Piece], preset: str, threads: int, progress: Callable[[int], object] | None
) -> Callable[[Alike], float]:
    """The share that tensors of a group keep of their size."""
    read: dict[int, ArrayInput] = {}

    def fetch(number: int) -> None:
        piece = pieces[number]
        units = piece.tensor.read(piece.start, piece.units)
        # Each in a module of its own: what is read of one tensor says nothing of what is read of another.
        read[number] = ArrayInput(f"{number}.piece", units, piece.tensor.dtype, piece.shape)
        read[number].encoding = piece.tensor.encoding
        if progress is not None:
            progress(units.nbytes)

    run_all(fetch, range(len(pieces)), max(threads, REQUESTS))
    inputs = [read[number] for number in range(len(pieces))]
    plan = make_plan(inputs, preset=preset)
    streams = list(zip(plan.header.streams, plan.jobs, strict=True))
    sides: dict[int, list[tuple[Stream, Job]]] = defaultdict(list)
    for stream, job in streams:
        if job.side is not None:
            sides[job.inputs[0]].append((stream, job))
    sizes: dict[int, float] = {}

    def measure(number: int) -> None:
        stream, job = streams[number]
        sizes[number] = stream_size(stream, job, inputs, 1.0, sides)
        if progress is not None and job.side is None:
            progress(stream.units * stream.dtype.unit_bytes)

    run_all(measure, range(len(streams)), threads)
    after, before = defaultdict[Any, float](float), defaultdict[Any, float](float)
    for number, (stream, job) in enumerate(streams):
        for each in job.inputs:
            share = unit_count(inputs[each]) / stream.units if len(job.inputs) > 1 else 1.0
            for key in _keys(pieces[each].alike):
                after[key] += share * sizes[number]
    for piece in pieces:
        for key in _keys(piece.alike):
            before[key] += piece.units * piece.tensor.dtype.unit_bytes

    def share_of(alike: Alike) -> float:
        key = next((key for key in _keys(alike) if before[key]), None)
        return 1.0 if key is None else min(1.0, after[key] / before[key])

    return share_of


def _keys(alike: Alike) -> tuple[Any, ...]:
    """What a tensor is judged by: those like it, else those of its dtype, and its kind of blocks."""
    return alike, alike[:2]


def stream_size(
    stream: Stream,
    job: Job,
    inputs: Sequence[Input],
    share: float,
    sides_of: dict[int, list[tuple[Stream, Job]]],
    image: Units | None = None,
) -> float:
    """Stored bytes of a stream, from a sample of its chunks. image: bytes of the source's image, if it has one."""
    if job.side is not None:  # flags and scales; a guess does, they are small
        share = 1 / 2 if stream.dtype.is_float else 1 / 8
        return share * stream.units * stream.dtype.unit_bytes + CHUNK_RECORD_BYTES
    picked = np.unique(np.linspace(0, stream.chunks - 1, max(1, round(share * stream.chunks))).astype(np.int64))
    stored = units = 0
    side_jobs = sides_of.get(job.inputs[0], []) if len(job.inputs) == 1 else []
    for chunk in picked.tolist():
        count = stream.chunk_units(chunk)
        if job.image:
            assert image is not None
            data = image[chunk * stream.chunk : chunk * stream.chunk + count]
        elif len(job.inputs) > 1:
            data = np.concatenate([inputs[i].read(0, unit_count(inputs[i])) for i in job.inputs])
        else:
            data = inputs[job.inputs[0]].read(chunk * stream.chunk, count)
        first = chunk * stream.chunk
        sides = tuple(_side(side, made, inputs[job.inputs[0]], first, count) for side, made in side_jobs)
        if job.scale is not None:
            sides += (inputs[job.scale].read(0, unit_count(inputs[job.scale])),)
        base = None if job.base is None else job.base.units(stream.dtype, first, count)
        place = Place(stream.units, first, sides, stream.dtype, base)
        stored += len(encode_chunk(data, stream.expression, place, try_zstd=job.try_zstd, slow=job.slow))
        units += count
    return stored * stream.units / units


def _side(stream: Stream, job: Job, tensor: Input, first: int, count: int) -> Units:
    """A side plane, of which only the units that a chunk needs are looked at."""
    assert job.side is not None
    low, high = 0, stream.units
    if job.each:
        low, high = first // job.each, -(-(first + count) // job.each)
    side = np.zeros(stream.units, stream.dtype.unit)
    side[low:high] = job.side(tensor, low, high)
    return side.reshape(stream.shape)
