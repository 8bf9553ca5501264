"""How small a file would become, from samples of its tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from slimtensors.codecs.chunk import encode_chunk
from slimtensors.codecs.rows import Rows
from slimtensors.container.header import Stream
from slimtensors.container.layout import CHUNK_RECORD_BYTES, PREFIX_BYTES
from slimtensors.container.source import open_source
from slimtensors.converting import open_safetensors
from slimtensors.inputs import Input, unit_count
from slimtensors.planner import Job, make_plan
from slimtensors.threads import run_all, thread_count

__all__ = ["Estimate", "estimate"]

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
) -> Estimate:
    """Predict what `compress` would make of a .safetensors file, by compressing an even sample of its chunks."""
    source = open_source(src)
    try:
        found = open_safetensors(source)
        plan = make_plan(found.inputs, preset=preset, metadata=found.metadata, segments=found.segments)
        header = plan.header
        share = min(1.0, SAMPLE_CHUNKS / max(1, header.chunks))
        size = float(PREFIX_BYTES + len(header.to_bytes()) + header.index_length + header.table_length)
        sizes: list[float] = []

        def measure(item: tuple[Stream, Job]) -> None:
            stream, job = item
            sizes.append(_stream_size(stream, job, found.inputs, share))
            if progress is not None:
                progress(stream.units * stream.dtype.unit_bytes)

        run_all(measure, list(zip(header.streams, plan.jobs, strict=True)), thread_count(threads))
        return Estimate(source.size(), round(size + sum(sizes)))
    finally:
        source.close()


def _stream_size(stream: Stream, job: Job, inputs: Sequence[Input], share: float) -> float:
    """Stored bytes of a stream, from a sample of its chunks."""
    if job.image or job.side_of is not None:  # text and flags; a guess does, they are small
        return stream.units / (4 if job.image else 8) + CHUNK_RECORD_BYTES
    picked = np.unique(np.linspace(0, stream.chunks - 1, max(1, round(share * stream.chunks))).astype(np.int64))
    stored = units = 0
    for chunk in picked.tolist():
        count = stream.chunk_units(chunk)
        if len(job.inputs) > 1:
            data = np.concatenate([inputs[i].read(0, unit_count(inputs[i])) for i in job.inputs])
        else:
            data = inputs[job.inputs[0]].read(chunk * stream.chunk, count)
        rows = (_rows(stream, inputs[job.inputs[0]], chunk * stream.chunk, count),) if stream.bits.sides else ()
        stored += len(encode_chunk(data, stream.bits, rows=rows, try_zstd=job.try_zstd))
        units += count
    return stored * stream.units / units


def _rows(stream: Stream, tensor: Input, first: int, count: int) -> Rows:
    """Flags of the rows that a chunk touches; the others are not looked at."""
    length = tensor.shape[-1]
    tail = sum(part.width for part in stream.bits.parts if part.side is not None)
    low, high = first // length, -(-(first + count) // length)
    block = tensor.read(low * length, (high - low) * length).reshape(-1, length)
    present = np.zeros(stream.units // length, np.uint8)
    present[low:high] = (np.bitwise_or.reduce(block, axis=1) & tensor.dtype.unit.type((1 << tail) - 1)) != 0
    return Rows(present, length, first)
