"""Tensors on their way into a file: arrays in memory, or ranges of a source file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from slimtensors.container.header import Tensor
from slimtensors.container.lossy import Lossy
from slimtensors.container.source import ByteSource, aligned_empty
from slimtensors.dtypes import DType, from_numpy, units_of
from slimtensors.errors import FormatError, TruncatedError
from slimtensors.expression import Expression

__all__ = [
    "ArrayInput", "CopiedInput", "FileInput", "Input", "Located", "SourceFile", "lay_open", "sample_units", "sha256_of",
    "unit_count",
]  # fmt: skip

Units = npt.NDArray[Any]

SAMPLE_RUNS, SAMPLE_RUN = 32, 2048  # units
HASHED = 1 << 22  # bytes read at once for a digest of a whole file


class Input(Protocol):
    """A named tensor that can be read piece by piece, more than once."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    encoding: str | None  # what the elements are, where the dtype does not tell
    lossy: Lossy | None  # if the elements are not the source's, how they were made

    @property
    def place(self) -> Hashable:
        """Where the bytes are, if two inputs can be known to share them without reading; else None."""

    def read(self, start: int, count: int) -> Units:
        """Units [start, start + count), contiguous; not to be written to."""


def unit_count(tensor: Input) -> int:
    """The tensor's units."""
    return tensor.dtype.bytes_of(tensor.shape) // tensor.dtype.unit_bytes


def sample_units(tensor: Input, run: int = SAMPLE_RUN) -> Units:
    """Up to 64 Ki units, in runs spread evenly over the tensor. run: units of each of the 32."""
    units = unit_count(tensor)
    if units <= SAMPLE_RUNS * run:
        return tensor.read(0, units)
    step = units // SAMPLE_RUNS
    if isinstance(tensor, ArrayInput) and tensor.here:  # all runs are cut at once
        return tensor.read(0, SAMPLE_RUNS * step).reshape(SAMPLE_RUNS, step)[:, :run].reshape(-1)
    return np.concatenate([tensor.read(i * step, run) for i in range(SAMPLE_RUNS)])


class ArrayInput:
    """An array in memory."""

    here = True  # whether reading copies nothing
    encoding: str | None = None
    lossy: Lossy | None = None

    def __init__(
        self, name: str, array: npt.NDArray[Any], dtype: DType | None = None, shape: tuple[int, ...] | None = None
    ) -> None:
        self.name = name
        self.dtype = dtype or from_numpy(array.dtype)
        self.shape = array.shape if shape is None else shape
        self._units = units_of(array, self.dtype)

    @property
    def place(self) -> Hashable:
        return self._units.ctypes.data, self._units.nbytes

    def read(self, start: int, count: int) -> Units:
        return self._units[start : start + count]


class FileInput:
    """A range of a source file."""

    lossy: Lossy | None = None

    def __init__(
        self,
        name: str,
        dtype: DType,
        shape: tuple[int, ...],
        source: ByteSource,
        offset: int,
        encoding: str | None = None,
    ) -> None:
        self.name = name
        self.dtype = dtype
        self.shape = shape
        self.encoding = encoding
        self.offset = offset
        self._source = source

    @property
    def place(self) -> Hashable:
        return None

    def read(self, start: int, count: int) -> Units:
        size = self.dtype.unit_bytes
        data = self._source.read(self.offset + start * size, count * size, aligned_empty(count * size))
        return data.view(self.dtype.unit)


class CopiedInput:
    """A tensor of another slimtensors file whose chunks are taken as they are there.

    tensor: what that file's header says of it; its expressions are positions in `expressions`. sides: gives its side
    planes' units. chunk: the stored bytes of a chunk, by the stream's place among the tensor's (side planes first) and
    the chunk's in it.
    """

    def __init__(
        self,
        source: Input,
        tensor: Tensor,
        expressions: Sequence[Expression],
        sides: Callable[[], tuple[Units, ...]],
        chunk: Callable[[int, int], bytes],
    ) -> None:
        self.name, self.dtype, self.shape = source.name, source.dtype, source.shape
        self.encoding, self.lossy, self.place = source.encoding, source.lossy, source.place
        self.read = source.read
        self.tensor, self.expressions, self.sides, self.chunk = tensor, expressions, sides, chunk


class SourceFile(NamedTuple):
    """A source file, laid open. `segments` as in format_spec/container.md, section 8."""

    kind: str  # "safetensors" or "gguf"
    inputs: list[FileInput]
    metadata: dict[str, str]
    segments: list[int | tuple[int, int]]


class Located(NamedTuple):
    """A tensor of a source file: its bytes are [at, end)."""

    at: int
    end: int
    name: str
    dtype: DType
    shape: tuple[int, ...]
    encoding: str | None = None


def lay_open(
    source: ByteSource, kind: str, metadata: dict[str, str], begin: int, found: Iterable[Located]
) -> SourceFile:
    """A source file whose tensors lie here, none before `begin`; what is between them is literal.

    Raises FormatError, TruncatedError where tensors overlap or the file ends too soon.
    """
    size = source.size()
    inputs: list[FileInput] = []
    segments: list[int | tuple[int, int]] = []
    literal, end = begin, begin
    for tensor in sorted(found, key=lambda tensor: tensor[:2]):
        if tensor.at < end:
            raise FormatError(f"{source.label}: tensor {tensor.name!r} overlaps what is before it")
        if tensor.end > size:
            raise TruncatedError(
                f"{source.label}: tensor {tensor.name!r} ends at byte {tensor.end}, the file at {size}; "
                "it was cut off, download it again"
            )
        literal += tensor.at - end
        last = segments[-1] if segments else 0
        if literal:
            segments += [literal, (len(inputs), 1)]
        elif isinstance(last, tuple):
            segments[-1] = (last[0], last[1] + 1)
        else:
            segments.append((len(inputs), 1))
        literal, end = 0, tensor.end
        inputs.append(FileInput(tensor.name, tensor.dtype, tensor.shape, source, tensor.at, tensor.encoding))
    if literal + size - end:
        segments.append(literal + size - end)
    return SourceFile(kind, inputs, metadata, segments)


def sha256_of(source: ByteSource) -> bytes:
    """Of all bytes of a source file."""
    hasher, size = hashlib.sha256(), source.size()
    for at in range(0, size, HASHED):
        hasher.update(source.read(at, min(HASHED, size - at)).data)
    return hasher.digest()
