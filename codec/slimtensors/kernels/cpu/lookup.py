"""Units from codes (expressions.md, section 7): palettes, palettes times scales, decimals.

    codes     uint8 or 16 [n], n a multiple of 32; of decimals also uint32 and 64
    length    of a run, in units; unit i lies in run floor((first + i) / length)
    table     uint32[entries]
    out       units [n]

BAD_STREAM if a code has no entry; its unit then is that of code 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.kernels._jit import inlined, kernel
from slimtensors.kernels.cpu.blocks import LANES
from slimtensors.kernels.simd.lanes import Lanes, as_in, count, first_lanes, high_u16, select, to_u16, to_u32
from slimtensors.kernels.simd.memory import gather, load, store
from slimtensors.kernels.simd.numbers import plus, times
from slimtensors.kernels.simd.permute import permute
from slimtensors.kernels.status import BAD_ARGUMENT, BAD_STREAM, OK

Array = npt.NDArray[Any]
Convert = Callable[..., Lanes]

EACH = np.arange(LANES, dtype=np.uint32)


@inlined
def unit_itself(entry: Lanes, _scale: float, out: Array) -> Lanes:
    return as_in(out, entry)


@inlined
def product_f32(entry: Lanes, scale: float, _out: Array) -> Lanes:
    return times(entry, scale)


@inlined
def product_bf16(entry: Lanes, scale: float, _out: Array) -> Lanes:
    return to_bf16(times(entry, scale))


@inlined
def product_f16(entry: Lanes, scale: float, _out: Array) -> Lanes:
    return to_f16(times(entry, scale))


@inlined
def sum_f32(entry: Lanes, pair: tuple[float, float], _out: Array) -> Lanes:
    """Times the first of two numbers, plus the second, each rounded."""
    return plus(times(entry, pair[0]), pair[1])


@inlined
def sum_bf16(entry: Lanes, pair: tuple[float, float], _out: Array) -> Lanes:
    return to_bf16(plus(times(entry, pair[0]), pair[1]))


@inlined
def sum_f16(entry: Lanes, pair: tuple[float, float], _out: Array) -> Lanes:
    return to_f16(plus(times(entry, pair[0]), pair[1]))


@inlined
def to_bf16(x: Lanes) -> Lanes:
    """F32 numbers, none of them NaN, rounded to the nearest, ties to even."""
    # bf16 = floor((x + 7FFF + (bit 16 of x)) / 2^16)
    return high_u16(x + 0x7FFF + (x >> 16 & 1))


@inlined
def to_f16(x: Lanes) -> Lanes:
    rest = x & 0x7FFFFFFF
    # From 2^16 on infinite. The exponent's bias is 112 less, the mantissa has 13 bits less.
    normal = select(rest < 0x47800000, rest - 0x38000000 + 0xFFF + (rest >> 13 & 1) >> 13, rest & 0 | 0x7C00)
    # Below 2^-14 there are multiples of 2^-24, as from 0.5 to 1.
    subnormal = plus(rest, np.float32(0.5)) - 0x3F000000
    return to_u16(select(rest < 0x38800000, subnormal, normal) | x >> 16 & 0x8000)


@inlined
def fill_run(
    convert: Convert, table: Array, scale: Any, run: int, length: int, first: int, codes: Array, out: Array
) -> int:
    """Fill a run's units; how many codes were without an entry."""
    entries, wrong = table.size, 0
    low, high = max(run * length - first, 0), min((run + 1) * length - first, out.size)
    for at in range(low // LANES * LANES, high, LANES):
        code = to_u32(load(codes, at))
        right = code < entries
        lanes = convert(gather(table, select(right, code, code & 0)), scale, out)
        # Units before the run are those of the one before it; what lies behind it is filled in later.
        store(out, at, select(first_lanes(low - at), load(out, at), lanes))
        wrong += LANES - count(right)
    return wrong


@inlined
def are_pairs(length: int, first: int) -> bool:
    """Whether each vector has two whole runs."""
    return length == LANES // 2 and first % length == 0


@inlined
def fill_pair(convert: Convert, table: Array, scale: Any, next_scale: Any, at: int, codes: Array, out: Array) -> int:
    """As fill_run, of the two runs of the vector at `at`."""
    code = to_u32(load(codes, at))
    right = code < table.size
    entry = gather(table, select(right, code, code & 0))
    store(out, at, select(first_lanes(LANES // 2), convert(entry, scale, out), convert(entry, next_scale, out)))
    return LANES - count(right)


@inlined
def are_few(entries: int, length: int, first: int) -> bool:
    """Whether a run's units fit a register, and each vector lies in one run."""
    return length > 0 and entries <= LANES and length % LANES == 0 and first % LANES == 0


@inlined
def first_entries(table: Array) -> Lanes:
    """The entries of a table of up to 32 of them."""
    place = load(EACH, 0)
    return gather(table, select(place < table.size, place, place & 0))


@inlined
def fill_few(units: Lanes, entries: int, run: int, length: int, first: int, codes: Array, out: Array) -> int:
    """As fill_run, of units that lie in lanes of 16 bits; out uint8 or 16."""
    wrong = 0
    for at in range(max(run * length - first, 0), min((run + 1) * length - first, out.size), LANES):
        code = to_u16(load(codes, at))
        right = code < entries
        store(out, at, as_in(out, permute(units, select(right, code, code & 0))))
        wrong += LANES - count(right)
    return wrong


@inlined
def last_run(length: int, first: int, units: int) -> int:
    """The run of the last unit, or of the first if there is none."""
    return (first + max(units, 1) - 1) // length


@inlined
def are_codes(codes: Array, length: int, first: int, out: Array) -> bool:
    return codes.size == out.size and out.size % LANES == 0 and length >= 1 and first >= 0


@kernel
def pick(palettes: Array, entries: int, length: int, first: int, codes: Array, out: Array) -> int:
    """out[i] = palettes[entries * k + codes[i]], for the unit's run k counted from the first unit's.

    palettes uint32[entries * runs], out uint8, 16 or 32.
    """
    if not are_codes(codes, length, first, out) or entries < 1:
        return BAD_ARGUMENT
    begin, end = first // length, last_run(length, first, out.size) + 1
    if palettes.size != (end - begin) * entries:
        return BAD_ARGUMENT
    wrong = 0
    if out.itemsize <= 2 and are_few(entries, length, first):
        for run in range(begin, end):
            units = to_u16(first_entries(palettes[(run - begin) * entries : (run - begin + 1) * entries]))
            wrong += fill_few(units, entries, run, length, first, codes, out)
        return OK if wrong == 0 else BAD_STREAM
    for run in range(begin, end):
        table = palettes[(run - begin) * entries : (run - begin + 1) * entries]
        wrong += fill_run(unit_itself, table, np.float32(0), run, length, first, codes, out)
    return OK if wrong == 0 else BAD_STREAM


@inlined
def scaled(convert: Convert, table: Array, scales: Array, length: int, first: int, codes: Array, out: Array) -> int:
    """out[i] = table[codes[i]] * scales[run], rounded; table: bits of F32 numbers, scales float32[runs]."""
    if not are_codes(codes, length, first, out) or table.size < 1:
        return BAD_ARGUMENT
    begin, end = first // length, last_run(length, first, out.size) + 1
    if end > scales.size:
        return BAD_ARGUMENT
    wrong = 0
    if are_pairs(length, first):
        for at in range(0, out.size, LANES):
            run = begin + at // length
            wrong += fill_pair(convert, table, scales[run], scales[run + 1], at, codes, out)
        return OK if wrong == 0 else BAD_STREAM
    for run in range(begin, end):
        wrong += fill_run(convert, table, scales[run], run, length, first, codes, out)
    return OK if wrong == 0 else BAD_STREAM


@inlined
def scaled_few(convert: Convert, table: Array, scales: Array, length: int, first: int, codes: Array, out: Array) -> int:
    """As `scaled`, for units of 16 bits: those of a run are made once, and looked up in a register."""
    if not are_codes(codes, length, first, out) or table.size < 1:
        return BAD_ARGUMENT
    begin, end = first // length, last_run(length, first, out.size) + 1
    if end > scales.size:
        return BAD_ARGUMENT
    numbers, wrong = first_entries(table), 0
    for run in range(begin, end):
        wrong += fill_few(convert(numbers, scales[run], out), table.size, run, length, first, codes, out)
    return OK if wrong == 0 else BAD_STREAM


@kernel
def scaled_f32(table: Array, scales: Array, length: int, first: int, codes: Array, out: Array) -> int:
    return scaled(product_f32, table, scales, length, first, codes, out)


@kernel
def scaled_bf16(table: Array, scales: Array, length: int, first: int, codes: Array, out: Array) -> int:
    if are_few(table.size, length, first):
        return scaled_few(product_bf16, table, scales, length, first, codes, out)
    return scaled(product_bf16, table, scales, length, first, codes, out)


@kernel
def scaled_f16(table: Array, scales: Array, length: int, first: int, codes: Array, out: Array) -> int:
    if are_few(table.size, length, first):
        return scaled_few(product_f16, table, scales, length, first, codes, out)
    return scaled(product_f16, table, scales, length, first, codes, out)


@inlined
def shifted(
    convert: Convert, table: Array, scales: Array, offsets: Array, length: int, first: int, codes: Array, out: Array
) -> int:
    """out[i] = table[codes[i]] * scales[run] + offsets[run]; as `scaled`."""
    if not are_codes(codes, length, first, out) or table.size < 1 or offsets.size != scales.size:
        return BAD_ARGUMENT
    begin, end = first // length, last_run(length, first, out.size) + 1
    if end > scales.size:
        return BAD_ARGUMENT
    wrong = 0
    if are_pairs(length, first):
        for at in range(0, out.size, LANES):
            run = begin + at // length
            pair = np.float32(scales[run]), np.float32(offsets[run])
            following = np.float32(scales[run + 1]), np.float32(offsets[run + 1])
            wrong += fill_pair(convert, table, pair, following, at, codes, out)
        return OK if wrong == 0 else BAD_STREAM
    for run in range(begin, end):
        pair = np.float32(scales[run]), np.float32(offsets[run])
        wrong += fill_run(convert, table, pair, run, length, first, codes, out)
    return OK if wrong == 0 else BAD_STREAM


@kernel
def shifted_f32(
    table: Array, scales: Array, offsets: Array, length: int, first: int, codes: Array, out: Array
) -> int:
    return shifted(sum_f32, table, scales, offsets, length, first, codes, out)


@kernel
def shifted_bf16(
    table: Array, scales: Array, offsets: Array, length: int, first: int, codes: Array, out: Array
) -> int:
    return shifted(sum_bf16, table, scales, offsets, length, first, codes, out)


@kernel
def shifted_f16(
    table: Array, scales: Array, offsets: Array, length: int, first: int, codes: Array, out: Array
) -> int:
    return shifted(sum_f16, table, scales, offsets, length, first, codes, out)


@kernel
def decimals_f32(codes: Array, divisor: float, out: Array) -> int:
    """|out[i]| = floor(codes[i] / 2) / divisor, rounded to F64 and then to F32; negative where the code is odd.

    codes uint8, 16, 32 or 64, below 2^53; out uint32.
    """
    if codes.size != out.size:
        return BAD_ARGUMENT
    for i in range(out.size):
        code = np.int64(codes[i])
        number = np.float32(np.float64(code >> 1) / divisor)
        out[i] = number.view(np.uint32) | np.uint32(code & 1) << np.uint32(31)
    return OK


@kernel
def decimals_f64(codes: Array, divisor: float, out: Array) -> int:
    """The same of F64; out uint64."""
    if codes.size != out.size:
        return BAD_ARGUMENT
    for i in range(out.size):
        code = np.int64(codes[i])
        number = np.float64(np.float64(code >> 1) / divisor)
        out[i] = number.view(np.uint64) | np.uint64(code & 1) << np.uint64(63)
    return OK
