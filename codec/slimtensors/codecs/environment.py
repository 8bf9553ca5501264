"""Floats computed with as IEEE 754 has it, whatever other libraries have made of the thread.

`torch.set_flush_denormal(True)`, or a library built with -ffast-math while it is loaded, has a thread, and those that
it starts, make zeros of the smallest numbers; others change how results are rounded. What files hold must not depend on
that: a product that is rounded otherwise is another number, and who reads it finds a file damaged.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import Any, TypeVar, cast

__all__ = ["as_usual"]

F = TypeVar("F", bound=Callable[..., Any])


def as_usual(function: F) -> F:
    """Have a function compute in the usual environment; the thread has its own again afterwards."""

    @wraps(function)
    def usual(*arguments: Any, **named: Any) -> Any:
        altered, flip = _register()
        bits = altered()
        if not bits:
            return function(*arguments, **named)
        flip(bits)
        try:
            return function(*arguments, **named)
        finally:
            flip(bits)

    return cast(F, usual)


@cache
def _register() -> tuple[Callable[[], int], Callable[[int], None]]:
    from slimtensors.kernels.environment import altered_here, flip_here  # loads Numba

    return altered_here, flip_here
