"""One plane of a chunk at a time, for all layouts that have no kernel of their own: coded planes with a table for each
context, in the modes `coded` and `bypass` (format_spec/coder.md, sections 4 to 7), put into units at their places.

The tables lie in global memory, since a multiprocessor's shared memory holds but a few. What selects a unit's table is
known before the unit's turn, and is loaded before it, as is the unit that the field is put into: only the entry's
look-up is waited for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from slimtensors.kernels.cuda import rows
from slimtensors.kernels.cuda.decode import make_begin
from slimtensors.kernels.cuda.rows import CODER_THREADS, STATE_MIN
from slimtensors.kernels.cuda.seam import Device
from slimtensors.kernels.cuda.table import make_fill_table
from slimtensors.kernels.cuda.words import make_words


def make_tables(cuda: Any, types: Any, device: Device) -> Callable[..., None]:
    """A kernel; a thread block fills one table: starts uint16[257 * n], entries uint32[4096 * n]."""
    u32, i64 = types.uint32, types.int64
    fill_table = make_fill_table(types, device)

    def tables(starts: Any, entries: Any) -> None:
        first = u32(u32(cuda.blockIdx.x) * u32(rows.STARTS))
        precision = u32(starts[u32(first + u32(rows.STARTS - 1))])
        table = entries[i64(cuda.blockIdx.x) * i64(rows.SLOTS) :]
        fill_table(table, starts, first, precision, u32(0), u32(cuda.threadIdx.x))

    return tables


def make_plane(
    cuda: Any, types: Any, device: Device, unit_bytes: int, *, bypass: bool = False
) -> Callable[..., None]:
    """A kernel; a thread block works on one item, if that is in the mode which the kernel is for.

    segment16, segment32  the stored bytes
    items, block_rows     the work list
    maps, entries         uint32: where each context's table begins; the tables
    contexts              uint8, one for each unit of a chunk that has any
    out                   unsigned integers of `unit_bytes`
    status                uint32, one for each item, 0 before
    """
    u32, u64, i32 = types.uint32, types.uint64, types.int32
    unit = types.uint64 if unit_bytes == 8 else types.uint32
    begin = make_begin(types, device)
    open_words, refill, advance, next_word = make_words(cuda, types, device)

    @device
    def contexts_of(contexts: Any, first: int, to: int) -> Any:
        """Of a lane's units in a group, the first of which is at `to`."""
        if first == u32(rows.NOWHERE):
            return u32(0), u32(0), u32(0), u32(0)
        at = u64(u32(first + to))
        a, b = u32(contexts[at]), u32(contexts[u64(at + u64(32))])
        return a, b, u32(contexts[u64(at + u64(64))]), u32(contexts[u64(at + u64(96))])

    @device
    def units_at(chunk: Any, to: int, above: int) -> Any:
        """What another plane has put there."""
        if above == u32(0):
            return unit(0), unit(0), unit(0), unit(0)
        at = u64(to)
        a, b = unit(chunk[at]), unit(chunk[u64(at + u64(32))])
        return a, b, unit(chunk[u64(at + u64(64))]), unit(chunk[u64(at + u64(96))])

    @device
    def tables_of(maps: Any, map_at: int, mask: int, of: Any) -> Any:
        """Where their tables begin."""
        a, b = maps[u32(map_at + u32(of[0] & mask))], maps[u32(map_at + u32(of[1] & mask))]
        return a, b, maps[u32(map_at + u32(of[2] & mask))], maps[u32(map_at + u32(of[3] & mask))]

    @device
    def symbol(entries: Any, first: int, lane: int, x: int, stream: Any) -> Any:
        # slot = x mod 2^12;  x = frequency * floor(x / 2^12) + bias
        entry = entries[u32(u32(first & u32(rows.ABSENT - 1)) + u32(x & u32(4095)))]
        x = u32(u32(u32(entry >> u32(20)) * u32(x >> u32(12))) + u32(entry & u32(4095)))
        x, stream = refill(lane, x, stream)
        return u32(u32(entry >> u32(12)) & u32(255)), x, stream

    @device
    def with_bypass(entries: Any, segment32: Any, limit: int, first: int, lane: int, x: int, stream: Any) -> Any:
        s, x, stream = symbol(entries, first, lane, x, stream)
        # v = x mod 2^k; x = floor(x / 2^k); the field is (8 + s mod 8) * 2^k + v
        k = u32(u32(s >> u32(3)) - u32(1)) if s >= u32(16) else u32(0)
        v = u32(x & u32(u32(u32(1) << k) - u32(1)))
        field = u32(u32(u32(u32(s & u32(7)) | u32(8)) << k) + v) if s >= u32(8) else s
        x, stream = refill(lane, u32(x >> k), stream)
        return field, x, advance(segment32, limit, stream)

    @device
    def in_window(s: int, base: int, moved: int, width: int) -> Any:
        # base + s + octave * floor(context / 4), less 2^w - 1 if it is 2^w or more; symbol 0 is field 0
        field = u32(u32(s + base) + moved)
        if u32(field >> width) != u32(0):
            field = u32(field - u32(u32(u32(1) << width) - u32(1)))
        return field if s > u32(0) else u32(0)

    @device
    def patch(segment16: Any, segment32: Any, items: Any, item: int, chunk: Any, status: Any) -> None:
        """Put the escapes of an item in."""
        first, fields = items[u32(item + u32(rows.POSITIONS))], items[u32(item + u32(rows.FIELDS))]
        shift, width = items[u32(item + u32(rows.SHIFT))], items[u32(item + u32(rows.WIDTH))]
        mask = unit(unit(unit(1) << unit(width)) - unit(1))
        for i in range(i32(cuda.threadIdx.x), i32(items[u32(item + u32(rows.ESCAPES))]), i32(CODER_THREADS)):
            at = u32(segment32[u32(first + u32(i))])
            found, field = unit(chunk[at]), unit(segment16[u32(fields + u32(i))])
            if unit(unit(found >> unit(shift)) & mask) != unit(0):
                cuda.atomic.or_(status, u32(cuda.blockIdx.x), u32(rows.BAD_ESCAPE))
            else:
                chunk[at] = unit(found | unit(field << unit(shift)))

    def plane(
        segment16: Any,
        segment32: Any,
        items: Any,
        block_rows: Any,
        maps: Any,
        entries: Any,
        contexts: Any,
        out: Any,
        status: Any,
    ) -> None:
        thread = u32(cuda.threadIdx.x)
        item = u32(u32(cuda.blockIdx.x) * u32(rows.PLANE_ITEM))
        chunk = out[begin(items, item) :]
        lane, warp = u32(thread & u32(31)), u32(thread >> u32(5))
        is_mine = items[u32(item + u32(rows.BYPASS))] == u32(1 if bypass else 0)
        if is_mine and warp < items[u32(item + u32(rows.BLOCKS))]:
            shift, above = items[u32(item + u32(rows.SHIFT))], items[u32(item + u32(rows.ABOVE))]
            width, base = items[u32(item + u32(rows.WIDTH))], items[u32(item + u32(rows.BASE))]
            map_at, mask = items[u32(item + u32(rows.MAP))], items[u32(item + u32(rows.TABLE_MASK))]
            octave, context_at = items[u32(item + u32(rows.OCTAVE))], items[u32(item + u32(rows.CONTEXT))]
            limit = u32(items[u32(item + u32(rows.LAST))] >> u32(1))
            row = u32(items[u32(item + u32(rows.ROW))] + u32(warp * u32(rows.BLOCK_ROW)))
            stream = open_words(segment32, block_rows[u32(row + u32(rows.WORD))], limit, lane)
            end, count = block_rows[u32(row + u32(rows.END))], block_rows[u32(row + u32(rows.GROUPS))]
            x = segment32[u32(items[u32(item + u32(rows.STATES))] + thread)]
            to, wrong = u32(u32(block_rows[row] * u32(rows.GROUP)) + lane), u32(0)
            # The last group: what is loaded ahead stops there.
            final = u32(to + u32(u32(count - u32(1)) * u32(rows.GROUP)))
            context = contexts_of(contexts, context_at, to)
            first = tables_of(maps, map_at, mask, context)
            for _ in range(i32(count)):
                after = u32(min(u32(to + u32(rows.GROUP)), final))
                next_context, before = contexts_of(contexts, context_at, after), units_at(chunk, to, above)
                if bypass:
                    a, x, stream = with_bypass(entries, segment32, limit, first[0], lane, x, stream)
                    b, x, stream = with_bypass(entries, segment32, limit, first[1], lane, x, stream)
                    c, x, stream = with_bypass(entries, segment32, limit, first[2], lane, x, stream)
                    d, x, stream = with_bypass(entries, segment32, limit, first[3], lane, x, stream)
                else:
                    a, x, stream = symbol(entries, first[0], lane, x, stream)
                    b, x, stream = symbol(entries, first[1], lane, x, stream)
                    stream = advance(segment32, limit, stream)
                    c, x, stream = symbol(entries, first[2], lane, x, stream)
                    d, x, stream = symbol(entries, first[3], lane, x, stream)
                    stream = advance(segment32, limit, stream)
                    a = in_window(a, base, u32(u32(context[0] >> u32(2)) * octave), width)
                    b = in_window(b, base, u32(u32(context[1] >> u32(2)) * octave), width)
                    c = in_window(c, base, u32(u32(context[2] >> u32(2)) * octave), width)
                    d = in_window(d, base, u32(u32(context[3] >> u32(2)) * octave), width)
                at = u64(to)
                chunk[at] = unit(before[0] | unit(unit(a) << unit(shift)))
                chunk[u64(at + u64(32))] = unit(before[1] | unit(unit(b) << unit(shift)))
                chunk[u64(at + u64(64))] = unit(before[2] | unit(unit(c) << unit(shift)))
                chunk[u64(at + u64(96))] = unit(before[3] | unit(unit(d) << unit(shift)))
                absent = u32(u32(first[0] | first[1] | first[2] | first[3]) & u32(rows.ABSENT))
                wrong = u32(wrong | u32(u32(a | b | c | d) >> width) | absent)
                to, context = after, next_context
                first = tables_of(maps, map_at, mask, context)
            # A sound stream leaves every lane at the encoder's first state, and all of the block's words read.
            if x != u32(STATE_MIN) or next_word(lane, stream) != end:
                cuda.atomic.or_(status, u32(cuda.blockIdx.x), u32(rows.BAD_END))
            if wrong != u32(0):
                cuda.atomic.or_(status, u32(cuda.blockIdx.x), u32(rows.BAD_FIELD))
        if not bypass:  # where no field is an escape
            cuda.syncthreads()
            patch(segment16, segment32, items, item, chunk, status)

    return plane
