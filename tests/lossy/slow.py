"""What kernels of quantisers do, in NumPy, all runs or elements at once."""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def total(numbers: Array) -> Array:
    """Of each row of 32 float32: sums of every eighth, and of these in pairs."""
    a, b, c, d = np.split(numbers, 4, axis=-1)
    part = a + b + c + d
    return ((part[:, 0] + part[:, 4]) + (part[:, 2] + part[:, 6])) + (
        (part[:, 1] + part[:, 5]) + (part[:, 3] + part[:, 7])
    )


def search_scales(weights: Array) -> tuple[Array, Array]:
    """q4_k's scales and minima of each 32 weights; llama.cpp's make_qkx2_quants."""
    x, one = weights.reshape(-1, 32), np.float32(1)
    with np.errstate(all="ignore"):
        low, high = np.minimum(x.min(-1), np.float32(0)), x.max(-1)
        counts = np.sqrt(total(x * x) / np.float32(32))[:, None] + abs(x)
        w, wx = total(counts), total(counts * x)
        scales, minima, best = np.zeros_like(low), -low, np.full_like(low, np.inf)
        for step in range(-1, 21):
            asked = np.float32(15) if step < 0 else np.float32(-1) + np.float32(0.1) * np.float32(step) + np.float32(15)
            factor = asked / (high - low)
            codes = np.clip(np.rint(factor[:, None] * (x - low[:, None])), np.float32(0), np.float32(15))
            once = counts * codes
            wl, wll, wlx = total(once), total(once * codes), total(once * x)
            determinant = w * wll - wl * wl
            scale, least = (w * wlx - wx * wl) / determinant, (wll * wx - wl * wlx) / determinant
            scale, least = np.where(least > 0, wlx / wll, scale), np.where(least > 0, np.float32(0), least)
            if step < 0:
                scale, least = one / factor, low
            d = scale[:, None] * codes + least[:, None] - x
            error = total(counts * d * d)
            better = (error < best) & (high > low) & ((determinant > 0) | (step < 0))
            scales, minima = np.where(better, scale, scales), np.where(better, -least, minima)
            best = np.where(better, error, best)
    return scales, minima


def multiples(x: Array, step: float) -> Array:
    return np.rint(x.astype(np.float64) / step).astype(np.int64)


def nearest(x: Array, positive: Array) -> Array:
    """Of rising numbers the nearest to each magnitude, of two the lower, with the sign; 0 of 0."""
    magnitudes = abs(x.astype(np.float64))
    at = np.searchsorted(positive[:-1] + np.diff(positive) / 2, magnitudes)
    return np.where(magnitudes > 0, np.where(x < 0, -positive[at], positive[at]), 0.0)


def outliers(run: list[float], most: int, worth: float) -> tuple[list[int], float, float]:
    """Which of a run stand apart, in the order in which they are found, and the ends of what is left: by sorting."""
    order = sorted(range(len(run)), key=lambda i: run[i])
    apart = []
    for _ in range(most):
        low, lower, higher, high = (run[order[k]] for k in (0, 1, -2, -1))
        at_top = higher - low <= high - lower
        if (high - low) ** 2 - min(higher - low, high - lower) ** 2 <= worth:
            break
        apart.append(order.pop(-1 if at_top else 0))
    return apart, run[order[0]], run[order[-1]]
