"""Units from codes (format_spec/expressions.md, section 7): palettes, palettes times scales, and offsets added."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from slimtensors.kernels.cuda import rows
from slimtensors.kernels.cuda.decode import make_begin
from slimtensors.kernels.cuda.floats import make_narrow, make_product, make_sum
from slimtensors.kernels.cuda.rows import THREADS
from slimtensors.kernels.cuda.seam import Device
from slimtensors.kernels.cuda.share import make_share


def make_place(types: Any, device: Device) -> Any:
    """place(codes, items, item, i): (the unit's run, its entry in `palettes`, whether there is one)."""
    u32 = types.uint32

    @device
    def place(codes: Any, items: Any, item: int, i: int) -> Any:
        turn = u32(u32(items[u32(item + u32(rows.COLUMN_AT))] + i) // items[u32(item + u32(rows.LENGTH))])
        run, entries = u32(items[u32(item + u32(rows.ROW_AT))] + turn), items[u32(item + u32(rows.ENTRIES))]
        code = u32(codes[i])
        known = code < entries
        entry = code if known else u32(0)
        first = u32(items[u32(item + u32(rows.PALETTE))] + u32(run * items[u32(item + u32(rows.EACH_RUN))]))
        return run, u32(first + entry), known

    return place


def make_pick(cuda: Any, types: Any, device: Device) -> Callable[..., None]:
    """A kernel: entries of palettes, in a thread block those of one item.

    items uint32, codes uint16, palettes and out of the unit's size, status uint32 as ever
    """
    u32, i32 = types.uint32, types.int32
    share = make_share(cuda, types, device)
    begin, place = make_begin(types, device), make_place(types, device)

    def pick(items: Any, codes: Any, palettes: Any, out: Any, status: Any) -> None:
        number, item, first_unit, end = share(items)
        target = out[begin(items, item) :]
        source = codes[begin(items, u32(item + u32(rows.BASE_AT))) :]
        for i in range(first_unit, end, i32(THREADS)):
            _run, entry, known = place(source, items, item, u32(i))
            target[u32(i)] = palettes[entry]
            if not known:
                cuda.atomic.or_(status, number, u32(rows.BAD_FIELD))

    return pick


def make_scaled(cuda: Any, types: Any, device: Device, dtype: str, *, shifted: bool = False) -> Callable[..., None]:
    """A kernel: the same, times the scale of the unit's run, rounded to F32, and then to the dtype; `shifted`: plus the
    run's offset, rounded to F32, before that.

    palettes and scales uint32, the bits of F32; out uint16 or uint32
    """
    u32, i32 = types.uint32, types.int32
    share = make_share(cuda, types, device)
    begin, place = make_begin(types, device), make_place(types, device)
    product, narrow = make_product(cuda, types, device), make_narrow(types, device, dtype)
    sum_of = make_sum(cuda, types, device)

    def scaled(items: Any, codes: Any, palettes: Any, scales: Any, out: Any, status: Any) -> None:
        number, item, first_unit, end = share(items)
        target = out[begin(items, item) :]
        source = codes[begin(items, u32(item + u32(rows.BASE_AT))) :]
        first, second = items[u32(item + u32(rows.SCALES))], items[u32(item + u32(rows.OFFSETS))]
        for i in range(first_unit, end, i32(THREADS)):
            run, entry, known = place(source, items, item, u32(i))
            found = product(u32(palettes[entry]), u32(scales[u32(first + run)]))
            if shifted:
                found = sum_of(found, u32(scales[u32(second + run)]))
            target[u32(i)] = narrow(found)
            if not known:
                cuda.atomic.or_(status, number, u32(rows.BAD_FIELD))

    return scaled
