"""Few bits for most weights, and the few that these would cost most kept apart: spqr.

Source: T. Dettmers and others, SpQR (2023), without its calibration: codes of 3 bits with a scale and a minimum for
each 16 weights, which are small integers times numbers of 256 weights, and outliers. An outlier is one that widens the
range of its 16 by more than it is worth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.codecs import layouts, lookup
from slimtensors.codecs.casts import round_to_bf16
from slimtensors.detect.codes import Structure, codes
from slimtensors.expression import Gather, Mul, Sparse
from slimtensors.kernels.cpu import outliers as kernels
from slimtensors.kernels.cpu.quantise import round_shifted
from slimtensors.kernels.status import must
from slimtensors.quantise.quantiser import Floats, Quantised, floats_of, side
from slimtensors.quantise.rules import half
from slimtensors.sources.inputs import Input, unit_count

__all__ = ["SpQR"]

RUN, BLOCK = 16, 256
MOST = 7  # codes are from 0 to it
LEVELS = 15  # scales and minima are from 0 to it
PALETTE = np.arange(MOST + 1).astype(np.int8)
OUTLIERS = 3  # of a run, at most
OUTLIER_BITS = 18  # of one: its place, and a number of BF16
TAIL = 16  # last bits of an F32 that an outlier goes without

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class SpQR:
    name: str = "spqr"

    def structure(self, tensor: Input) -> Structure | None:
        if tensor.shape[-1] % RUN or unit_count(tensor) % BLOCK:
            return None
        runs, blocks = unit_count(tensor) // RUN, unit_count(tensor) // BLOCK
        tables = (
            side(0, "I8", (PALETTE.size,)),
            *(side(k, "F32", (runs if k % 2 else blocks,), tail=20 if k % 2 else 13) for k in range(1, 5)),
        )
        values = layouts.floats(tensor.dtype, "balanced", TAIL if tensor.dtype.name == "F32" else 0)
        expression = Sparse(values, Mul(Gather(0, codes(PALETTE.size)), (1, 2), (3, 4)))
        why = "quantised to spqr: a scale and a minimum for each 16, times those of each 256, and outliers apart"
        return Structure(expression, tables, why)

    def quantise(self, tensor: Input, _structure: Structure) -> Quantised:
        weights, dtype = floats_of(tensor), tensor.dtype
        numbers = np.empty(weights.size, dtype.unit)
        with np.errstate(all="ignore"):  # what is not finite is found by its error
            apart, low, high = _outliers(weights)
            low = np.minimum(low, np.float32(0))
            high = np.maximum(high, low)
            scales, d = _few((high - low) / np.float32(MOST))
            minima, m = _few(np.float32(0) - low)  # 0 where low is, and not -0
            steps, offsets = (small * np.repeat(large, BLOCK // RUN) for small, large in ((scales, d), (minima, -m)))
            found = np.empty(weights.size, np.uint8)
            must(round_shifted(weights, steps, offsets, RUN, MOST, found))
            lookup.scaled(PALETTE.astype(np.float32), steps, RUN, 0, found, numbers, dtype, offsets)
        sides = (PALETTE.view(np.uint8), *(each.view("<u4") for each in (scales, d, minima, -m)))
        units = np.where(apart, _kept(tensor), numbers)
        return Quantised(sides, units, numbers)


def _outliers(weights: Floats) -> tuple[Flags, Floats, Floats]:
    """Those at the ends of a run without which its range is so much smaller that their bits are paid; and of each run
    the smallest and the largest that are left.

    Codes of a range r have the squared error c r^2, and a bit more for each weight makes that a quarter: a bit is worth
    2 ln 2 times what a weight's error is on average.
    """
    squares, apart = np.empty(1), np.empty(weights.size, np.uint8)
    must(kernels.sum_ranges(weights, RUN, squares))
    worth = OUTLIER_BITS * 2 * math.log(2) * float(squares[0]) / (weights.size // RUN) / RUN
    low, high = (np.empty(weights.size // RUN, np.float32) for _ in range(2))
    must(kernels.flag_outliers(weights, RUN, OUTLIERS, worth, apart, low, high))
    return apart.view(np.bool_), low, high


def _few(numbers: Floats) -> tuple[Floats, Floats]:
    """(integers from 0 to LEVELS for each number, the F16 of each block that they are times)."""
    unit = half(numbers.reshape(-1, BLOCK // RUN).max(1) / np.float32(LEVELS))
    divisor = np.repeat(np.where(unit > 0, unit, np.float32(np.inf)), BLOCK // RUN)
    whole: Floats = np.minimum(np.rint(numbers / divisor), np.float32(LEVELS))
    return whole, unit


def _kept(tensor: Input) -> npt.NDArray[Any]:
    """What outliers are stored as: of F32 a number of BF16, else exactly."""
    units = tensor.read(0, unit_count(tensor))
    if tensor.dtype.name != "F32":
        return units
    short: npt.NDArray[Any] = round_to_bf16(units).astype(np.uint32) << np.uint32(TAIL)
    return short
