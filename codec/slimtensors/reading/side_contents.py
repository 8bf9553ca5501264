"""What decoded side planes may hold, by their use; container/side_planes.py checks their dtypes and shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.codecs.grids import check_scales
from slimtensors.container.header import Stream
from slimtensors.errors import FormatError
from slimtensors.expression import (
    BaseContext,
    ClassContext,
    FieldClass,
    FieldLines,
    FieldScale,
    Mul,
    Record,
    Trellis,
    values_of,
)

__all__ = ["check_contents"]

Units = npt.NDArray[Any]

MAX_CLASS = 255  # of a row and a column together


def check_contents(stream: Stream, sides: tuple[Units, ...]) -> None:
    """Refuse side planes that hold what their use does not allow."""
    for side in stream.bits.flags:
        if sides[side].max() > 1:
            raise FormatError(f"{stream.label}: row flags other than 0 and 1 in side plane {side}")
    values = values_of(stream.expression)
    if isinstance(values, Mul):
        from slimtensors.codecs import lookup  # loads Numba

        for side in values.sides:
            if sides[side].itemsize == 4 and not np.isfinite(sides[side].view("<f4")).all():
                raise FormatError(f"{stream.label}: side plane {side} holds numbers that are not finite")
        for factors in values.factors:
            if len(factors) > 1 and not np.isfinite(lookup.multiplied(factors, sides)).all():
                raise FormatError(f"{stream.label}: a product of side planes {factors} is not finite")
    if isinstance(values, Trellis):
        try:
            check_scales(values, sides)
        except FormatError as error:
            raise FormatError(f"{stream.label}: {error}") from None
    for context in stream.bits.contexts:
        if isinstance(context, BaseContext) and context.rows is not None:
            most = int(sides[context.rows].max())
            if most >= context.classes:
                raise FormatError(f"{stream.label}: class {most} of a row, of {context.classes}")
    fields = stream.expression.fields if isinstance(stream.expression, Record) else ()
    for field in fields:
        lines = field.context.lines if isinstance(field.context, FieldScale) else field.context
        if isinstance(lines, FieldLines):
            rows, columns = np.split(sides[lines.side], [-lines.columns])
            if int(rows.max()) + int(columns.max()) > MAX_CLASS:
                raise FormatError(f"{stream.label}: classes of row and column of more than {MAX_CLASS} together")
    for classes in (*stream.bits.contexts, *(field.context for field in fields)):
        if isinstance(classes, ClassContext | FieldClass):
            most = int(sides[classes.rows].max()) + int(sides[classes.columns].max())
            if isinstance(classes, ClassContext) and classes.mean is not None:
                most += len(classes.mean.steps)
            if most > MAX_CLASS:
                raise FormatError(f"{stream.label}: classes of row and column of more than {MAX_CLASS} together")
