"""Sparse chunks of the usual kind in few steps, as straight.py has them for others: values whose kernel puts them in
place as it decodes them.

All others go the long way (sparse.py); tests hold the two against each other.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slimtensors.codecs import straight
from slimtensors.codecs.head import (
    DESCRIPTOR_BYTES,
    GROUP,
    HEAD_BYTES,
    LANES,
    PLANES,
    Bytes,
    Mode,
    Plane,
    read_descriptor,
    up,
)
from slimtensors.codecs.sparse import decode_mask
from slimtensors.codecs.workspace import own, work_space
from slimtensors.errors import FormatError
from slimtensors.expression import MASK_WIDTH, Sparse
from slimtensors.kernels import instruction_set
from slimtensors.kernels.cpu import opening, scatter, scatter_kernels
from slimtensors.kernels.status import OK

__all__ = ["decode"]

Units = npt.NDArray[Any]


class _Layout(NamedTuple):
    """Raw planes below one coded plane, rotated by one."""

    widths: npt.NDArray[np.int64]
    pieces: tuple[tuple[int, ...], ...]
    decode: Callable[..., int]
    search: Callable[..., int]


LAYOUTS: dict[tuple[int, tuple[int, ...]], _Layout] = {
    (2, widths): _Layout(np.array(widths), straight.pieces_of(widths[:-1]), decode, search)
    for widths, decode, search in (
        ((8, 8), scatter_kernels.decode_u16_8_8, scatter_kernels.search_u16_8_8),
        ((6, 10), scatter_kernels.decode_u16_6_10, scatter_kernels.search_u16_6_10),
        ((4, 12), scatter_kernels.decode_u16_4_12, scatter_kernels.search_u16_4_12),
    )
}
_searches = cache(instruction_set.searches)


def _cursors() -> npt.NDArray[np.int64]:
    return np.empty(scatter.CURSORS * (straight.MOST_BLOCKS + 1), np.int64)


def decode(data: Bytes, expression: Sparse, out: Units) -> bool:
    """Fill `out`, if the chunk is sound and of the usual kind; if not, `out` holds noise."""
    bits = expression.values
    layout = LAYOUTS.get((out.itemsize, bits.widths)) if bits.rotate == 1 and expression.rest is None else None
    if layout is None:
        return False
    mask = _mask(data, out.size, 1 + len(bits.widths))
    if mask is None:
        return False
    room = own("opening", straight.make_room)
    units = out.size - out.size % GROUP
    words = mask[: units // MASK_WIDTH].view("<u4")
    if not straight.open_chunk(data, out, mask, words, layout.widths, room):
        return False
    at = room.places.tolist()
    n = at[opening.GROUPS] * GROUP
    body = straight.body_of(data, at, out)
    values = work_space("values", n + LANES, out.dtype)
    raw, escapes = straight.raw_pieces(data, at, layout.pieces, n // GROUP), straight.escapes_of(data, at)
    stream, cursors = straight.stream_of(data, at, room.starts), own("cursors", _cursors)
    rest = at[opening.BASE], *stream, *raw, *escapes, words, cursors, values, body
    if _searches() and straight.has_tree(room, at[opening.PRECISION]):
        return layout.search(room.table, room.tree, *rest) == OK
    return layout.decode(room.table, *rest) == OK


def _mask(data: Bytes, units: int, planes: int) -> Bytes | None:
    """The fields of the chunk's mask, whole groups; None if there are none, or they are malformed."""
    begin, used = HEAD_BYTES + DESCRIPTOR_BYTES * planes, units // GROUP * GROUP // MASK_WIDTH
    if data.size < begin or data[0] != PLANES or units < GROUP:
        return None
    if data[HEAD_BYTES] == Mode.RAW:
        end = begin + up(used, GROUP)
        return data[begin:end] if data.size >= end else None
    plane = Plane(read_descriptor(data, 0), data[begin:])
    if plane.descriptor.length > plane.payload.size:
        return None
    try:
        return decode_mask(plane, used)
    except FormatError:
        return None
