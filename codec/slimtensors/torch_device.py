"""Tensors of open files decoded on a torch device by a backend: whole, in part, or where they are."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from slimtensors.device.backend import Backend
from slimtensors.numpy import array_shape, as_array
from slimtensors.reading import TensorFile
from slimtensors.slicing import Axis, axes_of, strides_of
from slimtensors.stream.loader import Progress
from slimtensors.stream.plan import Wanted
from slimtensors.torch_tensors import from_array, our_dtype, torch_dtype

if TYPE_CHECKING:
    from slimtensors.device.loading import Resident

__all__ = ["fill_tensors", "read_slice_there", "read_there", "stream_there"]

BATCH_BYTES = 64 << 20  # decoded together, where tensors are handed out one after another


def read_there(
    file: TensorFile, indices: Iterable[int], backend: Backend, device: Any, threads: int, base: Any = None
) -> dict[int, torch.Tensor]:
    """Whole tensors, by their positions in the file, in memory of the backend. Ties share none. base: as the caller
    gave it; of a mapping, tensors on the device are used where they are.
    """
    from slimtensors.device.loading import fill_device  # loads Numba

    wanted = list(indices)
    tensors = file.header.tensors
    buffers = {i: backend.fresh(tensors[i].nbytes) for i in wanted if tensors[i].dtype.bits >= 8}
    fill_device(file, buffers, backend, threads, resident=_resident(base, backend))
    found = {}
    for i in wanted:
        tensor = tensors[i]
        if i in buffers:
            found[i] = torch.as_tensor(buffers[i]).view(torch_dtype(tensor.dtype)).reshape(tensor.shape)
        else:  # several elements to a byte: rare, and never large
            found[i] = from_array(as_array(file.read(i, threads), tensor), tensor.dtype, device)
    return found


def _resident(base: Any, backend: Backend) -> dict[str, Resident]:
    from slimtensors.device.loading import Resident

    if not isinstance(base, Mapping):
        return {}
    there = {
        name: tensor.detach().reshape(-1)
        for name, tensor in base.items()
        if isinstance(tensor, torch.Tensor) and tensor.is_contiguous() and tensor.numel() and backend.holds(tensor)
    }
    return {
        name: Resident(our_dtype(flat.dtype), tuple(base[name].shape), flat.view(torch.uint8))
        for name, flat in there.items()
    }


def read_slice_there(
    file: TensorFile, name: str, index: Any, backend: Backend, device: Any, threads: int
) -> torch.Tensor:
    """`tensor[index]` as `slicing.read_slice` has it, of the chunks that it touches."""
    position = file.find(name)
    tensor = file.header.tensors[position]
    axes = axes_of(tensor, index, name)
    shape, strides = tuple(axis.length for axis in axes), strides_of(tensor.shape)
    kept = tuple(axis.length for axis in axes if not axis.drop)
    dtype = torch_dtype(tensor.dtype)
    if math.prod(shape) == 0:
        return torch.empty(kept, dtype=dtype, device=device)
    low = sum(axis.low * stride for axis, stride in zip(axes, strides, strict=True))
    high = sum((axis.high - 1) * stride for axis, stride in zip(axes, strides, strict=True)) + 1
    elements, first = _range(file, position, low, high, backend, threads)
    flat = elements.view(dtype)
    steps = tuple(abs(axis.step) * stride for axis, stride in zip(axes, strides, strict=True))
    part = flat.as_strided(shape, steps, flat.storage_offset() + low - first)
    return _turned(part, axes).contiguous().reshape(kept)


def _turned(part: torch.Tensor, axes: Sequence[Axis]) -> torch.Tensor:
    """Dimensions with steps below zero the other way round."""
    backward = [i for i, axis in enumerate(axes) if axis.step < 0]
    return part.flip(backward) if backward else part


def _range(
    file: TensorFile, position: int, low: int, high: int, backend: Backend, threads: int
) -> tuple[torch.Tensor, int]:
    """The bytes of elements that include [low, high), whole chunks, and the first one's number."""
    from slimtensors.device.loading import fill_device

    tensor = file.header.tensors[position]
    number = file.header.tensor_stream[position]
    size = tensor.dtype.bits // 8
    if number is None or file.header.tensors[position].pack is not None:
        buffer = backend.fresh(tensor.nbytes)
        fill_device(file, {position: buffer}, backend, threads)
        return torch.as_tensor(buffer), 0
    stream = file.header.streams[number]
    units = tensor.dtype.bits // tensor.dtype.unit_bits
    chunks = range(low * units // stream.chunk, -(-high * units // stream.chunk))
    length = sum(stream.chunk_units(chunk) for chunk in chunks) * stream.dtype.unit_bytes
    buffer = backend.fresh(length)
    fill_device(file, {position: buffer}, backend, threads, chunks=chunks)
    return torch.as_tensor(buffer), chunks.start * stream.chunk * stream.dtype.unit_bytes // size


def stream_there(
    wanted: Sequence[Wanted], backend: Backend, device: Any, threads: int, progress: Progress | None
) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, tensor) in order, decoded some at a time."""
    for batch in _batches(wanted):
        whole = [each for each in batch if each.shape == each.file.header.tensors[each.tensor].shape]
        made: dict[str, torch.Tensor] = {}
        for file in {id(each.file): each.file for each in whole}.values():
            names = {each.tensor: each.name for each in whole if each.file is file}
            read = read_there(file, names, backend, device, threads)
            made |= {names[i]: tensor for i, tensor in read.items()}
        for each in batch:
            found = made.pop(each.name, None)
            if found is None:
                part = slice(each.start, each.start + each.shape[each.dimension])
                index = (*[slice(None)] * each.dimension, part)
                found = read_slice_there(each.file, each.name, index, backend, device, threads)
            if progress is not None:
                progress(each.nbytes)
            yield each.name, found


def _batches(wanted: Sequence[Wanted]) -> Iterator[list[Wanted]]:
    batch: list[Wanted] = []
    for each in wanted:
        if batch and sum(one.nbytes for one in batch) + each.nbytes > BATCH_BYTES:
            yield batch
            batch = []
        batch.append(each)
    if batch:
        yield batch


def fill_tensors(file: TensorFile, targets: Mapping[int, torch.Tensor], backend: Backend, threads: int) -> None:
    """Decode whole tensors (by their positions in the file) into contiguous ones of their shapes and dtypes."""
    from slimtensors.device.loading import fill_device

    for i, target in targets.items():
        assert tuple(target.shape) == array_shape(file.header.tensors[i])
    flat = {i: target.detach().reshape(-1).view(torch.uint8) for i, target in targets.items()}
    fill_device(file, flat, backend, threads)
