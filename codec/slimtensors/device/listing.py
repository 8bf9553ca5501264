"""The work lists of chunks plane by plane, from compiled code that makes sure of all that is listed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slimtensors.device.layouts import Planes
from slimtensors.expression import ClassContext, FactorContext
from slimtensors.kernels.cpu import planelist as lists
from slimtensors.kernels.cpu.worklist import CHUNK, CHUNK_UNITS, LEFT, LISTED, NO_ROOM, OUT, PLAIN
from slimtensors.kernels.cuda import rows
from slimtensors.kernels.status import OK, must

__all__ = ["PlaneEnd", "Work", "list_work"]

Array = npt.NDArray[Any]

CLASS_MASK, BYTE_MASK = 3, 255  # of the context that selects a table


class PlaneEnd(NamedTuple):
    """What is listed when a plane is, the planes before it included."""

    items: int
    fields: int
    kernels: list[str]  # that decode the plane's items: one for each mode that some of them are in


class Work(NamedTuple):
    items: Array
    block_rows: Array
    starts: Array
    maps: Array
    fields: Array
    plain: Array
    owners: Array
    becomes: Array
    ends: list[PlaneEnd]  # of each plane, in the order in which they are decoded


def list_work(
    segment: Array, asked: Array, planes: Sequence[Array], context_at: Array, ranks: Sequence[Any], layout: Planes
) -> Work:
    """asked: the chunks, as worklist.py has them. planes: of each stack, where they go, how many units they have."""
    given = []
    for each in planes:
        planes_asked = asked.copy()
        planes_asked[:, OUT], planes_asked[:, CHUNK_UNITS] = each
        given.append(planes_asked.reshape(-1))
    unknown = np.array([layout.masked and each is None for each in ranks], bool)
    room = 1024 + 16 * asked.shape[0]
    while True:
        found = _listed(segment, asked.reshape(-1), given, context_at, unknown, layout, room)
        if found is not None:
            return found
        room *= 4


def _listed(
    segment: Array, asked: Array, planes_asked: Sequence[Array], context_at: Array, unknown: Array, layout: Planes,
    room: int,
) -> Work | None:  # fmt: skip
    """The work list, if there is room for it. unknown: chunks whose masks are not known."""
    chunks, stacks = asked.size // CHUNK, layout.stacks
    planes = stacks[-1].first + len(stacks[-1].bits.parts)
    items, fields = np.empty(room * rows.PLANE_ITEM, np.uint32), np.empty(room * rows.FIELDS_ITEM, np.uint32)
    block_rows, starts = np.empty(room * rows.BLOCK_ROW, np.uint32), np.empty(room * rows.STARTS, np.uint16)
    maps, plain = np.empty(room, np.uint32), np.empty(room * rows.PLAIN_ITEM, np.uint32)
    owners, scratch = np.empty(room, np.int64), np.empty(room + 64, np.int64)
    used, becomes = np.zeros(lists.LISTS, np.int64), np.empty(chunks, np.uint8)
    places = np.empty(chunks * planes, np.int64)
    given = layout.unit_bytes, planes, layout.has_base
    status = lists.place_planes(segment, asked, *given, plain, used, places, becomes)
    becomes[unknown & (becomes == LISTED)] = LEFT
    ends, begun = list[PlaneEnd](), set[int]()
    for k, number in layout.order:
        if status != OK:
            break
        part, shift = stacks[k].bits.parts[number], sum(stacks[k].bits.widths[:number])
        assert not isinstance(part.context, FactorContext)  # which side planes have, that the CPU decodes
        tables = 1 if part.context is None else part.context.all_tables
        mask = 0 if part.context is None else CLASS_MASK if isinstance(part.context, ClassContext) else BYTE_MASK
        octave = part.context.octave if isinstance(part.context, ClassContext) else 0
        where = shift, part.width, k in begun, stacks[k].first + number
        plane = np.array([*where, planes, tables, mask, octave], np.int64)
        items_before, bypassed_before = int(used[lists.ITEMS]), int(used[lists.BYPASSED])
        status = lists.list_plane(
            segment, planes_asked[k], places, plane, context_at, items, block_rows, starts, maps, fields, used, scratch,
            owners, becomes,
        )  # fmt: skip
        begun.add(k)
        listed, bypassed = used[lists.ITEMS] - items_before, used[lists.BYPASSED] - bypassed_before
        kernels = [name for name, some in (("plane", listed > bypassed), ("bypass", bypassed > 0)) if some]
        ends.append(PlaneEnd(int(used[lists.ITEMS]), int(used[lists.FIELD_ITEMS]), kernels))
    if status == NO_ROOM:
        return None
    must(status)
    count = used.tolist()
    return Work(
        items[: rows.PLANE_ITEM * count[lists.ITEMS]],
        block_rows[: rows.BLOCK_ROW * count[lists.ROWS]],
        starts[: rows.STARTS * count[lists.TABLES]],
        maps[: count[lists.MAPS]],
        fields[: rows.FIELDS_ITEM * count[lists.FIELD_ITEMS]],
        plain[: rows.PLAIN_ITEM * count[PLAIN]],
        owners[: count[lists.ITEMS]],
        becomes,
        ends,
    )
