"""Scales and minima of runs of 32 weights, by trial: 32 runs at a time, one in each lane; no sum crosses lanes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.kernels._jit import inlined, kernel
from slimtensors.kernels.cpu.blocks import LANES
from slimtensors.kernels.status import BAD_ARGUMENT, OK

__all__ = ["ROOM", "RUN", "search_scales"]

Array = npt.NDArray[Any]

RUN = 32
PARTS = 8  # of a sum, of every eighth number each
TRIES, FIRST, APART, MOST = 21, np.float32(-1.0), np.float32(0.1), np.float32(15)
# Added to a number from 0 to 2^22 and taken away again, it leaves the nearest whole one, halves to even.
ROUNDER = np.float32(1.5 * 2**23)

# Places in the work space; number i of lane k is LANES * i + k behind. One array, so that LLVM sees that they differ.
X, ABOVE, COUNTS, CODES = 0, RUN * LANES, 2 * RUN * LANES, 3 * RUN * LANES  # a weight, less the least; how it counts
SUMS = 4 * RUN * LANES  # parts of three sums
SINGLE = SUMS + 3 * PARTS * LANES  # one number for each lane:
LOW, HIGH, W, WX = SINGLE, SINGLE + LANES, SINGLE + 2 * LANES, SINGLE + 3 * LANES
SCALE, LEAST, BEST = SINGLE + 4 * LANES, SINGLE + 5 * LANES, SINGLE + 6 * LANES
FOUND, FOUND_LEAST = SINGLE + 7 * LANES, SINGLE + 8 * LANES
ROOM = SINGLE + 9 * LANES


@inlined
def added(room: Array, number: int, k: int) -> Any:
    """Sum `number` of lane k, from its parts."""
    at = SUMS + number * PARTS * LANES + k
    even = (room[at] + room[at + 4 * LANES]) + (room[at + 2 * LANES] + room[at + 6 * LANES])
    odd = (room[at + LANES] + room[at + 5 * LANES]) + (room[at + 3 * LANES] + room[at + 7 * LANES])
    return even + odd


@inlined
def begin(weights: Array, first: int, runs: int, room: Array) -> None:
    """Weights, their ends, and how they count, of the runs from the first on; past the end, of the last one."""
    for k in range(LANES):
        at = min(first + k, runs - 1) * RUN
        low, high = np.float32(0), weights[at]
        for i in range(RUN):
            number = weights[at + i]
            low, high = min(low, number), max(high, number)
            room[X + LANES * i + k] = number
        room[LOW + k], room[HIGH + k] = low, high
        room[FOUND + k], room[FOUND_LEAST + k], room[BEST + k] = np.float32(0), low, np.float32(np.inf)
    for part in range(PARTS):
        for k in range(LANES):
            at = X + LANES * part + k
            a, b, c, d = room[at], room[at + 8 * LANES], room[at + 16 * LANES], room[at + 24 * LANES]
            room[SUMS + LANES * part + k] = a * a + b * b + c * c + d * d
    for k in range(LANES):
        room[WX + k] = np.sqrt(added(room, 0, k) / np.float32(RUN))
    for i in range(RUN):
        for k in range(LANES):
            x = room[X + LANES * i + k]
            room[COUNTS + LANES * i + k] = room[WX + k] + abs(x)
            room[ABOVE + LANES * i + k] = x - room[LOW + k]
    for part in range(PARTS):
        for k in range(LANES):
            w, wx = np.float32(0), np.float32(0)
            for j in range(4):
                at = LANES * (part + PARTS * j) + k
                count = room[COUNTS + at]
                w, wx = (count, count * room[X + at]) if j == 0 else (w + count, wx + count * room[X + at])
            room[SUMS + LANES * part + k], room[SUMS + LANES * (PARTS + part) + k] = w, wx
    for k in range(LANES):
        room[W + k], room[WX + k] = added(room, 0, k), added(room, 1, k)


@inlined
def pick_codes(room: Array, asked: Any) -> None:
    """Codes for a scale, and the parts of the sums of count * code, count * code^2 and count * code * weight."""
    for part in range(PARTS):
        for k in range(LANES):
            # Anew for each part: in a loop of its own LLVM would divide lane by lane.
            factor = asked / (room[HIGH + k] - room[LOW + k])
            wl, wll, wlx = np.float32(0), np.float32(0), np.float32(0)
            for j in range(4):
                at = LANES * (part + PARTS * j) + k
                code = min(max((factor * room[ABOVE + at] + ROUNDER) - ROUNDER, np.float32(0)), MOST)
                room[CODES + at] = code
                once = room[COUNTS + at] * code
                if j == 0:
                    wl, wll, wlx = once, once * code, once * room[X + at]
                else:
                    wl, wll, wlx = wl + once, wll + once * code, wlx + once * room[X + at]
            at = SUMS + LANES * part + k
            room[at], room[at + PARTS * LANES], room[at + 2 * PARTS * LANES] = wl, wll, wlx


@inlined
def solve(room: Array, asked: Any, whole: bool) -> None:
    """The scale and the minimum that are best for the codes, or (whole) those of the range of the weights."""
    for k in range(LANES):
        scale, least = np.float32(1) / (asked / (room[HIGH + k] - room[LOW + k])), room[LOW + k]
        if not whole:
            w, wx = room[W + k], room[WX + k]
            wl, wll, wlx = added(room, 0, k), added(room, 1, k), added(room, 2, k)
            determinant = w * wll - wl * wl
            scale, least = (w * wlx - wx * wl) / determinant, (wll * wx - wl * wlx) / determinant
            alone = wlx / wll
            scale = alone if least > 0 else scale
            least = np.float32(0) if least > 0 else least
            scale = scale if determinant > 0 else np.float32(np.nan)  # whose error is less than none
        room[SCALE + k], room[LEAST + k] = scale, least


@inlined
def keep_better(room: Array) -> None:
    for part in range(PARTS):
        for k in range(LANES):
            error, scale, least = np.float32(0), room[SCALE + k], room[LEAST + k]
            for j in range(4):
                at = LANES * (part + PARTS * j) + k
                d = scale * room[CODES + at] + least - room[X + at]
                once = room[COUNTS + at] * d * d
                error = once if j == 0 else error + once
            room[SUMS + LANES * part + k] = error
    for k in range(LANES):
        error = added(room, 0, k)
        better = error < room[BEST + k] and room[HIGH + k] > room[LOW + k]
        room[BEST + k] = error if better else room[BEST + k]
        room[FOUND + k] = room[SCALE + k] if better else room[FOUND + k]
        room[FOUND_LEAST + k] = room[LEAST + k] if better else room[FOUND_LEAST + k]


@kernel
def search_scales(weights: Array, room: Array, scales: Array, minima: Array) -> int:
    """Of each 32 weights a scale and a minimum, neither negative, so that scale * code - minimum is near to them.

    Codes are from 0 to 15. Errors count by how large a weight is, beside the root of the mean of squares. The range of
    the weights, and 21 scales near to what it asks for, are tried; for the codes that a scale gives, the best scale and
    minimum follow from equations. Method: llama.cpp's make_qkx2_quants. Sums are of eight parts, F32, in a fixed order.

    weights float32[32 * runs], scales and minima float32[runs], room float32[ROOM] for the kernel's use.
    """
    runs = scales.size
    if runs * RUN != weights.size or minima.size != runs or room.size != ROOM:
        return BAD_ARGUMENT
    for first in range(0, runs, LANES):
        begin(weights, first, runs, room)
        for step in range(-1, TRIES):
            # the range itself first
            asked = MOST if step < 0 else FIRST + APART * np.float32(step) + MOST
            pick_codes(room, asked)
            solve(room, asked, step < 0)
            keep_better(room)
        for k in range(min(LANES, runs - first)):
            scales[first + k], minima[first + k] = room[FOUND + k], -room[FOUND_LEAST + k]
    return OK
