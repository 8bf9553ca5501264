"""What a mean says of a chunk's units: a higher class, and signs to expect (format_spec/coder.md, section 7.1)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slimtensors.codecs import coded
from slimtensors.codecs.head import GROUP, Bytes, Plane
from slimtensors.codecs.place import Place
from slimtensors.codecs.workspace import work_space
from slimtensors.errors import FormatError
from slimtensors.expression import Bits, ClassContext, SignContext
from slimtensors.kernels.cpu import contexts, mean_kernels, payload, table
from slimtensors.kernels.cpu import mean as kernels
from slimtensors.kernels.status import OK, must

__all__ = ["Signs", "Steered", "decode_signs", "has_sign", "joined_signs", "sign_contexts", "steer"]


class Steered(NamedTuple):
    """Of each unit, its class lifted by its mean, and what the kernels keep to tell its sign's context. Valid until
    this thread asks for the next chunk's.
    """

    classes: Bytes
    steers: npt.NDArray[np.uint16]


class Signs(NamedTuple):
    """The plane of a chunk's signs, for a kernel that puts them above the rest."""

    plane: Plane
    context: SignContext
    below: int  # bits of the units below the field on top
    octave: int
    steers: npt.NDArray[np.uint16]


def has_sign(bits: Bits) -> bool:
    """Whether the first plane is coded given the last."""
    return isinstance(bits.parts[0].context, SignContext)


def steer(context: ClassContext, place: Place, count: int) -> Steered:
    """Of a chunk's first `count` units."""
    assert context.mean is not None
    rows, columns = place.sides[context.rows], place.sides[context.columns]
    factors = place.sides[context.mean.factors].reshape(-1)
    scaled = work_space("mean columns", context.mean.rank * columns.size, np.uint16)
    groups, steps = np.array(context.mean.groups, np.int64), np.array(context.mean.steps, np.int64)
    must(kernels.scale_columns(factors, groups, rows.size, columns.size, scaled))
    found = Steered(work_space("mean classes", count, np.uint8), work_space("steers", count, np.uint16))
    must(kernels.steer_units(rows, columns, factors, scaled, steps, place.first, *found))
    return found


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


def decode_signs(signs: Signs, body: npt.NDArray[Any]) -> None:
    """Put the signs above units whose highest bit is 0. Raises FormatError."""
    plane, context, below, octave, steers = signs
    coded.check_descriptor(plane.descriptor, body.size // GROUP)
    _mode, precision, base, length, blocks, escapes = plane.descriptor
    slots = work_space("tables", context.tables * table.SLOTS, np.uint32)
    starts, parts = np.empty(blocks + 1, np.int64), np.empty(payload.PARTS, np.int64)
    number = np.empty(contexts.CONTEXTS, np.uint32)
    status = payload.open_contexts(
        plane.payload, length, 1, base, False, escapes, precision, body.size, context.tables, table.SLOTS, slots,
        starts, parts, number,
    )  # fmt: skip
    coded.check_opened(status)
    # A table of signs is the frequency of 0, which owns the first slots.
    number = number[: mean_kernels.MOST_SIGN_TABLES]
    there = number != payload.NO_TABLE
    zeros = np.zeros(mean_kernels.MOST_SIGN_TABLES, np.uint16)
    zeros[there] = slots[number[there] * table.SLOTS] >> table.FREQUENCY_SHIFT
    opened = coded.cut(plane, slots, starts, parts)
    choose = below, octave.bit_length() - 1, context.first, context.tables
    status = mean_kernels.decode_signs(zeros, *choose, steers, opened.states, opened.words, opened.starts, body)
    if status != OK:
        raise FormatError("plane 0: a stream of signs does not end as it began, or a sign's table is absent")
