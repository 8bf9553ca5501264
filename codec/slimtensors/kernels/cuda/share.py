"""Which units a thread block of a kernel sees that takes each unit by itself: an item has SHARES thread blocks."""

from __future__ import annotations

from typing import Any

from slimtensors.kernels.cuda import rows
from slimtensors.kernels.cuda.seam import Device


def make_share(cuda: Any, types: Any, device: Device) -> Any:
    """share(items): (the item's number, its first word, the thread's first unit, behind the thread block's last)."""
    u32, i32 = types.uint32, types.int32

    @device
    def share(items: Any) -> Any:
        number = u32(u32(cuda.blockIdx.x) // u32(rows.SHARES))
        item = u32(number * u32(rows.WIDE_ITEM))
        first = u32(u32(u32(cuda.blockIdx.x) % u32(rows.SHARES)) * u32(rows.SHARE_UNITS))
        end = min(u32(first + u32(rows.SHARE_UNITS)), items[u32(item + u32(rows.UNITS))])
        return number, item, i32(u32(first + u32(cuda.threadIdx.x))), i32(end)

    return share
