"""Reading and writing safetensors files one tensor at a time, so that a 2 GiB file needs no 2 GiB of memory."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

DTYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "I64": np.int64,
    "U8": np.uint8,
}
FLOATS = {"F64", "F32", "F16", "BF16", "F8_E4M3"}


@dataclass(frozen=True)
class Spec:
    """What the header says of one tensor."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        return self.count * np.dtype(DTYPES[self.dtype]).itemsize

    @property
    def is_float(self) -> bool:
        return self.dtype in FLOATS


class SafeFile:
    """A safetensors file, memory-mapped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.nbytes = path.stat().st_size
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        self.header_bytes = 8 + length
        header.pop("__metadata__", None)
        self.specs = [Spec(name, entry["dtype"], tuple(entry["shape"])) for name, entry in header.items()]
        self._offsets = {name: entry["data_offsets"] for name, entry in header.items()}
        self._map = np.memmap(path, np.uint8, "r")

    @property
    def weights(self) -> int:
        """Float elements, the divisor of "bits per weight"; scales that quantisation added are no weights."""
        return sum(s.count for s in self.specs if s.is_float and not s.name.endswith(".scale"))

    def array(self, spec: Spec) -> np.ndarray:
        """A copy of one tensor."""
        begin, end = (self.header_bytes + offset for offset in self._offsets[spec.name])
        return np.array(self._map[begin:end]).view(DTYPES[spec.dtype]).reshape(spec.shape)

    def __iter__(self) -> Iterator[tuple[Spec, np.ndarray]]:
        for spec in self.specs:
            yield spec, self.array(spec)


def write(path: Path, specs: list[Spec], arrays: Iterable[np.ndarray]) -> None:
    """Writes the arrays in the order of `specs`; the file appears under its name only when it is whole."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for spec in specs:
        end = offset + spec.nbytes
        header[spec.name] = {"dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for spec, array in zip(specs, arrays, strict=True):
            if array.nbytes != spec.nbytes:
                raise ValueError(f"{spec.name}: {array.nbytes} bytes, not {spec.nbytes}")
            file.write(np.ascontiguousarray(array).view(np.uint8).data)
    part.replace(path)
