"""What a mean says of a chunk's units: a higher class, and signs to expect (format_spec/coder.md, section 7.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slimtensors.codecs.head import Bytes
from slimtensors.codecs.place import Place
from slimtensors.codecs.workspace import own, work_space
from slimtensors.expression import Bits, ClassContext, SignContext
from slimtensors.kernels.cpu import mean as kernels
from slimtensors.kernels.status import must

__all__ = [
    "Steered",
    "has_sign",
    "joined_signs",
    "lifted",
    "prepared",
    "scaled_columns",
    "sign_contexts",
    "steer",
    "steering",
]

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
    factors = place.sides[context.mean.factors].reshape(context.mean.rank, -1)
    made = rows, *prepared(factors, context.mean.groups, columns), lifted(context.mean.steps)
    last[:] = [_Prepared(context, place.sides, made)]
    return last[0].steering


def scaled_columns(factors: Bytes, groups: Sequence[int], columns: int) -> npt.NDArray[np.uint16]:
    """Factors of columns, times what the group that each is in counts: uint16[rank, columns].

        (factor - 128) * 2^g modulo 2^16

    factors uint8[rank, rows + columns]; groups: how many factors each has
    """
    shifts = np.repeat(np.arange(len(groups), dtype=np.int32), groups)
    of_columns = factors[:, factors.shape[1] - columns :].astype(np.int32)
    return (of_columns - kernels.ZERO << shifts[:, None]).astype(np.uint16)


def prepared(factors: Bytes, groups: Sequence[int], columns: Bytes) -> tuple[Bytes, npt.NDArray[np.uint16]]:
    """(of_rows, of_columns) as steer_units takes them. columns uint8, their classes; others as for scaled_columns."""
    rank, rows, width = len(factors), factors.shape[1] - columns.size, columns.size
    of_rows = np.empty((rows, kernels.numbers_of(rank)), np.uint8)
    of_rows[:, :rank] = factors[:, :rows].T
    of_rows[:, rank:] = kernels.ZERO
    of_columns = np.zeros((rank + 1, kernels.line_of(width)), np.uint16)
    of_columns[:rank, :width] = scaled_columns(factors, groups, width)
    of_columns[rank, :width] = columns
    return of_rows.reshape(-1), of_columns.reshape(-1)


def lifted(steps: Sequence[int]) -> npt.NDArray[np.uint16]:
    """By how much a class is lifted, as steer_units takes it, where the steps are at these logarithms."""
    logarithms = np.arange(kernels.LOGARITHMS)
    by = np.searchsorted(np.array(steps, np.int64), logarithms, side="right").astype(np.uint16)
    return np.roll(by, 4 * kernels.F32_BIAS)


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
