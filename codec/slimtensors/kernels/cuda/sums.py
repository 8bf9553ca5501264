"""Numbers from codes plus a base, or plus a matrix product (format_spec/expressions.md, section 8.2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from slimtensors.kernels.cuda import rows
from slimtensors.kernels.cuda.decode import make_begin
from slimtensors.kernels.cuda.floats import NOT_FINITE, make_narrow, make_scaled_sum, make_sum, make_wide
from slimtensors.kernels.cuda.moved import make_product_of_factors
from slimtensors.kernels.cuda.rows import THREADS
from slimtensors.kernels.cuda.seam import Device
from slimtensors.kernels.cuda.share import make_share


def make_sums(cuda: Any, types: Any, device: Device, dtype: str) -> Callable[..., None]:
    """A kernel; a thread block works on one item.

    items uint32, factors int32, bases and out of the dtype's units, numbers uint32, the bits of F32
    """
    u32, i32 = types.uint32, types.int32
    share = make_share(cuda, types, device)
    begin, narrow = make_begin(types, device), make_narrow(types, device, dtype)
    wide, product_of_factors = make_wide(cuda, types, device, dtype), make_product_of_factors(types, device)
    scaled_sum, sum_of = make_scaled_sum(cuda, types, device), make_sum(cuda, types, device)
    not_finite = NOT_FINITE[dtype]

    @device
    def delta(items: Any, item: int, factors: Any, i: int) -> Any:
        place, length = u32(items[u32(item + u32(rows.COLUMN_AT))] + i), items[u32(item + u32(rows.LENGTH))]
        turn, rank = u32(place // length), items[u32(item + u32(rows.RANK))]
        row = u32(items[u32(item + u32(rows.ROW_AT))] + turn)
        one = u32(items[u32(item + u32(rows.LEFT))] + u32(row * rank))
        other = u32(items[u32(item + u32(rows.RIGHT))] + u32(place - u32(turn * length)))
        narrow_sums = items[u32(item + u32(rows.NARROW_SUMS))]
        s = product_of_factors(factors, one, other, rank, length, narrow_sums)
        return scaled_sum(s, i32(items[u32(item + u32(rows.OVER))]))

    def sums(items: Any, factors: Any, bases: Any, numbers: Any, out: Any) -> None:
        _number, item, first_unit, end = share(items)
        target = out[begin(items, item) :]
        base = bases[begin(items, u32(item + u32(rows.BASE_AT))) :]
        number = numbers[begin(items, u32(item + u32(rows.NUMBERS_AT))) :]
        has_base = items[u32(item + u32(rows.HAS_BASE))]
        for i in range(first_unit, end, i32(THREADS)):
            unit = u32(base[u32(i)]) if has_base != u32(0) else u32(0)
            these = wide(unit) if has_base != u32(0) else delta(items, item, factors, u32(i))
            found = narrow(sum_of(these, u32(number[u32(i)])))
            # A base that is not finite stays as it is.
            target[u32(i)] = found if u32(unit & u32(not_finite)) != u32(not_finite) else unit

    return sums
