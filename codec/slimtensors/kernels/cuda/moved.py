"""Base units moved by a matrix product (format_spec/expressions.md, section 8.1).

F32 is added up of integers, so that no compiler contracts or flushes anything, and the tests' runner can run it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from slimtensors.kernels.cuda import rows
from slimtensors.kernels.cuda.decode import make_begin
from slimtensors.kernels.cuda.lookup import INFINITE, SIGN, make_narrow, make_parts
from slimtensors.kernels.cuda.rows import THREADS
from slimtensors.kernels.cuda.seam import Device

ROOM = 26  # bits below the mantissas while they are added: no bit is lost but those that `sticky` stands for
FARTHEST = 60  # a shift that leaves nothing of a mantissa with its room
NOT_FINITE = {"F32": 0x7F800000, "BF16": 0x7F80, "F16": 0x7C00}  # the exponent that is kept as it is


def make_rounded(types: Any, device: Device) -> Any:
    """rounded(m, by): m / 2^by to nearest, ties to even."""
    u64 = types.uint64

    @device
    def rounded(m: int, by: int) -> Any:
        # floor((m + 2^(by - 1) - 1 + (the last bit that stays)) / 2^by)
        half = u64(u64(u64(1) << by) >> u64(1))
        up = u64(u64(half - u64(1)) + u64(u64(m >> by) & u64(1))) if half != u64(0) else u64(0)
        return u64(u64(m + up) >> by)

    return rounded


def make_scaled_sum(cuda: Any, types: Any, device: Device) -> Any:
    """scaled_sum(s, shift): F32(s) * 2^-shift as bits, s of 64 bits, shift from 0 to 60."""
    u32, u64, i32, i64 = types.uint32, types.uint64, types.int32, types.int64
    rounded = make_rounded(types, device)

    @device
    def scaled_sum(s: int, shift: int) -> Any:
        size = u64(u64(0) - u64(s)) if s < i64(0) else u64(s)
        # size has t + 1 bits; the mantissa has the bit that is not stored, which adds one to the exponent
        t = i32(i32(63) - i32(cuda.clz(size)))
        right, left = u64(max(i32(t - i32(23)), i32(0))), u64(max(i32(i32(23) - t), i32(0)))
        m = u32(rounded(u64(size << u64(left & u64(63))), right))
        found = u32(m + u32(u32(i32(i32(i32(126) + t) - i32(shift))) << u32(23)))
        found = found if size != u64(0) else u32(0)
        return u32(found | u32(SIGN)) if s < i64(0) else found

    return scaled_sum


def make_sum(cuda: Any, types: Any, device: Device) -> Any:
    """sum_of(a, b): of two finite F32, as bits, rounded to nearest, ties to even."""
    u32, u64, i32 = types.uint32, types.uint64, types.int32
    rounded, (mantissa, exponent) = make_rounded(types, device), make_parts(types, device)

    @device
    def room(a: int) -> Any:
        return u64(mantissa(a) << u64(ROOM))

    @device
    def sum_of(a: int, b: int) -> Any:
        swapped = u32(a & u32(SIGN - 1)) < u32(b & u32(SIGN - 1))
        x, y = b if swapped else a, a if swapped else b  # |x| >= |y|
        e = exponent(x)
        by = u64(min(i32(e - exponent(y)), i32(FARTHEST)))
        small = room(y)
        # What is shifted out only says whether it is more or less than a half: one bit stands for it.
        sticky = u64(1) if u64(u64(small >> by) << by) != small else u64(0)
        small = u64(u64(small >> by) | sticky)
        same = u32(u32(a ^ b) & u32(SIGN)) == u32(0)
        total = u64(room(x) + small) if same else u64(room(x) - small)
        # |a + b| = total * 2^(e - 150 - ROOM), and total has t + 1 bits; subnormal numbers are multiples of 2^-149
        t = i32(i32(63) - i32(cuda.clz(total)))
        down = max(i32(t - i32(23)), i32(i32(ROOM + 1) - e))
        m = u32(rounded(total, u64(max(down, i32(0)) & i32(63))))
        # The exponent is e - ROOM + down; m has the bit that is not stored, if the number is not subnormal.
        found = u32(m + u32(u32(i32(i32(i32(e + down) - i32(ROOM)) - i32(1))) << u32(23)))
        found = min(found, u32(INFINITE))
        nothing = u32(x & u32(SIGN)) if same else u32(0)
        return u32(found | u32(x & u32(SIGN))) if total != u64(0) else nothing

    return sum_of


def make_wide(cuda: Any, types: Any, device: Device, dtype: str) -> Any:
    """wide(x): a finite number of a dtype, as bits, in F32. It is exact."""
    u32, u64 = types.uint32, types.uint64

    @device
    def f32(x: int) -> Any:
        return x

    @device
    def bf16(x: int) -> Any:
        return u32(x << u32(16))

    @device
    def f16(x: int) -> Any:
        sign, rest = u32(u32(x & u32(0x8000)) << u32(16)), u32(x & u32(0x7FFF))
        # A subnormal number is rest * 2^-24; rest has t + 1 bits.
        t = u32(u32(63) - u32(cuda.clz(u64(rest))))
        up = u32(u32(u32(23) - t) & u32(31))
        subnormal = u32(u32(rest << up) + u32(u32(t + u32(102)) << u32(23))) if rest != u32(0) else u32(0)
        normal = u32(u32(rest << u32(13)) + u32(112 << 23))
        return u32(sign | (normal if rest >= u32(0x400) else subnormal))

    return {"F32": f32, "BF16": bf16, "F16": f16}[dtype]


def make_moved(cuda: Any, types: Any, device: Device, dtype: str) -> Callable[..., None]:
    """A kernel; a thread block works on one item.

    items uint32, factors int32, bases and moved of the dtype's units
    """
    u32, i32, i64 = types.uint32, types.int32, types.int64
    begin, narrow = make_begin(types, device), make_narrow(types, device, dtype)
    wide = make_wide(cuda, types, device, dtype)
    scaled_sum, sum_of = make_scaled_sum(cuda, types, device), make_sum(cuda, types, device)
    not_finite = NOT_FINITE[dtype]

    def move(items: Any, factors: Any, bases: Any, moved: Any) -> None:
        item = u32(u32(cuda.blockIdx.x) * u32(rows.WIDE_ITEM))
        target, count = moved[begin(items, item) :], i32(items[u32(item + u32(rows.UNITS))])
        base = bases[begin(items, u32(item + u32(rows.BASE_AT))) :]
        row, column = items[u32(item + u32(rows.ROW_AT))], items[u32(item + u32(rows.COLUMN_AT))]
        length, rank = items[u32(item + u32(rows.LENGTH))], items[u32(item + u32(rows.RANK))]
        left, right = items[u32(item + u32(rows.LEFT))], items[u32(item + u32(rows.RIGHT))]
        narrow_sums, shift = items[u32(item + u32(rows.NARROW_SUMS))], i32(items[u32(item + u32(rows.OVER))])
        for i in range(i32(cuda.threadIdx.x), count, i32(THREADS)):
            place = u32(column + u32(i))
            turn = u32(place // length)
            one = u32(left + u32(u32(row + turn) * rank))
            other = u32(right + u32(place - u32(turn * length)))
            s = i64(0)
            for _ in range(i32(rank)):
                s = i64(s + i64(i64(factors[one]) * i64(factors[other])))
                one, other = u32(one + u32(1)), u32(other + length)
            if narrow_sums != u32(0):
                s = i64(i32(s))
            unit = u32(base[u32(i)])
            found = narrow(sum_of(wide(unit), scaled_sum(s, shift)))
            target[u32(i)] = found if u32(unit & u32(not_finite)) != u32(not_finite) else unit

    return move
