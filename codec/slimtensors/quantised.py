"""Tensors whose elements are blocks, handed out as numbers where that is wanted."""

from __future__ import annotations

from typing import Any, Literal

import numpy.typing as npt

from slimtensors.container.header import Tensor
from slimtensors.dtypes import DTYPES, DType
from slimtensors.errors import UsageError
from slimtensors.gguf.blocks import Block, block_of

__all__ = ["Numbers", "Wanted", "wanted_numbers"]

Array = npt.NDArray[Any]
Wanted = str | Literal[False]

NUMBERS = ("F32", "F16", "BF16")


class Numbers:
    """What tensors become of which the elements are blocks; all others stay as they are."""

    def __init__(self, dtype: DType) -> None:
        self.dtype = dtype

    def block(self, tensor: Tensor) -> Block | None:
        """The block type, of a tensor that becomes numbers."""
        return block_of(tensor.encoding, tensor.dtype.name, tensor.shape)

    def array(self, array: Array, tensor: Tensor) -> Array:
        """Numbers, from whole rows of blocks; other tensors as they are. Raises UsageError."""
        block = self.block(tensor)
        if block is None:
            return array
        from slimtensors.gguf.numbers import dequantised  # loads Numba

        try:
            return dequantised(array, block, self.dtype)
        except UsageError as error:
            raise UsageError(f"tensor {tensor.name!r}: {error}") from None

    def dtype_of(self, tensor: Tensor) -> DType:
        return tensor.dtype if self.block(tensor) is None else self.dtype

    def shape_of(self, tensor: Tensor) -> tuple[int, ...]:
        block = self.block(tensor)
        return tensor.shape if block is None else block.shape(tensor.shape)


def wanted_numbers(dequantise: Wanted) -> Numbers | None:
    """For what a caller asks for. Raises UsageError."""
    if dequantise is False:
        return None
    if dequantise not in NUMBERS:
        raise UsageError(f"dequantise is {dequantise!r}; it can be False or {', '.join(NUMBERS)}")
    return Numbers(DTYPES[dequantise])
