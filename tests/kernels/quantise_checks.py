"""Quantisers, whose results all instruction sets must share, and the sums of errors: part of the program check.py.

Whether they are right is looked at in tests/lossy.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from decode import errors
from slimtensors.expression import Sum
from slimtensors.kernels.cpu.errors import add_errors
from slimtensors.kernels.status import BAD_ARGUMENT, OK
from slimtensors.quantise.recipes import RECIPES, quantisers_of
from slimtensors.sources.inputs import ArrayInput

__all__ = ["check_quantisers"]

BOUNDS = ("abs=1000", "rel=0.1", "rel=0.004")


def check_quantisers(rng: np.random.Generator) -> Iterator[np.ndarray]:
    weights = (rng.standard_t(4, (24, 512)) * 2.0 ** rng.integers(-20, 20, (24, 1))).astype(np.float32)
    weights[3, :40] = 0
    weights[5] = 0
    bounded = [each for name in BOUNDS for each in quantisers_of(name)]
    along = np.outer(rng.standard_normal(64), rng.standard_normal(128)) + 0.2 * rng.standard_normal((64, 128))
    every = [(each, weights) for each in (*RECIPES.values(), *bounded)]
    for quantiser, array in [*every, (RECIPES["lqer"], along.astype(np.float32))]:
        tensor = ArrayInput("w", array)
        structure = quantiser.structure(tensor)
        assert structure is not None
        made = quantiser.quantise(tensor, structure)
        assert array is weights or isinstance(structure.expression, Sum)
        yield made.units
        yield from made.sides
    yield from check_errors(rng)


def check_errors(rng: np.random.Generator) -> Iterator[np.ndarray]:
    for n in (0, 1, 31, 32, 33, 1000):
        source, found = rng.standard_normal((2, n)) * 10.0 ** rng.integers(-30, 30, n)
        sums = np.zeros(32), np.zeros(32), np.zeros(1)
        assert add_errors(source, found, *sums) == OK
        total, power = float(sums[0][0]), float(sums[1][0])
        for k in range(1, 32):
            total, power = total + float(sums[0][k]), power + float(sums[1][k])
        assert (total / power if total else 0.0, float(sums[2][0])) == errors(source.tolist(), found.tolist())
        yield from sums
        assert add_errors(source, found[1:], *sums) == BAD_ARGUMENT or n == 0
        assert add_errors(source, found, sums[0][1:], *sums[1:]) == BAD_ARGUMENT
