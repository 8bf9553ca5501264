"""What is told of chunks that have no kernel."""

from __future__ import annotations

import warnings

__all__ = ["DecodedOnCpuWarning", "tell"]

_told: set[str] = set()


class DecodedOnCpuWarning(RuntimeWarning):
    """Part of a file has no kernel for the GPU; it was decoded on the CPU and copied."""


def tell(label: str, kind: str) -> None:
    """Warn, once for each kind."""
    if kind not in _told:
        _told.add(kind)
        warnings.warn(
            f"{label}: no GPU kernel decodes its chunks ({kind}); they, and others like them, are decoded on the CPU",
            DecodedOnCpuWarning,
            stacklevel=2,
        )
