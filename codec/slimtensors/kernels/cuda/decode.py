"""rANS decoding with the join fused, one warp a block: the layouts of `fast` and `balanced` (format_spec/coder.md).

A coded plane lies on top of up to four pieces of raw planes. A thread block has up to four blocks of one chunk, which
share a table of 16 KiB. What a damaged stream can do is ask for too many words, and end wrongly: word indices are
clamped, all others follow from the work list.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from slimtensors.kernels.cuda import rows
from slimtensors.kernels.cuda.pieces import make_piece
from slimtensors.kernels.cuda.rows import CODER_THREADS, STATE_MIN
from slimtensors.kernels.cuda.seam import Device
from slimtensors.kernels.cuda.table import make_fill_table
from slimtensors.kernels.cuda.words import make_words


class Layout(NamedTuple):
    """Raw planes below one coded plane."""

    unit_bytes: int
    widths: tuple[int, ...]  # the lowest plane first
    rotate: int

    @property
    def width(self) -> int:
        """Of the coded plane."""
        return self.widths[-1]

    @property
    def rest(self) -> int:
        """The bits below it."""
        return sum(self.widths[:-1])

    @property
    def name(self) -> str:
        return f"decode_u{8 * self.unit_bytes}_{'_'.join(map(str, self.widths))}"

    @property
    def pieces(self) -> list[tuple[int, int]]:
        """(bits, place in the unit before it is rotated) of each piece."""
        found, at = [], 0
        for width in self.widths[:-1]:
            for bits in (8, 4, 2, 1):
                if width & bits:
                    found.append((bits, at))
                    at += bits
        return found


LAYOUTS = [
    Layout(2, (8, 8), 1),
    Layout(2, (6, 10), 1),
    Layout(2, (4, 12), 1),
    Layout(4, (8, 8, 8, 8), 1),
    Layout(4, (8, 8, 6, 10), 1),
    Layout(1, (1, 7), 1),
    Layout(1, (8,), 0),
]


def make_step(cuda: Any, types: Any, device: Device) -> tuple[Any, Any, Any]:
    """(begin, steps, at): `begin` and `at` are those of `make_words`.

    steps(table, segment32, limit, lane, x, stream): read two symbols from each lane: (entry, entry, state, stream).
    """
    u32 = types.uint32
    begin, refill, advance, at = make_words(cuda, types, device)

    @device
    def symbol(table: Any, x: int) -> Any:
        # slot = x mod 2^12;  x = frequency * floor(x / 2^12) + bias
        entry = table[u32(x & u32(4095))]
        return entry, u32(u32(u32(entry >> u32(20)) * u32(x >> u32(12))) + u32(entry & u32(4095)))

    @device
    def steps(table: Any, segment32: Any, limit: int, lane: int, x: int, stream: Any) -> Any:
        first, x = symbol(table, x)
        x, stream = refill(lane, x, stream)
        second, x = symbol(table, x)
        x, stream = refill(lane, x, stream)
        return first, second, x, advance(segment32, limit, stream)

    return begin, steps, at


def make_begin(types: Any, device: Device) -> Any:
    """begin(items, at): the place of 64 bits that an item names."""
    u32, u64, i64 = types.uint32, types.uint64, types.int64

    @device
    def begin(items: Any, at: int) -> Any:
        return i64(u64(items[at]) | u64(u64(items[u32(at + u32(1))]) << u64(32)))

    return begin


def make_unit(types: Any, device: Device, layout: Layout) -> Any:
    """unit(entry, rest, base): the field above the rest, rotated; bits above the unit are for the store to cut."""
    u32 = types.uint32
    rest_bits, unit_bits = layout.rest, 8 * layout.unit_bytes
    is_wide, rotate = layout.width > 8, layout.rotate

    @device
    def unit(entry: int, rest: int, base: int) -> Any:
        field = u32(u32(entry >> u32(12)) & u32(255))
        if is_wide:  # the table has symbols; symbol 0 is field 0
            field = u32(field + base) if field > u32(0) else field
        value = u32(u32(field << u32(rest_bits)) | rest)
        if rotate:
            if unit_bits == 32:
                value = u32(u32(value >> u32(1)) | u32(value << u32(31)))
            else:
                value = u32(u32(value | u32(value << u32(unit_bits))) >> u32(1))
        return value

    return unit


def make_patch(cuda: Any, types: Any, device: Device, layout: Layout) -> Any:
    """patch(segment16, segment32, items, item, out, status): put the escapes of an item in."""
    u32, i32 = types.uint32, types.int32
    shift, mask = layout.rest - layout.rotate, (1 << layout.width) - 1

    @device
    def patch(segment16: Any, segment32: Any, items: Any, item: int, out: Any, status: Any) -> None:
        first, fields = items[u32(item + u32(rows.POSITIONS))], items[u32(item + u32(rows.FIELDS))]
        for i in range(i32(cuda.threadIdx.x), i32(items[u32(item + u32(rows.ESCAPES))]), i32(CODER_THREADS)):
            at = u32(segment32[u32(first + u32(i))])
            unit, field = u32(out[at]), u32(segment16[u32(fields + u32(i))])
            if u32(u32(unit >> u32(shift)) & u32(mask)) != u32(0):
                cuda.atomic.or_(status, u32(cuda.blockIdx.x), u32(rows.BAD_ESCAPE))
            else:
                out[at] = u32(unit | u32(field << u32(shift)))

    return patch


def make_decode(cuda: Any, types: Any, device: Device, layout: Layout) -> Callable[..., None]:
    """A kernel for one layout. A thread block works on one item.

    segment8, segment16, segment32  the stored bytes
    items, block_rows, starts       the work list: uint32, uint32, uint16
    out                             unsigned integers of the layout's size
    status                          uint32, one for each item, 0 before
    """
    u32, u64, i32 = types.uint32, types.uint64, types.int32
    fill_table, (open_words, steps, next_word) = make_fill_table(types, device), make_step(cuda, types, device)
    begin = make_begin(types, device)
    unit, patch = make_unit(types, device, layout), make_patch(cuda, types, device, layout)
    slots = [*layout.pieces, (0, 0), (0, 0), (0, 0), (0, 0)][: rows.MOST_PIECES]
    pieces = [make_piece(types, device, bits, at) for bits, at in slots]
    (load0, cut0), (load1, cut1), (load2, cut2), (load3, cut3) = pieces
    is_wide = layout.width > 8

    @device
    def load(segment8: Any, p: Any, keep: int, group: int, lane: int) -> Any:
        """The bytes of what lies below the coded fields in the four steps of a group."""
        a, b = load0(segment8, p[0], keep, group, lane), load1(segment8, p[1], keep, group, lane)
        return a, b, load2(segment8, p[2], keep, group, lane), load3(segment8, p[3], keep, group, lane)

    @device
    def rests(loaded: Any, keep: int, fill: int, group: int) -> Any:
        """What they hold."""
        a0, b0, c0, d0 = cut0(loaded[0], group)
        a1, b1, c1, d1 = cut1(loaded[1], group)
        a2, b2, c2, d2 = cut2(loaded[2], group)
        a3, b3, c3, d3 = cut3(loaded[3], group)
        a, b, c, d = u32(a0 | a1 | a2 | a3), u32(b0 | b1 | b2 | b3), u32(c0 | c1 | c2 | c3), u32(d0 | d1 | d2 | d3)
        return u32(a & keep | fill), u32(b & keep | fill), u32(c & keep | fill), u32(d & keep | fill)

    @device
    def places(items: Any, at: int) -> Any:
        return items[at], items[u32(at + u32(1))], items[u32(at + u32(2))], items[u32(at + u32(3))]

    def decode(
        segment8: Any, segment16: Any, segment32: Any, items: Any, block_rows: Any, starts: Any, out: Any, status: Any
    ) -> None:
        table = cuda.shared.array(4096, u32)
        thread = u32(cuda.threadIdx.x)
        item = u32(u32(cuda.blockIdx.x) * u32(rows.ITEM))
        base = items[u32(item + u32(rows.BASE))]
        first, precision = items[u32(item + u32(rows.TABLE))], items[u32(item + u32(rows.PRECISION))]
        fill_table(table, starts, first, precision, u32(0) if is_wide else base, thread)
        cuda.syncthreads()

        chunk = out[begin(items, item) :]
        lane, warp = u32(thread & u32(31)), u32(thread >> u32(5))
        if warp < items[u32(item + u32(rows.BLOCKS))]:
            keep, fill = items[u32(item + u32(rows.KEEP))], items[u32(item + u32(rows.FILL))]
            limit = u32(items[u32(item + u32(rows.LAST))] >> u32(1))
            p = places(items, u32(item + u32(rows.PIECES)))
            row = u32(items[u32(item + u32(rows.ROW))] + u32(warp * u32(rows.BLOCK_ROW)))
            group, groups = block_rows[row], block_rows[u32(row + u32(rows.GROUPS))]
            stream = open_words(segment32, block_rows[u32(row + u32(rows.WORD))], limit, lane)
            end = block_rows[u32(row + u32(rows.END))]
            x = segment32[u32(items[u32(item + u32(rows.STATES))] + thread)]
            to = u64(u32(u32(group * u32(rows.GROUP)) + lane))  # of 64 bits: what is added is part of the store
            for _ in range(i32(groups)):
                loaded = load(segment8, p, keep, group, lane)
                ea, eb, x, stream = steps(table, segment32, limit, lane, x, stream)
                ec, ed, x, stream = steps(table, segment32, limit, lane, x, stream)
                a, b, c, d = rests(loaded, keep, fill, group)
                chunk[to] = unit(ea, a, base)
                chunk[u64(to + u64(32))] = unit(eb, b, base)
                chunk[u64(to + u64(64))] = unit(ec, c, base)
                chunk[u64(to + u64(96))] = unit(ed, d, base)
                to, group = u64(to + u64(rows.GROUP)), u32(group + u32(1))
            # A sound stream leaves every lane at the encoder's first state, and all of the block's words read.
            if x != u32(STATE_MIN) or next_word(lane, stream) != end:
                cuda.atomic.or_(status, u32(cuda.blockIdx.x), u32(rows.BAD_END))
        cuda.syncthreads()
        patch(segment16, segment32, items, item, chunk, status)

    return decode
