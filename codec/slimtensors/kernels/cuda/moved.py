"""Base units moved by a matrix product (format_spec/expressions.md, section 8.1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from slimtensors.kernels.cuda import rows
from slimtensors.kernels.cuda.decode import make_begin
from slimtensors.kernels.cuda.floats import NOT_FINITE, make_narrow, make_scaled_sum, make_sum, make_wide
from slimtensors.kernels.cuda.rows import THREADS
from slimtensors.kernels.cuda.seam import Device
from slimtensors.kernels.cuda.share import make_share


def make_product_of_factors(types: Any, device: Device) -> Any:
    """product_of_factors(factors, one, other, rank, length, narrow_sums): s, of 64 bits. one: the row's first factor;
    other: the column's, `length` apart. narrow_sums: whether s is cut to 32 bits.
    """
    u32, i32, i64 = types.uint32, types.int32, types.int64

    @device
    def product_of_factors(factors: Any, one: int, other: int, rank: int, length: int, narrow_sums: int) -> Any:
        s = i64(0)
        for _ in range(i32(rank)):
            s = i64(s + i64(i64(factors[one]) * i64(factors[other])))
            one, other = u32(one + u32(1)), u32(other + length)
        return i64(i32(s)) if narrow_sums != u32(0) else s

    return product_of_factors


def make_moved(cuda: Any, types: Any, device: Device, dtype: str) -> Callable[..., None]:
    """A kernel; a thread block works on one item.

    items uint32, factors int32, bases and moved of the dtype's units
    """
    u32, i32 = types.uint32, types.int32
    share = make_share(cuda, types, device)
    begin, narrow = make_begin(types, device), make_narrow(types, device, dtype)
    wide, product_of_factors = make_wide(cuda, types, device, dtype), make_product_of_factors(types, device)
    scaled_sum, sum_of = make_scaled_sum(cuda, types, device), make_sum(cuda, types, device)
    not_finite = NOT_FINITE[dtype]

    def move(items: Any, factors: Any, bases: Any, moved: Any) -> None:
        _number, item, first_unit, end = share(items)
        target = moved[begin(items, item) :]
        base = bases[begin(items, u32(item + u32(rows.BASE_AT))) :]
        row, column = items[u32(item + u32(rows.ROW_AT))], items[u32(item + u32(rows.COLUMN_AT))]
        length, rank = items[u32(item + u32(rows.LENGTH))], items[u32(item + u32(rows.RANK))]
        left, right = items[u32(item + u32(rows.LEFT))], items[u32(item + u32(rows.RIGHT))]
        narrow_sums, shift = items[u32(item + u32(rows.NARROW_SUMS))], i32(items[u32(item + u32(rows.OVER))])
        for i in range(first_unit, end, i32(THREADS)):
            place = u32(column + u32(i))
            turn = u32(place // length)
            one = u32(left + u32(u32(row + turn) * rank))
            other = u32(right + u32(place - u32(turn * length)))
            s = product_of_factors(factors, one, other, rank, length, narrow_sums)
            unit = u32(base[u32(i)])
            found = narrow(sum_of(wide(unit), scaled_sum(s, shift)))
            target[u32(i)] = found if u32(unit & u32(not_finite)) != u32(not_finite) else unit

    return move
