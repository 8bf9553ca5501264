"""`encode` and `decode`: one array to bytes and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.bases.resolving import open_with
from slimtensors.container.reader import Verify
from slimtensors.container.source import Bytes
from slimtensors.dtypes import units_of
from slimtensors.errors import FormatError, UsageError
from slimtensors.numpy import save, whole_array
from slimtensors.reading.scheduling import Piece
from slimtensors.threads import thread_count

__all__ = ["decode", "encode"]

NAME = "array"


def encode(
    array: npt.NDArray[Any],
    *,
    preset: str = "balanced",
    threads: int | None = None,
    self_check: bool = True,
    base: npt.NDArray[Any] | None = None,
) -> bytes:
    """One array as bytes: a whole slimtensors file with one tensor, named "array".

    base: an array of like shape from which this one differs little; `decode` then needs it too.
    """
    return save({NAME: array}, preset=preset, threads=threads, self_check=self_check, base=_named(base))


def decode(
    data: bytes | Bytes,
    *,
    threads: int | None = None,
    verify: Verify = "full",
    out: npt.NDArray[Any] | None = None,
    max_bytes: int | None = None,
    base: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any]:
    """The array that `encode` was given.

    out: a contiguous array of the same dtype and shape to decode into. On an error it holds noise. Raises FormatError.
    """
    if out is not None and not isinstance(out, np.ndarray):
        raise UsageError(f"out is a {type(out).__name__}; a NumPy array is needed (of a torch tensor, its .numpy())")
    count = thread_count(threads)
    with open_with(data, _named(base), verify=verify, max_bytes=max_bytes) as file:
        names = list(file.index)
        if len(names) != 1:
            raise FormatError(f"the bytes hold {len(names)} tensors, not one; use slimtensors.numpy.load")
        if out is None:
            return whole_array(file, names[0], count)
        tensor = file.header.tensors[0]
        wanted = tensor.dtype.numpy()
        if out.dtype != wanted and out.dtype.newbyteorder() == wanted:
            raise UsageError(
                f"out is of {out.dtype.name} in the other byte order ({out.dtype.str}); it has to be in this machine's "
                f"({wanted.newbyteorder('=').str})"
            )
        if out.dtype != wanted or out.shape != tensor.shape:
            raise UsageError(
                f"out is {out.dtype.name}{list(out.shape)}, the array {tensor.dtype.name}{list(tensor.shape)}"
            )
        if not (out.flags.c_contiguous and out.flags.writeable and out.flags.aligned):
            raise UsageError("out is not contiguous, aligned and writable")
        file.fill([Piece(0, 0, units_of(out, tensor.dtype))], count)
        return out


def _named(base: npt.NDArray[Any] | None) -> dict[str, npt.NDArray[Any]] | None:
    return None if base is None else {NAME: base}
