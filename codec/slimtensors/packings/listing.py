"""What a file says of its tensors before any is read: where packings are found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from slimtensors.container.header import Tensor
from slimtensors.errors import UsageError
from slimtensors.packings.weight import PackedWeight, Rule

__all__ = ["Listing"]


class Listing:
    """Names, dtypes and shapes of a file's tensors, its metadata, and the model's quantization_config, if known."""

    def __init__(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], config: Mapping[str, Any]) -> None:
        self.tensors = tensors
        self.metadata = metadata
        self.config = config

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __contains__(self, name: object) -> bool:
        return name in self.tensors

    def dtype(self, name: str) -> str | None:
        """safetensors' name of it."""
        return self.tensors[name].dtype.name if name in self.tensors else None

    def shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name].shape

    def is_a(self, name: str, dtype: str, dimensions: int) -> bool:
        """Whether there is such a tensor."""
        return self.dtype(name) == dtype and len(self.shape(name)) == dimensions

    def weight(self, name: str, library: str, parts: Mapping[str, str], rule: Rule) -> PackedWeight:
        """Of these tensors. Raises UsageError where one is missing."""
        for each in parts.values():
            if each not in self.tensors:
                raise UsageError(
                    f"tensor {name!r} is packed as by {library}, but {each!r} is not in this file; if another shard "
                    "has it, save the model with both in one file, or load it as it is, without dequantise"
                )
        return PackedWeight(name, library, dict(parts), rule)
