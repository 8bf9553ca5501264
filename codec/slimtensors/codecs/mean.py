"""What a mean says of a chunk's units: a higher class, and signs to expect (format_spec/coder.md, section 7.1)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slimtensors.codecs.head import Bytes
from slimtensors.codecs.place import Place
from slimtensors.codecs.workspace import own, work_space
from slimtensors.expression import Bits, ClassContext, SignContext
from slimtensors.kernels.cpu import mean as kernels
from slimtensors.kernels.status import must

__all__ = ["Steered", "has_sign", "joined_signs", "sign_contexts", "steer", "steering"]

# Classes of rows, factors of rows, those of columns with their classes, by how much a product lifts: see steer_units.
Steering = tuple[Bytes, Bytes, npt.NDArray[np.uint16], npt.NDArray[np.uint16]]


class Steered(NamedTuple):
    """Of each unit, its class lifted by its mean, and what the kernels keep to tell its sign's context. Valid until
    this thread asks for the next chunk's.
    """

    classes: Bytes
    steers: npt.NDArray[np.uint16]


class _Prepared(NamedTuple):
    """What a thread keeps of the tensor of which it has decoded a chunk."""

    context: ClassContext
    sides: tuple[npt.NDArray[Any], ...]
    steering: Steering


def steering(context: ClassContext, place: Place) -> Steering:
    """What kernels take for all chunks of a tensor."""
    last: list[_Prepared] = own("prepared for a mean", list)
    if last and last[0].sides is place.sides and last[0].context is context:
        return last[0].steering
    assert context.mean is not None
    rows, columns = place.sides[context.rows], place.sides[context.columns]
    factors, rank = place.sides[context.mean.factors].reshape(-1), context.mean.rank
    groups, steps = np.array(context.mean.groups, np.int64), np.array(context.mean.steps, np.int64)
    of_rows = np.empty(rows.size * kernels.numbers_of(rank), np.uint8)
    of_columns = np.empty((rank + 1) * kernels.line_of(columns.size), np.uint16)
    lifted = np.empty(kernels.LOGARITHMS, np.uint16)
    must(kernels.prepare(factors, groups, columns, of_rows, of_columns))
    must(kernels.lift_classes(steps, lifted))
    last[:] = [_Prepared(context, place.sides, (rows, of_rows, of_columns, lifted))]
    return last[0].steering


def steer(context: ClassContext, place: Place, count: int) -> Steered:
    """Of a chunk's first `count` units."""
    rows, of_rows, of_columns, lifted = steering(context, place)
    found = Steered(work_space("mean classes", count, np.uint8), work_space("steers", count, np.uint16))
    width = place.sides[context.columns].size
    must(kernels.steer_units(rows, of_rows, of_columns, width, lifted, place.first, *found))
    return found


def has_sign(bits: Bits) -> bool:
    """Whether the first plane is coded given the last."""
    return isinstance(bits.parts[0].context, SignContext)


def sign_contexts(
    context: SignContext, octave: int, fields: npt.NDArray[Any], steers: npt.NDArray[np.uint16]
) -> tuple[Bytes, Bytes]:
    """What selects the table of each sign, and 1 where the mean is negative."""
    values, flips = work_space("sign contexts", fields.size, np.uint8), work_space("flips", fields.size, np.uint8)
    octave_bits = octave.bit_length() - 1
    must(kernels.sign_contexts(fields, steers, octave_bits, context.first, context.tables, values, flips))
    return values, flips


def joined_signs(
    context: SignContext, octave: int, signs: Bytes, fields: npt.NDArray[Any], steers: npt.NDArray[np.uint16]
) -> Bytes:
    """Signs as they are coded, below their contexts."""
    out = work_space("joined signs", signs.size, np.uint8)
    octave_bits = octave.bit_length() - 1
    must(kernels.join_signs(signs, fields, steers, octave_bits, context.first, context.tables, out))
    return out
