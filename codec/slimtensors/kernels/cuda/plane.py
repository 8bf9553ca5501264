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


def make_plane(cuda: Any, types: Any, device: Device, unit_bytes: int) -> Callable[..., None]:
    """A kernel; a thread block works on one item.

    segment16, segment32  the stored bytes
    items, block_rows     the work list
    maps, entries         uint32: where each context's table begins; the tables
    contexts              uint8, one for each unit of a chunk that has any
    out                   unsigned integers of `unit_bytes`
    status                uint32, one for each item, 0 before
    """
    u32, i32 = types.uint32, types.int32
    unit = types.uint64 if unit_bytes == 8 else types.uint32
    begin = make_begin(types, device)
    open_words, refill, advance, next_word = make_words(cuda, types, device)

    @device
    def context_of(contexts: Any, first: int, to: int) -> Any:
        return u32(contexts[u32(first + to)]) if first != u32(rows.NOWHERE) else u32(0)

    @device
    def unit_at(chunk: Any, to: int, above: int) -> Any:
        """What another plane has put there."""
        return unit(chunk[to]) if above != u32(0) else unit(0)

    @device
    def with_bypass(s: int, lane: int, x: int, stream: Any) -> Any:
        # v = x mod 2^k; x = floor(x / 2^k); the field is (8 + s mod 8) * 2^k + v
        k = u32(u32(s >> u32(3)) - u32(1)) if s >= u32(16) else u32(0)
        v = u32(x & u32(u32(u32(1) << k) - u32(1)))
        field = u32(u32(u32(u32(s & u32(7)) | u32(8)) << k) + v) if s >= u32(8) else s
        x, stream = refill(lane, u32(x >> k), stream)
        return field, x, stream

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
        if warp < items[u32(item + u32(rows.BLOCKS))]:
            shift, above = items[u32(item + u32(rows.SHIFT))], items[u32(item + u32(rows.ABOVE))]
            width, base = items[u32(item + u32(rows.WIDTH))], items[u32(item + u32(rows.BASE))]
            has_bypass, octave = items[u32(item + u32(rows.BYPASS))], items[u32(item + u32(rows.OCTAVE))]
            map_at, mask = items[u32(item + u32(rows.MAP))], items[u32(item + u32(rows.TABLE_MASK))]
            context_at, limit = items[u32(item + u32(rows.CONTEXT))], u32(items[u32(item + u32(rows.LAST))] >> u32(1))
            row = u32(items[u32(item + u32(rows.ROW))] + u32(warp * u32(rows.BLOCK_ROW)))
            stream = open_words(segment32, block_rows[u32(row + u32(rows.WORD))], limit, lane)
            end, count = block_rows[u32(row + u32(rows.END))], block_rows[u32(row + u32(rows.GROUPS))]
            x = segment32[u32(items[u32(item + u32(rows.STATES))] + thread)]
            to, wrong = u32(u32(block_rows[row] * u32(rows.GROUP)) + lane), u32(0)
            # The lane's last unit; what is loaded ahead stops there.
            final = u32(to + u32(u32(count * u32(rows.GROUP)) - u32(rows.WARP)))
            context, before = context_of(contexts, context_at, to), unit_at(chunk, to, above)
            first = maps[u32(map_at + u32(context & mask))]
            following = u32(min(u32(to + u32(rows.WARP)), final))
            next_context, next_before = context_of(contexts, context_at, following), unit_at(chunk, following, above)
            for _ in range(i32(u32(count * u32(rows.STEPS)))):
                next_first = maps[u32(map_at + u32(next_context & mask))]
                after = u32(min(u32(following + u32(rows.WARP)), final))
                context_after, before_after = context_of(contexts, context_at, after), unit_at(chunk, after, above)
                # slot = x mod 2^12;  x = frequency * floor(x / 2^12) + bias
                entry = entries[u32(u32(first & u32(rows.ABSENT - 1)) + u32(x & u32(4095)))]
                x = u32(u32(u32(entry >> u32(20)) * u32(x >> u32(12))) + u32(entry & u32(4095)))
                x, stream = refill(lane, x, stream)
                s = u32(u32(entry >> u32(12)) & u32(255))
                if has_bypass != u32(0):
                    field, x, stream = with_bypass(s, lane, x, stream)
                else:
                    field = in_window(s, base, u32(u32(context >> u32(2)) * octave), width)
                stream = advance(segment32, limit, stream)
                chunk[to] = unit(before | unit(unit(field) << unit(shift)))
                wrong = u32(wrong | u32(u32(field >> width) | u32(first & u32(rows.ABSENT))))
                to, following = following, after
                context, next_context, first = next_context, context_after, next_first
                before, next_before = next_before, before_after
            # A sound stream leaves every lane at the encoder's first state, and all of the block's words read.
            if x != u32(STATE_MIN) or next_word(lane, stream) != end:
                cuda.atomic.or_(status, u32(cuda.blockIdx.x), u32(rows.BAD_END))
            if wrong != u32(0):
                cuda.atomic.or_(status, u32(cuda.blockIdx.x), u32(rows.BAD_FIELD))
        cuda.syncthreads()
        patch(segment16, segment32, items, item, chunk, status)

    return plane
