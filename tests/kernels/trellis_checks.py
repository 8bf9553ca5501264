"""Kernels of grids and trellises, beside plainer ways to the same: part of the program check.py."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from slimtensors.codecs.casts import cast_units
from slimtensors.dtypes import DTYPES
from slimtensors.kernels.cpu import trellis
from slimtensors.kernels.status import BAD_ARGUMENT, BAD_STREAM, OK

LEVELS = {"F32": trellis.levels_f32, "BF16": trellis.levels_bf16, "F16": trellis.levels_f16}
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
