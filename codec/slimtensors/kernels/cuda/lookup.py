"""Units from codes (format_spec/expressions.md, section 7): palettes, and palettes times scales.

Products are made of integers: so they are rounded as the format says on any GPU, subnormal numbers and all, and the
tests' runner, which knows no floats, runs them too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from slimtensors.kernels.cuda import rows
from slimtensors.kernels.cuda.decode import make_begin
from slimtensors.kernels.cuda.rows import THREADS
from slimtensors.kernels.cuda.seam import Device

HIDDEN, INFINITE, SIGN = 1 << 23, 0x7F800000, 1 << 31
NOTHING_LEFT = 50  # a shift that leaves nothing of 48 bits, rounded


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
    begin, place = make_begin(types, device), make_place(types, device)

    def pick(items: Any, codes: Any, palettes: Any, out: Any, status: Any) -> None:
        item = u32(u32(cuda.blockIdx.x) * u32(rows.WIDE_ITEM))
        target, count = out[begin(items, item) :], i32(items[u32(item + u32(rows.UNITS))])
        source = codes[begin(items, u32(item + u32(rows.BASE_AT))) :]
        for i in range(i32(cuda.threadIdx.x), count, i32(THREADS)):
            _run, entry, known = place(source, items, item, u32(i))
            target[u32(i)] = palettes[entry]
            if not known:
                cuda.atomic.or_(status, u32(cuda.blockIdx.x), u32(rows.BAD_FIELD))

    return pick


def make_scaled(cuda: Any, types: Any, device: Device, dtype: str) -> Callable[..., None]:
    """A kernel: the same, times the scale of the unit's run, rounded to F32 and then to the dtype.

    palettes and scales uint32, the bits of F32; out uint16 or uint32
    """
    u32, i32 = types.uint32, types.int32
    begin, place = make_begin(types, device), make_place(types, device)
    product, narrow = make_product(cuda, types, device), make_narrow(types, device, dtype)

    def scaled(items: Any, codes: Any, palettes: Any, scales: Any, out: Any, status: Any) -> None:
        item = u32(u32(cuda.blockIdx.x) * u32(rows.WIDE_ITEM))
        target, count = out[begin(items, item) :], i32(items[u32(item + u32(rows.UNITS))])
        source = codes[begin(items, u32(item + u32(rows.BASE_AT))) :]
        first = items[u32(item + u32(rows.SCALES))]
        for i in range(i32(cuda.threadIdx.x), count, i32(THREADS)):
            run, entry, known = place(source, items, item, u32(i))
            target[u32(i)] = narrow(product(u32(palettes[entry]), u32(scales[u32(first + run)])))
            if not known:
                cuda.atomic.or_(status, u32(cuda.blockIdx.x), u32(rows.BAD_FIELD))

    return scaled
