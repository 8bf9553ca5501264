"""What the kernels of this folder are made with, as types; and the real thing, for GPUs."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

__all__ = ["Device", "Seam", "numba_cuda"]

F = TypeVar("F", bound=Callable[..., Any])


class Device(Protocol):
    """Decorates functions that kernels call."""

    def __call__(self, function: F, /) -> F: ...


class Seam(NamedTuple):
    """The arguments of a factory."""

    cuda: Any
    types: Any
    device: Device


@cache
def numba_cuda() -> Seam:
    """Numba's, for compiling. Needs numba-cuda, but no GPU. Raises ImportError."""
    import numba

    # numba-cuda 0.30, the last one, wants a name that NumPy 2.5 no longer has, and only while this module is loaded.
    lacks_name = "row_stack" not in vars(np)
    if lacks_name:
        vars(np)["row_stack"] = np.vstack
    try:
        import_module("numba.cuda.np.arrayobj")
        cuda: Any = import_module("numba.cuda")
    finally:
        if lacks_name:
            del vars(np)["row_stack"]

    def device(function: F) -> F:
        made: F = cuda.jit(function, device=True, inline="always")
        return made

    return Seam(cuda, numba, device)
