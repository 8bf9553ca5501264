"""Chunks of the usual kind, raw planes below a coded one, or codes in one coded plane, in few steps: a kernel opens the
chunk, another decodes it; an encoder puts the raw planes where they are to lie.

All others go the long way (chunk.py); tests hold the two against each other.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slimtensors.codecs import coded, fused, head
from slimtensors.codecs.head import GROUP, Bytes
from slimtensors.codecs.planes import check_status, decompress, packed_length
from slimtensors.codecs.workspace import own
from slimtensors.dtypes import bytes_of
from slimtensors.errors import FormatError
from slimtensors.expression import Bits
from slimtensors.kernels import instruction_set
from slimtensors.kernels.cpu import closing, decode_kernels, opening, search, search_kernels, table
from slimtensors.kernels.cpu.payload import FIELDS, POSITIONS, STATES, WORDS
from slimtensors.kernels.status import OK

__all__ = [
    "MOST_BLOCKS", "Codes", "Room", "body_of", "decode", "encode", "escapes_of", "has_tree", "look_up_at_once",
    "make_room", "open_codes", "pieces_of", "raw_pieces", "stream_of",
]  # fmt: skip

Units = npt.NDArray[Any]

U16, U32 = np.dtype("<u2"), np.dtype("<u4")
MOST_BLOCKS = 1024
MOST_STRAYS = 32  # slots of 4096: with more, look-ups are faster than searches
ODD_CHUNKS = 16  # with more that are searched all the same: for so few, another kernel is not worth its compilation
SEARCHES: dict[tuple[int, ...], Callable[..., int]] = {
    (8, 8): search_kernels.decode_u16_8_8,
    (6, 10): search_kernels.decode_u16_6_10,
    (8, 8, 8, 8): search_kernels.decode_u32_8_8_8_8,
    (8, 8, 6, 10): search_kernels.decode_u32_8_8_6_10,
    (8, 8, 5, 10): search_kernels.decode_u32_8_8_5_10,
}


class Room(NamedTuple):
    """What a thread needs for opening a chunk."""

    table: npt.NDArray[np.uint32]
    tree: npt.NDArray[np.uint16]
    starts: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]


def make_room() -> Room:
    return Room(
        np.empty(table.SLOTS, np.uint32),
        np.empty(search.TREE, np.uint16),
        np.empty(MOST_BLOCKS + 1, np.int64),
        np.empty(opening.PLACES, np.int64),
    )


_FRONT = struct.Struct("<BBHIQBBHIII")  # the head of a chunk of one plane, and its descriptor
NO_MASK = np.empty(0, np.uint8), np.empty(0, np.uint32)


def open_chunk(
    data: Bytes, out: Units, mask: Bytes, bits: npt.NDArray[np.uint32], widths: npt.NDArray[np.int64], room: Room
) -> bool:
    """opening.open_chunk: whether it is of the usual kind; what is found lies in the room."""
    return opening.open_chunk(
        data, out.size, out.itemsize, mask, bits, widths, room.table, room.starts, room.places
    ) == OK  # fmt: skip


class _Plan(NamedTuple):
    """What the planes' widths imply."""

    widths: npt.NDArray[np.int64]  # 0 where a plane is constant
    pieces: tuple[tuple[int, ...], ...]  # bits of each, of each raw plane
    decode: Callable[..., int]
    search: Callable[..., int] | None  # where it is faster


def pieces_of(widths: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """The bits of each piece, of each plane of these widths."""
    return tuple(tuple(piece for piece in (8, 4, 2, 1) if width & piece) for width in widths)


@cache
def _plan(unit_bytes: int, widths: tuple[int, ...]) -> _Plan | None:
    layout = fused.LAYOUTS.get((unit_bytes, widths))
    if layout is None:
        return None
    searching = SEARCHES.get(layout.kept) if instruction_set.searches() else None
    return _Plan(np.array(layout.stored), pieces_of(layout.stored[:-1]), layout.decode, searching)


def decode(data: Bytes, bits: Bits, out: Units) -> bool:
    """Fill `out`, if the chunk is of the usual kind; if not, nothing was done. Raises FormatError."""
    if not bits.rotate:
        return decode_bytes(data, bits, out)
    if bits.rotate != 1 or bits.sides or bits.contexts:
        return False
    plan = _plan(out.itemsize, bits.widths)
    if plan is None:
        return False
    room = own("opening", make_room)
    if not open_chunk(data, out, *NO_MASK, plan.widths, room):
        return False
    at = room.places.tolist()
    body = body_of(data, at, out)
    raw = raw_pieces(data, at, plan.pieces, body.size // GROUP)
    states, words, starts = stream_of(data, at, room.starts)
    stream = at[opening.BASE], states, words, starts, *raw, body
    if plan.search is not None and has_tree(room, at[opening.PRECISION]):
        check_status(plan.search(room.table, room.tree, *stream))
    else:
        check_status(plan.decode(room.table, *stream))
    if at[opening.ESCAPES]:
        coded.put_escapes(body, sum(bits.widths[:-1]) - 1, bits.widths[-1], escapes_of(data, at))
    return True


def decode_bytes(data: Bytes, bits: Bits, out: Units) -> bool:
    """The same for a plane of bytes in mode zstd, as most side planes are."""
    if bits.widths != (8,) or out.itemsize != 1 or bits.sides or data.size < _FRONT.size:
        return False
    mode, length = _FRONT.unpack_from(data.data)[5:9:3]
    body, end = out.size - out.size % GROUP, _FRONT.size + length
    tail = head.up(end)
    used = tail + out.size - body if out.size > body else end
    # All that a chunk states, but for the length; zeros around the tail, and enough of them.
    if mode != head.Mode.ZSTD or not body or data.size - used < head.READ_AHEAD:
        return False
    if _FRONT.pack(head.PLANES, 1, 0, out.size, 0, mode, 0, 0, length, 0, 0) != data[: _FRONT.size].tobytes():
        return False
    if not head.is_zero(data[used:]) or (used > end and not head.is_zero(data[end:tail])):
        return False
    try:
        found = decompress(data[_FRONT.size : end], body)
    except FormatError:
        return False
    out[:body] = np.frombuffer(found, np.uint8)
    if used > end:
        out[body:] = data[tail:used]
    return True


def raw_pieces(data: Bytes, at: list[int], planes: tuple[tuple[int, ...], ...], groups: int) -> list[Bytes]:
    """The pieces of the raw planes."""
    raw = []
    for plane, pieces in enumerate(planes, opening.PAYLOADS):
        begin = at[plane]
        for piece in pieces:
            end = begin + 32 * ((groups * piece + 1) // 2)  # packed_length(piece, groups)
            raw.append(data[begin:end])
            begin = end
    return raw


def body_of(data: Bytes, at: list[int], out: Units) -> Units:
    """The units of whole groups. The others are put there."""
    tail_units = out.size % GROUP
    if not tail_units:
        return out
    body, begin = out[: out.size - tail_units], at[opening.TAIL]
    out[body.size :] = data[begin : begin + tail_units * out.itemsize].view(out.dtype)
    return body


def stream_of(data: Bytes, at: list[int], starts: npt.NDArray[np.int64]) -> tuple[Units, Units, Units]:
    """States, words, and where each block's words begin."""
    states, words = data[at[STATES] : at[WORDS]].view(U32), data[at[WORDS] :].view(U16)
    return states, words, starts[: at[opening.BLOCKS] + 1]


def escapes_of(data: Bytes, at: list[int]) -> coded.Escapes:
    count = at[opening.ESCAPES]
    if not count:
        return fused.NO_ESCAPES
    positions, fields = at[POSITIONS], at[FIELDS]
    return coded.Escapes(data[positions : positions + 4 * count].view(U32), data[fields : fields + 2 * count].view(U16))


_odd = {"left": ODD_CHUNKS}


def look_up_at_once() -> None:
    """Have the first chunks with more strays looked up as all others are: for who compiles all kernels anyway."""
    _odd["left"] = 0


def has_tree(room: Room, precision: int) -> bool:
    """Make the table's tree; whether it is worth searching."""
    if precision != search.PRECISION:
        return False
    strays = search.plant(room.table, room.tree)
    if strays > MOST_STRAYS and _odd["left"] > 0:
        _odd["left"] -= 1  # threads may do this at once: a few more or less
        return True
    return 0 <= strays <= MOST_STRAYS


class Codes(NamedTuple):
    """A chunk's codes, opened and checked; valid until this thread opens another chunk."""

    table: npt.NDArray[np.uint32]
    tree: npt.NDArray[np.uint16] | None  # where it is worth searching
    stream: tuple[Units, Units, Units]  # states, words, starts
    width: int
    escapes: coded.Escapes
    body: Units  # of the units that are to be made of them

    def decode(self, out: Bytes) -> None:
        """Fill uint8[units of the body]. Raises FormatError."""
        if self.tree is None:
            check_status(decode_kernels.decode_fields_u8(self.table, 0, *self.stream, out))
        else:
            check_status(search_kernels.decode_fields_u8(self.table, self.tree, 0, *self.stream, out))
        coded.put_escapes(out, 0, self.width, self.escapes)


@cache
def _code_plan(width: int) -> tuple[npt.NDArray[np.int64], bool]:
    """(the one plane's width, whether searches are faster)"""
    return np.array([width]), instruction_set.searches()


def open_codes(data: Bytes, bits: Bits, out: Units) -> Codes | None:
    """The codes of a chunk, if one coded plane of up to 8 bits is all that it has; the units of no whole group are then
    put into `out`. None for any other chunk, and nothing was done.
    """
    if len(bits.parts) != 1 or bits.widths[0] > 8 or bits.rotate or bits.sides or bits.contexts:
        return None
    room, (widths, searching) = own("opening", make_room), _code_plan(bits.widths[0])
    if not open_chunk(data, out, *NO_MASK, widths, room):
        return None
    at = room.places.tolist()
    tree = room.tree if searching and has_tree(room, at[opening.PRECISION]) else None
    stream, escapes = stream_of(data, at, room.starts), escapes_of(data, at)
    return Codes(room.table, tree, stream, bits.widths[0], escapes, body_of(data, at, out))


def encode(units: Units, bits: Bits, take: Callable[[int], Bytes]) -> memoryview | None:
    """A chunk of these units, if it is of the usual kind and smaller than they are. take: gives memory for it.

    What an encoder makes is put together by a kernel, the raw planes lie where they belong from the beginning.
    """
    layout = fused.layout_of(bits, units.dtype)
    if layout is None or layout.split is None or units.size < GROUP:
        return None
    groups, tail_units = divmod(units.size, GROUP)
    body = units[: units.size - tail_units] if tail_units else units
    lengths = [packed_length(width, groups) for width in layout.stored[:-1]]
    begin = head.HEAD_BYTES + head.DESCRIPTOR_BYTES * len(layout.widths)
    # No smaller than units as they are: it is not one.
    limit = head.literal_length(units.nbytes) - head.CHUNK_ALIGNMENT
    if begin + sum(lengths) > limit:
        return None
    out = take(limit)[:limit]
    raw = []
    for length in filter(None, lengths):
        raw.append(out[begin : begin + length])
        begin += length
    made = fused.encode_planes(body, layout, raw)
    if made is None:
        return None
    # Always a new array: read-only ones would make Numba compile the kernel once more.
    coder, tail = made.coder, np.array(np.frombuffer(bytes_of(units[body.size :]), np.uint8))
    length = closing.close_chunk(
        out, out.view(np.uint16), np.array(lengths), units.size, units.nbytes, made.base, made.frequencies,
        *made.escapes, coder.states, coder.counts, coder.words, tail,
    )  # fmt: skip
    return out[:length].data if length else None
