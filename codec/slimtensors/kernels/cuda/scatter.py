"""Units that a mask leaves out, put back as zeros, or as what codes made of them (format_spec/expressions.md, sections
3.2 and 3.3).

A warp has 1024 units, 32 words of the mask: each lane counts the bits of one, and a scan over the warp tells how many
values come before each word. Before the first of them come as many as the CPU has counted, in `ranks`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from slimtensors.kernels.cuda import rows
from slimtensors.kernels.cuda.decode import make_begin
from slimtensors.kernels.cuda.rows import ALL, THREADS, WARP
from slimtensors.kernels.cuda.seam import Device

SCAN = (1, 2, 4, 8, 16)


def make_scatter(cuda: Any, types: Any, device: Device, unit_bytes: int) -> Callable[..., None]:
    """A kernel; a thread block works on one item.

    items   uint32[...]  as rows.py says
    masks   uint32[...]  bit k of a word is for its k-th unit
    ranks   uint32[...]  how many values come before each 1024 units
    values  of the unit's size
    out     of the unit's size
    status  uint32, one for each item, 0 before
    """
    u32, i32 = types.uint32, types.int32
    unit = types.uint64 if unit_bytes == 8 else types.uint32
    begin = make_begin(types, device)

    @device
    def before(bits: int, lane: int) -> Any:
        """How many bits the lanes below have."""
        mine = u32(cuda.popc(bits))
        total = mine
        for by in SCAN:
            found = u32(cuda.shfl_up_sync(ALL, i32(total), by))
            total = u32(total + found) if lane >= u32(by) else total
        return u32(total - mine)

    def scatter(items: Any, masks: Any, ranks: Any, values: Any, out: Any, status: Any) -> None:
        item = u32(u32(cuda.blockIdx.x) * u32(rows.SCATTER_ITEM))
        target, source = out[begin(items, item) :], values[begin(items, u32(item + u32(rows.VALUES_AT))) :]
        words, last = items[u32(item + u32(rows.MASK_WORDS))], items[u32(item + u32(rows.LAST_VALUE))]
        thread, over = u32(cuda.threadIdx.x), items[u32(item + u32(rows.OVER_OTHERS))]
        lane, warp = u32(thread & u32(31)), u32(thread >> u32(5))
        first = u32(warp * u32(WARP))
        below = u32(u32(u32(1) << lane) - u32(1))
        if first < words:
            some = u32(min(u32(words - first), u32(WARP)))
            at = u32(items[u32(item + u32(rows.MASK_AT))] + first)
            bits = u32(masks[u32(at + lane)]) if lane < some else u32(0)
            rank = u32(u32(ranks[u32(items[u32(item + u32(rows.RANKS_AT))] + warp)]) + before(bits, lane))
            to = u32(u32(first * u32(32)) + lane)
            for step in range(i32(some)):
                word, place = u32(cuda.shfl_sync(ALL, i32(bits), step)), u32(cuda.shfl_sync(ALL, i32(rank), step))
                if u32(u32(word >> lane) & u32(1)) != u32(0):
                    target[to] = unit(source[min(u32(place + u32(cuda.popc(u32(word & below)))), last)])
                elif over == u32(0):
                    target[to] = unit(0)
                to = u32(to + u32(WARP))
        # What fills up the last group of values has to be zero.
        end = items[u32(item + u32(rows.FILLED_TO))]
        for i in range(i32(u32(items[u32(item + u32(rows.FILLED_FROM))] + thread)), i32(end), i32(THREADS)):
            if unit(source[u32(i)]) != unit(0):
                cuda.atomic.or_(status, u32(cuda.blockIdx.x), u32(rows.BAD_FIELD))

    return scatter
