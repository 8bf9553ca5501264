"""Whether a tensor is another one, converted: without making the other first."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from slimtensors.kernels._jit import kernel
from slimtensors.kernels.cpu.blocks import LANES
from slimtensors.kernels.simd.lanes import count, to_u16
from slimtensors.kernels.simd.memory import load
from slimtensors.kernels.status import BAD_ARGUMENT, OK

Array = npt.NDArray[Any]

DIFFERENT, NOT_A_NUMBER = 11, 12  # beside the statuses of all kernels


@kernel
def compare_rounded(numbers: Array, rounded: Array) -> int:
    """Whether these are F32 numbers rounded to BF16, to the nearest and ties to even (expressions.md, section 4.1).

    numbers  uint32[n]   n is a multiple of 32, above 0
    rounded  uint16[n]

    Returns OK, DIFFERENT, NOT_A_NUMBER if one of `numbers` is a NaN, whatever the rest is, or BAD_ARGUMENT.
    """
    if numbers.size == 0 or numbers.size % LANES != 0 or rounded.size != numbers.size:
        return BAD_ARGUMENT
    different = load(rounded, 0) & 0
    nans = 0
    for at in range(0, numbers.size, LANES):
        x = load(numbers, at)
        # bf16 = floor((x + 7FFF + (bit 16 of x)) / 2^16); the carry runs into the exponent
        different = different | to_u16((x + 0x7FFF + (x >> 16 & 1)) >> 16) ^ load(rounded, at)
        nans += count((x & 0x7FFFFFFF) >= 0x7F800001)
    if nans > 0:
        return NOT_A_NUMBER
    return OK if count(different != 0) == 0 else DIFFERENT
