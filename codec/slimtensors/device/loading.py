"""Tensors of a file into buffers on a device: chunks that a kernel decodes by segments, all else by the CPU."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.device.backend import Backend, Buffer
from slimtensors.device.bases import Bases, Resident, as_bytes
from slimtensors.device.kept import Kept, Plan
from slimtensors.device.layouts import Planes, planes_of
from slimtensors.device.loader import Loader
from slimtensors.device.segments import layout_of
from slimtensors.device.tasks import segments_of
from slimtensors.device.telling import tell
from slimtensors.device.uploads import Uploads
from slimtensors.kernels.cuda.decode import Layout
from slimtensors.reading.scheduling import Piece
from slimtensors.reading.tensors import TensorFile

__all__ = ["Filling", "Kept", "Resident", "begin_fill", "fill_device"]

Array = npt.NDArray[Any]

SEGMENT_BYTES = 32 * 1024 * 1024  # stored
DECODED_BYTES = 2 * SEGMENT_BYTES  # of a segment: what decodes plane by plane has work space on the device
ALIGNMENT = 8  # of a target that the kernels write to


class Filling:
    """What has been asked of a device, and is not checked yet."""

    def __init__(self, loader: Loader, mark: Any) -> None:
        self._loader, self._mark = loader, mark  # behind all of it

    def check(self) -> None:
        """Wait for it. Raises ChecksumError or FormatError for what is wrong."""
        self._loader.check(self._mark)


def fill_device(
    file: TensorFile,
    targets: Mapping[int, Buffer],
    backend: Backend,
    threads: int,
    *,
    chunks: range | None = None,
    resident: Mapping[str, Resident] | None = None,
) -> None:
    """Decode tensors (by their positions in the file) into buffers of their sizes; or these chunks of each, which then
    have streams of their own. resident: tensors on the device, by name, that may be bases.
    """
    begin_fill(file, targets, backend, threads, chunks=chunks, resident=resident).check()


def begin_fill(
    file: TensorFile,
    targets: Mapping[int, Buffer],
    backend: Backend,
    threads: int,
    *,
    chunks: range | None = None,
    resident: Mapping[str, Resident] | None = None,
    kept: Kept | None = None,
    uploads: Uploads | None = None,
) -> Filling:
    """Ask for what `fill_device` does, and leave the verdict for later.

    kept: filled at the first call, so that later ones for the same tensors read nothing. uploads: of the queue that
    this thread uses, for one fill after the other.
    """
    filled = {index: target for index, target in targets.items() if len(target)}
    places = backend.window(list(filled.values()))[1] if filled else []
    aligned = [index for index, place in zip(filled, places, strict=True) if place % ALIGNMENT == 0]
    key = tuple(filled), tuple(aligned), chunks
    plan = None if kept is None else kept.plans.get(key)
    if plan is None:
        plan = _plan(file, list(filled), set(aligned), chunks)
        if kept is not None:
            kept.plans[key] = plan
    bases = Bases(file, backend, threads, resident or {}, fill_device)
    loader = Loader(file, filled, backend, threads, bases, kept, Uploads(backend) if uploads is None else uploads)
    try:
        loader.load(plan.segments)
        for index in plan.others:
            target, holder = filled[index], file.header.holder(index)
            if holder != index and holder in targets and len(targets[holder]) == len(target) and _is_tie(file, index):
                backend.copy(target, targets[holder])
            elif kept is None:
                backend.write(target, _read(file, index, len(target), threads, chunks))
            else:
                if index not in kept.decoded:
                    kept.decoded[index] = backend.staging(len(target))
                    kept.decoded[index][:] = _read(file, index, len(target), threads, chunks)
                backend.send(target, kept.decoded[index])
    except BaseException:
        loader.wait()
        raise
    return Filling(loader, backend.mark())


def _plan(file: TensorFile, indices: Sequence[int], aligned: Container[int], chunks: range | None) -> Plan:
    """aligned: tensors whose targets kernels can write to."""
    by_layout: dict[Layout | Planes, list[int]] = {}
    others = []
    for index in indices:
        layout = _layout(file, index)
        if layout is None or index not in aligned:
            others.append(index)
        else:
            by_layout.setdefault(layout, []).append(index)
    return Plan(segments_of(file, by_layout, chunks, SEGMENT_BYTES, DECODED_BYTES), others)


def _read(file: TensorFile, index: int, length: int, threads: int, chunks: range | None) -> Array:
    """What no kernel decodes."""
    if chunks is None:
        return as_bytes(file.read(index, threads))
    number = file.header.tensor_stream[index]
    assert number is not None
    stream = file.header.streams[number]
    out = np.empty(length // stream.dtype.unit_bytes, stream.dtype.unit)
    file.fill([Piece(index, chunks.start * stream.chunk, out)], threads)
    return as_bytes(out)


def _layout(file: TensorFile, index: int) -> Layout | Planes | None:
    """The layout of a tensor's chunks, if kernels decode them."""
    header = file.header
    number = header.tensor_stream[index]
    if number is None or header.holder(index) != index or index in header.pack_offset:
        return None
    stream = header.streams[number]
    layout: Layout | Planes | None = layout_of(stream.expression, stream.dtype.unit_bytes)
    if layout is None:
        kind = stream.dtype
        layout = planes_of(stream.expression, stream.units, kind.unit_bytes, kind.is_float, kind.name)
    if layout is None:
        tell(stream.label, str(type(stream.expression).__name__).lower())
    return layout


def _is_tie(file: TensorFile, index: int) -> bool:
    tensors = file.header.tensors
    return tensors[index].dtype == tensors[file.header.holder(index)].dtype
