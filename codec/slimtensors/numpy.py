"""Save and load NumPy arrays: the four verbs of `safetensors.numpy`.

BF16 and FP8 arrays have the dtypes of ml_dtypes. F4 and F6 tensors, whose elements are smaller than bytes, are loaded
as bytes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.container.header import Tensor
from slimtensors.container.reader import Verify
from slimtensors.errors import UsageError
from slimtensors.inputs import ArrayInput
from slimtensors.reading import Piece, TensorFile, all_pieces, open_file
from slimtensors.store import store, store_bytes
from slimtensors.threads import thread_count

__all__ = ["load", "load_file", "save", "save_file"]

Array = npt.NDArray[Any]


def save_file(
    tensor_dict: Mapping[str, Array],
    filename: str | os.PathLike[str] | Any,
    metadata: Mapping[str, str] | None = None,
    *,
    preset: str = "balanced",
    threads: int | None = None,
    self_check: bool = True,
    durable: bool = True,
) -> None:
    """Save arrays to a file.

    filename: a path, or a binary file object. The path holds the old file until the new one is complete. preset:
    "fast" or "balanced". self_check: decode what was written and compare, before the path changes. durable: flush to
    the disk.
    """
    store(_inputs(tensor_dict), filename, metadata, preset, threads, self_check, durable)


def save(
    tensor_dict: Mapping[str, Array],
    metadata: Mapping[str, str] | None = None,
    *,
    preset: str = "balanced",
    threads: int | None = None,
    self_check: bool = True,
) -> bytes:
    """Save arrays to bytes."""
    return store_bytes(_inputs(tensor_dict), metadata, preset, threads, self_check)


def load_file(
    filename: Any,
    *,
    verify: Verify = "full",
    threads: int | None = None,
    mmap: bool = False,
    max_bytes: int | None = None,
) -> dict[str, Array]:
    """Load all arrays of a file. Raises FormatError if the file is damaged; see `safe_open` for the arguments."""
    with open_file(filename, verify=verify, mmap=mmap, max_bytes=max_bytes) as file:
        return load_arrays(file, thread_count(threads))


def load(
    data: bytes, *, verify: Verify = "full", threads: int | None = None, max_bytes: int | None = None
) -> dict[str, Array]:
    """Load all arrays from bytes."""
    return load_file(data, verify=verify, threads=threads, max_bytes=max_bytes)


def load_arrays(file: TensorFile, threads: int) -> dict[str, Array]:
    """All arrays of an open file."""
    found = all_pieces(file, file.index)
    file.fill([Piece(index, 0, units) for index, units in found.values()], threads)
    return {name: _as_array(units, file.header.tensors[index]) for name, (index, units) in found.items()}


def whole_array(file: TensorFile, name: str, threads: int) -> Array:
    """One array of an open file."""
    index = file.find(name)
    return _as_array(file.read(index, threads), file.header.tensors[index])


def _as_array(units: Array, tensor: Tensor) -> Array:
    dtype = tensor.dtype
    if not dtype.packed:
        return units.view(dtype.numpy()).reshape(tensor.shape)
    row_bits = tensor.shape[-1] * dtype.bits if tensor.shape else dtype.bits
    if row_bits % 8:
        return units
    return units.reshape((*tensor.shape[:-1], row_bits // 8))


def _inputs(tensors: Mapping[str, Array]) -> list[ArrayInput]:
    if not isinstance(tensors, Mapping):
        raise UsageError(f"the tensors are a {type(tensors).__name__}; a dict from names to arrays is needed")
    made = []
    for name, array in tensors.items():
        if not isinstance(array, (np.ndarray, np.generic)):
            raise UsageError(f"tensor {name!r} is a {type(array).__name__}, not a NumPy array")
        try:
            made.append(ArrayInput(name, np.asarray(array)))
        except UsageError as error:
            raise UsageError(f"tensor {name!r}: {error}") from None
    return made
