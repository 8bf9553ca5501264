"""Blocks, and weights packed into several tensors: handed out as numbers where that is wanted."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy.typing as npt

from slimtensors.container.header import Header, Tensor
from slimtensors.dtypes import DTYPES, DType
from slimtensors.errors import UsageError
from slimtensors.gguf.blocks import Block, block_of
from slimtensors.packings.weight import PackedWeight, Room

__all__ = ["Numbers", "Wanted", "wanted_numbers"]

Array = npt.NDArray[Any]
Wanted = str | Literal[False]

NUMBERS = ("F32", "F16", "BF16")
MOST_CONFIG = 1 << 24  # bytes of a config.json


class Numbers:
    """What tensors become of which the elements are blocks, and packed weights; all others stay as they are.

    config: the model's quantization_config, where it is known.
    """

    def __init__(self, dtype: DType, config: Mapping[str, Any]) -> None:
        self.dtype = dtype
        self._config = config

    def packed(self, header: Header) -> dict[str, PackedWeight]:
        """The weights that several tensors of a file stand for, by name. Raises UsageError."""
        from slimtensors.packings.finding import packed_weights
        from slimtensors.packings.listing import Listing

        tensors = {tensor.name: tensor for tensor in header.tensors}
        return packed_weights(Listing(tensors, header.metadata, self._config))

    def block(self, tensor: Tensor) -> Block | None:
        """The block type, of a tensor that becomes numbers."""
        return block_of(tensor.encoding, tensor.dtype.name, tensor.shape)

    def array(self, array: Array, tensor: Tensor, room: Room) -> Array:
        """Numbers, from whole rows of blocks; other tensors as they are. Raises UsageError, LimitError."""
        block = self.block(tensor)
        if block is None:
            return array
        room.take(tensor.name, array.size // block.size * block.weights * self.dtype.unit_bytes)
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


def wanted_numbers(dequantise: Any, filename: Any) -> Numbers | None:
    """For what a caller asks for of a file. Raises UsageError."""
    if dequantise is False:
        return None
    if dequantise not in NUMBERS:
        raise UsageError(
            f"dequantise is {dequantise!r}; it can be False or {', '.join(map(repr, NUMBERS))}, or of torch tensors "
            "torch.float32, torch.float16 or torch.bfloat16"
        )
    return Numbers(DTYPES[dequantise], _config_beside(filename))


def _config_beside(filename: Any) -> Mapping[str, Any]:
    """What config.json in the file's folder says of how weights were quantised; nothing, where there is none."""
    if not isinstance(filename, str | os.PathLike) or "://" in os.fspath(filename):
        return {}
    path = Path(os.fspath(filename)).parent / "config.json"
    try:
        if not path.is_file() or path.stat().st_size > MOST_CONFIG:
            return {}
        config = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    found = config.get("quantization_config") if isinstance(config, dict) else None
    return found if isinstance(found, dict) else {}
