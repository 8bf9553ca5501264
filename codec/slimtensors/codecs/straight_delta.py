"""Differences from a base of the usual kind, 16 bits in mode bypass with contexts of the base, in few steps: a kernel
opens the chunk, another makes contexts, decodes and adds the base in one pass.

All others go the long way (chunk.py); tests hold the two against each other.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slimtensors.codecs import delta, head
from slimtensors.codecs.head import GROUP, LANES, Bytes
from slimtensors.codecs.place import Place
from slimtensors.codecs.rows import Rows
from slimtensors.codecs.straight import MOST_BLOCKS
from slimtensors.codecs.workspace import own, work_space
from slimtensors.expression import BaseContext, Delta
from slimtensors.kernels.cpu import delta_kernels, delta_opening
from slimtensors.kernels.cpu.delta_kernels import MOST_TABLES
from slimtensors.kernels.cpu.payload import STATES, WORDS
from slimtensors.kernels.status import OK

__all__ = ["decode"]

Units = npt.NDArray[Any]

MOST_CLASSES = 256


class _Room(NamedTuple):
    """What a thread needs for opening a chunk."""

    table: npt.NDArray[np.uint32]
    begins: npt.NDArray[np.int64]
    numbers: npt.NDArray[np.uint16]
    starts: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]


def _make_room() -> _Room:
    return _Room(
        np.zeros(delta_opening.ROOM, np.uint32),
        np.empty(MOST_CLASSES, np.int64),
        np.zeros(MOST_TABLES * MOST_CLASSES, np.uint16),
        np.empty(MOST_BLOCKS + 1, np.int64),
        np.empty(delta_opening.PLACES, np.int64),
    )


def decode(data: Bytes, expression: Delta, out: Units, place: Place) -> bool:
    """Fill `out`, if the chunk is sound, of the usual kind, and its base the one that it states; if not, `out` holds
    noise.
    """
    part, body = expression.bits.parts[-1], out[: out.size - out.size % GROUP]
    context = part.context
    if out.itemsize != 2 or part.width != 16 or not isinstance(context, BaseContext) or place.base is None:
        return False
    if len(expression.bits.parts) != 1:
        return False
    if not (place.dtype is not None and place.dtype.is_float and context.shift and context.tables <= MOST_TABLES):
        return False
    rows = None if part.side is None else place.rows(part.side)
    held = body.size if rows is None else rows.count(body.size)
    fields, room = head.up(held, GROUP), own("opening differences", _make_room)
    begins, numbers = room.begins[: context.classes], room.numbers[: MOST_TABLES * context.classes]
    status = delta_opening.open_differences(
        data, out.size, fields, context.tables, room.table, begins, numbers, room.starts, room.places
    )
    if status != OK:
        return False
    lines = _lines(context, rows, place, body.size)
    if lines is None or delta.base_digest(place) != int(data[8:16].view("<u8")[0]):
        return False
    given = base = _writable(delta.base_units(place)[: body.size])
    found = origin = base if expression.moved is None else delta.moved_units(base, expression.moved, place)
    units = body
    if rows is not None:
        given = rows.compact(base)
        found = given if expression.moved is None else rows.compact(origin)
        units = work_space("rows of differences", fields, out.dtype)
    at = room.places.tolist()
    status = delta_kernels.decode_u16(
        room.table, begins, numbers, lines, context.shift, context.first, context.tables, given, found,
        data[at[STATES] : at[WORDS]].view("<u4"), data[at[WORDS] :].view("<u2"),
        room.starts[: at[delta_opening.BLOCKS] + 1], units,
    )  # fmt: skip
    if status != OK:
        return False
    if rows is not None:
        if held < fields and units[held:].any():  # fields after the last row, which are to be zero
            return False
        rows.spread(units[:held], origin, body)
    if body.size < out.size:
        begin = at[delta_opening.TAIL]
        out[body.size :] = data[begin : begin + out.nbytes - body.nbytes].view(out.dtype)
    return True


def _writable(base: Units) -> Units:
    """A copy of one that is read-only, for which Numba would compile the decoder once more."""
    if base.flags.writeable:
        return base
    copied = work_space("base", base.size, base.dtype)
    copied[:] = base
    return copied


def _lines(context: BaseContext, rows: Rows | None, place: Place, units: int) -> Bytes | None:
    """Of each step of 32 units that have a field, the class of its row; None where a step may have two."""
    if context.rows is None:
        fields = units if rows is None else head.up(rows.count(units), GROUP)
        return np.zeros(fields // LANES, np.uint8)
    classes = place.sides[context.rows]
    length = place.units // classes.size
    if length % LANES or place.first % LANES or (rows is not None and rows.length != length):
        return None
    each, first = length // LANES, place.first // LANES
    end = first + units // LANES
    low, high = first // each, -(-end // each)
    here, front, back = classes[low:high], first - low * each, high * each - end  # steps of others at both ends
    if rows is not None:
        present = rows.present[low:high] != 0
        here, front, back = here[present], front * int(present[0]), back * int(present[-1])
    if front or back:  # of rows that may be far longer than the chunk
        counts = np.full(here.size, each)
        counts[0] -= front
        counts[-1] -= back
        found: Bytes = here.repeat(counts)
    else:
        found = here.repeat(each)
    if found.size % (GROUP // LANES) == 0:
        return found
    lines = np.zeros(head.up(found.size, GROUP // LANES), np.uint8)
    lines[: found.size] = found
    return lines
