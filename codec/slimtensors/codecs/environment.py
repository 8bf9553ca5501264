"""Floats computed with as IEEE 754 has it, whatever other libraries have made of the thread.

`torch.set_flush_denormal(True)`, or a library built with -ffast-math while it is loaded, has a thread, and those that
it starts, make zeros of the smallest numbers; others change how results are rounded. What files hold must not depend on
that: a product that is rounded otherwise is another number, and who reads it finds a file damaged.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import numpy as np

__all__ = ["as_usual"]

F = TypeVar("F", bound=Callable[..., Any])

# F32, as bits: products that are subnormal, or of a subnormal number, and two that lie between two numbers.
_LEFT = np.array([0x00800000, 0x00400000, 0x3F800800, 0x3F800800], "<u4").view("<f4")
_RIGHT = np.array([0x3F000000, 0x40000000, 0x3F800800, 0x3F801800], "<u4").view("<f4")
_PRODUCTS = np.array([0x00400000, 0x00800000, 0x3F801000, 0x3F802002], "<u4").tobytes()


def as_usual(function: F) -> F:
    """Have a function compute in the usual environment; the thread has its own again afterwards."""

    @wraps(function)
    def usual(*arguments: Any, **named: Any) -> Any:
        with np.errstate(all="ignore"):  # what is flushed to zero, underflows
            as_it_is = (_LEFT * _RIGHT).tobytes() == _PRODUCTS
        if as_it_is:
            return function(*arguments, **named)
        from slimtensors.kernels.environment import altered_here, flip_here  # compiles for a moment, so not before

        bits = altered_here()
        flip_here(bits)
        try:
            return function(*arguments, **named)
        finally:
            flip_here(bits)

    return cast(F, usual)
