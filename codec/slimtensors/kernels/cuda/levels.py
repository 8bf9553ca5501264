"""Units that are levels of a uniform grid (format_spec/expressions.md, section 7.5), with a trellis or without.

In a lane of a trellis p[j + 1] = code[j] + p[j - 1] + p[j - 2] mod 2. As polynomials over two elements, of x that
stands for a step, that is p (1 + x^2 + x^3) = u, where u are the codes' lowest bits, one step later, and what the steps
before leave, which are three bits: a state. 1 + x^2 + x^3 to the power 2^k is 1 + x^(2 2^k) + x^(3 2^k), and 1 up to
step 63 from k = 5 on; so the product of the five before it is its inverse, and p of 32 steps takes ten shifts.

A warp has a segment of 256 steps. `parities` tells in which state each segment would end that began with zeros; what a
state becomes over a segment is linear, so `levels` finds the one that its segment begins with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from slimtensors.kernels.cuda import rows
from slimtensors.kernels.cuda.decode import make_begin
from slimtensors.kernels.cuda.floats import SIGN, make_magnitude, make_narrow, make_parts, make_product
from slimtensors.kernels.cuda.rows import NOWHERE, SEGMENT_UNITS, WARP
from slimtensors.kernels.cuda.seam import Device

TILE_UNITS, TILE_STEPS = 1024, 32
POWERS = (1, 2, 4, 8, 16)
WHOLE = 150  # the exponent of a whole number, as `make_parts` has it

assert rows.WARPS * SEGMENT_UNITS == 1 << 16


def make_tile(types: Any, device: Device) -> Any:
    """tile(codes, first, steps, state): (the parities of a lane's steps, a bit for each; the state after 32 steps).

    first: the lane's code of the first step. state: p[0], p[-1] + p[-2], p[-1]; bits of u
    """
    u32, u64, i32 = types.uint32, types.uint64, types.int32

    @device
    def tile(codes: Any, first: int, steps: int, state: int) -> Any:
        odd = u64(0)
        for step in range(i32(steps)):
            code = u64(codes[u32(first + u32(u32(step) << u32(5)))])
            odd = u64(odd | u64(u64(code & u64(1)) << u64(step)))
        p = u64(u64(odd << u64(1)) ^ u64(state))
        for by in POWERS:
            p = u64(u64(p ^ u64(p << u64(2 * by))) ^ u64(p << u64(3 * by)))
        one, two, three = u32(p >> u64(32)), u32(p >> u64(31)), u32(p >> u64(30))
        following = u32(u32(one & u32(1)) | u32(u32(u32(two ^ three) & u32(1)) << u32(1)))
        return u32(p), u32(following | u32(u32(two & u32(1)) << u32(2)))

    return tile


def make_waited(types: Any, device: Device) -> Any:
    """waited(state): what it is after a segment of codes that are all even.

    p[j + 7] is then p[j], and 256 is 4 more than a multiple of 7.
    """
    u32 = types.uint32

    @device
    def waited(state: int) -> Any:
        # From p[0], p[-1], p[-2] to p[4], p[3], p[2], where p[j + 1] = p[j - 1] + p[j - 2]
        a, c = u32(state & u32(1)), u32(state >> u32(2))
        b = u32(u32(u32(state >> u32(1)) & u32(1)) ^ c)
        # a = p[0], c = p[-1], b = p[-2]
        p2, p3 = u32(a ^ c), u32(u32(b ^ c) ^ a)
        p4 = u32(a ^ b)
        return u32(u32(p4 | u32(u32(p3 ^ p2) << u32(1))) | u32(p3 << u32(2)))

    return waited


def make_parities(cuda: Any, types: Any, device: Device) -> Callable[..., None]:
    """A kernel; a thread block works on one item. items uint32, codes uint16; ends uint8, the state of each lane."""
    u32, i32 = types.uint32, types.int32
    begin, tile = make_begin(types, device), make_tile(types, device)

    def parities(items: Any, codes: Any, ends: Any) -> None:
        item = u32(u32(cuda.blockIdx.x) * u32(rows.WIDE_ITEM))
        count = i32(items[u32(item + u32(rows.UNITS))])
        source = codes[begin(items, u32(item + u32(rows.BASE_AT))) :]
        thread, state = u32(cuda.threadIdx.x), u32(0)
        lane, first = u32(thread & u32(31)), i32(u32(u32(thread >> u32(5)) * u32(SEGMENT_UNITS)))
        for at in range(first, min(i32(first + i32(SEGMENT_UNITS)), count), i32(TILE_UNITS)):
            steps = min(i32(i32(count - i32(at)) >> i32(5)), i32(TILE_STEPS))
            _found, state = tile(source, u32(u32(at) + lane), steps, state)
        segment = u32(items[u32(item + u32(rows.SEGMENT_AT))] * u32(WARP))
        ends[u32(u32(items[u32(item + u32(rows.ENDS_AT))] + segment) + thread)] = state

    return parities


def make_levels(cuda: Any, types: Any, device: Device, dtype: str) -> Callable[..., None]:
    """A kernel; a thread block works on one item.

    items uint32, codes uint16, ends uint8 (what `parities` left, if there is a trellis), scales uint32, the bits of
    F32; out uint16 or uint32
    """
    u32, u64, i32 = types.uint32, types.uint64, types.int32
    begin, tile, waited = make_begin(types, device), make_tile(types, device), make_waited(types, device)
    (mantissa, exponent), magnitude = make_parts(types, device), make_magnitude(cuda, types, device)
    product, narrow = make_product(cuda, types, device), make_narrow(types, device, dtype)

    @device
    def state_at(items: Any, item: int, ends: Any, thread: int) -> Any:
        """That of the lane at the begin of its warp's segment."""
        before = u32(items[u32(item + u32(rows.SEGMENT_AT))] + u32(thread >> u32(5)))
        at, state = u32(items[u32(item + u32(rows.ENDS_AT))] + u32(thread & u32(31))), u32(0)
        for _ in range(i32(before)):
            state = u32(waited(state) ^ u32(ends[at]))
            at = u32(at + u32(WARP))
        return state

    @device
    def step_at(items: Any, item: int, scales: Any, i: int) -> Any:
        step, of_columns = items[u32(item + u32(rows.GRID_STEP))], items[u32(item + u32(rows.STEP_COLUMNS))]
        if of_columns != u32(NOWHERE):
            place, length = u32(items[u32(item + u32(rows.COLUMN_AT))] + i), items[u32(item + u32(rows.LENGTH))]
            turn = u32(place // length)
            row = u32(items[u32(item + u32(rows.ROW_AT))] + turn)
            step = product(step, u32(scales[u32(items[u32(item + u32(rows.STEP_ROWS))] + row)]))
            step = product(step, u32(scales[u32(of_columns + u32(place - u32(turn * length)))]))
        return step

    def levels(items: Any, codes: Any, ends: Any, scales: Any, out: Any) -> None:
        item = u32(u32(cuda.blockIdx.x) * u32(rows.WIDE_ITEM))
        target, count = out[begin(items, item) :], i32(items[u32(item + u32(rows.UNITS))])
        source = codes[begin(items, u32(item + u32(rows.BASE_AT))) :]
        thread, state = u32(cuda.threadIdx.x), u32(0)
        lane, first = u32(thread & u32(31)), i32(u32(u32(thread >> u32(5)) * u32(SEGMENT_UNITS)))
        twice, zero = items[u32(item + u32(rows.TWICE))], items[u32(item + u32(rows.ZERO))]
        if twice != u32(0) and first < count:
            state = state_at(items, item, ends, thread)
        for at in range(first, min(i32(first + i32(SEGMENT_UNITS)), count), i32(TILE_UNITS)):
            steps, to = min(i32(i32(count - i32(at)) >> i32(5)), i32(TILE_STEPS)), u32(u32(at) + lane)
            odd = u32(0)
            if twice != u32(0):
                odd, state = tile(source, to, steps, state)
            for _ in range(i32(steps)):
                step = step_at(items, item, scales, to)
                # level * step, a product of two F32
                level = i32(i32(u32(u32(source[to]) << twice) - u32(zero << twice)) + i32(u32(odd & u32(1))))
                size = u64(u32(i32(0) - level) if level < i32(0) else u32(level))
                found = magnitude(u64(size * mantissa(step)), i32(i32(WHOLE) + exponent(step)))
                target[to] = narrow(u32(found | u32(u32(level) & u32(SIGN))))
                odd, to = u32(odd >> u32(1)), u32(to + u32(WARP))

    return levels
