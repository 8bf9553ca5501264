"""What is told of decoding that was asked for on a GPU and is done on the CPU."""

from __future__ import annotations

import warnings

from slimtensors.errors import DecodedOnCpuWarning

__all__ = ["tell", "tell_unusable"]

_told: set[str] = set()


def tell(label: str, kind: str) -> None:
    """Warn of chunks that have no kernel, once for each kind."""
    text = f"{label}: no GPU kernel decodes its chunks ({kind}); they, and others like them, are decoded on the CPU"
    _once(kind, text)


def tell_unusable(reason: str, setting: str) -> None:
    """Warn that no kernel can be used, once. setting: what asks for just that, and is told nothing."""
    _once(
        "unusable",
        f"what is for the GPU is decoded on the CPU and copied, since no kernel can be used: {reason}. "
        f"{setting} decodes on the CPU without this warning",
    )


def _once(kind: str, text: str) -> None:
    if kind not in _told:
        _told.add(kind)
        warnings.warn(text, DecodedOnCpuWarning, stacklevel=3)
