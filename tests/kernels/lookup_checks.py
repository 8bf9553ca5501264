"""Kernels that look codes up, beside plainer ways to the same: part of the program check.py."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import product

import numpy as np

from kernels import lane_kernels
from slimtensors.codecs.casts import cast_units
from slimtensors.dtypes import DTYPES
from slimtensors.kernels.cpu import find_codes, lookup
from slimtensors.kernels.status import BAD_ARGUMENT, BAD_STREAM, OK

# (units of a chunk, length of a run, first unit)
PLACES = (
    (128, 8, 0), (128, 128, 0), (256, 31, 5), (384, 33, 1000), (256, 1 << 40, 1 << 39), (128, 1, 77), (0, 5, 9),
    (160, 16, 0), (96, 16, 8), (192, 32, 0), (384, 128, 64),
)  # fmt: skip
SCALED = {"F32": lookup.scaled_f32, "BF16": lookup.scaled_bf16, "F16": lookup.scaled_f16}
SHIFTED = {"F32": lookup.shifted_f32, "BF16": lookup.shifted_bf16, "F16": lookup.shifted_f16}
FIND_SHIFTED = {
    "F32": find_codes.find_shifted_f32, "BF16": find_codes.find_shifted_bf16, "F16": find_codes.find_shifted_f16,
}  # fmt: skip
FIND = {"F32": find_codes.find_f32, "BF16": find_codes.find_bf16, "F16": find_codes.find_f16}


def check_lookups(add: Callable[..., None], rng: np.random.Generator) -> None:
    check_lanes(rng)
    for (n, length, first), codes_of in product(PLACES, (np.uint8, np.uint16)):
        begin = first // length
        run = (first + np.arange(n)) // length - begin
        runs = int(run.max(initial=0)) + 1
        for entries in (1, 3, 16, 200):
            codes = rng.integers(0, entries, n).astype(codes_of)
            check_pick(add, rng, codes, entries, run, runs, length, first)
            if begin == 0:
                check_scaled(add, rng, codes, entries, run, runs, length, first)
                check_shifted(add, rng, codes, entries, run, runs, length, first)
    check_decimals(add, rng)


def check_lanes(rng: np.random.Generator) -> None:
    """Operations on numbers, of which some are subnormal, infinite or no numbers; and the first lanes."""
    bits = rng.integers(0, 2**32, 32 * 64, dtype=np.uint32)
    bits[: 32 * 8] &= np.uint32(0x80FFFFFF)  # small ones
    nan = bits & np.uint32(0x7FFFFFFF) > 0x7F800000
    bits[nan] = 0  # which NaN an operation gives is the processor's choice
    found = np.zeros_like(bits)
    for number in np.array([0.0, -0.0, 0.5, -3.7e-3, 1e30, 1e-30], np.float32):
        with np.errstate(all="ignore"):
            total, made = bits.view(np.float32) + number, bits.view(np.float32) * number
        lane_kernels.plus_all(bits, number, found)
        assert np.array_equal(found, total.view(np.uint32))
        lane_kernels.times_all(bits, number, found)
        assert np.array_equal(np.isnan(made), np.isnan(found.view(np.float32)))
        assert np.array_equal(found[~np.isnan(made)], made.view(np.uint32)[~np.isnan(made)])
    out = np.zeros(32, np.uint8)
    for count in (-(1 << 40), -1, 0, 1, 31, 32, 33, 256, 1 << 40):
        lane_kernels.first_lanes_all(count, out)
        assert out.tolist() == [int(lane < count) for lane in range(32)]


def check_pick(
    add: Callable[..., None], rng: np.random.Generator, codes: np.ndarray, entries: int, run: np.ndarray, runs: int,
    length: int, first: int,
) -> None:  # fmt: skip
    for unit in (np.uint8, np.uint16, np.uint32):
        palettes = rng.integers(0, int(np.iinfo(unit).max) + 1, runs * entries, dtype=np.uint32)
        out = np.zeros(codes.size, unit)
        arguments = (palettes, entries, length, first)
        assert lookup.pick(*arguments, codes, out) == OK
        assert np.array_equal(out, palettes[entries * run + codes].astype(unit))
        add(OK, out)
        rows = palettes.astype(unit).astype(np.uint32).reshape(runs, entries)
        order, found = np.argsort(rows, axis=1, kind="stable"), np.zeros(codes.size, np.uint16)
        ranked = np.take_along_axis(rows, order, 1).reshape(-1), order.reshape(-1).astype(np.uint32)
        assert find_codes.find_entries(*ranked, entries, length, first, out, found) == OK
        assert np.array_equal(rows[run, found], out)
        add(OK, found)
        if codes.size and unit != np.uint8:
            odd = out.copy()
            odd[-1] = np.setdiff1d(np.arange(entries + 1), rows[run[-1]])[0]
            assert find_codes.find_entries(*ranked, entries, length, first, odd, found) == BAD_STREAM
        assert find_codes.find_entries(ranked[0][1:], ranked[1][1:], entries, length, first, out, found) == BAD_ARGUMENT
        if codes.size:
            wrong = codes.copy()
            wrong[[0, -1]] = entries, 255
            assert lookup.pick(*arguments, wrong, out) == BAD_STREAM
            assert np.array_equal(out, palettes[entries * run + np.where(wrong < entries, wrong, 0)].astype(unit))
        for bad in ((palettes[1:], *arguments[1:]), (palettes, 0, length, first), (palettes, entries, 0, first),
                    (palettes, entries, length, -1)):  # fmt: skip
            assert lookup.pick(*bad, codes, out) == BAD_ARGUMENT
        assert lookup.pick(*arguments, np.append(codes, codes[:1]), out) == BAD_ARGUMENT or not codes.size


def check_scaled(
    add: Callable[..., None], rng: np.random.Generator, codes: np.ndarray, entries: int, run: np.ndarray, runs: int,
    length: int, first: int,
) -> None:  # fmt: skip
    """Products of all sizes, also those that are halfway between two numbers of the dtype."""
    table = (rng.standard_normal(entries) * 10.0 ** rng.integers(-3, 4, entries)).astype(np.float32)
    table[::5] = rng.integers(-255, 256, table[::5].size).astype(np.float32) / 256
    scales = np.exp2(rng.integers(-149, 120, runs)).astype(np.float32)
    scales[::3] *= -1.37
    scales[1::7] = 0
    with np.errstate(all="ignore"):
        products = table[codes] * scales[run]
    for name, kernel in SCALED.items():
        out = np.zeros(codes.size, DTYPES[name].unit)
        arguments = (table.view(np.uint32), scales, length, first)
        assert kernel(*arguments, codes, out) == OK
        assert np.array_equal(out, cast_units(products.view(np.uint32), DTYPES["F32"], DTYPES[name]))
        add(OK, out)
        check_found(add, name, table, entries, scales, run, length, first, out)
        if codes.size:
            wrong = codes.copy()
            wrong[5] = entries
            assert kernel(*arguments, wrong, out) == BAD_STREAM
            assert kernel(table.view(np.uint32), scales[:-1], length, first, codes, out) == BAD_ARGUMENT
        assert kernel(table.view(np.uint32)[:0], scales, length, first, codes, out) == BAD_ARGUMENT


def check_shifted(
    add: Callable[..., None], rng: np.random.Generator, codes: np.ndarray, entries: int, run: np.ndarray, runs: int,
    length: int, first: int,
) -> None:  # fmt: skip
    """Products plus offsets, and the codes found again: some that give the same sums."""
    table = rng.permutation(entries).astype(np.float32) - entries // 2
    scales = np.exp2(rng.integers(-140, 90, runs)).astype(np.float32)
    scales *= rng.choice(np.array([1, 1.37, 0], np.float32), runs)
    scales[::4] *= -1
    offsets = scales * rng.integers(-60, 60, runs).astype(np.float32) / 3
    offsets[1::5] = 1
    with np.errstate(all="ignore"):
        sums = table[codes] * scales[run] + offsets[run]
    order = sorted(range(entries), key=lambda k: float(table[k]))
    order += order[-1:] * (-entries % 32)
    numbers, ranked = table[order].view(np.uint32), np.zeros(len(order), np.uint32)
    for name, kernel in SHIFTED.items():
        out, found = np.zeros(codes.size, DTYPES[name].unit), np.zeros(codes.size, np.uint16)
        places, bits = (scales, offsets, length, first), table.view(np.uint32)
        assert kernel(bits, *places, codes, out) == OK
        assert np.array_equal(out, cast_units(sums.view(np.uint32), DTYPES["F32"], DTYPES[name]))
        add(OK, out)
        find = FIND_SHIFTED[name]
        status = find(numbers, np.array(order, np.uint32), entries, *places, out, ranked, found)
        back = np.zeros_like(out)
        assert kernel(bits, *places, found, back) == OK
        # With a negative scale, a sum that cancels is looked for as -0, which no sum is.
        cancelled = np.signbit(scales[run]) & (out << 1 == 0)
        assert ((back == out) | cancelled).all()
        assert status == OK or cancelled.any()
        add(status, found)
        assert kernel(bits, scales, offsets[1:], length, first, codes, out) == BAD_ARGUMENT
        assert find(numbers, np.array(order, np.uint32), entries, *places, out, ranked[1:], found) == BAD_ARGUMENT
        if codes.size:
            assert kernel(bits, scales[:-1], offsets[:-1], length, first, codes, out) == BAD_ARGUMENT


def check_found(
    add: Callable[..., None], name: str, table: np.ndarray, entries: int, scales: np.ndarray, run: np.ndarray,
    length: int, first: int, units: np.ndarray,
) -> None:  # fmt: skip
    """The codes found give the units; a NaN has none."""
    order = sorted(range(entries), key=lambda k: (float(table[k]), not np.signbit(table[k])))
    order += order[-1:] * (-entries % 32)
    numbers, codes = table[order].view(np.uint32), np.zeros(units.size, np.uint16)
    arguments = (numbers, np.array(order, np.uint32), entries, scales, length, first)
    ranked = np.zeros(numbers.size, np.uint32)
    assert FIND[name](*arguments, units, ranked, codes) == OK
    back = np.zeros_like(units)
    assert SCALED[name](table.view(np.uint32), scales, length, first, codes, back) == OK
    assert np.array_equal(back, units)
    # All products with a scale of 0 are zeros: the codes are then those of the numbers nearest to zero.
    zero = (scales[run] == 0) & (units == 0)
    assert zero.sum() == 0 or np.unique(np.abs(table[codes[zero]])).size == 1
    add(OK, codes)
    if units.size:
        odd = units.copy()
        odd[[0, -1]] = np.iinfo(units.dtype).max
        assert FIND[name](*arguments, odd, ranked, codes) == BAD_STREAM
        assert FIND[name](*arguments[:3], scales[:-1], length, first, units, ranked, codes) == BAD_ARGUMENT
    assert FIND[name](*arguments, units, ranked[1:], codes) == BAD_ARGUMENT


def check_decimals(add: Callable[..., None], rng: np.random.Generator) -> None:
    for bits, power, unit in (
        (8, 0, np.uint8), (16, 3, np.uint16), (32, 9, np.uint32), (53, 22, np.uint64), (53, 1, np.uint64),
    ):  # fmt: skip
        codes = rng.integers(0, 1 << bits, 97, dtype=np.uint64).astype(unit)
        wide, narrow = np.zeros(codes.size, np.uint64), np.zeros(codes.size, np.uint32)
        assert lookup.decimals_f64(codes, float(10**power), wide) == OK
        assert lookup.decimals_f32(codes, float(10**power), narrow) == OK
        # Python's division of whole numbers is rounded once.
        exact = [(-1.0 if code & 1 else 1.0) * float(Fraction(code >> 1, 10**power)) for code in codes.tolist()]
        assert wide.view(np.float64).tobytes() == np.array(exact).tobytes()
        assert narrow.view(np.float32).tobytes() == np.array(exact).astype(np.float32).tobytes()
        add(OK, wide, narrow)
        for made, kind in ((wide, np.float64), (narrow, np.float32)):
            found, back = np.zeros(codes.size, np.uint64), np.zeros_like(made)
            status = find_codes.find_decimals(made.view(kind), made, float(10**power), found)
            kernel = lookup.decimals_f64 if kind is np.float64 else lookup.decimals_f32
            assert kernel(found, float(10**power), back) == OK
            assert (status == OK) == np.array_equal(back, made) or status == BAD_STREAM
            assert status == OK or bits > 23
            made[3] = np.array(np.nan, kind).view(made.dtype)
            assert find_codes.find_decimals(made.view(kind), made, float(10**power), found) == BAD_STREAM
        assert lookup.decimals_f64(codes, 1.0, wide[1:]) == BAD_ARGUMENT
        assert lookup.decimals_f32(codes, 1.0, narrow[1:]) == BAD_ARGUMENT
