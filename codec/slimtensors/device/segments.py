"""Chunks decoded on a device, a segment at a time: upload, one launch for each kernel, and later the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from slimtensors.device.backend import Backend, Buffer
from slimtensors.digests import PIECE_BYTES
from slimtensors.expression import Bits, Stored
from slimtensors.kernels.cpu import worklist
from slimtensors.kernels.cpu.xxh3 import ROWS
from slimtensors.kernels.cuda import rows
from slimtensors.kernels.cuda.catalogue import decode_name, plain_name
from slimtensors.kernels.cuda.decode import LAYOUTS, Layout
from slimtensors.kernels.status import must

__all__ = ["Chunk", "Digests", "Pending", "decode_segment", "layout_of", "take_digests", "upload_all"]

Array = npt.NDArray[Any]
ALIGNMENT = 16


class Chunk(NamedTuple):
    """A chunk to decode: its bytes' place in the segment, and the buffer of its decoded bytes.

    What follows is for layouts that need it: its first unit in its stream, the stream's units, the tensor's side
    planes, its base's units, on the device, and its mask.
    """

    at: int
    length: int
    target: Buffer
    first: int = 0
    units: int = 0
    sides: tuple[Array, ...] = ()
    base: Buffer | None = None
    base_digest: int | None = None  # that the base must have, where the CPU has not seen it
    mask: Array | None = None  # uint32, of a chunk that leaves zeros out


class Digests(NamedTuple):
    """Of chunks' decoded bytes, on the way to the host."""

    pieces: Array  # uint64 as bytes, those of a chunk after those of the one before it
    rests: list[Array]  # of each chunk, the bytes after its last whole piece
    counts: list[int]  # pieces of each chunk
    held: list[Array]  # host memory that is being uploaded

    def all(self) -> list[int]:
        """The digest of each chunk (container.md, section 7)."""
        pieces, at, found = self.pieces.view(np.uint64), 0, []
        for count, rest in zip(self.counts, self.rests, strict=True):
            numbers = pieces[at : at + count].tobytes()
            if rest.size:
                numbers += xxhash.xxh3_64_digest(rest.data)[::-1]
            found.append(xxhash.xxh3_64_intdigest(numbers))
            at += count
        return found


class Pending(NamedTuple):
    """What a segment's kernels leave. Host memory here is filled when a mark made since is reached."""

    left: list[int]  # chunks that no kernel decodes
    owners: Array  # the chunk of each item
    status: Array  # uint32 as bytes, one for each item
    digests: Digests | None
    held: list[Array]  # host memory that is being uploaded
    bases: Digests | None = None  # of bases on the device
    stated: dict[int, int] | None = None  # by chunk: the digest that its base must have

    def faulty(self) -> list[int]:
        """Chunks whose streams did not end as they began, or have an escape where none can be."""
        bad = np.flatnonzero(self.status.view(np.uint32))
        found: list[int] = np.unique(self.owners[bad]).tolist()
        return found

    def of_another_base(self) -> list[int]:
        """Chunks that are differences from something else than what the device has."""
        if self.bases is None or self.stated is None:
            return []
        found = zip(self.stated.items(), self.bases.all(), strict=True)
        return [i for (i, stated), digest in found if stated != digest]


def _pieces(targets: Sequence[Buffer]) -> list[int]:
    return [len(target) // PIECE_BYTES for target in targets]


def layout_of(expression: Stored, unit_bytes: int) -> Layout | None:
    """The layout that a kernel decodes, if there is one for chunks of this expression."""
    if not isinstance(expression, Bits) or expression.sides or expression.contexts:
        return None
    wanted = Layout(unit_bytes, expression.widths, expression.rotate)
    return wanted if wanted in LAYOUTS else None


def decode_segment(
    backend: Backend, segment: Array, chunks: Sequence[Chunk], layout: Layout, *, digests: bool, stored: Buffer = None
) -> Pending:
    """Decode chunks of one layout into their targets.

    segment: staging memory, which stays as it is until the device has got past this. stored: the same on the device,
    if it is there already.
    """
    out, places = backend.window([chunk.target for chunk in chunks])
    work = _list(segment, chunks, layout, places)
    stored = backend.upload(segment) if stored is None else stored
    held, (items, block_rows, tables, plain) = upload_all(
        backend, [work.items, work.block_rows, work.tables, work.plain]
    )
    count = work.items.size // rows.ITEM
    status = backend.zeros(4 * count)
    if count:
        views = (stored, stored, stored, items, block_rows, tables, out, status)
        backend.launch(decode_name(layout), count, views)
    if work.plain.size:
        backend.launch(plain_name(layout.unit_bytes), work.plain.size // rows.PLAIN_ITEM, (stored, plain, out))
    results = take_digests(backend, out, chunks, places) if digests else None
    left = np.flatnonzero(work.becomes == worklist.LEFT).tolist()
    owners = np.searchsorted(work.ends, np.arange(count), side="right")
    return Pending(left, owners, backend.fetch(status), results, [held])


def take_digests(backend: Backend, out: Buffer, chunks: Sequence[Chunk], places: list[int]) -> Digests:
    """Digests of what is decoded."""
    targets = [chunk.target for chunk in chunks]
    counts, made = _pieces(targets), _digest_items(chunks, places)
    results, held = backend.fresh(8 * sum(counts)), []
    if made.size:
        joined, (secrets, pieces) = upload_all(backend, [ROWS, made])
        backend.launch("digest", made.size // rows.DIGEST_ITEM, (out, pieces, secrets, results))
        held.append(joined)
    ends = [target[count * PIECE_BYTES :] for target, count in zip(targets, counts, strict=True)]
    rests = [backend.fetch(end) if len(end) else np.empty(0, np.uint8) for end in ends]
    return Digests(backend.fetch(results), rests, counts, held)


class _Work(NamedTuple):
    items: Array
    block_rows: Array
    tables: Array
    plain: Array
    becomes: Array
    ends: Array


def _list(segment: Array, chunks: Sequence[Chunk], layout: Layout, places: list[int]) -> _Work:
    asked = [
        (chunk.at, chunk.length, len(chunk.target) // layout.unit_bytes, place // layout.unit_bytes)
        for chunk, place in zip(chunks, places, strict=True)
    ]
    plan = np.array([layout.unit_bytes, layout.rotate, len(layout.widths), *layout.widths], np.int64)
    numbers = np.array(asked, np.int64).reshape(-1)
    becomes, ends = np.empty(len(chunks), np.uint8), np.empty(len(chunks), np.int64)
    used = np.empty(worklist.LISTS, np.int64)
    room = 1024 + 16 * len(chunks)
    while True:
        items, plain = np.empty(room * rows.ITEM, np.uint32), np.empty(room * rows.PLAIN_ITEM, np.uint32)
        block_rows, scratch = np.empty(room * rows.BLOCK_ROW, np.uint32), np.empty(room + 64, np.int64)
        tables = np.empty(room * 256, np.uint16)
        lists = (items, block_rows, tables, plain)
        status = worklist.list_chunks(segment, numbers, plan, *lists, used, scratch, becomes, ends)
        if status != worklist.NO_ROOM:
            must(status)
            sizes = (rows.ITEM, rows.BLOCK_ROW, 256, rows.PLAIN_ITEM)
            a, b, c, d = (n * size for n, size in zip(used.tolist(), sizes, strict=True))
            return _Work(items[:a], block_rows[:b], tables[:c], plain[:d], becomes, ends)
        room *= 4


def _digest_items(chunks: Sequence[Chunk], places: list[int]) -> Array:
    found, result = [], 0
    for chunk, place in zip(chunks, places, strict=True):
        pieces = len(chunk.target) // PIECE_BYTES
        for first in range(0, pieces, rows.WARPS):
            at = place // 8 + first * rows.PIECE_WORDS
            found.append((at & 0xFFFFFFFF, at >> 32, min(rows.WARPS, pieces - first), result + first))
        result += pieces
    return np.array(found, np.uint32).reshape(-1)


def upload_all(backend: Backend, arrays: Sequence[Array]) -> tuple[Array, list[Buffer]]:
    """Several arrays in one copy: (host memory that it is made from, buffers)."""
    starts, end = [], 0
    for array in arrays:
        starts.append(end)
        end += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
    joined = backend.staging(max(end, ALIGNMENT))
    for start, array in zip(starts, arrays, strict=True):
        joined[start : start + array.nbytes] = array.view(np.uint8)
    buffer = backend.upload(joined)
    return joined, [buffer[start : start + array.nbytes] for start, array in zip(starts, arrays, strict=True)]
