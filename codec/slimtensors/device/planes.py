"""Chunks decoded on a device plane by plane: layouts without a kernel of their own, contexts, differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slimtensors.device.backend import Backend, Buffer
from slimtensors.device.chunks import Chunk
from slimtensors.device.items import pieces
from slimtensors.device.layouts import Planes
from slimtensors.device.levels import levelled
from slimtensors.device.listing import PlaneEnd, list_work
from slimtensors.device.lookups import divided, looked_up
from slimtensors.device.masks import scattered, values_of
from slimtensors.device.moves import moves_of
from slimtensors.device.selecting import Places, selecting
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

__all__ = ["PlanesWork", "list_planes"]

Array = npt.NDArray[Any]

GROUP = 128


class PlanesWork(NamedTuple):
    """As `segments.Work`: launches, one plane after another."""

    layout: Planes
    left: list[int]
    owners: Array
    ends: list[PlaneEnd]
    units: list[int]  # of each stack
    states: int  # bytes of states that a trellis has
    sizes: dict[str, int]  # of the lists, in numbers
    verdicts: tuple[int, int]  # the first status of items of palettes, and of masks

    def launch(
        self, backend: Backend, stored: Buffer, lists: Mapping[str, Buffer], out: Buffer, bases: Buffer, status: Buffer
    ) -> None:
        layout, size = self.layout, self.layout.unit_bytes
        bases = backend.fresh(16) if bases is None else bases
        into = [
            backend.fresh(max(stack.unit_bytes * n, 16)) if layout.apart else out
            for stack, n in zip(layout.stacks, self.units, strict=True)
        ]
        steers = self._planes(backend, stored, lists, status, bases, into)
        if flips := self._count("flips"):
            _launch(backend, sized_name("flip", size), flips, (lists["flips"], steers, into[0]))
        moving = self._count("move")
        if moving and not layout.summed:
            moved = backend.fresh(size * self.units[0])
            _launch(backend, moved_name(layout.dtype), moving, (lists["move"], lists["factors"], bases, moved))
            bases = moved
        if finishing := self._count("finish"):
            _launch(backend, sized_name("finish", size), finishing, (lists["finish"], bases, into[0]))
        looks, scatters = self.verdicts
        made = backend.fresh(4 * self.units[-1]) if layout.summed else out
        self._numbers(backend, lists, into[-1], made, status[4 * looks :])
        if moving and layout.summed:
            given_sums = lists["move"], lists["factors"], bases, made, out
            _launch(backend, sums_name(layout.dtype), moving, given_sums)
        if spreading := self.owners.size - scatters:
            given_masks = lists["spread"], lists["masks"], lists["ranks"], into[0], out, status[4 * scatters :]
            backend.launch(sized_name("scatter", size), spreading, given_masks)
        if plain := self.sizes["plain"] // rows.PLAIN_ITEM:
            backend.launch(plain_name(size), plain, (stored, lists["plain"], out))

    def _count(self, name: str) -> int:
        """Items of a list."""
        return self.sizes[name] // rows.WIDE_ITEM

    def _planes(
        self,
        backend: Backend,
        stored: Buffer,
        lists: Mapping[str, Buffer],
        status: Buffer,
        bases: Buffer,
        into: Sequence[Buffer],
    ) -> Buffer:
        """One plane after another into their places; what a mean says of each unit. into: of each stack."""
        size, stacks = self.layout.unit_bytes, self.layout.stacks
        tables, units = self.sizes["starts"] // rows.STARTS, self.units[0]
        entries, contexts = backend.fresh(4 * rows.SLOTS * max(tables, 1)), backend.fresh(units)
        if tables:
            backend.launch("tables", tables, (lists["starts"], entries))
        steers = backend.fresh(2 * units) if self.sizes["means"] > 1 else None
        item, field = 0, 0
        for (item_end, field_end, modes), (k, number) in zip(self.ends, self.layout.order, strict=True):
            context, plane_size = stacks[k].bits.parts[number].context, stacks[k].unit_bytes
            select = f"select {number}"
            wide_items = 0 if context is None else self._count(select)
            # A mean tells of signs, too, where the plane of its classes has no items.
            if isinstance(context, ClassContext) and context.mean is not None and wide_items:
                told = lists[select], lists["sides"], lists["means"], contexts, steers
                _launch(backend, "steer", wide_items, told)
            if item_end > item:
                if isinstance(context, SignContext):
                    given = lists[select], steers, into[k], contexts
                    _launch(backend, sized_name("signs", size), wide_items, given)
                elif wide_items and not (isinstance(context, ClassContext) and context.mean is not None):
                    given = lists[select], lists["sides"], bases, contexts
                    _launch(backend, sized_name("contexts", size), wide_items, given)
                some = _part(lists["items"], rows.PLANE_ITEM, item, item_end)
                tabled = lists["block rows"], lists["maps"], entries, contexts
                coded = stored, stored, some, *tabled, into[k], _part(status, 1, item, item_end)
                for mode in modes:
                    backend.launch(sized_name(mode, plane_size), item_end - item, coded)
            if field_end > field:
                some = _part(lists["fields"], rows.FIELDS_ITEM, field, field_end)
                backend.launch(sized_name("fields", plane_size), field_end - field, (stored, some, into[k]))
            item, field = item_end, field_end
        return steers

    def _numbers(
        self, backend: Backend, lists: Mapping[str, Buffer], codes: Buffer, out: Buffer, verdicts: Buffer
    ) -> None:
        """Units from codes. verdicts: of the items of palettes."""
        layout, dtype = self.layout, "F32" if self.layout.summed else self.layout.dtype
        if looking := self._count("look"):
            given = lists["look"], codes, lists["palettes"]
            if isinstance(layout.codes, Mul):
                name = scaled_name(dtype, shifted=layout.codes.offset is not None)
                _launch(backend, name, looking, (*given, lists["scales"], out, verdicts))
            else:
                _launch(backend, sized_name("pick", layout.unit_bytes), looking, (*given, out, verdicts))
        if dividing := self._count("divide"):
            _launch(backend, decimals_name(dtype), dividing, (lists["divide"], codes, out))
        if levelling := self._count("levels"):
            ends = backend.fresh(max(self.states, 1))
            if self.states:
                backend.launch("parities", levelling, (lists["levels"], codes, ends))
            given_levels = lists["levels"], codes, ends, lists["steps"], out
            backend.launch(levels_name(dtype), levelling, given_levels)


def list_planes(
    segment: Array, chunks: Sequence[Chunk], base_at: list[int], layout: Planes
) -> tuple[PlanesWork, dict[str, Array]]:
    """The work of chunks of one layout, and lists for the kernels. base_at: each chunk's first base unit."""
    size = layout.unit_bytes
    counts = [chunk.size // size for chunk in chunks]
    asked = [(c.at, c.length, n, c.place // size) for c, n in zip(chunks, counts, strict=True)]
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
    where, codes_at = Places(held[0], held_at[0][:-1].tolist(), base_at, plane_at[0]), plane_at[-1]
    select = selecting(chunks, where, listed, _flipped(segment, chunks, listed, layout), layout.bits)
    if layout.summed:
        moving = summed(chunks, bodies, out_at, codes_at, base_at, listed, layout.moved)
    else:
        moving = moves_of(chunks, held[0], where.contexts, base_at, listed, layout.moved)
    finishing = _finishing(where, listed, layout)
    numbers = _numbers(chunks, bodies, codes_at if layout.summed else out_at, codes_at, listed, layout)
    spreading = scattered(chunks, ranks, out_at, plane_at[0], listed if layout.masked else [], layout.codes is not None)
    arrays = {
        "items": work.items, "block rows": work.block_rows, "starts": work.starts, "maps": work.maps,
        "fields": work.fields, "plain": work.plain, "sides": select.sides, "finish": finishing,
        "move": moving.items, "factors": moving.factors, "means": select.means, "flips": select.flips,
        "spread": spreading.items, "masks": spreading.masks, "ranks": spreading.ranks, **numbers.arrays,
        **{f"select {number}": items for number, items in enumerate(select.items)},
    }  # fmt: skip
    left = np.flatnonzero(work.becomes == LEFT).tolist()
    owners = np.concatenate([work.owners, numbers.owners, spreading.owners])
    units, sizes = [max(int(each[-1]), 1) for each in held_at], {name: array.size for name, array in arrays.items()}
    verdicts = work.owners.size, work.owners.size + numbers.owners.size
    return PlanesWork(layout, left, owners, work.ends, units, numbers.ends, sizes, verdicts), arrays


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


def _launch(backend: Backend, kernel: str, items: int, buffers: Sequence[Buffer]) -> None:
    """A kernel that takes each unit by itself."""
    backend.launch(kernel, rows.SHARES * items, buffers)


def _part(items: Buffer, length: int, begin: int, end: int) -> Buffer:
    """Some of the items of a list of 32-bit numbers."""
    return items[4 * length * begin : 4 * length * end]


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
