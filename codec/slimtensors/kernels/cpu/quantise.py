"""Codes of weights in the formats that others define; F32 throughout, one rounding for each operation.

    weights  float32[n]
    scales   float32[n / length]   one for each run of `length` weights; or one over it, as the format has it
    codes    uint8[n]

All return OK, or BAD_ARGUMENT if lengths disagree. What is not finite gets any code.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.kernels._jit import inlined, kernel
from slimtensors.kernels.cpu.blocks import LANES
from slimtensors.kernels.status import BAD_ARGUMENT, OK

__all__ = ["LANES", "peaks", "round_away"]

Array = npt.NDArray[Any]


@inlined
def agree(weights: Array, scales: Array, length: int, codes: Array) -> bool:
    return length >= 1 and scales.size * length == weights.size and codes.size == weights.size


@inlined
def clipped(number: Any, low: int, high: int) -> int:
    """A float, which is whole, as an integer from low to high."""
    return int(np.int32(min(max(number, np.float32(low)), np.float32(high))))


@kernel
def peaks(weights: Array, length: int, out: Array) -> int:
    """Of each run the number of the largest magnitude, the first of several."""
    if length < 1 or out.size * length != weights.size:
        return BAD_ARGUMENT
    for run in range(out.size):
        most = weights[run * length]
        for i in range(run * length + 1, (run + 1) * length):
            most = weights[i] if abs(weights[i]) > abs(most) else most
        out[run] = most
    return OK


@kernel
def round_away(weights: Array, inverses: Array, length: int, zero: int, codes: Array) -> int:
    """codes[i] = zero + weights[i] * inverses[run], rounded, halves away from 0; from 0 to 2 * zero."""
    if not agree(weights, inverses, length, codes):
        return BAD_ARGUMENT
    for run in range(inverses.size):
        factor = np.float32(inverses[run])
        for i in range(run * length, (run + 1) * length):
            x = np.float32(weights[i]) * factor
            magnitude = abs(x)
            floor = np.floor(magnitude)
            whole = floor + np.floor(np.float32(2) * (magnitude - floor))
            codes[i] = zero + clipped(whole if x > 0 else -whole, -zero, zero)
    return OK
