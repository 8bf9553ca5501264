"""Checks of find_scales, for check.py: against slow_scales.py, on runs that have a scale and runs that have none."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import ml_dtypes
import numpy as np

from kernels import slow_scales
from slimtensors.detect import lattice
from slimtensors.dtypes import DTYPES, DType
from slimtensors.kernels.cpu.find_scales import find_scales
from slimtensors.kernels.status import BAD_ARGUMENT, OK

FLOATS = {"F32": np.float32, "BF16": ml_dtypes.bfloat16, "F16": np.float16}
EVERY = np.arange(1.0, 256.0)
PALETTES: tuple[tuple[lattice.Numbers, tuple[float, ...]], ...] = (
    (lattice.Numbers(EVERY, EVERY), (127.0, 7.0, 8.0, *map(float, range(1, 17)))),
    (lattice.Numbers(EVERY[:127], EVERY[:128]), (127.0, 128.0, 126.0)),
    (lattice.numbers_in(lattice.NF4), (1.0,)),
    (lattice.numbers_in(lattice.FAMILIES[2].table), (6.0, 4.0)),
    (lattice.numbers_in(lattice.FAMILIES[3].table), tuple(float(top) for top in range(448, 224, -32))),
    (lattice.Numbers(np.array([1.0, 2.0, 5.0]), np.empty(0)), (5.0, 2.0)),
)
RUNS = 12


def runs(
    rng: np.random.Generator, name: str, numbers: lattice.Numbers, tops: tuple[float, ...], length: int
) -> np.ndarray:
    """Units [runs, length]: numbers times scales of many sizes; some runs are broken, one is zero, one noise."""
    palette = np.sort(np.concatenate([numbers.positive, -numbers.negative, [0.0, -0.0]]).astype(np.float32))
    weights = rng.standard_normal((RUNS, length))
    wanted = weights / np.abs(weights).max(1, keepdims=True) * rng.choice(tops, (RUNS, 1))
    codes = palette[np.searchsorted((palette[1:] + palette[:-1]) / 2, wanted)]
    sizes = np.exp(rng.standard_normal((RUNS, 1)) * rng.choice([1, 10, 30], (RUNS, 1)))
    with np.errstate(all="ignore"):  # some scales are past what a float32 holds, on purpose
        scales = sizes.astype(np.float32)
        scales[::3] = scales[::3].astype(ml_dtypes.bfloat16)
        made = (codes * scales).astype(FLOATS[name])
    units = made.view(DTYPES[name].unit).copy()
    units[0, rng.integers(length)] ^= units.dtype.type(1 << int(rng.integers(8 * units.itemsize)))
    units[3] = 0
    units[5] = rng.integers(0, 1 << 8 * units.itemsize, length, dtype=units.dtype)
    return units


def arguments(units: np.ndarray, dtype: DType, numbers: lattice.Numbers, tops: tuple[float, ...]) -> tuple:
    count, length = units.shape
    scales, used = np.ones(count, np.uint32), np.ones(count)
    room = np.empty(length, np.int64)
    flat = units.reshape(-1)
    return flat, dtype.name == "F16", length, numbers.positive, numbers.negative, np.array(tops), room, scales, used


def check_scales(rng: np.random.Generator) -> Iterator[np.ndarray]:
    """What is found, for a digest."""
    found = 0
    for name, (numbers, tops), length in product(FLOATS, PALETTES, (16, 100)):
        units = runs(rng, name, numbers, tops, length)
        given = arguments(units, DTYPES[name], numbers, tops)
        assert find_scales(*given) == OK
        scales, used = slow_scales.scales_of(units, DTYPES[name], numbers, tops)
        assert np.array_equal(given[-2], scales), (name, tops[0], length)
        assert np.array_equal(given[-1], used)
        found += np.count_nonzero(used > 0)
        yield from (scales, used)
    assert found > 200
    for bad in ((given[0][1:], *given[1:]), (*given[:6], given[6][1:], *given[7:]), (*given[:-1], used[1:])):
        assert find_scales(*bad) == BAD_ARGUMENT
