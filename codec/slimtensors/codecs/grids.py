"""Steps and scales of a uniform grid (format_spec/expressions.md, section 7.5); apart from its kernels, since whoever
only looks at a file loads none.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.errors import FormatError
from slimtensors.expression import Trellis

__all__ = ["check_scales", "float_step"]

Array = npt.NDArray[Any]


def float_step(expression: Trellis) -> float:
    """The step; exactly a float32."""
    return float(np.uint32(expression.step).view(np.float32))


def check_scales(expression: Trellis, sides: tuple[Array, ...]) -> None:
    """Refuse scales of rows and columns that are not positive and finite, or make a step so. Raises FormatError."""
    largest = np.float32(float_step(expression))
    for side in (expression.rows, expression.columns):
        if side is None:
            return
        floats = sides[side].view(np.float32)
        if not (np.isfinite(floats) & (floats > 0)).all():
            raise FormatError(f"side plane {side} holds a scale of a trellis that is not positive and finite")
        with np.errstate(all="ignore"):
            largest = largest * floats.max()
    if not np.isfinite(largest):
        raise FormatError("the largest step of a trellis is not finite")
