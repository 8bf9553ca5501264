"""The dtypes of safetensors, and the unsigned units in which they are coded (format_spec/expressions.md, section 1)."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np

from slimtensors.errors import UsageError

__all__ = ["CASTABLE", "DTYPES", "DType", "bytes_of", "from_numpy", "units_of"]


_UNITS = {bits: np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32, 64)}


@dataclass(frozen=True)
class DType:
    """How one dtype is stored."""

    name: str
    bits: int
    unit_bits: int
    numpy_name: str  # of NumPy or ml_dtypes; sub-byte types have none that packs, and are handed out as bytes
    is_float: bool = False

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, DType) and self.name == other.name)  # there is one of each name

    def __hash__(self) -> int:
        return hash(self.name)  # many times for each tensor; that of all fields takes several times as long

    @cached_property
    def unit_bytes(self) -> int:
        return self.unit_bits // 8

    @cached_property
    def unit(self) -> np.dtype[Any]:
        """The unit as a little-endian NumPy dtype."""
        return _UNITS[self.unit_bits]

    @property
    def packed(self) -> bool:
        """Whether elements are smaller than bytes, so that no array of them exists."""
        return self.bits % 8 != 0

    def numpy(self) -> np.dtype[Any]:
        """The NumPy dtype of an array of these; uint8 for packed dtypes."""
        return _numpy_dtype(self.numpy_name)

    def bytes_of(self, shape: tuple[int, ...]) -> int:
        """Decoded bytes of a tensor; raises UsageError if its bits are no whole bytes."""
        count = math.prod(shape)
        bits = count * self.bits
        if bits % 8:
            raise UsageError(f"{count} elements of {self.name} do not fill whole bytes")
        return bits // 8


_ALL = [
    DType("BOOL", 8, 8, "bool"),
    DType("U8", 8, 8, "uint8"),
    DType("I8", 8, 8, "int8"),
    DType("F8_E4M3", 8, 8, "float8_e4m3fn", True),
    DType("F8_E5M2", 8, 8, "float8_e5m2", True),
    DType("F8_E8M0", 8, 8, "float8_e8m0fnu"),
    DType("F8_E4M3FNUZ", 8, 8, "float8_e4m3fnuz", True),
    DType("F8_E5M2FNUZ", 8, 8, "float8_e5m2fnuz", True),
    DType("U16", 16, 16, "uint16"),
    DType("I16", 16, 16, "int16"),
    DType("F16", 16, 16, "float16", True),
    DType("BF16", 16, 16, "bfloat16", True),
    DType("U32", 32, 32, "uint32"),
    DType("I32", 32, 32, "int32"),
    DType("F32", 32, 32, "float32", True),
    DType("U64", 64, 64, "uint64"),
    DType("I64", 64, 64, "int64"),
    DType("F64", 64, 64, "float64", True),
    DType("C64", 64, 32, "complex64", True),
    DType("F4", 4, 8, "uint8"),
    DType("F6_E2M3", 6, 8, "uint8"),
    DType("F6_E3M2", 6, 8, "uint8"),
]
DTYPES: dict[str, DType] = {dtype.name: dtype for dtype in _ALL}
# Those that are converted into each other (format_spec/expressions.md, section 4.1).
CASTABLE = frozenset({"F16", "BF16", "F32", "F64"})


@cache
def _numpy_dtype(name: str) -> np.dtype[Any]:
    if name.startswith(("bfloat", "float8")):
        import ml_dtypes  # only where such a tensor occurs: importing it takes a while

        found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
        return found
    dtype = np.dtype(name)
    # Where that is the machine's own order, as it is: NumPy's dtype that says so is another one to some of its users.
    return dtype if dtype.itemsize == 1 or sys.byteorder == "little" else dtype.newbyteorder("<")


_BY_NUMPY_NAME = {dtype.numpy_name: dtype for dtype in _ALL if not dtype.packed}


def from_numpy(dtype: np.dtype[Any]) -> DType:
    """The dtype of a NumPy array; raises UsageError for one that safetensors does not have."""
    found = _BY_NUMPY_NAME.get(dtype.name)
    if found is None:
        raise UsageError(
            f"dtype {dtype.name} cannot be stored; convert the array to one of {', '.join(sorted(_BY_NUMPY_NAME))}"
        )
    return found


def units_of(array: np.ndarray[Any, Any], dtype: DType) -> np.ndarray[Any, Any]:
    """A flat little-endian unsigned view of an array; copies only what is not contiguous or big-endian."""
    if array.dtype.byteorder == ">" or (array.dtype.byteorder == "=" and sys.byteorder == "big"):
        array = array.astype(array.dtype.newbyteorder("<"))
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).view(dtype.unit)


def bytes_of(array: np.ndarray[Any, Any]) -> memoryview:
    """The bytes of a contiguous array, without a copy."""
    return array.reshape(-1).view(np.uint8).data
