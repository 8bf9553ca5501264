"""Chunks whose planes have classes of rows and columns, with a mean or without, in few steps, as in straight.py: a
kernel opens the chunk, another decodes it.

All others go the long way (chunk.py), and so do those in which one of the two finds something wrong: it has the words.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slimtensors.codecs import mean, straight
from slimtensors.codecs.head import GROUP, Bytes
from slimtensors.codecs.place import Place
from slimtensors.codecs.workspace import own, work_space
from slimtensors.expression import CLASS_TABLES, Bits, ClassContext, SignContext
from slimtensors.kernels.cpu import class_kernels, contexts, mean_kernels, opening, payload, table
from slimtensors.kernels.status import OK, must

__all__ = ["decode"]

Units = npt.NDArray[Any]

# By the bytes of a unit and the planes' widths.
CLASSES: dict[tuple[int, tuple[int, ...]], Callable[..., int]] = {
    (1, (1, 7)): class_kernels.decode_u8_1_7,
    (2, (8, 8)): class_kernels.decode_u16_8_8,
    (2, (6, 10)): class_kernels.decode_u16_6_10,
    (4, (8, 8, 6, 10)): class_kernels.decode_u32_8_8_6_10,
}
MEANS: dict[tuple[int, tuple[int, ...]], Callable[..., int]] = {
    (1, (1, 7)): mean_kernels.decode_u8_7,
    (2, (1, 7, 8)): mean_kernels.decode_u16_7_8,
    (2, (1, 5, 10)): mean_kernels.decode_u16_5_10,
    (4, (1, 8, 8, 5, 10)): mean_kernels.decode_u32_8_8_5_10,
}


class _Room(NamedTuple):
    """What a thread needs for opening a chunk. The last three are of the signs."""

    table: npt.NDArray[np.uint32]
    starts: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]
    zeros: npt.NDArray[np.uint16]
    sign_starts: npt.NDArray[np.int64]
    sign_places: npt.NDArray[np.int64]


def _make_room() -> _Room:
    starts, places = straight.MOST_BLOCKS + 1, opening.PLACES
    return _Room(
        np.empty(CLASS_TABLES * table.SLOTS, np.uint32),
        np.empty(starts, np.int64),
        np.empty(places, np.int64),
        np.zeros(mean_kernels.MOST_SIGN_TABLES, np.uint16),
        np.empty(starts, np.int64),
        np.empty(places, np.int64),
    )


class _Plan(NamedTuple):
    """What the planes' widths imply."""

    widths: npt.NDArray[np.int64]
    pieces: tuple[tuple[int, ...], ...]  # bits of each, of each plane but the last
    below: int  # bits of a unit below the field on top
    decode: Callable[..., int]


@cache
def _plan(unit_bytes: int, widths: tuple[int, ...], *, signs: bool) -> _Plan | None:
    kernel = (MEANS if signs else CLASSES).get((unit_bytes, widths))
    if kernel is None:
        return None
    pieces = straight.pieces_of(widths[:-1])
    # unit = v / 2 + (v mod 2) * 2^(b - 1), and the field lies above bit 0 of v, which is the first plane or part of it
    return _Plan(np.array(widths), ((), *pieces[1:]) if signs else pieces, sum(widths[:-1]) - 1, kernel)


def decode(data: Bytes, bits: Bits, out: Units, place: Place) -> bool:
    """Fill `out`, if the chunk is of these kinds and sound; if not, `out` holds noise."""
    top, first, contexts_ = bits.parts[-1].context, bits.parts[0].context, len(bits.contexts)
    if not isinstance(top, ClassContext) or bits.rotate != 1 or bits.flags:
        return False
    if top.mean is None and contexts_ == 1:
        plan = _plan(out.itemsize, bits.widths, signs=False)
        return plan is not None and _decode(data, plan, top, None, out, place)
    if top.mean is not None and contexts_ == 2 and isinstance(first, SignContext):
        plan = _plan(out.itemsize, bits.widths, signs=True)
        return plan is not None and _decode(data, plan, top, first, out, place)
    return False


def _decode(
    data: Bytes, plan: _Plan, top: ClassContext, sign: SignContext | None, out: Units, place: Place
) -> bool:
    room, rows, columns = own("classes", _make_room), place.sides[top.rows], place.sides[top.columns]
    lifts = 0 if top.mean is None else len(top.mean.steps)
    tables = 0 if sign is None else sign.tables
    status = opening.open_classes(
        data, out.size, out.itemsize, plan.widths, rows, columns, top.octave, lifts, room.table, room.starts,
        room.places, room.zeros[:tables], room.sign_starts, room.sign_places,
    )  # fmt: skip
    if status != OK:
        return False
    at = room.places.tolist()
    body = straight.body_of(data, at, out)
    raw = straight.raw_pieces(data, at, plan.pieces, body.size // GROUP)
    stream = straight.stream_of(data, at, room.starts)
    if sign is not None:
        signs = straight.stream_of(data, room.sign_places.tolist(), room.sign_starts)
        steering = mean.steering(top, place)
        return bool(plan.decode(
            room.table, (at[opening.BASE], top.octave), (top.octave.bit_length() - 1, sign.first, sign.tables),
            room.zeros, stream, signs, tuple(straight.escapes_of(data, at)), steering, (place.first, columns.size),
            *raw, body,
        ) == OK)  # fmt: skip
    values = work_space("contexts", body.size, np.uint8)
    must(contexts.class_contexts(rows, columns, place.first, values))
    if plan.decode(room.table, at[opening.BASE], top.octave, *stream, *raw, values, body) != OK:
        return False
    if not at[opening.ESCAPES]:
        return True
    width = int(plan.widths[-1])
    return bool(payload.patch(body, plan.below, (1 << width) - 1, *straight.escapes_of(data, at)) == OK)
