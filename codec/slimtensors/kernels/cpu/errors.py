"""Sums of squared differences in the order that format_spec/lossy.md fixes: element i in lane i mod 32."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from slimtensors.kernels._jit import kernel
from slimtensors.kernels.cpu.blocks import LANES
from slimtensors.kernels.status import BAD_ARGUMENT, OK

__all__ = ["LANES", "add_errors"]

Array = npt.NDArray[Any]


@kernel
def add_errors(source: Array, found: Array, error: Array, power: Array, largest: Array) -> int:
    """error[k] += d * d, power[k] += x * x, largest[0] = max(largest[0], |d|), with d = x - y.

    source, found float64[n], of which the first element is for lane 0; error, power float64[32]; largest float64[1].
    What is not finite makes an error that is not.
    """
    n = source.size
    if found.size != n or error.size != LANES or power.size != LANES or largest.size != 1:
        return BAD_ARGUMENT
    most = largest[0]
    for at in range(0, n, LANES):
        for k in range(min(LANES, n - at)):
            x = source[at + k]
            d = x - found[at + k]
            error[k] += d * d
            power[k] += x * x
            most = max(most, abs(d))
    largest[0] = most
    return OK
