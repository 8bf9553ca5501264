"""How small a file would become, from samples of its tensors."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.bases.matching import matched_bases
from slimtensors.bases.resolving import BaseDir, folders_of
from slimtensors.container.header import Stream
from slimtensors.container.layout import PREFIX_BYTES
from slimtensors.container.remote import is_remote
from slimtensors.container.source import ByteSource, open_source
from slimtensors.errors import UsageError, check_callable
from slimtensors.files.sampling import sampled_sizes, stream_size
from slimtensors.files.weights import open_weights
from slimtensors.planning.differing import MatchedBase
from slimtensors.planning.plan import Job
from slimtensors.planning.planner import make_plan
from slimtensors.sources.inputs import SourceFile
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
    base: Any = None,
    base_map: Mapping[str, str] | None = None,
    base_dirs: Sequence[BaseDir | str | os.PathLike[str]] = (),
) -> Estimate:
    """Predict what `compress` would make of a .safetensors or .gguf file, by compressing an even sample of its chunks.

    src: what `compress` takes; or the name of a file, repository or index of shards elsewhere, of which headers and a
    few MiB are read. progress: called with bytes of tensors that have been seen to since the last call; elsewhere only
    those of the sample count, once as they come and once as they are compressed.

    base, base_map, base_dirs: as for `compress`; without the base's own bytes.
    """
    check_callable("numbers of bytes", progress=progress)
    if is_remote(src):
        if base is not None:
            raise UsageError(f"{src}: differences from a base can be estimated of local files only; download it first")
        found = sampled_sizes(src, preset, thread_count(threads), progress)
        return Estimate(sum(each.before for each in found), round(sum(each.after for each in found)))
    source = open_source(src)
    try:
        file = open_weights(source)
        with matched_bases(
            file.inputs, base, base_map, source=src, metadata=file.metadata, base_dirs=folders_of(base_dirs)
        ) as matched:
            return _estimate(source, file, matched.bases, preset, thread_count(threads), progress)
    finally:
        source.close()


def _estimate(
    source: ByteSource,
    found: SourceFile,
    bases: Sequence[MatchedBase | None],
    preset: str,
    threads: int,
    progress: Callable[[int], object] | None,
) -> Estimate:
    plan = make_plan(
        found.inputs, preset=preset, metadata=found.metadata, segments=found.segments, bases=bases, source=found.kind
    )
    header = plan.header
    share = min(1.0, SAMPLE_CHUNKS / max(1, header.chunks))
    size = float(PREFIX_BYTES + len(header.to_bytes()) + header.index_length + header.table_length)
    sizes: list[float] = []
    sides_of: dict[int, list[tuple[Stream, Job]]] = {}
    for stream, job in zip(header.streams, plan.jobs, strict=True):
        if job.side is not None:
            sides_of.setdefault(job.inputs[0], []).append((stream, job))

    image = _image(source, found)

    def measure(item: tuple[Stream, Job]) -> None:
        stream, job = item
        sizes.append(stream_size(stream, job, found.inputs, share, sides_of, image))
        if progress is not None:
            progress(stream.units * stream.dtype.unit_bytes)

    run_all(measure, list(zip(header.streams, plan.jobs, strict=True)), threads)
    return Estimate(source.size(), round(size + sum(sizes)))


def _image(source: ByteSource, found: SourceFile) -> npt.NDArray[np.uint8]:
    """What the image's stream holds, with a digest of nothing: that of the file would read all of it."""
    pieces, at = [np.frombuffer(sha256().digest(), np.uint8)], 0
    for segment in found.segments:
        if isinstance(segment, int):
            pieces.append(source.read(at, segment))
            at += segment
        else:
            tensors = found.inputs[segment[0] : segment[0] + segment[1]]
            at += sum(tensor.dtype.bytes_of(tensor.shape) for tensor in tensors)
    return np.concatenate(pieces)
