"""Kernels of grids and trellises, beside plainer ways to the same: part of the program check.py."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kernels import cases
from kernels.search_checks import planted
from slimtensors.codecs.casts import cast_units
from slimtensors.dtypes import DTYPES
from slimtensors.kernels.cpu import level_kernels, search, trellis
from slimtensors.kernels.status import BAD_ARGUMENT, BAD_STREAM, OK

LEVELS = {"F32": trellis.levels_f32, "BF16": trellis.levels_bf16, "F16": trellis.levels_f16}
SCALED = {"F32": trellis.scaled_f32, "BF16": trellis.scaled_bf16, "F16": trellis.scaled_f16}
STRAIGHT = {
    "F32": (level_kernels.decode_f32, level_kernels.search_f32),
    "BF16": (level_kernels.decode_bf16, level_kernels.search_bf16),
    "F16": (level_kernels.decode_f16, level_kernels.search_f16),
}
STEPS = [np.float32(number) for number in (0.1, 1.0, 1e-45, 3e38, 6e-8)]
NONE = np.empty(0, np.float32)


def slow_levels(codes: list[int], zero: int, states: int) -> list[int]:
    """expressions.md, section 7.5, lane by lane."""
    out = []
    for j, code in enumerate(codes):
        if states == 1:
            out.append(code - zero)
            continue
        parities = [0, 0, 0]
        for before in codes[j % 32 : j : 32]:
            parities = [(before + parities[1] + parities[2]) % 2, *parities[:2]]
        out.append(2 * (code - zero) + parities[0])
    return out


def least_cost(x: list[float], most: int, zero: int) -> float:
    """Of all paths of a lane: each state's best, with every level that a code has."""
    best = {(0, 0, 0): 0.0}
    for number in x:
        after: dict[tuple[int, int, int], float] = {}
        for (p, q, r), cost in best.items():
            for code in range(most + 1):
                to = (code + q + r) % 2, p, q
                made = cost + (number - (2 * (code - zero) + p)) ** 2
                after[to] = min(after.get(to, made), made)
        best = after
    return min(best.values())


def check_trellis(add: Callable[..., None], rng: np.random.Generator) -> None:
    for kind, most in ((np.uint8, 255), (np.uint16, 65535)):
        for states in (1, 8):
            for n, zero in ((0, 0), (32, most // 2), (416, 0), (416, most), (128, most // 2 + 1)):
                codes = rng.integers(0, most + 1, n).astype(kind)
                check_levels(add, codes, zero, states)
                check_scaled(add, rng, codes, zero, states)
    check_search(add, rng)
    for states, zero in ((2, 0), (8, -1), (1, 1 << 16)):
        assert trellis.levels_f32(codes, zero, states, STEPS[0], np.empty(n, np.uint32)) == BAD_ARGUMENT
    assert trellis.levels_bf16(codes, 0, 8, STEPS[0], np.empty(n - 32, np.uint16)) == BAD_ARGUMENT
    assert trellis.levels_f16(codes[1:], 0, 8, STEPS[0], np.empty(n - 1, np.uint16)) == BAD_ARGUMENT


def check_levels(add: Callable[..., None], codes: np.ndarray, zero: int, states: int) -> None:
    exact = np.array(slow_levels(codes.tolist(), zero, states), np.float32)
    for name, kernel in LEVELS.items():
        dtype = DTYPES[name]
        for step in STEPS:
            with np.errstate(all="ignore"):
                wanted = cast_units((exact * step).view(np.uint32), DTYPES["F32"], dtype)
            out = np.empty(codes.size, dtype.unit)
            assert kernel(codes, zero, states, step, out) == OK
            assert np.array_equal(out, wanted)
            add(OK, out)
            if name == "BF16" and codes.itemsize == 1 and zero < 256:
                out[:] = 1
                assert trellis.narrow_bf16(codes, zero, states, step, out) == OK
                assert np.array_equal(out, wanted)
                assert trellis.narrow_bf16(codes, 256, states, step, out) == BAD_ARGUMENT
                assert trellis.narrow_bf16(codes, zero, 2, step, out) == BAD_ARGUMENT
                assert trellis.narrow_bf16(codes, zero, 1, step, np.empty(codes.size + 32, np.uint16)) == BAD_ARGUMENT


def check_scaled(add: Callable[..., None], rng: np.random.Generator, codes: np.ndarray, zero: int, states: int) -> None:
    """Rows that begin anywhere in 32 elements, rows of fewer, one row; steps of which some are subnormal."""
    exact, n = np.array(slow_levels(codes.tolist(), zero, states), np.float32), codes.size
    for columns, first in ((1, 0), (7, 3), (32, 0), (45, 44), (64, 32), (416, 0), (500, 77)):
        rows = -(-(first + n) // columns) + 1
        of_rows, of_columns = (np.exp2(rng.uniform(-20, 20, count)).astype(np.float32) for count in (rows, columns))
        step, room = np.float32(2.0 ** rng.uniform(-145, 60)), np.empty(32, np.uint32)
        with np.errstate(all="ignore"):
            steps = ((step * of_rows)[:, None] * of_columns).reshape(-1)[first : first + n]
            made = (exact * steps).view(np.uint32)
            for name, kernel in SCALED.items():
                dtype = DTYPES[name]
                out = np.empty(n, dtype.unit)
                arguments = codes, zero, states, step, of_rows, of_columns.view(np.uint32), first, room, out
                assert kernel(*arguments) == OK
                assert np.array_equal(out, cast_units(made, DTYPES["F32"], dtype))
                add(OK, out)
    for at, wrong in ((4, of_rows[: first + n > 500]), (6, columns), (7, room[1:]), (8, out[:-1]), (2, 4)):
        bad = (*arguments[:at], wrong, *arguments[at + 1 :])
        assert kernel(*bad) == BAD_ARGUMENT or n == 0


def check_straight(add: Callable[..., None], chunk: cases.Chunk) -> None:
    """Codes and their levels in one kernel: as one after the other."""
    if chunk.layout.name != "fields u8" or chunk.precision != search.PRECISION:
        return
    slots, tree, _strays = planted(chunk.frequencies)
    words = np.concatenate([chunk.words, cases.PADDING])
    for name, (plain, searching) in STRAIGHT.items():
        dtype = DTYPES[name]
        for zero, step in ((128, STEPS[0]), (0, STEPS[2]), (255, STEPS[3])):
            expected, out = np.empty(chunk.decoded.size, dtype.unit), np.empty(chunk.decoded.size, dtype.unit)
            assert LEVELS[name](chunk.decoded, zero, 1, step, expected) == OK
            stream = (zero, step, chunk.states, words, chunk.starts)
            assert plain(slots, *stream, out) == OK
            assert np.array_equal(out, expected)
            assert searching(slots, tree, *stream, out) == OK
            assert np.array_equal(out, expected)
            add(OK, out)
        damaged = words.copy()
        damaged[: chunk.words.size // 2] ^= 0x5555
        for kernel, tables in ((plain, (slots,)), (searching, (slots, tree))):
            status = kernel(*tables, zero, step, chunk.states, damaged, chunk.starts, out)
            assert status == BAD_STREAM or chunk.words.size < 2
            assert kernel(*tables, 256, *stream[1:], out) == BAD_ARGUMENT
            assert kernel(*tables, *stream, out[:-1]) == BAD_ARGUMENT
            assert kernel(*(each[1:] for each in tables), *stream, out) == BAD_ARGUMENT
            add(status, out)


def check_search(add: Callable[..., None], rng: np.random.Generator) -> None:
    for n, zero, most, spread in ((0, 1, 3, 1.0), (32, 4, 7, 2.0), (32 * 7, 4, 7, 4.0), (32 * 9, 8, 15, 9.0)):
        x = (rng.standard_normal(n) * spread).astype(np.float32)
        codes, again, chosen = np.empty(n, np.uint16), np.empty(n, np.uint16), np.empty(n, np.uint8)
        assert trellis.search(x, NONE, zero, most, chosen, codes) == OK
        assert codes.max(initial=0) <= most
        levels = np.array(slow_levels(codes.tolist(), zero, 8), np.float32)
        for lane in range(32 if n else 0):
            cost = float(np.square(x[lane::32].astype(np.float64) - levels[lane::32]).sum())
            assert abs(cost - least_cost(x[lane::32].tolist(), most, zero)) < 1e-3 * (1 + cost)
        add(OK, codes)
        assert trellis.codes_of(levels, zero, most, again) == OK
        assert np.array_equal(codes, again)
        blurred = levels + rng.uniform(-2.5, 2.5, n).astype(np.float32)
        slack = np.full(n, 2.5, np.float32)
        assert trellis.search(blurred, slack, zero, most, chosen, again) == OK
        there = np.array(slow_levels(again.tolist(), zero, 8), np.float32)
        assert np.abs(there - blurred).max(initial=0) <= 2.5
        if n:
            odd = levels.copy()
            odd[n // 2] += 1
            assert trellis.codes_of(odd, zero, most, again) == BAD_STREAM
            odd[n // 2] = 1e30
            assert trellis.codes_of(odd, zero, most, again) == BAD_STREAM
        assert trellis.nearest(x, zero, most, codes) == OK
        assert np.array_equal(codes, np.clip(np.rint(x), -zero, most - zero) + zero)
        add(OK, codes)
    for wrong in ((x[1:], NONE, zero, most, chosen, codes), (x, slack[1:], zero, most, chosen, codes)):
        assert trellis.search(*wrong) == BAD_ARGUMENT
    assert trellis.search(x, NONE, most + 1, most, chosen, codes) == BAD_ARGUMENT
    assert trellis.codes_of(x, zero, 1 << 16, codes) == BAD_ARGUMENT
    assert trellis.nearest(x, zero, most, codes[1:]) == BAD_ARGUMENT
