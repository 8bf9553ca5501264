"""One plane of a chunk at a time, for all layouts that have no kernel of their own: coded planes with a table for each
context, in the modes `coded` and `bypass` (format_spec/coder.md, sections 4 to 7), put into units at their places.

The tables lie in global memory, since a multiprocessor's shared memory holds but a few; what selects a unit's table is
known before the unit's turn, so that only the entry's look-up is waited for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from slimtensors.kernels.cuda import rows
from slimtensors.kernels.cuda.decode import make_begin
from slimtensors.kernels.cuda.rows import ALL, STATE_MIN, THREADS
from slimtensors.kernels.cuda.seam import Device
from slimtensors.kernels.cuda.table import make_fill_table


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


def make_refill(cuda: Any, types: Any, device: Device) -> Any:
    """refill(words, last, below, x, at): (state, index of the next word)."""
    u32 = types.uint32

    @device
    def refill(words: Any, last: int, below: int, x: int, at: int) -> Any:
        # if x < 2^16:  x = 2^16 * x + word
        hungry = x < u32(STATE_MIN)
        votes = u32(cuda.ballot_sync(ALL, hungry))
        if hungry:
            # A damaged stream may ask for more words than there are.
            word = words[u32(min(at, last) + u32(cuda.popc(u32(votes & below))))]
            x = u32(u32(x << u32(16)) | u32(word))
        return x, u32(at + u32(cuda.popc(votes)))

    return refill


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
    begin, refill = make_begin(types, device), make_refill(cuda, types, device)

    @device
    def step(
        segment16: Any,
        maps: Any,
        entries: Any,
        contexts: Any,
        items: Any,
        item: int,
        below: int,
        to: int,
        x: int,
        at: int,
    ) -> Any:
        """Read one field from each lane: (field, what is wrong with it if not 0, state, index of the next word)."""
        last, context_at = items[u32(item + u32(rows.LAST))], items[u32(item + u32(rows.CONTEXT))]
        context = u32(contexts[u32(context_at + to)]) if context_at != u32(rows.NOWHERE) else u32(0)
        selected = u32(context & items[u32(item + u32(rows.TABLE_MASK))])
        first = maps[u32(items[u32(item + u32(rows.MAP))] + selected)]
        # slot = x mod 2^12;  x = frequency * floor(x / 2^12) + bias
        entry = entries[u32(u32(first & u32(rows.ABSENT - 1)) + u32(x & u32(4095)))]
        x = u32(u32(u32(entry >> u32(20)) * u32(x >> u32(12))) + u32(entry & u32(4095)))
        x, at = refill(segment16, last, below, x, at)
        s, width = u32(u32(entry >> u32(12)) & u32(255)), items[u32(item + u32(rows.WIDTH))]
        if items[u32(item + u32(rows.BYPASS))] != u32(0):
            # v = x mod 2^k; x = floor(x / 2^k); the field is (8 + s mod 8) * 2^k + v
            k = u32(u32(s >> u32(3)) - u32(1)) if s >= u32(16) else u32(0)
            v = u32(x & u32(u32(u32(1) << k) - u32(1)))
            field = u32(u32(u32(u32(s & u32(7)) | u32(8)) << k) + v) if s >= u32(8) else s
            x, at = refill(segment16, last, below, u32(x >> k), at)
        else:
            # base + s + octave * floor(context / 4), less 2^w - 1 if it is 2^w or more; symbol 0 is field 0
            moved = u32(u32(context >> u32(2)) * items[u32(item + u32(rows.OCTAVE))])
            field = u32(u32(s + items[u32(item + u32(rows.BASE))]) + moved)
            if u32(field >> width) != u32(0):
                field = u32(field - u32(u32(u32(1) << width) - u32(1)))
            field = field if s > u32(0) else u32(0)
        return field, u32(u32(field >> width) | u32(first & u32(rows.ABSENT))), x, at

    @device
    def put(chunk: Any, to: int, field: int, shift: int, above: int) -> None:
        below = unit(chunk[to]) if above != u32(0) else unit(0)
        chunk[to] = unit(below | unit(unit(field) << unit(shift)))

    @device
    def patch(segment16: Any, segment32: Any, items: Any, item: int, chunk: Any, status: Any) -> None:
        """Put the escapes of an item in."""
        first, fields = items[u32(item + u32(rows.POSITIONS))], items[u32(item + u32(rows.FIELDS))]
        shift, width = items[u32(item + u32(rows.SHIFT))], items[u32(item + u32(rows.WIDTH))]
        mask = unit(unit(unit(1) << unit(width)) - unit(1))
        for i in range(i32(cuda.threadIdx.x), i32(items[u32(item + u32(rows.ESCAPES))]), i32(THREADS)):
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
            below = u32(u32(u32(1) << lane) - u32(1))
            shift, above = items[u32(item + u32(rows.SHIFT))], items[u32(item + u32(rows.ABOVE))]
            row = u32(items[u32(item + u32(rows.ROW))] + u32(warp * u32(rows.BLOCK_ROW)))
            at, end = block_rows[u32(row + u32(rows.WORD))], block_rows[u32(row + u32(rows.END))]
            x = segment32[u32(items[u32(item + u32(rows.STATES))] + thread)]
            to, wrong = u32(u32(block_rows[row] * u32(rows.GROUP)) + lane), u32(0)
            for _ in range(i32(u32(block_rows[u32(row + u32(rows.GROUPS))] * u32(rows.STEPS)))):
                field, bad, x, at = step(segment16, maps, entries, contexts, items, item, below, to, x, at)
                put(chunk, to, field, shift, above)
                wrong, to = u32(wrong | bad), u32(to + u32(rows.WARP))
            # A sound stream leaves every lane at the encoder's first state, and all of the block's words read.
            if x != u32(STATE_MIN) or at != end:
                cuda.atomic.or_(status, u32(cuda.blockIdx.x), u32(rows.BAD_END))
            if wrong != u32(0):
                cuda.atomic.or_(status, u32(cuda.blockIdx.x), u32(rows.BAD_FIELD))
        cuda.syncthreads()
        patch(segment16, segment32, items, item, chunk, status)

    return plane
