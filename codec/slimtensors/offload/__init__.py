"""Modules whose layers do not stay in memory: they are decoded when their turn comes, one ahead of the computation."""

from slimtensors.offload.hooks import Offloaded, offload

__all__ = ["Offloaded", "offload"]
