"""Chunks decoded on a device plane by plane: layouts without a kernel of their own, contexts, differences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slimtensors.device.backend import Backend, Buffer
from slimtensors.device.items import pieces
from slimtensors.device.lookups import CODE_BYTES, WIDE_CODE_BYTES, divided, looked_up
from slimtensors.device.masks import scattered, values_of
from slimtensors.device.moves import moves_of
from slimtensors.device.segments import Chunk, Digests, Pending, take_digests, upload_all
from slimtensors.device.selecting import Places, selecting
from slimtensors.expression import (
    BaseContext,
    Bits,
    ClassContext,
    Decimal,
    Delta,
    FactorContext,
    Gather,
    LowRank,
    Mul,
    SignContext,
    Sparse,
    Stored,
)
from slimtensors.kernels.cpu import planelist as lists
from slimtensors.kernels.cpu.worklist import CHUNK, CHUNK_UNITS, CODED, HEAD, LEFT, LISTED, NO_ROOM, OUT, PLAIN
from slimtensors.kernels.cuda import rows
from slimtensors.kernels.cuda.catalogue import decimals_name, moved_name, plain_name, scaled_name, sized_name
from slimtensors.kernels.status import OK

__all__ = ["Planes", "decode_planes", "planes_of"]

Array = npt.NDArray[Any]

GROUP = 128
CLASS_MASK, BYTE_MASK = 3, 255  # of the context that selects a table
MOST_UNITS = 1 << 31  # of a tensor whose rows are counted in 32 bits


class Planes(NamedTuple):
    """The planes of chunks, and what becomes of them: they are rotated, or added to a base."""

    unit_bytes: int
    bits: Bits
    has_base: bool = False
    ordered: bool = False  # whether the base is of floats
    codes: Gather | Mul | Decimal | None = None  # what the planes are codes of
    dtype: str = ""  # of products and of sums
    masked: bool = False  # whether units that are zero are left out; the mask is a plane before those of `bits`
    moved: LowRank | None = None  # what the base is moved by, before the planes are added to it

    @property
    def signed(self) -> bool:
        """Whether the first plane is of signs, which are known when the last is."""
        return isinstance(self.bits.parts[0].context, SignContext)

    @property
    def order(self) -> list[int]:
        """In which the planes are decoded."""
        numbers = list(range(len(self.bits.parts)))
        return numbers[1:] + numbers[:1] if self.signed else numbers

    @property
    def plane_bytes(self) -> int:
        """Of what the planes are put into."""
        if self.codes is None:
            return self.unit_bytes
        return WIDE_CODE_BYTES if isinstance(self.codes, Decimal) else CODE_BYTES

    @property
    def apart(self) -> bool:
        """Whether the planes make something else than units at their places."""
        return self.codes is not None or self.masked


class _Work(NamedTuple):
    items: Array
    block_rows: Array
    starts: Array
    maps: Array
    fields: Array
    plain: Array
    owners: Array
    becomes: Array
    ends: list[tuple[int, int]]  # of items and fields, after each plane, in the order in which they are decoded


def planes_of(expression: Stored, units: int, unit_bytes: int, is_float: bool, dtype: str = "") -> Planes | None:
    """The layout of a stream of so many units, if kernels decode it."""
    if isinstance(expression, Bits):
        found = Planes(unit_bytes, expression)
    elif isinstance(expression, Delta):
        found = Planes(unit_bytes, expression.bits, True, is_float, dtype=dtype, moved=expression.moved)
    elif isinstance(expression, Gather | Mul | Decimal):
        found = Planes(unit_bytes, expression.bits, codes=expression, dtype=dtype)
    elif isinstance(expression, Sparse) and expression.rest is None:
        found = Planes(unit_bytes, expression.values, masked=True)
    else:
        return None
    if not all(isinstance(context, BaseContext | ClassContext | SignContext) for context in found.bits.contexts):
        return None
    if isinstance(found.codes, Mul) and not found.codes.plain:
        return None
    by_row = found.codes is not None or found.moved is not None
    by_row = by_row or any(context.sides for context in found.bits.contexts)
    return None if found.bits.flags or (by_row and units >= MOST_UNITS) else found


def decode_planes(
    backend: Backend, segment: Array, chunks: Sequence[Chunk], layout: Planes, *, digests: bool, stored: Buffer = None
) -> Pending:
    """As `segments.decode_segment`."""
    size, plane_size = layout.unit_bytes, layout.plane_bytes
    out, places = backend.window([chunk.target for chunk in chunks])
    counts = [len(chunk.target) // size for chunk in chunks]
    asked = [(c.at, c.length, n, at // size) for c, n, at in zip(chunks, counts, places, strict=True)]
    bodies = [n - n % GROUP for n in counts]
    out_at = [row[3] for row in asked]
    ranks = [None if chunk.mask is None else values_of(chunk.mask) for chunk in chunks]
    # How many units' planes each chunk has, and where they begin among all.
    held = [0 if known is None else -(-known[1] // GROUP) * GROUP for known in ranks] if layout.masked else bodies
    held_at = np.cumsum([0, *held])
    plane_at = held_at[:-1].tolist() if layout.apart else out_at
    work = _list(segment, np.array(asked, np.int64), np.array([plane_at, held], np.int64), held_at[:-1], ranks, layout)
    listed = np.flatnonzero(work.becomes == LISTED).tolist()
    bases, base_at = _bases(backend, chunks, size)
    where = Places(held, held_at[:-1].tolist(), base_at, plane_at)
    select = selecting(chunks, where, listed, _flipped(segment, chunks, listed, layout), layout.bits)
    moving = moves_of(chunks, held, where.contexts, base_at, listed, layout.moved)
    finishing = _finishing(where, listed, layout)
    looking = looked_up(chunks, bodies, out_at, plane_at, listed, layout)
    power = layout.codes.power if isinstance(layout.codes, Decimal) else None
    dividing = divided(bodies, out_at, plane_at, [] if power is None else listed, power or 0)
    spreading = scattered(chunks, ranks, out_at, plane_at, listed if layout.masked else [])

    stored = backend.upload(segment) if stored is None else stored
    arrays = [work.items, work.block_rows, work.starts, work.maps, work.fields, work.plain, select.sides, finishing]
    arrays += [looking.items, looking.palettes, looking.scales, dividing, moving.items, moving.factors]
    arrays += [select.means, select.flips, spreading.items, spreading.masks, spreading.ranks]
    uploaded, buffers = upload_all(backend, [*arrays, *select.items])
    items, block_rows, starts, maps, fields, plain, classes, finish = buffers[:8]
    look, palettes, scales, divide, move, factors, means, flips = buffers[8:16]
    tables = work.starts.size // rows.STARTS
    entries, contexts = backend.fresh(4 * rows.SLOTS * max(tables, 1)), backend.fresh(max(int(held_at[-1]), 1))
    into = backend.fresh(max(plane_size * int(held_at[-1]), 16)) if layout.apart else out
    owners = np.concatenate([work.owners, looking.owners, spreading.owners])
    status = backend.zeros(4 * owners.size)
    if tables:
        backend.launch("tables", tables, (starts, entries))
    steers = backend.fresh(2 * max(int(held_at[-1]), 1)) if select.means.size > 1 else None
    item, field = 0, 0
    for (item_end, field_end), number in zip(work.ends, layout.order, strict=True):
        context, given = layout.bits.parts[number].context, buffers[len(arrays) + number]
        wide_items = len(given) // (4 * rows.WIDE_ITEM)
        # A mean tells of signs, too, where the plane of its classes has no items.
        if isinstance(context, ClassContext) and context.mean is not None and wide_items:
            backend.launch("steer", wide_items, (given, classes, means, contexts, steers))
        if item_end > item:
            if isinstance(context, SignContext):
                backend.launch(sized_name("signs", size), wide_items, (given, steers, into, contexts))
            elif wide_items and not (isinstance(context, ClassContext) and context.mean is not None):
                backend.launch(sized_name("contexts", size), wide_items, (given, classes, bases, contexts))
            some, result = _part(items, rows.PLANE_ITEM, item, item_end), _part(status, 1, item, item_end)
            coded = (stored, stored, some, block_rows, maps, entries, contexts, into, result)
            backend.launch(sized_name("plane", plane_size), item_end - item, coded)
        if field_end > field:
            some = _part(fields, rows.FIELDS_ITEM, field, field_end)
            backend.launch(sized_name("fields", plane_size), field_end - field, (stored, some, into))
        item, field = item_end, field_end
    if select.flips.size:
        backend.launch(sized_name("flip", size), select.flips.size // rows.WIDE_ITEM, (flips, steers, into))
    if moving.items.size:
        moved = backend.fresh(size * int(held_at[-1]))
        backend.launch(moved_name(layout.dtype), moving.items.size // rows.WIDE_ITEM, (move, factors, bases, moved))
        bases = moved
    if finishing.size:
        backend.launch(sized_name("finish", size), finishing.size // rows.WIDE_ITEM, (finish, bases, into))
    if looking.items.size:
        count, verdict = looking.items.size // rows.WIDE_ITEM, status[4 * work.owners.size :]
        if isinstance(layout.codes, Mul):
            backend.launch(scaled_name(layout.dtype), count, (look, into, palettes, scales, out, verdict))
        else:
            backend.launch(sized_name("pick", size), count, (look, into, palettes, out, verdict))
    if dividing.size:
        backend.launch(decimals_name(layout.dtype), dividing.size // rows.WIDE_ITEM, (divide, into, out))
    if spreading.items.size:
        count, verdict = spreading.owners.size, status[4 * work.owners.size :]
        backend.launch(sized_name("scatter", size), count, (*buffers[16 : len(arrays)], into, out, verdict))
    if work.plain.size:
        backend.launch(plain_name(size), work.plain.size // rows.PLAIN_ITEM, (stored, plain, out))
    results = take_digests(backend, out, chunks, places) if digests else None
    left = np.flatnonzero(work.becomes == LEFT).tolist()
    pending = Pending(left, owners, backend.fetch(status), results, [uploaded])
    stated = {i: chunk.base_digest for i, chunk in enumerate(chunks) if chunk.base_digest is not None}
    if not stated:
        return pending
    return pending._replace(bases=_base_digests(backend, [chunks[i] for i in stated]), stated=stated)


def _base_digests(backend: Backend, chunks: Sequence[Chunk]) -> Digests:
    """Digests of what chunks are differences from."""
    held = [chunk._replace(target=chunk.base) for chunk in chunks]
    out, places = backend.window([chunk.target for chunk in held])
    return take_digests(backend, out, held, places)


def _part(items: Buffer, length: int, begin: int, end: int) -> Buffer:
    """Some of the items of a list of 32-bit numbers."""
    return items[4 * length * begin : 4 * length * end]


def _bases(backend: Backend, chunks: Sequence[Chunk], unit_bytes: int) -> tuple[Buffer, list[int]]:
    """A buffer that has the base units of all chunks, and where they begin in it, in units."""
    if chunks[0].base is None:
        return backend.fresh(16), [0] * len(chunks)
    found, places = backend.window([chunk.base for chunk in chunks])
    return found, [place // unit_bytes for place in places]


def _finishing(places: Places, listed: list[int], layout: Planes) -> Array:
    """Items for what finishes the units; empty if they are as they should be."""
    numbers = layout.bits.rotate, int(layout.has_base), int(layout.ordered)
    made: list[tuple[int, ...]] = []
    for i in listed if any(numbers[:2]) else []:
        # A base that is moved lies where the chunk's contexts do.
        base = places.bases[i] if layout.moved is None else places.contexts[i]
        made += [(*words, *(0,) * 8, *numbers) for _, words in pieces(places.counts[i], places.planes[i], base)]
    return np.array(made, np.uint32).reshape(-1)


def _flipped(segment: Array, chunks: Sequence[Chunk], listed: list[int], layout: Planes) -> list[int]:
    """Chunks whose signs are coded as whether they are their means'."""
    if not layout.signed:
        return []
    return [i for i in listed if segment[chunks[i].at + HEAD] == CODED]


def _list(
    segment: Array, asked: Array, planes: Array, context_at: Array, ranks: Sequence[Any], layout: Planes
) -> _Work:
    """asked: the chunks, as worklist.py has them. planes: where their planes go, and how many units these have."""
    planes_asked = asked.copy()
    planes_asked[:, OUT], planes_asked[:, CHUNK_UNITS] = planes
    unknown = np.array([layout.masked and each is None for each in ranks], bool)
    room = 1024 + 16 * asked.shape[0]
    while True:
        given = asked.reshape(-1), planes_asked.reshape(-1)
        found = _listed(segment, *given, context_at, unknown, layout, room)
        if found is not None:
            return found
        room *= 4


def _listed(
    segment: Array, asked: Array, planes_asked: Array, context_at: Array, unknown: Array, layout: Planes, room: int
) -> _Work | None:
    """The work list, if there is room for it. unknown: chunks whose masks are not known."""
    chunks, parts = asked.size // CHUNK, layout.bits.parts
    before = int(layout.masked)  # planes
    planes = before + len(parts)
    items, fields = np.empty(room * rows.PLANE_ITEM, np.uint32), np.empty(room * rows.FIELDS_ITEM, np.uint32)
    block_rows, starts = np.empty(room * rows.BLOCK_ROW, np.uint32), np.empty(room * rows.STARTS, np.uint16)
    maps, plain = np.empty(room, np.uint32), np.empty(room * rows.PLAIN_ITEM, np.uint32)
    owners, scratch = np.empty(room, np.int64), np.empty(room + 64, np.int64)
    used, becomes = np.zeros(lists.LISTS, np.int64), np.empty(chunks, np.uint8)
    places = np.empty(chunks * planes, np.int64)
    given = layout.unit_bytes, planes, layout.has_base
    status = lists.place_planes(segment, asked, *given, plain, used, places, becomes)
    becomes[unknown & (becomes == LISTED)] = LEFT
    ends, above = [], False
    shifts = np.cumsum([0, *layout.bits.widths]).tolist()
    for number in layout.order:
        if status != OK:
            break
        part = parts[number]
        assert not isinstance(part.context, FactorContext)  # which side planes have, that the CPU decodes
        tables = 1 if part.context is None else part.context.all_tables
        mask = 0 if part.context is None else CLASS_MASK if isinstance(part.context, ClassContext) else BYTE_MASK
        octave = part.context.octave if isinstance(part.context, ClassContext) else 0
        where = shifts[number], part.width, above, before + number
        plane = np.array([*where, planes, tables, mask, octave], np.int64)
        status = lists.list_plane(
            segment, planes_asked, places, plane, context_at, items, block_rows, starts, maps, fields, used, scratch,
            owners, becomes,
        )  # fmt: skip
        above = True
        ends.append((int(used[lists.ITEMS]), int(used[lists.FIELD_ITEMS])))
    if status == NO_ROOM:
        return None
    assert status == OK
    count = used.tolist()
    return _Work(
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
