"""Tensors of open files decoded on a torch device by a backend: whole, in part, or where they are."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from slimtensors.container.header import Tensor
from slimtensors.device.backend import Backend
from slimtensors.numpy import array_shape
from slimtensors.on_torch.tensors import our_dtype, torch_dtype
from slimtensors.reading.slicing import Axis, axes_of, rows_of, span_of, strides_of
from slimtensors.reading.tensors import TensorFile
from slimtensors.stream.plan import Wanted

if TYPE_CHECKING:
    from slimtensors.device.loading import Resident

__all__ = ["empty_there", "range_there", "read_into", "read_slice_there", "read_there", "resident_of"]


def read_there(
    file: TensorFile, indices: Iterable[int], backend: Backend, threads: int, base: Any = None
) -> dict[int, torch.Tensor]:
    """Whole tensors, by their positions in the file, in memory of the backend. Ties share none. base: as the caller
    gave it; of a mapping, tensors on the device are used where they are.
    """
    tensors = file.header.tensors
    found = {i: _empty(tensors[i], array_shape(tensors[i]), tensors[i].nbytes, backend) for i in indices}
    read_into(file, found, backend, threads, base)
    return found


def _empty(tensor: Tensor, shape: tuple[int, ...], nbytes: int, backend: Backend) -> torch.Tensor:
    return torch.as_tensor(backend.fresh(nbytes)).view(torch_dtype(tensor.dtype)).reshape(shape)


def empty_there(wanted: Wanted, backend: Backend) -> torch.Tensor:
    """Memory for a tensor of a plan, or the part of it."""
    tensor = wanted.file.header.tensors[wanted.tensor]
    shape = array_shape(tensor) if wanted.shape == tensor.shape else wanted.shape
    return _empty(tensor, shape, wanted.nbytes, backend)


def read_into(
    file: TensorFile, targets: Mapping[int, torch.Tensor], backend: Backend, threads: int, base: Any = None
) -> None:
    """Whole tensors, by their positions in the file, into contiguous ones of their shapes and dtypes. base: as for
    `read_there`.
    """
    from slimtensors.device.loading import fill_device  # loads Numba

    for i, target in targets.items():
        assert tuple(target.shape) == array_shape(file.header.tensors[i])
    flat = {i: target.detach().reshape(-1).view(torch.uint8) for i, target in targets.items()}
    fill_device(file, flat, backend, threads, resident=resident_of(base, backend))


def resident_of(base: Any, backend: Backend) -> dict[str, Resident]:
    """Tensors of a mapping that kernels can read where they are."""
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
    file: TensorFile, name: str, index: Any, backend: Backend, device: Any, threads: int, base: Any = None
) -> torch.Tensor:
    """`tensor[index]` as `slicing.read_slice` has it, of the chunks that it touches."""
    position = file.find(name)
    tensor = file.header.tensors[position]
    rows = rows_of(tensor, index, name)
    if rows is not None:
        return _read_rows_there(file, position, *rows, backend, device, threads, base)
    axes = axes_of(tensor, index, name)
    shape, strides = tuple(axis.length for axis in axes), strides_of(tensor.shape)
    kept = tuple(axis.length for axis in axes if not axis.drop)
    dtype = torch_dtype(tensor.dtype)
    if math.prod(shape) == 0:
        return torch.empty(kept, dtype=dtype, device=device)
    low, high = span_of(axes, strides)
    elements, first = range_there(file, position, low, high, backend, threads, base)
    flat = elements.view(dtype)
    steps = tuple(abs(axis.step) * stride for axis, stride in zip(axes, strides, strict=True))
    part = flat.as_strided(shape, steps, flat.storage_offset() + low - first)
    return _turned(part, axes).contiguous().reshape(kept)


def _read_rows_there(
    file: TensorFile, position: int, numbers: Any, axes: Sequence[Axis], backend: Backend, device: Any, threads: int,
    base: Any,
) -> torch.Tensor:  # fmt: skip
    tensor = file.header.tensors[position]
    number = file.header.tensor_stream[position]
    dtype, row = torch_dtype(tensor.dtype), math.prod(tensor.shape[1:])
    rows, places = np.unique(numbers, return_inverse=True)
    kept = (*numbers.shape, *(axis.length for axis in axes if not axis.drop))
    if math.prod(kept) == 0:
        return torch.empty(kept, dtype=dtype, device=device)
    units = tensor.dtype.bits // tensor.dtype.unit_bits
    near = math.inf if number is None else file.header.streams[number].chunk
    far = (np.diff(rows) - 1) * (row * units) > near  # from the row before
    found = []
    for some in np.split(rows, np.flatnonzero(far) + 1):
        low, high = int(some[0]) * row, (int(some[-1]) + 1) * row
        elements, first = range_there(file, position, low, high, backend, threads, base)
        lines = elements.view(dtype)[low - first : high - first].reshape(-1, row)
        found.append(lines[torch.from_numpy(some - some[0]).to(elements.device)])
    whole = torch.cat(found)
    whole = whole[torch.from_numpy(places.reshape(-1)).to(whole.device)].reshape(-1, *tensor.shape[1:])
    # torch takes no steps below zero.
    taken = (slice(None), *(slice(axis.low, axis.high, abs(axis.step)) for axis in axes))
    return whole[taken].flip([i for i, axis in enumerate(axes, 1) if axis.step < 0]).contiguous().reshape(kept)


def _turned(part: torch.Tensor, axes: Sequence[Axis]) -> torch.Tensor:
    """Dimensions with steps below zero the other way round."""
    backward = [i for i, axis in enumerate(axes) if axis.step < 0]
    return part.flip(backward) if backward else part


def range_there(
    file: TensorFile, position: int, low: int, high: int, backend: Backend, threads: int, base: Any = None
) -> tuple[torch.Tensor, int]:
    """The bytes of elements that include [low, high), whole chunks, and the first one's number."""
    from slimtensors.device.loading import fill_device

    tensor = file.header.tensors[position]
    number = file.header.tensor_stream[position]
    size = tensor.dtype.bits // 8
    if number is None or file.header.tensors[position].pack is not None:
        buffer = backend.fresh(tensor.nbytes)
        fill_device(file, {position: buffer}, backend, threads, resident=resident_of(base, backend))
        backend.wait(backend.mark())  # from here on it is torch that works on it
        return torch.as_tensor(buffer), 0
    stream = file.header.streams[number]
    units = tensor.dtype.bits // tensor.dtype.unit_bits
    chunks = range(low * units // stream.chunk, -(-high * units // stream.chunk))
    length = sum(stream.chunk_units(chunk) for chunk in chunks) * stream.dtype.unit_bytes
    buffer = backend.fresh(length)
    fill_device(file, {position: buffer}, backend, threads, chunks=chunks, resident=resident_of(base, backend))
    backend.wait(backend.mark())
    return torch.as_tensor(buffer), chunks.start * stream.chunk * stream.dtype.unit_bytes // size
