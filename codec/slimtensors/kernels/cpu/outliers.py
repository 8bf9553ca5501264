"""Weights that widen their run's range by more than they are worth: flagged run by run, at most a few of each."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.kernels._jit import inlined, kernel
from slimtensors.kernels.status import BAD_ARGUMENT, OK

__all__ = ["flag_outliers", "sum_ranges"]

Array = npt.NDArray[Any]


@inlined
def ends(run: Array) -> tuple[Any, Any, Any, Any]:
    """The smallest, the next to it, the next to the largest, and the largest. What is not a number is passed over."""
    low, lower = np.float32(np.inf), np.float32(np.inf)
    high, higher = np.float32(-np.inf), np.float32(-np.inf)
    for i in range(run.size):
        x = run[i]
        # of two, the larger one that is not the smallest any more
        above, below = (low if low > x else x), (high if high < x else x)
        lower, higher = (above if above < lower else lower), (below if below > higher else higher)
        low, high = (x if x < low else low), (x if x > high else high)
    return low, lower, higher, high


@inlined
def next_largest(run: Array, flags: Array, largest: Any, sign: Any) -> Any:
    """Of sign * run, where no flag is set, the one after the largest; minus infinity if there is none."""
    found, equal = np.float32(-np.inf), 0
    for i in range(run.size):
        if flags[i] == 0:
            x = sign * run[i]
            # one of those that equal the largest is the largest itself
            equal += x == largest
            found = x if found < x < largest else found
    return largest if equal > 1 else found


@kernel
def sum_ranges(weights: Array, length: int, out: Array) -> int:
    """out[0] = sum over runs of (largest - smallest)^2, one after another

    weights float32[n * length], out float64[1]
    """
    if length < 1 or weights.size % length != 0 or out.size != 1:
        return BAD_ARGUMENT
    total = 0.0
    for at in range(0, weights.size, length):
        low, high = weights[at], weights[at]
        for i in range(at + 1, at + length):
            x = weights[i]
            low, high = (x if x < low else low), (x if x > high else high)
        width = np.float64(high) - np.float64(low)
        total += width * width
    out[0] = total
    return OK


@kernel
def flag_outliers(weights: Array, length: int, most: int, worth: float, apart: Array, lows: Array, highs: Array) -> int:
    """apart[i] = 1 for the largest or the smallest of a run, the one without which the range is smaller, if its square
    falls by more than `worth` without it; then for the next, up to `most` of a run. Of equal ones the smallest is the
    first, the largest the last. lows, highs: the ends of what is left of each run.

    weights float32[n * length], apart uint8[n * length], lows and highs float32[n]; most + 2 is at most length
    """
    if not (length >= 2 and 0 <= most <= length - 2) or lows.size * length != weights.size:
        return BAD_ARGUMENT
    if apart.size != weights.size or highs.size != lows.size:
        return BAD_ARGUMENT
    for r in range(lows.size):
        run, flags = weights[r * length : (r + 1) * length], apart[r * length : (r + 1) * length]
        for i in range(length):
            flags[i] = 0
        low, lower, higher, high = ends(run)
        for _ in range(most):
            whole = np.float64(high) - np.float64(low)
            without_high, without_low = np.float64(higher) - np.float64(low), np.float64(high) - np.float64(lower)
            rest = without_high if without_high <= without_low else without_low
            if not whole * whole - rest * rest > worth:
                break
            at_top = without_high <= without_low
            at = 0
            for i in range(length):
                if flags[i] == 0 and at_top and run[i] == high:
                    at = i
            for i in range(length - 1, -1, -1):
                if flags[i] == 0 and not at_top and run[i] == low:
                    at = i
            flags[at] = 1
            if at_top:
                high = higher
                higher = next_largest(run, flags, high, np.float32(1))
            else:
                low = lower
                lower = -next_largest(run, flags, -low, np.float32(-1))
        lows[r], highs[r] = low, high
    return OK
