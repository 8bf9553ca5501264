"""Numbers added to a base."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.kernels._jit import kernel
from slimtensors.kernels.status import BAD_ARGUMENT, OK

__all__ = ["add_numbers"]

Array = npt.NDArray[Any]


@kernel
def add_numbers(base: Array, numbers: Array, out: Array) -> int:
    """out[i] = F32(base[i]) + numbers[i], in the dtype of base; infinities and NaNs of the base stay as they are

    base     uint16[n] of BF16 or uint32[n] of F32
    numbers  float32[n], none of them NaN
    out      as base
    """
    if base.size != out.size or numbers.size != out.size:
        return BAD_ARGUMENT
    half = base.itemsize == 2  # an F32's upper half
    exponent = np.uint32(0x7F80 if half else 0x7F800000)
    for i in range(out.size):
        unit = np.uint32(base[i])
        wide = np.uint32(unit << np.uint32(16) if half else unit)
        bits = np.uint32(np.float32(wide.view(np.float32) + numbers[i]).view(np.uint32))
        if half:
            # to the nearest upper half, ties to even
            bits = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
        out[i] = bits if unit & exponent != exponent else unit
    return OK
