"""Chunks decoded on a device, a segment at a time: its work is listed, asked for, and later there is a verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from slimtensors.device.backend import Backend, Buffer
from slimtensors.device.bases import BaseDigests, BasesThere, list_base_digests
from slimtensors.device.results import Digesting, digests_of, launch_digests, list_digests, room_of
from slimtensors.expression import Bits, Stored
from slimtensors.kernels.cpu import worklist
from slimtensors.kernels.cuda import rows
from slimtensors.kernels.cuda.catalogue import decode_name, plain_name
from slimtensors.kernels.cuda.decode import LAYOUTS, Layout
from slimtensors.kernels.status import must

__all__ = ["Bundle", "Listed", "Pending", "Work", "ask", "bundled", "layout_of", "list_segment", "listed"]

Array = npt.NDArray[Any]
ALIGNMENT = 16


class Work(Protocol):
    """What kernels do with a segment's chunks."""

    @property
    def left(self) -> list[int]:
        """Chunks that no kernel decodes."""

    @property
    def owners(self) -> Array:
        """The chunk of each status."""

    def launch(
        self, backend: Backend, stored: Buffer, lists: Mapping[str, Buffer], out: Buffer, bases: Buffer, status: Buffer
    ) -> None:
        """stored: the segment. lists: on the device. status: uint32, zeros."""


class Listed(NamedTuple):
    """A segment's work, and what its results are."""

    work: Work
    digesting: Digesting | None
    arrays: dict[str, Array]  # for the device, by name
    of_bases: BaseDigests | None = None

    @property
    def rooms(self) -> tuple[int, int, int]:
        """Bytes of statuses, of digests, of bases' digests, one after another."""
        of_bases = 0 if self.of_bases is None else self.of_bases.digesting.length
        return room_of(self.work.owners.size), 0 if self.digesting is None else self.digesting.length, of_bases


class Pending(NamedTuple):
    """What a segment's kernels leave. Host memory here is filled when a mark made since is reached."""

    given: Listed
    results: Array  # bytes: statuses, digests and ends, those of bases

    @property
    def left(self) -> list[int]:
        return self.given.work.left

    def faulty(self) -> list[int]:
        """Chunks whose streams did not end as they began, or have an escape where none can be."""
        owners = self.given.work.owners
        bad = np.flatnonzero(self.results[: 4 * owners.size].view(np.uint32))
        found: list[int] = np.unique(owners[bad]).tolist()
        return found

    def digests(self) -> list[int] | None:
        """Of each chunk, if they were asked for."""
        if self.given.digesting is None:
            return None
        return digests_of(self.given.digesting, self.results[self.given.rooms[0] :])

    def with_other_bases(self) -> list[int]:
        """Chunks that are differences from something else than what the device has."""
        if self.given.of_bases is None:
            return []
        return self.given.of_bases.wrong(self.results[sum(self.given.rooms[:2]) :])


def layout_of(expression: Stored, unit_bytes: int) -> Layout | None:
    """The layout that a kernel decodes, if there is one for chunks of this expression."""
    if not isinstance(expression, Bits) or expression.sides or expression.contexts:
        return None
    wanted = Layout(unit_bytes, expression.widths, expression.rotate)
    return wanted if wanted in LAYOUTS else None


def listed(
    work: Work, arrays: dict[str, Array], places: Array, sizes: Array, digests: bool, bases: BasesThere | None = None
) -> Listed:
    """With what takes digests of chunks, which begin at `places` of a buffer, and of their bases."""
    of_bases = None
    if bases is not None and bases.stated:
        of_bases, lists = list_base_digests(bases, sizes)
        arrays = arrays | lists
    if not digests:
        return Listed(work, None, arrays, of_bases)
    digesting, lists = list_digests(places, sizes)
    return Listed(work, digesting, arrays | lists, of_bases)


def ask(
    backend: Backend,
    given: Listed,
    stored: Buffer,
    lists: Mapping[str, Buffer],
    out: Buffer,
    decoded: Callable[[int], Buffer],
    bases: BasesThere | None = None,
) -> Pending:
    """Decode a segment's chunks. lists: `given.arrays` on the device. decoded: a chunk's buffer, by its number."""
    rooms = given.rooms
    results = backend.zeros(max(sum(rooms), ALIGNMENT))
    if given.of_bases is not None:
        assert bases is not None
        of_them, into = given.of_bases, results[rooms[0] + rooms[1] :]
        launch_digests(backend, of_them.digesting, lists, bases.memory, into, lambda i: bases.whole(of_them.numbers[i]))
    memory = None if bases is None else bases.memory
    given.work.launch(backend, stored, lists, out, memory, results[: 4 * given.work.owners.size])
    if given.digesting is not None:
        launch_digests(backend, given.digesting, lists, out, results[rooms[0] : rooms[0] + rooms[1]], decoded)
    return Pending(given, backend.fetch(results))


class _Fused(NamedTuple):
    """Work of the kernels that decode and join in one pass."""

    layout: Layout
    left: list[int]
    owners: Array
    plain: int  # items

    def launch(
        self, backend: Backend, stored: Buffer, lists: Mapping[str, Buffer], out: Buffer, _bases: Buffer, status: Buffer
    ) -> None:
        if self.owners.size:
            work = lists["items"], lists["block rows"], lists["tables"]
            backend.launch(decode_name(self.layout), self.owners.size, (stored, stored, stored, *work, out, status))
        if self.plain:
            backend.launch(plain_name(self.layout.unit_bytes), self.plain, (stored, lists["plain"], out))


def list_segment(segment: Array, asked: Array, layout: Layout) -> tuple[Work, dict[str, Array]]:
    """The work of chunks of one layout, and lists for the kernels. asked: as worklist.py has chunks."""
    plan = np.array([layout.unit_bytes, layout.rotate, len(layout.widths), *layout.widths], np.int64)
    chunks = asked.shape[0]
    becomes, ends = np.empty(chunks, np.uint8), np.empty(chunks, np.int64)
    used = np.empty(worklist.LISTS, np.int64)
    room = 1024 + 16 * chunks
    while True:
        items, plain = np.empty(room * rows.ITEM, np.uint32), np.empty(room * rows.PLAIN_ITEM, np.uint32)
        block_rows, scratch = np.empty(room * rows.BLOCK_ROW, np.uint32), np.empty(room + 64, np.int64)
        tables = np.empty(room * 256, np.uint16)
        given = (items, block_rows, tables, plain)
        status = worklist.list_chunks(segment, asked.reshape(-1), plan, *given, used, scratch, becomes, ends)
        if status != worklist.NO_ROOM:
            break
        room *= 4
    must(status)
    count = used.tolist()
    owners = np.searchsorted(ends, np.arange(count[worklist.ITEMS]), side="right")
    left = np.flatnonzero(becomes == worklist.LEFT).tolist()
    lists = {
        "items": items[: rows.ITEM * count[worklist.ITEMS]],
        "block rows": block_rows[: rows.BLOCK_ROW * count[worklist.ROWS]],
        "tables": tables[: 256 * count[worklist.TABLES]],
        "plain": plain[: rows.PLAIN_ITEM * count[worklist.PLAIN]],
    }
    return _Fused(layout, left, owners, count[worklist.PLAIN]), lists


class Bundle(NamedTuple):
    """Several arrays in memory that uploads are fast from."""

    host: Array
    ranges: dict[str, tuple[int, int]]

    def there(self, buffer: Buffer) -> dict[str, Buffer]:
        """The arrays, in a buffer that has all of the memory."""
        return {name: buffer[begin:end] for name, (begin, end) in self.ranges.items()}


def bundled(backend: Backend, arrays: Mapping[str, Array]) -> Bundle:
    ranges, end = dict[str, tuple[int, int]](), 0
    for name, array in arrays.items():
        ranges[name] = end, end + array.nbytes
        end += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
    host = backend.staging(max(end, ALIGNMENT))
    for name, array in arrays.items():
        host[slice(*ranges[name])] = array.view(np.uint8)
    return Bundle(host, ranges)
