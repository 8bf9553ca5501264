"""Save and load NumPy arrays: the four verbs of `safetensors.numpy`.

BF16 and FP8 arrays have the dtypes of ml_dtypes. F4 and F6 tensors, whose elements are smaller than bytes, are loaded
as bytes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.bases.resolving import open_with
from slimtensors.container.header import Tensor
from slimtensors.container.reader import Verify
from slimtensors.container.source import to_map
from slimtensors.errors import UsageError
from slimtensors.files.applying import decode_over, sort_out
from slimtensors.files.overlaps import Held, check_memory
from slimtensors.packings.weight import PackedWeight, Room
from slimtensors.reading.quantised import Numbers, Wanted, wanted_numbers
from slimtensors.reading.scheduling import Piece
from slimtensors.reading.tensors import TensorFile, all_pieces
from slimtensors.sources.inputs import ArrayInput
from slimtensors.stream.loader import Progress, stream_files
from slimtensors.stream.ordered import AHEAD_BYTES
from slimtensors.stream.plan import Plan
from slimtensors.threads import run_all, thread_count

__all__ = ["apply_delta", "load", "load_file", "save", "save_file", "stream_tensors"]

Array = npt.NDArray[Any]


def __dir__() -> list[str]:
    return sorted(__all__)


def save_file(
    tensor_dict: Mapping[str, Array],
    filename: str | os.PathLike[str] | Any,
    metadata: Mapping[str, str] | None = None,
    *,
    preset: str = "balanced",
    threads: int | None = None,
    self_check: bool = True,
    durable: bool = True,
    base: Any = None,
    base_map: Mapping[str, str] | None = None,
) -> None:
    """Save arrays to a file.

    filename: a path, or a binary file object. The path holds the old file until the new one is complete; names of other
    kinds of file (model.safetensors) are refused. preset: "fast", "balanced" or "small". self_check: decode what was
    written and compare, before the path changes. durable: flush to the disk. base, base_map: as for
    `slimtensors.compress`.
    """
    from slimtensors.bases.matching import (
        matched_bases,  # a quarter of our modules: nobody waits for these who only loads
    )
    from slimtensors.writing.store import store

    inputs = _inputs(tensor_dict)
    with matched_bases(inputs, base, base_map, source=filename, metadata=metadata) as matched:
        store(inputs, filename, metadata, preset, threads, self_check, durable, bases=matched.bases)


def save(
    tensor_dict: Mapping[str, Array],
    metadata: Mapping[str, str] | None = None,
    *,
    preset: str = "balanced",
    threads: int | None = None,
    self_check: bool = True,
    base: Any = None,
    base_map: Mapping[str, str] | None = None,
) -> bytes:
    """Save arrays to bytes."""
    from slimtensors.bases.matching import matched_bases  # as in save_file
    from slimtensors.writing.store import store_bytes

    inputs = _inputs(tensor_dict)
    with matched_bases(inputs, base, base_map, metadata=metadata) as matched:
        return store_bytes(inputs, metadata, preset, threads, self_check, bases=matched.bases)


def load_file(
    filename: Any,
    *,
    verify: Verify = "full",
    threads: int | None = None,
    mmap: bool = False,
    backend: str | None = None,
    max_bytes: int | None = None,
    base: Any = None,
    dequantise: Wanted = False,
) -> dict[str, Array]:
    """Load all arrays of a file. Raises FormatError if the file is damaged; see `safe_open` for the arguments."""
    numbers = wanted_numbers(dequantise, filename)
    with open_with(filename, base, verify=verify, mmap=to_map(mmap, backend), max_bytes=max_bytes) as file:
        return load_arrays(file, thread_count(threads), numbers)


def load(
    data: bytes,
    *,
    verify: Verify = "full",
    threads: int | None = None,
    max_bytes: int | None = None,
    base: Any = None,
    dequantise: Wanted = False,
) -> dict[str, Array]:
    """Load all arrays from bytes."""
    return load_file(
        data, verify=verify, threads=threads, max_bytes=max_bytes, base=base, dequantise=dequantise
    )


def stream_tensors(
    paths: Any,
    *,
    plan: Plan | None = None,
    threads: int | None = None,
    verify: Verify = "full",
    max_bytes: int | None = None,
    base: Any = None,
    ahead: int = AHEAD_BYTES,
    progress: Progress | None = None,
) -> Iterator[tuple[str, Array]]:
    """(name, array) one after another, decoded ahead in the background. Closing the generator stops everything.

    paths: what `safe_open` takes, a folder (whose index is used if it has one), an index of shards, or a list of these.
    plan: which tensors, in which order; each name with None, a slice of the first dimension, or a slice for each of the
    first dimensions, one of which may leave something out (what a rank of a tensor-parallel model needs). All, in the
    files' order, if None. ahead: decoded bytes that may wait to be taken. progress: called with the bytes of each array
    before it is handed out. The rest as for `safe_open`. Raises FormatError if a file is damaged, at once, whatever is
    ready by then.
    """
    return stream_files(
        paths, as_array, thread_count(threads), plan=plan, verify=verify, max_bytes=max_bytes, base=base, ahead=ahead,
        progress=progress,
    )  # fmt: skip


def apply_delta(
    target: Any,
    arrays: Mapping[str, Array],
    *,
    verify: Verify = "full",
    threads: int | None = None,
    max_bytes: int | None = None,
) -> None:
    """Bring arrays in memory to the state that a file holds; they are the file's bases as well as its destination.

    target: a path, bytes, a file object; a folder (whose index is used if it has one), an index of shards, or a list of
    these: all files count as one. arrays: writable, in any byte order and with any strides; those that the file
    does not have are left alone, whatever they are. Several may share memory if the file gives it one content. The
    whole result is decoded beside them and every identity checked before the first is written to, so that an error
    leaves all of them as they were; who reads them meanwhile may see some of the old and some of the new. Raises
    BaseError if they are not what the file was made against, UsageError for what cannot be written to.
    """
    held, refused = sort_out(arrays, _inputs)
    results = decode_over(target, held, refused, threads=threads, verify=verify, max_bytes=max_bytes)
    made = {name: as_array(units, tensor) for name, (tensor, units) in results.items()}
    places = []
    for name, array in made.items():
        there = arrays[name]
        if not isinstance(there, np.ndarray) or not there.flags.writeable:
            raise UsageError(f"tensor {name!r} is not a writable array; nothing was changed")
        if there.shape != array.shape or not np.can_cast(array.dtype, there.dtype, "equiv"):
            raise UsageError(
                f"tensor {name!r} is {array.dtype}{list(array.shape)} in the file and {there.dtype}{list(there.shape)} "
                "in memory; nothing was changed"
            )
        content = np.asarray(array, there.dtype, order="C").view(f"V{there.itemsize}")
        places.append(Held(name, content, there.ctypes.data, there.strides))
    check_memory(places)
    for name, array in made.items():
        np.copyto(arrays[name], array, casting="equiv")


def load_arrays(
    file: TensorFile, threads: int, numbers: Numbers | None = None, names: Iterable[str] | None = None
) -> dict[str, Array]:
    """All arrays of an open file, or those of these names, which stay; numbers: what those of blocks become."""
    found = all_pieces(file, file.index if names is None else names)
    file.fill([Piece(index, 0, units) for index, units in found.values()], threads)
    arrays = {name: as_array(units, file.header.tensors[index]) for name, (index, units) in found.items()}
    if numbers is not None:
        room = Room(file.reader.allowed_bytes)
        found.clear()  # so that blocks go as numbers come

        def convert(name: str) -> None:
            arrays[name] = numbers.array(arrays[name], file.tensor(name), room)

        run_all(convert, list(arrays), threads)
        _put_together(arrays, numbers.packed(file.header), numbers, room, threads)
    return arrays


def _put_together(
    arrays: dict[str, Array], packed: Mapping[str, PackedWeight], numbers: Numbers, room: Room, threads: int
) -> None:
    """Weights in the place of the tensors that stand for them."""

    def convert(weight: PackedWeight) -> None:
        found = weight.numbers({part: arrays[name] for part, name in weight.parts.items()}, numbers.dtype, room)
        for name in weight.parts.values():
            del arrays[name]
        arrays[weight.name] = found

    run_all(convert, list(packed.values()), threads)


def whole_array(file: TensorFile, name: str, threads: int) -> Array:
    """One array of an open file."""
    index = file.find(name)
    return as_array(file.read(index, threads), file.header.tensors[index])


def as_array(units: Array, tensor: Tensor, shape: tuple[int, ...] | None = None) -> Array:
    """The array that these units are. shape: if they are a part of the tensor."""
    if not tensor.dtype.packed:
        return units.view(tensor.dtype.numpy()).reshape(tensor.shape if shape is None else shape)
    return units.reshape(array_shape(tensor))


def array_shape(tensor: Tensor) -> tuple[int, ...]:
    """The shape of a tensor's array: its own, or that of the bytes that its elements are packed into."""
    if not tensor.dtype.packed:
        return tensor.shape
    row_bits = tensor.shape[-1] * tensor.dtype.bits if tensor.shape else tensor.dtype.bits
    return (tensor.nbytes,) if row_bits % 8 else (*tensor.shape[:-1], row_bits // 8)


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
