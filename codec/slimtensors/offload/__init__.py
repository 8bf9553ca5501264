"""Modules whose layers do not stay in memory: they are decoded when their turn comes."""

from slimtensors.offload.compressed import CompressedEmbedding, CompressedLayers, CompressedLinear, keep_compressed
from slimtensors.offload.hooks import Offloaded, offload
from slimtensors.offload.lazy import LazyState

__all__ = [
    "CompressedEmbedding",
    "CompressedLayers",
    "CompressedLinear",
    "LazyState",
    "Offloaded",
    "keep_compressed",
    "offload",
]


def __dir__() -> list[str]:
    return sorted(__all__)
