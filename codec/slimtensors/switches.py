"""Variables of the environment that take one of a few values. SLIMTENSORS_ISA is read by the kernels."""

from __future__ import annotations

import os

from slimtensors.errors import UsageError

__all__ = ["ALLOW_HTTP", "AUTO", "CPU", "CUDA", "DECODE", "allows_http", "decoder_asked_for"]

DECODE, AUTO, CPU, CUDA = "SLIMTENSORS_DECODE", "auto", "cpu", "cuda"
ALLOW_HTTP = "SLIMTENSORS_ALLOW_HTTP"


def decoder_asked_for() -> str:
    """Who decodes what is for a CUDA device. Raises UsageError."""
    return _value(DECODE, (AUTO, CPU, CUDA))


def allows_http() -> bool:
    """Whether files may be read over connections that are not encrypted. Raises UsageError."""
    return _value(ALLOW_HTTP, ("0", "1")) == "1"


def _value(name: str, allowed: tuple[str, ...]) -> str:
    """What a variable says, the first of what is allowed if it is empty or not set."""
    text = os.environ.get(name, "")
    value = text.strip().lower() or allowed[0]
    if value not in allowed:
        raise UsageError(f"{name} is {text!r}; it can be {', '.join(allowed)}; not set it is {allowed[0]}")
    return value
