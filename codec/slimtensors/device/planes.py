"""Chunks decoded on a device plane by plane: layouts without a kernel of their own, contexts, differences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slimtensors.device.backend import Backend, Buffer
from slimtensors.device.items import pieces
from slimtensors.device.layouts import Planes
from slimtensors.device.levels import levelled
from slimtensors.device.listing import Work, list_work
from slimtensors.device.lookups import divided, looked_up
from slimtensors.device.masks import scattered, values_of
from slimtensors.device.moves import moves_of
from slimtensors.device.segments import Chunk, Digests, Pending, take_digests, upload_all
from slimtensors.device.selecting import Places, Selecting, selecting
from slimtensors.device.sums import summed
from slimtensors.expression import ClassContext, Decimal, Mul, SignContext
from slimtensors.kernels.cpu.worklist import CODED, HEAD, LEFT, LISTED
from slimtensors.kernels.cuda import rows
from slimtensors.kernels.cuda.catalogue import (
    decimals_name,
    levels_name,
    moved_name,
    plain_name,
    scaled_name,
    sized_name,
    sums_name,
)

__all__ = ["decode_planes"]

Array = npt.NDArray[Any]

GROUP = 128


def decode_planes(
    backend: Backend, segment: Array, chunks: Sequence[Chunk], layout: Planes, *, digests: bool, stored: Buffer = None
) -> Pending:
    """As `segments.decode_segment`."""
    size = layout.unit_bytes
    out, places = backend.window([chunk.target for chunk in chunks])
    counts = [len(chunk.target) // size for chunk in chunks]
    asked = [(c.at, c.length, n, at // size) for c, n, at in zip(chunks, counts, places, strict=True)]
    bodies = [n - n % GROUP for n in counts]
    out_at = [row[3] for row in asked]
    ranks = [None if chunk.mask is None else values_of(chunk.mask) for chunk in chunks]
    # How many units' planes each chunk has in each stack, and where they begin among all.
    values = [0 if known is None else -(-known[1] // GROUP) * GROUP for known in ranks]
    held = [values if layout.masked and k == 0 else bodies for k in range(len(layout.stacks))]
    held_at = [np.cumsum([0, *each]) for each in held]
    plane_at = [each[:-1].tolist() if layout.apart else out_at for each in held_at]
    planes = [np.array(each, np.int64) for each in zip(plane_at, held, strict=True)]
    work = list_work(segment, np.array(asked, np.int64), planes, held_at[0][:-1], ranks, layout)
    listed = np.flatnonzero(work.becomes == LISTED).tolist()
    bases, base_at = _bases(backend, chunks, size)
    where, codes_at = Places(held[0], held_at[0][:-1].tolist(), base_at, plane_at[0]), plane_at[-1]
    select = selecting(chunks, where, listed, _flipped(segment, chunks, listed, layout), layout.bits)
    if layout.summed:
        moving = summed(chunks, bodies, out_at, codes_at, base_at, listed, layout.moved)
    else:
        moving = moves_of(chunks, held[0], where.contexts, base_at, listed, layout.moved)
    finishing = _finishing(where, listed, layout)
    numbers = _numbers(chunks, bodies, codes_at if layout.summed else out_at, codes_at, listed, layout)
    spreading = scattered(chunks, ranks, out_at, plane_at[0], listed if layout.masked else [], layout.codes is not None)

    stored = backend.upload(segment) if stored is None else stored
    given = {
        "items": work.items, "block rows": work.block_rows, "starts": work.starts, "maps": work.maps,
        "fields": work.fields, "plain": work.plain, "sides": select.sides, "finish": finishing,
        "move": moving.items, "factors": moving.factors, "means": select.means, "flips": select.flips,
        "spread": spreading.items, "masks": spreading.masks, "ranks": spreading.ranks, **numbers.arrays,
        **{f"select {number}": items for number, items in enumerate(select.items)},
    }  # fmt: skip
    uploaded, buffers = upload_all(backend, list(given.values()))
    held_there = dict(zip(given, buffers, strict=True))
    units = [max(int(each[-1]), 1) for each in held_at]
    into = [
        backend.fresh(max(stack.unit_bytes * n, 16)) if layout.apart else out
        for stack, n in zip(layout.stacks, units, strict=True)
    ]
    owners = np.concatenate([work.owners, numbers.owners, spreading.owners])
    status = backend.zeros(4 * owners.size)
    run = _Run(backend, layout, stored, held_there, status, units[0])
    run.planes(work, select, bases, into)
    if select.flips.size:
        backend.launch(sized_name("flip", size), _count(select.flips), (run["flips"], run.steers, into[0]))
    if moving.items.size and not layout.summed:
        moved = backend.fresh(size * units[0])
        given_move = run["move"], run["factors"], bases, moved
        backend.launch(moved_name(layout.dtype), _count(moving.items), given_move)
        bases = moved
    if finishing.size:
        backend.launch(sized_name("finish", size), _count(finishing), (run["finish"], bases, into[0]))
    verdicts = status[4 * work.owners.size :]
    made = backend.fresh(4 * units[-1]) if layout.summed else out
    run.numbers(numbers, into[-1], made, verdicts)
    if moving.items.size and layout.summed:
        given_sums = run["move"], run["factors"], bases, made, out
        backend.launch(sums_name(layout.dtype), _count(moving.items), given_sums)
    if spreading.items.size:
        given_masks = run["spread"], run["masks"], run["ranks"], into[0], out, verdicts[4 * numbers.owners.size :]
        backend.launch(sized_name("scatter", size), spreading.owners.size, given_masks)
    if work.plain.size:
        backend.launch(plain_name(size), work.plain.size // rows.PLAIN_ITEM, (stored, run["plain"], out))
    results = take_digests(backend, out, chunks, places) if digests else None
    left = np.flatnonzero(work.becomes == LEFT).tolist()
    pending = Pending(left, owners, backend.fetch(status), results, [uploaded])
    stated = {i: chunk.base_digest for i, chunk in enumerate(chunks) if chunk.base_digest is not None}
    if not stated:
        return pending
    return pending._replace(bases=_base_digests(backend, [chunks[i] for i in stated]), stated=stated)


class _Numbers(NamedTuple):
    """What makes numbers of codes: the arrays of the kernels, the chunk of each item that can find something wrong, and
    how many bytes of states a trellis has.
    """

    arrays: dict[str, Array]
    owners: Array
    ends: int


def _numbers(
    chunks: Sequence[Chunk], bodies: list[int], places: list[int], codes: list[int], listed: list[int], layout: Planes
) -> _Numbers:
    looking = looked_up(chunks, bodies, places, codes, listed, layout.unit_bytes, layout.codes)
    power = layout.codes.power if isinstance(layout.codes, Decimal) else None
    dividing = divided(bodies, places, codes, [] if power is None else listed, power or 0)
    levelling = levelled(chunks, bodies, places, codes, listed, layout.codes)
    arrays = {
        "look": looking.items, "palettes": looking.palettes, "scales": looking.scales, "divide": dividing,
        "levels": levelling.items, "steps": levelling.scales,
    }  # fmt: skip
    return _Numbers(arrays, looking.owners, levelling.ends)


class _Run:
    """Launches, with what they have in common: stored bytes and arrays on the device, and a status of each item."""

    def __init__(
        self, backend: Backend, layout: Planes, stored: Buffer, held: dict[str, Buffer], status: Buffer, units: int
    ) -> None:
        self._backend, self._layout, self._stored, self._held = backend, layout, stored, held
        self._status, self._units = status, units
        self.steers: Buffer = None  # what a mean says of each unit

    def __getitem__(self, name: str) -> Buffer:
        return self._held[name]

    def planes(self, work: Work, select: Selecting, bases: Buffer, into: Sequence[Buffer]) -> None:
        """One plane after another into their places. into: of each stack."""
        backend, size, stacks = self._backend, self._layout.unit_bytes, self._layout.stacks
        tables = work.starts.size // rows.STARTS
        entries, contexts = backend.fresh(4 * rows.SLOTS * max(tables, 1)), backend.fresh(self._units)
        if tables:
            backend.launch("tables", tables, (self["starts"], entries))
        if select.means.size > 1:
            self.steers = backend.fresh(2 * self._units)
        item, field = 0, 0
        for (item_end, field_end), (k, number) in zip(work.ends, self._layout.order, strict=True):
            context, plane_size = stacks[k].bits.parts[number].context, stacks[k].unit_bytes
            given = self[f"select {number}"] if context is not None else b""
            wide_items = len(given) // (4 * rows.WIDE_ITEM)
            # A mean tells of signs, too, where the plane of its classes has no items.
            if isinstance(context, ClassContext) and context.mean is not None and wide_items:
                backend.launch("steer", wide_items, (given, self["sides"], self["means"], contexts, self.steers))
            if item_end > item:
                if isinstance(context, SignContext):
                    backend.launch(sized_name("signs", size), wide_items, (given, self.steers, into[k], contexts))
                elif wide_items and not (isinstance(context, ClassContext) and context.mean is not None):
                    backend.launch(sized_name("contexts", size), wide_items, (given, self["sides"], bases, contexts))
                some = _part(self["items"], rows.PLANE_ITEM, item, item_end)
                tabled = self["block rows"], self["maps"], entries, contexts
                coded = self._stored, self._stored, some, *tabled, into[k], _part(self._status, 1, item, item_end)
                backend.launch(sized_name("plane", plane_size), item_end - item, coded)
            if field_end > field:
                some = _part(self["fields"], rows.FIELDS_ITEM, field, field_end)
                backend.launch(sized_name("fields", plane_size), field_end - field, (self._stored, some, into[k]))
            item, field = item_end, field_end

    def numbers(self, numbers: _Numbers, codes: Buffer, out: Buffer, verdicts: Buffer) -> None:
        """Units from codes. verdicts: of the items of palettes."""
        backend, layout = self._backend, self._layout
        dtype = "F32" if layout.summed else layout.dtype
        if numbers.owners.size:
            count, given = numbers.owners.size, (self["look"], codes, self["palettes"])
            if isinstance(layout.codes, Mul):
                name = scaled_name(dtype, shifted=layout.codes.offset is not None)
                backend.launch(name, count, (*given, self["scales"], out, verdicts))
            else:
                backend.launch(sized_name("pick", layout.unit_bytes), count, (*given, out, verdicts))
        if dividing := _count(numbers.arrays["divide"]):
            backend.launch(decimals_name(dtype), dividing, (self["divide"], codes, out))
        if levelling := _count(numbers.arrays["levels"]):
            ends = backend.fresh(max(numbers.ends, 1))
            if numbers.ends:
                backend.launch("parities", levelling, (self["levels"], codes, ends))
            given_levels = self["levels"], codes, ends, self["steps"], out
            backend.launch(levels_name(dtype), levelling, given_levels)


def _count(items: Array) -> int:
    return items.size // rows.WIDE_ITEM


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
    numbers = layout.bits.rotate, int(layout.has_base and not layout.summed), int(layout.ordered)
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
