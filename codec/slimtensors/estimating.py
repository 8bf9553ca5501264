"""How small a file would become, from samples of its tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.codecs.chunk import encode_chunk
from slimtensors.codecs.place import Place
from slimtensors.container.header import Stream
from slimtensors.container.layout import CHUNK_RECORD_BYTES, PREFIX_BYTES
from slimtensors.container.source import open_source
from slimtensors.converting import open_safetensors
from slimtensors.inputs import Input, unit_count
from slimtensors.matching import matched_bases
from slimtensors.planner import Job, MatchedBase, make_plan
from slimtensors.safetensors_file import SafetensorsFile
from slimtensors.threads import run_all, thread_count

__all__ = ["Estimate", "estimate"]

Units = npt.NDArray[Any]

SAMPLE_CHUNKS = 192  # in all, so that a file of any size takes seconds


@dataclass(frozen=True)
class Estimate:
    """Sizes in bytes."""

    source_bytes: int
    compressed_bytes: int

    @property
    def ratio(self) -> float:
        """Compressed size as a share of the source's."""
        return self.compressed_bytes / self.source_bytes if self.source_bytes else 1.0


def estimate(
    src: Any,
    *,
    preset: str = "balanced",
    threads: int | None = None,
    progress: Callable[[int], object] | None = None,
    base: Any = None,
    base_map: Mapping[str, str] | None = None,
    base_dirs: Sequence[Any] = (),
) -> Estimate:
    """Predict what `compress` would make of a .safetensors file, by compressing an even sample of its chunks.

    base, base_map, base_dirs: as for `compress`; without the base's own bytes.
    """
    source = open_source(src)
    try:
        found = open_safetensors(source)
        with matched_bases(
            found.inputs, base, base_map, source=src, metadata=found.metadata, base_dirs=base_dirs
        ) as matched:
            return _estimate(source.size(), found, matched.bases, preset, thread_count(threads), progress)
    finally:
        source.close()


def _estimate(
    source_bytes: int,
    found: SafetensorsFile,
    bases: Sequence[MatchedBase | None],
    preset: str,
    threads: int,
    progress: Callable[[int], object] | None,
) -> Estimate:
    plan = make_plan(found.inputs, preset=preset, metadata=found.metadata, segments=found.segments, bases=bases)
    header = plan.header
    share = min(1.0, SAMPLE_CHUNKS / max(1, header.chunks))
    size = float(PREFIX_BYTES + len(header.to_bytes()) + header.index_length + header.table_length)
    sizes: list[float] = []
    sides_of: dict[int, list[tuple[Stream, Job]]] = {}
    for stream, job in zip(header.streams, plan.jobs, strict=True):
        if job.side is not None:
            sides_of.setdefault(job.inputs[0], []).append((stream, job))

    def measure(item: tuple[Stream, Job]) -> None:
        stream, job = item
        sizes.append(_stream_size(stream, job, found.inputs, share, sides_of))
        if progress is not None:
            progress(stream.units * stream.dtype.unit_bytes)

    run_all(measure, list(zip(header.streams, plan.jobs, strict=True)), threads)
    return Estimate(source_bytes, round(size + sum(sizes)))


def _stream_size(
    stream: Stream, job: Job, inputs: Sequence[Input], share: float, sides_of: dict[int, list[tuple[Stream, Job]]]
) -> float:
    """Stored bytes of a stream, from a sample of its chunks."""
    if job.image or job.side is not None:  # text and flags; a guess does, they are small
        share = 1 / 4 if job.image else 1 / 2 if stream.dtype.is_float else 1 / 8
        return share * stream.units * stream.dtype.unit_bytes + CHUNK_RECORD_BYTES
    picked = np.unique(np.linspace(0, stream.chunks - 1, max(1, round(share * stream.chunks))).astype(np.int64))
    stored = units = 0
    side_jobs = sides_of.get(job.inputs[0], []) if len(job.inputs) == 1 else []
    for chunk in picked.tolist():
        count = stream.chunk_units(chunk)
        if len(job.inputs) > 1:
            data = np.concatenate([inputs[i].read(0, unit_count(inputs[i])) for i in job.inputs])
        else:
            data = inputs[job.inputs[0]].read(chunk * stream.chunk, count)
        first = chunk * stream.chunk
        sides = tuple(_side(side, made, inputs[job.inputs[0]], first, count) for side, made in side_jobs)
        base = None if job.base is None else job.base.units(stream.dtype, first, count)
        place = Place(stream.units, first, sides, stream.dtype, base)
        stored += len(encode_chunk(data, stream.expression, place, try_zstd=job.try_zstd))
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
