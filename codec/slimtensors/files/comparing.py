"""`verify --against`: whether a file is what it says it is of its source, lossy or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from slimtensors.bases.resolving import open_with
from slimtensors.container.source import aligned_empty, open_source
from slimtensors.errors import ChecksumError, UsageError, check_callable
from slimtensors.files.weights import open_weights
from slimtensors.quantise.errors import Errors, nmse_of
from slimtensors.reading.scheduling import Piece
from slimtensors.reading.tensors import TensorFile
from slimtensors.sources.inputs import Input, sha256_of

__all__ = ["Compared", "compare", "compare_opened"]

PIECE = 1 << 20  # units compared at a time

Progress = Callable[[int], object]  # called with decoded bytes done since the last call


class Compared(NamedTuple):
    """What a file was found to be of its source."""

    source_sha256: str  # hex
    equal: int  # tensors whose bytes are the source's
    lossy: int  # tensors whose errors are those stated
    nmse: float  # of the lossy ones together: squared differences over the source's squares
    max: float


def compare(
    target: Any, source: Any, *, base: Any = None, max_bytes: int | None = None, progress: Progress | None = None
) -> Compared:
    """Compare a slimtensors file with the .safetensors or .gguf file that it was made from, tensor by tensor.

    Lossy tensors' errors are computed again and must be those stated, bit for bit; all others must be equal. Raises
    UsageError if the source is another file than the one stated, ChecksumError for a tensor that is not what is said.
    progress: called with decoded bytes compared since the last call.
    """
    check_callable("numbers of bytes", progress=progress)
    with open_with(target, base, verify="full", max_bytes=max_bytes) as file:
        return compare_opened(file, source, progress)


def compare_opened(file: TensorFile, source: Any, progress: Progress | None = None) -> Compared:
    """The same of an open file."""
    opened = open_source(source)
    try:
        label = file.reader.source.label
        digest = sha256_of(opened)
        if file.header.source is not None and digest != file.header.source:
            raise UsageError(
                f"{opened.label} has SHA-256 {digest.hex()}; {label} was made from one with {file.header.source.hex()}"
            )
        tensors = {tensor.name: tensor for tensor in open_weights(opened).inputs}
        together, largest, equal, lossy = [0.0, 0.0], 0.0, 0, 0
        for i, tensor in enumerate(file.header.tensors):
            given = tensors.get(tensor.name)
            if given is None or (given.dtype, tuple(given.shape)) != (tensor.dtype, tensor.shape):
                found = "has no such tensor" if given is None else f"has it as {given.dtype.name}{list(given.shape)}"
                raise ChecksumError(
                    f"tensor {tensor.name!r}, {tensor.dtype.name}{list(tensor.shape)}: {opened.label} {found}"
                )
            errors = _compared(file, i, given, progress)
            if tensor.lossy is None:
                equal += 1
                continue
            stated = (tensor.lossy.nmse, tensor.lossy.max)
            if (errors.nmse, errors.max) != stated:
                raise ChecksumError(
                    f"tensor {tensor.name!r}: its NMSE is {errors.nmse!r} and its largest error {errors.max!r}; "
                    f"the file states {stated[0]!r} and {stated[1]!r}: its writer was faulty"
                )
            together[0], together[1] = together[0] + errors.error, together[1] + errors.power
            largest, lossy = max(largest, errors.max), lossy + 1
        return Compared(digest.hex(), equal, lossy, nmse_of(*together), largest)
    finally:
        opened.close()


def _compared(file: TensorFile, index: int, given: Input, progress: Progress | None) -> Errors:
    """The errors of a tensor, which are none unless it is lossy. Raises ChecksumError where they should be none."""
    tensor, errors = file.header.tensors[index], Errors()
    for start in range(0, tensor.units, PIECE):
        count = min(PIECE, tensor.units - start)
        out = aligned_empty(count * tensor.dtype.unit_bytes).view(tensor.dtype.unit)
        file.fill([Piece(index, start, out)], 1)
        units = given.read(start, count)
        if tensor.lossy is not None:
            errors.add(units, out, tensor.dtype)
        elif not np.array_equal(units, out):
            raise ChecksumError(f"tensor {tensor.name!r} is not the source's, and the file does not say so")
        if progress is not None:
            progress(out.nbytes)
    return errors
