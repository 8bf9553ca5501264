"""Codes of units: the inverse of lookup.py. Verified; BAD_STREAM where there is no code.

units     uint8, 16 or 32 [n], n a multiple of 32; unit i lies in run floor((first + i) / length)
order     uint32: the code of the first of the sorted entries, of the second, ...
codes     uint16[n], of decimals uint64[n]
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.kernels._jit import inlined, kernel
from slimtensors.kernels.cpu.blocks import LANES
from slimtensors.kernels.cpu.delta import in_order
from slimtensors.kernels.cpu.lookup import (
    Convert,
    are_codes,
    last_run,
    product_bf16,
    product_f16,
    product_f32,
    sum_bf16,
    sum_f16,
    sum_f32,
)  # fmt: skip
from slimtensors.kernels.simd.lanes import Lanes, count, first_lanes, select, to_u16, to_u32
from slimtensors.kernels.simd.memory import gather, load, store
from slimtensors.kernels.status import BAD_ARGUMENT, BAD_STREAM, OK

Array = npt.NDArray[Any]

LARGEST = 2.0**52  # a decimal's integer is below it


@inlined
def place_of(ranked: Array, entries: int, wanted: Lanes, last: Lanes) -> Lanes:
    """Where ranked[: entries], which rise, have what is wanted: the first such, or the last where `last` is 1."""
    bound, at, size = wanted + last, wanted & 0, entries
    while size > 1:
        half = size >> 1
        at = select(gather(ranked, at + (half - 1)) < bound, at + half, at)
        size -= half
    at = select(gather(ranked, at) < bound, at + 1, at)  # how many are below the bound
    at = select(at < last, at, at - last)
    return select(at < entries, at, (at & 0) + (entries - 1))


@inlined
def put_codes(
    ranked: Array, order: Array, entries: int, wanted: Lanes, last: Lanes, at: int, low: int, high: int, codes: Array
) -> int:
    """Put the codes of one step of a run of units [low, high); how many of these have none."""
    place = place_of(ranked, entries, wanted, last)
    before = first_lanes(low - at)
    store(codes, at, select(before, load(codes, at), to_u16(gather(order, place))))
    wrong = (gather(ranked, place) != wanted) & first_lanes(high - at)
    return count(wrong) - count(wrong & before)


@kernel
def find_entries(ranked: Array, order: Array, entries: int, length: int, first: int, units: Array, codes: Array) -> int:
    """The codes of a palette's units.

    ranked, order uint32[entries * runs]: each run's palette sorted, and its codes; the first unit's run comes first.
    """
    if not are_codes(codes, length, first, units) or entries < 1 or ranked.size != order.size:
        return BAD_ARGUMENT
    begin, end = first // length, last_run(length, first, units.size) + 1
    if ranked.size != (end - begin) * entries:
        return BAD_ARGUMENT
    wrong = 0
    for run in range(begin, end):
        low, high = max(run * length - first, 0), min((run + 1) * length - first, units.size)
        here = slice((run - begin) * entries, (run - begin + 1) * entries)
        for at in range(low // LANES * LANES, high, LANES):
            wanted = to_u32(load(units, at))
            wrong += put_codes(ranked[here], order[here], entries, wanted, wanted & 0, at, low, high, codes)
    return OK if wrong == 0 else BAD_STREAM


@inlined
def find_products(
    convert: Convert, numbers: Array, order: Array, entries: int, scales: Array, length: int, first: int,
    units: Array, ranked: Array, codes: Array,
) -> int:  # fmt: skip
    """The codes whose numbers times the run's scale, rounded, are the units; of several, the one nearest to zero.

    numbers   uint32[m]   bits of F32 numbers that rise, -0 before 0; the first `entries` of them are looked at
    ranked    uint32[m]   for the kernel's use; m is a multiple of 32
    """
    if not are_codes(codes, length, first, units) or not 1 <= entries <= numbers.size or numbers.size % LANES != 0:
        return BAD_ARGUMENT
    end = last_run(length, first, units.size) + 1
    if order.size != numbers.size or ranked.size != numbers.size or end > scales.size:
        return BAD_ARGUMENT
    wrong, bits = 0, units.itemsize * 8
    for run in range(first // length, end):
        # Products of a negative scale are those of a positive one with the other sign.
        scale = np.float32(scales[run])
        flip = 1 << bits - 1 if np.signbit(scale) else 0
        for at in range(0, numbers.size, LANES):
            store(ranked, at, to_u32(in_order(convert(load(numbers, at), abs(scale), units), bits)))
        low, high = max(run * length - first, 0), min((run + 1) * length - first, units.size)
        for at in range(low // LANES * LANES, high, LANES):
            unit = load(units, at) ^ flip
            wanted, negative = to_u32(in_order(unit, bits)), to_u32(unit >> bits - 1)
            wrong += put_codes(ranked, order, entries, wanted, negative, at, low, high, codes)
    return OK if wrong == 0 else BAD_STREAM


@kernel
def find_f32(
    numbers: Array, order: Array, entries: int, scales: Array, length: int, first: int, units: Array, ranked: Array,
    codes: Array,
) -> int:  # fmt: skip
    return find_products(product_f32, numbers, order, entries, scales, length, first, units, ranked, codes)


@kernel
def find_bf16(
    numbers: Array, order: Array, entries: int, scales: Array, length: int, first: int, units: Array, ranked: Array,
    codes: Array,
) -> int:  # fmt: skip
    return find_products(product_bf16, numbers, order, entries, scales, length, first, units, ranked, codes)


@kernel
def find_f16(
    numbers: Array, order: Array, entries: int, scales: Array, length: int, first: int, units: Array, ranked: Array,
    codes: Array,
) -> int:  # fmt: skip
    return find_products(product_f16, numbers, order, entries, scales, length, first, units, ranked, codes)


@inlined
def find_sums(
    convert: Convert, numbers: Array, order: Array, entries: int, scales: Array, offsets: Array, length: int,
    first: int, units: Array, ranked: Array, codes: Array,
) -> int:  # fmt: skip
    """The same where the run's offset is added to products."""
    if not are_codes(codes, length, first, units) or not 1 <= entries <= numbers.size or numbers.size % LANES != 0:
        return BAD_ARGUMENT
    end = last_run(length, first, units.size) + 1
    if order.size != numbers.size or ranked.size != numbers.size or end > scales.size or offsets.size != scales.size:
        return BAD_ARGUMENT
    wrong, bits = 0, units.itemsize * 8
    for run in range(first // length, end):
        # Sums with a negative scale are those with a positive one, and the other offset, with the other sign.
        scale, offset = np.float32(scales[run]), np.float32(offsets[run])
        flip = 1 << bits - 1 if np.signbit(scale) else 0
        pair = abs(scale), -offset if flip != 0 else offset
        for at in range(0, numbers.size, LANES):
            store(ranked, at, to_u32(in_order(convert(load(numbers, at), pair, units), bits)))
        low, high = max(run * length - first, 0), min((run + 1) * length - first, units.size)
        for at in range(low // LANES * LANES, high, LANES):
            unit = load(units, at) ^ flip
            wanted = to_u32(in_order(unit, bits))
            wrong += put_codes(ranked, order, entries, wanted, wanted & 0, at, low, high, codes)
    return OK if wrong == 0 else BAD_STREAM


@kernel
def find_shifted_f32(
    numbers: Array, order: Array, entries: int, scales: Array, offsets: Array, length: int, first: int, units: Array,
    ranked: Array, codes: Array,
) -> int:  # fmt: skip
    return find_sums(sum_f32, numbers, order, entries, scales, offsets, length, first, units, ranked, codes)


@kernel
def find_shifted_bf16(
    numbers: Array, order: Array, entries: int, scales: Array, offsets: Array, length: int, first: int, units: Array,
    ranked: Array, codes: Array,
) -> int:  # fmt: skip
    return find_sums(sum_bf16, numbers, order, entries, scales, offsets, length, first, units, ranked, codes)


@kernel
def find_shifted_f16(
    numbers: Array, order: Array, entries: int, scales: Array, offsets: Array, length: int, first: int, units: Array,
    ranked: Array, codes: Array,
) -> int:  # fmt: skip
    return find_sums(sum_f16, numbers, order, entries, scales, offsets, length, first, units, ranked, codes)


@kernel
def find_decimals(numbers: Array, units: Array, power: float, codes: Array) -> int:
    """codes[i] = 2 * round(|number| * power) + sign. numbers float32 or 64, units the same as uint32 or 64."""
    if units.size != numbers.size or codes.size != numbers.size:
        return BAD_ARGUMENT
    wrong, top = 0, 8 * units.itemsize - 1
    for i in range(codes.size):
        number = abs(np.float64(numbers[i]))
        whole = np.rint(number * power)
        right = whole < LARGEST  # which no NaN is
        whole = whole if right else 0.0
        # The decoder's roundings: to F64, then to the dtype.
        wrong += 0 if right and numbers.dtype.type(whole / power) == number else 1
        codes[i] = np.uint64(np.int64(whole) << 1 | np.int64(units[i] >> top))
    return OK if wrong == 0 else BAD_STREAM
