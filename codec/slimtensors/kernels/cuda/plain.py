"""Units that are stored as they are, and sequences: literal and affine chunks, tails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from slimtensors.kernels.cuda import rows
from slimtensors.kernels.cuda.decode import make_begin
from slimtensors.kernels.cuda.rows import THREADS
from slimtensors.kernels.cuda.seam import Device


def make_plain(cuda: Any, types: Any, device: Device) -> Callable[..., None]:
    """A kernel; a thread block works on one item. segment and out: of the same unsigned integers; items: uint32."""
    u32, u64, i32 = types.uint32, types.uint64, types.int32

    begin = make_begin(types, device)

    @device
    def whole(items: Any, at: int) -> Any:
        return u64(u64(items[at]) | u64(u64(items[u32(at + u32(1))]) << u64(32)))

    def plain(segment: Any, items: Any, out: Any) -> None:
        item = u32(u32(cuda.blockIdx.x) * u32(rows.PLAIN_ITEM))
        target, count = out[begin(items, item) :], i32(items[u32(item + u32(rows.UNITS))])
        source = items[u32(item + u32(rows.FROM))]
        if source != u32(rows.NOWHERE):
            for i in range(i32(cuda.threadIdx.x), count, i32(THREADS)):
                target[u32(i)] = segment[u32(source + u32(i))]
        else:
            start, step = whole(items, u32(item + u32(rows.START))), whole(items, u32(item + u32(rows.STEP)))
            for i in range(i32(cuda.threadIdx.x), count, i32(THREADS)):
                # unit[i] = start + i * step, modulo the unit
                target[u32(i)] = u64(start + u64(u64(i) * step))

    return plain
