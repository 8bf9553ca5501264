"""Codes on a grid given the classes of their row and column, where a trial pays for the side planes.

Rows and columns are spread more or less beside one step for all; a table for each class of spread knows it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.codecs import layouts
from slimtensors.codecs.chunk import encode_chunk
from slimtensors.codecs.place import NOWHERE, Place
from slimtensors.detect.classes import Classes, fit_classes
from slimtensors.detect.codes import Table
from slimtensors.dtypes import DTYPES
from slimtensors.expression import MAX_TABLES, Bits, FieldClass, Trellis
from slimtensors.sources.inputs import Input, unit_count

__all__ = ["class_tables", "with_classes"]

Units = npt.NDArray[Any]

WORTH = 0.998  # what a chunk must come down to, its share of the side planes paid
TRIED = 1 << 18  # units of the chunk
STEPS = (1, 2, 3)  # quarters of an octave in a class


def with_classes(
    expression: Trellis,
    tensor: Input,
    numbers: Input,
    chunk: int,
    made: Callable[[int, int], Units],
    sides: tuple[Units, ...],
) -> tuple[Trellis, Classes] | None:
    """The expression with a context for its last plane, and what its side planes hold, if the middle chunk gains by it.

    numbers: the tensor's, over the scales of their row and column. chunk: units. made: quantises units [first,
    first + count). sides: the side planes that the expression has.
    """
    found = fit_classes(numbers)
    if found is None:
        return None
    units = unit_count(tensor)
    first = units // chunk // 2 * chunk
    part = made(first, min(chunk, units - first, TRIED))
    place = Place(units, first, sides, tensor.dtype)
    least = WORTH * len(encode_chunk(part, expression, place))
    best = None
    for classes in _candidates(found):
        most = int(classes.rows.max()) + int(classes.columns.max())
        if not 0 < most < MAX_TABLES:
            continue
        context = FieldClass(len(sides), len(sides) + 1, most + 1)
        *below, top = expression.bits.parts
        given = replace(expression, bits=Bits((*below, top._replace(context=context))))
        side_bytes = sum(len(encode_chunk(side, layouts.BYTES, NOWHERE, try_zstd=True)) for side in classes)
        size = side_bytes * part.size / units
        size += len(encode_chunk(part, given, place._replace(sides=(*sides, *classes))))
        if size < least:
            best, least = (given, classes), size
    return best


def class_tables(classes: Classes) -> tuple[Table, ...]:
    """The side planes."""
    return tuple(
        Table(DTYPES["U8"], side.shape, partial(_part, side), bits=layouts.BYTES, try_zstd=True) for side in classes
    )


def _part(side: Units, _tensor: Input, low: int, high: int) -> Units:
    return side[low:high]


def _candidates(found: Classes) -> Iterator[Classes]:
    """Finer and coarser ones; of rows alone, of columns alone, of both."""
    for step in STEPS:
        rows, columns = _coarse(found.rows, step), _coarse(found.columns, step)
        yield Classes(rows, columns)
        yield Classes(rows, np.zeros_like(columns))
        yield Classes(np.zeros_like(rows), columns)


def _coarse(quarters: npt.NDArray[np.uint8], step: int) -> npt.NDArray[np.uint8]:
    """Whole steps, from 0. The lowest and highest in a hundred are cut off: a table for them alone costs too much."""
    some = np.sort(quarters)
    low, high = int(some[some.size // 100]), int(some[-1 - some.size // 100])
    steps: npt.NDArray[np.uint8] = (np.clip(quarters, low, high) - low + step // 2) // np.uint8(step)
    return steps
