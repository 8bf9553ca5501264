"""Kernels of quantisers beside their slow twins (slow.py), bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from lossy import slow
from lossy.test_standard import AS
from slimtensors.dtypes import DTYPES
from slimtensors.kernels.cpu import bounds, outliers
from slimtensors.kernels.cpu.search_scales import ROOM, search_scales
from slimtensors.kernels.status import BAD_ARGUMENT, OK
from slimtensors.quantise import bounded


def odd_floats(count: int, seed: int) -> np.ndarray:
    """Of all sizes, subnormal ones and zeros of both signs among them."""
    rng = np.random.default_rng(seed)
    made = (rng.standard_t(3, count) * 10.0 ** rng.uniform(-42, 34, count)).astype(np.float32)
    made[rng.random(count) < 0.1] = 0
    return np.where(rng.random(count) < 0.5, -made, made)


@pytest.mark.parametrize("runs", [1, 31, 32, 33, 200])
def test_scales_by_trial(runs: int) -> None:
    rng = np.random.default_rng(runs)
    weights = (rng.standard_t(4, (runs, 32)) * 2.0 ** rng.integers(-140, 120, (runs, 1))).astype(np.float32)
    weights[::5] = abs(weights[::5])
    weights[1::7] = -abs(weights[1::7])
    weights[2::11] = weights[2::11, :1]
    weights[3::13] = 0
    weights[4::9, 1:] = 0
    weights[5::17] = np.where(rng.random(32) < 0.5, 1e-45, -1e-45)
    weights = weights.reshape(-1)
    scales, minima = np.empty(runs, np.float32), np.empty(runs, np.float32)
    with np.errstate(all="ignore"):
        assert search_scales(weights, np.empty(ROOM, np.float32), scales, minima) == OK
    expected = slow.search_scales(weights)
    assert np.array_equal(scales.view(np.uint32), expected[0].view(np.uint32))
    assert np.array_equal(minima, expected[1])
    for some, room, less in ((weights[1:], ROOM, minima), (weights, ROOM - 1, minima), (weights, ROOM, minima[1:])):
        assert search_scales(some, np.empty(room, np.float32), scales, less) == BAD_ARGUMENT


@pytest.mark.parametrize("step", [1e-3, float(np.float32(0.1)), 7.0])
def test_multiples(step: float) -> None:
    x = np.concatenate([np.arange(-200, 200) * step / 2, np.random.default_rng(2).uniform(-30000, 30000, 3000) * step])
    x = np.concatenate([x, [32766.4 * step, -32766.4 * step]]).astype(np.float32)
    found, ends = np.empty(x.size, np.uint16), np.empty(2, np.int64)
    assert bounds.multiples(x, step, found, ends) == OK
    expected = slow.multiples(x, step)
    assert np.array_equal(found.astype(np.int64) - bounds.MIDDLE, expected)
    assert ends.tolist() == [expected.min(), expected.max()]
    assert bounds.multiples(x, step, found[1:], ends) == BAD_ARGUMENT


def test_magnitudes_and_distances() -> None:
    x = odd_floats(5000, 3)
    assert bounded._magnitudes(x) == (abs(x).max(), abs(x[x != 0]).min())
    assert bounded._magnitudes(np.array([0.0, -0.0], np.float32)) == (0, 0)
    assert bounds.magnitudes(x.view(np.uint32), np.empty(3, np.int64)) == BAD_ARGUMENT
    y = (x * np.float32(1.01)).astype(np.float32)
    for bound in (0.0, 1e-3, 1e30):
        distance = abs(x.astype(np.float64) - y)
        assert bounds.too_far(x, y, bound) == np.count_nonzero(distance > bound)
    y[7] = np.nan
    assert bounds.too_far(x, y, np.inf) == 1
    assert bounds.too_far(x, y[1:], 1.0) == -1


@pytest.mark.parametrize("dtype", AS)
@pytest.mark.parametrize(("factor", "seed"), [(3.0, 1), (1.02, 2), (1.0003, 3)])
def test_nearest_of_many(dtype: str, factor: float, seed: int) -> None:
    """Numbers at the middles between two, and beside them, too."""
    with np.errstate(all="ignore"):
        x = odd_floats(4000, seed).astype(AS[dtype]).astype(np.float32)
    x = x[np.isfinite(x)]
    peak, least = bounded._magnitudes(x)
    if factor == 1.0003:
        least = max(least, peak / 1e4)
        x = np.where(abs(x) < least, np.float32(0), x)
    powers = least * factor ** np.arange(np.ceil(np.log(peak / least) / np.log(factor)) + 1)
    positive = np.unique(bounded._narrowed(powers, DTYPES[dtype]))
    positive = positive[(positive > 0) & np.isfinite(positive)]
    middles = (positive[:-1] + np.diff(positive) / 2).astype(np.float32)
    near = np.concatenate([middles, np.nextafter(middles, np.float32(0)), np.nextafter(middles, np.float32(np.inf))])
    near = near[(near >= least) & (near <= peak)]
    x = np.concatenate([x, near, -near, [least, -peak]]).astype(np.float32)
    units = bounded._nearest(x, peak, least, positive, 1e9, DTYPES[dtype])
    assert units is not None
    expected = slow.nearest(x, positive)
    assert np.array_equal(bounded._numbers(units, DTYPES[dtype]), expected)
    assert not np.signbit(bounded._numbers(units, DTYPES[dtype])[x == 0]).any()
    shares = abs(expected - x)[x != 0] / abs(x.astype(np.float64))[x != 0]
    for bound in (float(np.median(shares)), float(shares.max()) * 1.01):
        kept = (abs(expected - x) <= bound * abs(x.astype(np.float64))).all()
        assert (bounded._nearest(x, peak, least, positive, bound, DTYPES[dtype]) is not None) == kept


@pytest.mark.parametrize("length", [16, 24])
def test_outliers(length: int) -> None:
    """Equal ones, zeros of both signs and runs of one number among them."""
    rng = np.random.default_rng(length)
    few = rng.integers(-3, 4, (400, length)) * 10.0 ** rng.integers(0, 3, (400, length))
    weights = np.concatenate([rng.standard_t(2, (400, length)), few, few[:50] * 0 + 7]).astype(np.float32)
    weights[::9] *= -1
    squares, apart = np.empty(1), np.full(weights.size, 9, np.uint8)
    low, high = np.empty(len(weights), np.float32), np.empty(len(weights), np.float32)
    flat, total = weights.reshape(-1), 0.0
    assert outliers.sum_ranges(flat, length, squares) == OK
    for run in weights.astype(np.float64):
        total += (run.max() - run.min()) ** 2
    assert squares[0] == total
    for most, worth in ((3, 0.0), (3, 2.5), (length - 2, 1e-3), (0, 0.0)):
        assert outliers.flag_outliers(flat, length, most, worth, apart, low, high) == OK
        for r, run in enumerate(weights):
            flagged, least, largest = slow.outliers(run.astype(np.float64).tolist(), most, worth)
            assert sorted(flagged) == np.flatnonzero(apart[r * length : (r + 1) * length]).tolist()
            assert (low[r], high[r]) == (least, largest)
    for arguments in (
        (flat[1:], length, 3, 1.0, apart[1:], low, high), (flat, length, length - 1, 1.0, apart, low, high),
        (flat, length, 3, 1.0, apart[1:], low, high), (flat, length, 3, 1.0, apart, low, high[1:]),
        (flat, length, -1, 1.0, apart, low, high),
    ):  # fmt: skip
        assert outliers.flag_outliers(*arguments) == BAD_ARGUMENT
    assert outliers.sum_ranges(flat[1:], length, squares) == BAD_ARGUMENT
