"""Decimals (format_spec/expressions.md, section 7.3): integers over powers of ten, divided bit by bit.

A float that is rounded right takes more than the devices' division of floats gives under all compiler options, and
the tests' runner knows no floats.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from slimtensors.kernels.cuda import rows
from slimtensors.kernels.cuda.decode import make_begin
from slimtensors.kernels.cuda.rows import THREADS
from slimtensors.kernels.cuda.seam import Device
from slimtensors.kernels.cuda.share import make_share

TOP = 52  # the bit that F64 does not store
MANTISSAS = {"F64": 52, "F32": 23, "BF16": 7, "F16": 10}
BIASES = {"F64": 1023, "F32": 127, "BF16": 127, "F16": 15}
SMALLEST = -14  # exponent of a normal F16; the other dtypes have nothing subnormal here
NOTHING_LEFT = 55  # a shift that leaves nothing of 53 bits, rounded


def make_quotient(cuda: Any, types: Any, device: Device) -> Any:
    """quotient(n, d, places): n / d * 2^-places in F64, n > 0: (the 53 bits, rounded to even, 2^53 at most; exponent).

    d: of a number of 53 bits, the uppermost set; n < 2^53
    """
    u64, i32 = types.uint64, types.int32

    @device
    def quotient(n: int, d: int, places: int) -> Any:
        up = i32(i32(cuda.clz(n)) - i32(63 - TOP))
        rest = u64(n << u64(up))
        exponent = i32(i32(i32(TOP) - up) - i32(places))
        if rest < d:
            rest = u64(rest << u64(1))
            exponent = i32(exponent - i32(1))
        # The first bit is 1; then 52 more, and one that says how to round.
        q, rest = u64(1), u64(rest - d)
        for _ in range(TOP + 1):
            rest, q = u64(rest << u64(1)), u64(q << u64(1))
            if rest >= d:
                rest, q = u64(rest - d), u64(q | u64(1))
        tie = u64(1) if u64(rest | u64(u64(q >> u64(1)) & u64(1))) != u64(0) else u64(0)
        return u64(u64(q >> u64(1)) + u64(u64(q & u64(1)) & tie)), exponent

    return quotient


def make_packed(types: Any, device: Device, dtype: str) -> Any:
    """packed(m, exponent): m * 2^(exponent - 52) in a dtype, as bits; m from 2^52 to 2^53."""
    u64, i32 = types.uint64, types.int32
    mantissa, bias = MANTISSAS[dtype], BIASES[dtype]
    drop, infinite = TOP - mantissa, (2 * bias + 1) << mantissa

    @device
    def shifted(m: int, by: int) -> Any:
        # floor((m + 2^(by - 1) - 1 + (the last bit that stays)) / 2^by)
        half = u64(u64(u64(1) << by) >> u64(1))
        up = u64(u64(half - u64(1)) + u64(u64(m >> by) & u64(1))) if half != u64(0) else u64(0)
        return u64(u64(m + up) >> by)

    @device
    def packed(m: int, exponent: int) -> Any:
        # m has the bit that is not stored: it adds one to the exponent
        above = u64(u64(i32(exponent + i32(bias - 1))) << u64(mantissa))
        return min(u64(shifted(m, u64(drop)) + above), u64(infinite))

    @device
    def packed_half(m: int, exponent: int) -> Any:
        small = exponent < i32(SMALLEST)
        by = u64(min(i32(i32(TOP - 24) - exponent), i32(NOTHING_LEFT))) if small else u64(drop)
        above = u64(0) if small else u64(u64(i32(exponent + i32(bias - 1))) << u64(10))
        return min(u64(shifted(m, by) + above), u64(infinite))

    return packed_half if dtype == "F16" else packed


def make_decimals(cuda: Any, types: Any, device: Device, dtype: str) -> Callable[..., None]:
    """A kernel; a thread block works on one item. items uint32, codes uint64, out of the dtype's units."""
    u32, u64, i32 = types.uint32, types.uint64, types.int32
    begin, share = make_begin(types, device), make_share(cuda, types, device)
    quotient, packed = make_quotient(cuda, types, device), make_packed(types, device, dtype)
    sign = MANTISSAS[dtype] + BIASES[dtype].bit_length() + 1

    def decimals(items: Any, codes: Any, out: Any) -> None:
        _number, item, first_unit, end = share(items)
        target = out[begin(items, item) :]
        source = codes[begin(items, u32(item + u32(rows.BASE_AT))) :]
        low, high = u64(items[u32(item + u32(rows.DIVISOR))]), u64(items[u32(item + u32(rows.DIVISOR_HIGH))])
        divisor, places = u64(low | u64(high << u64(32))), i32(items[u32(item + u32(rows.PLACES))])
        for i in range(first_unit, end, i32(THREADS)):
            code = u64(source[u32(i)])
            number, found = u64(code >> u64(1)), u64(0)
            if number != u64(0):
                m, exponent = quotient(number, divisor, places)
                found = packed(m, exponent)
            target[u32(i)] = u64(found | u64(u64(code & u64(1)) << u64(sign)))

    return decimals
