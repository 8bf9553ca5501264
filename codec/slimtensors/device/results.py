"""What a segment's kernels leave, in one buffer that is fetched at once: statuses, digests, the ends of chunks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from slimtensors.device.backend import Backend, Buffer
from slimtensors.digests import PIECE_BYTES
from slimtensors.kernels.cpu.xxh3 import ROWS
from slimtensors.kernels.cuda import rows
from slimtensors.kernels.cuda.catalogue import plain_name

__all__ = ["Digesting", "digests_of", "launch_digests", "list_digests", "room_of"]

Array = npt.NDArray[Any]

WORD = 8  # bytes
MOST_WORDS = rows.NOWHERE  # in a buffer whose words are counted in 32 bits


class Digesting(NamedTuple):
    """Where digests are put, and what they are taken of: those of a chunk's pieces one after another, and behind them
    room for that of its end, the bytes after its last whole piece. The ends themselves follow, at whole words.
    """

    items: int  # of the kernel
    copies: int
    within_reach: bool  # whether a kernel can copy ends; else they are copied one by one
    places: list[tuple[int, int, int, int]]  # of each chunk: first byte of its digests, behind the last; of its end
    length: int  # bytes
    of: str  # before the names of its lists


def room_of(count: int) -> int:
    """Bytes of so many statuses, up to a whole word."""
    return -(-count // 2) * WORD


def list_digests(places: Array, sizes: Array, of: str = "") -> tuple[Digesting, dict[str, Array]]:
    """Of chunks' decoded bytes, which begin at `places` of a buffer, multiples of 8; and lists for the kernels."""
    whole, rest = sizes // PIECE_BYTES, sizes % PIECE_BYTES
    digests, words = whole + (rest > 0), -(-rest // WORD)
    first, end_at = np.cumsum(digests) - digests, int(digests.sum()) + np.cumsum(words) - words
    # An item has up to rows.WARPS pieces of a chunk.
    each = -(-whole // rows.WARPS)
    owner = np.repeat(np.arange(sizes.size), each)
    piece = rows.WARPS * (np.arange(owner.size) - np.repeat(np.cumsum(each) - each, each))
    at = places[owner] // WORD + piece * rows.PIECE_WORDS
    items = np.empty((owner.size, rows.DIGEST_ITEM), np.uint32)
    items[:, 0], items[:, 1] = at & 0xFFFFFFFF, at >> 32
    items[:, 2], items[:, 3] = np.minimum(rows.WARPS, whole[owner] - piece), first[owner] + piece
    ends = np.flatnonzero(rest)
    source = (places + whole * PIECE_BYTES)[ends] // WORD
    within_reach = not ends.size or int((source + words[ends]).max()) < MOST_WORDS
    copies = np.zeros((ends.size if within_reach else 0, rows.PLAIN_ITEM), np.uint32)
    if within_reach:
        copies[:, rows.TO], copies[:, rows.UNITS], copies[:, rows.FROM] = end_at[ends], words[ends], source
    begin, stop = WORD * first, WORD * end_at
    columns = begin, begin + WORD * digests, stop, stop + rest
    length = WORD * int(digests.sum() + words.sum())
    where = list(zip(*(column.tolist() for column in columns), strict=True))
    lists = {f"{of}digest": items.reshape(-1), "secrets": ROWS, f"{of}ends": copies.reshape(-1)}
    return Digesting(len(items), len(copies), within_reach, where, length, of), lists


def launch_digests(
    backend: Backend,
    digesting: Digesting,
    lists: Mapping[str, Buffer],
    out: Buffer,
    into: Buffer,
    decoded: Callable[[int], Buffer],
) -> None:
    """Take digests of what is in `out`. decoded: a chunk's buffer, by its number."""
    if digesting.items:
        backend.launch("digest", digesting.items, (out, lists[f"{digesting.of}digest"], lists["secrets"], into))
    if digesting.copies:
        backend.launch(plain_name(WORD), digesting.copies, (out, lists[f"{digesting.of}ends"], into))
    if digesting.within_reach:
        return
    for i, (_begin, _end, at, stop) in enumerate(digesting.places):
        if stop > at:
            buffer = decoded(i)
            backend.copy(into[at:stop], buffer[len(buffer) - (stop - at) :])


def digests_of(digesting: Digesting, found: Array) -> list[int]:
    """The digest of each chunk (container.md, section 7). found: what the kernels left, changed here."""
    held, words, digests = found.data, found.view(np.uint64), []
    for begin, end, at, stop in digesting.places:
        if stop > at:
            words[end // WORD - 1] = xxhash.xxh3_64_intdigest(held[at:stop])
        digests.append(xxhash.xxh3_64_intdigest(held[begin:end]))
    return digests
