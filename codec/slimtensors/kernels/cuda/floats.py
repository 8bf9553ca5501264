"""F32 made of integers, in units of 32 bits: products, sums, and what rounds them to narrower dtypes.

So they are rounded as the format says on any GPU, subnormal numbers and all: no compiler contracts or flushes anything,
and the tests' runner, which knows no floats, runs them too.
"""

from __future__ import annotations

from typing import Any

from slimtensors.kernels.cuda.seam import Device

HIDDEN, INFINITE, SIGN = 1 << 23, 0x7F800000, 1 << 31
NOTHING_LEFT = 50  # a shift that leaves nothing of 48 bits, rounded
ROOM = 26  # bits below the mantissas while they are added: no bit is lost but those that `sticky` stands for
FARTHEST = 60  # a shift that leaves nothing of a mantissa with its room
NOT_FINITE = {"F32": 0x7F800000, "BF16": 0x7F80, "F16": 0x7C00}  # the exponent of infinities and NaNs


def make_parts(types: Any, device: Device) -> Any:
    """(mantissa, exponent): of a finite F32, as bits; its magnitude is mantissa * 2^(exponent - 150)."""
    u32, u64, i32 = types.uint32, types.uint64, types.int32

    @device
    def mantissa(a: int) -> Any:
        above = u32(HIDDEN) if u32(a & u32(INFINITE)) != u32(0) else u32(0)
        return u64(u32(u32(a & u32(HIDDEN - 1)) | above))

    @device
    def exponent(a: int) -> Any:
        return i32(max(u32(u32(a >> u32(23)) & u32(255)), u32(1)))

    return mantissa, exponent


def make_magnitude(cuda: Any, types: Any, device: Device) -> Any:
    """magnitude(p, e): p * 2^(e - 300) in F32, as bits, rounded to nearest, ties to even; p of 48 bits."""
    u32, u64, i32 = types.uint32, types.uint64, types.int32

    @device
    def magnitude(p: int, e: int) -> Any:
        # p has t + 1 bits; the result's exponent is n, or it is subnormal
        t = i32(i32(63) - i32(cuda.clz(p)))
        n = i32(i32(t + e) - i32(173))
        down = i32(t - i32(23)) if n >= i32(1) else i32(i32(151) - e)
        right, left = u64(min(max(down, i32(0)), i32(NOTHING_LEFT))), u64(max(i32(i32(0) - down), i32(0)))
        # floor((p + half - 1 + (the last bit that stays)) / 2^right)
        half = u64(u64(u64(1) << right) >> u64(1))
        up = u64(u64(half - u64(1)) + u64(u64(p >> right) & u64(1))) if half != u64(0) else u64(0)
        q = u32(u64(u64(u64(p + up) >> right) << left))
        # q has the bit that is not stored
        found = u32(q + u32(u32(n - i32(1)) << u32(23))) if n >= i32(1) else q
        return min(found, u32(INFINITE)) if p != u64(0) else u32(0)

    return magnitude


def make_product(cuda: Any, types: Any, device: Device) -> Any:
    """product(a, b): of two finite F32, as bits, rounded to nearest, ties to even."""
    u32, u64, i32 = types.uint32, types.uint64, types.int32
    (mantissa, exponent), magnitude = make_parts(types, device), make_magnitude(cuda, types, device)

    @device
    def product(a: int, b: int) -> Any:
        found = magnitude(u64(mantissa(a) * mantissa(b)), i32(exponent(a) + exponent(b)))
        return u32(found | u32(u32(a ^ b) & u32(SIGN)))

    return product


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
    """sum_of(a, b): of two F32, as bits, rounded to nearest, ties to even; one of them at most is infinite."""
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
        found = u32(found | u32(x & u32(SIGN))) if total != u64(0) else nothing
        return x if u32(x & u32(INFINITE)) == u32(INFINITE) else found

    return sum_of


def make_narrow(types: Any, device: Device, dtype: str) -> Any:
    """narrow(x): an F32 that is no NaN, as bits, in a dtype."""
    u32 = types.uint32

    @device
    def f32(x: int) -> Any:
        return x

    @device
    def bf16(x: int) -> Any:
        # floor((x + 7FFF + (bit 16 of x)) / 2^16)
        return u32(u32(x + u32(u32(0x7FFF) + u32(u32(x >> u32(16)) & u32(1)))) >> u32(16))

    @device
    def f16(x: int) -> Any:
        rest, sign = u32(x & u32(SIGN - 1)), u32(u32(x >> u32(16)) & u32(0x8000))
        # From 2^16 on infinite. The exponent's bias is 112 less, the mantissa has 13 bits less.
        even = u32(u32(0xFFF) + u32(u32(rest >> u32(13)) & u32(1)))
        normal = u32(u32(u32(rest - u32(0x38000000)) + even) >> u32(13)) if rest < u32(0x47800000) else u32(0x7C00)
        # Below 2^-14 there are multiples of 2^-24.
        by = u32(min(u32(u32(126) - u32(rest >> u32(23))), u32(30))) if rest < u32(0x38800000) else u32(1)
        m = u32(u32(rest & u32(HIDDEN - 1)) | u32(HIDDEN))
        up = u32(u32(u32(u32(1) << u32(by - u32(1))) - u32(1)) + u32(u32(m >> by) & u32(1)))
        subnormal = u32(u32(m + up) >> by)
        return u32(sign | (subnormal if rest < u32(0x38800000) else normal))

    return {"F32": f32, "BF16": bf16, "F16": f16}[dtype]


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
