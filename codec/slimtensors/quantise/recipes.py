"""The quantisers by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.detect.lattice import NF4
from slimtensors.errors import UsageError
from slimtensors.quantise import rules, scaled_scales
from slimtensors.quantise.blocks import Blocks
from slimtensors.quantise.bounded import Bounded, absolute, relative
from slimtensors.quantise.difference import BitDelta
from slimtensors.quantise.grid import Grid
from slimtensors.quantise.low_rank import LQER
from slimtensors.quantise.outliers import SpQR
from slimtensors.quantise.quantiser import Quantiser

__all__ = ["RECIPES", "grid_of", "quantisers_of", "smaller", "with_grid"]


def _integers(low: int, high: int) -> npt.NDArray[Any]:
    return np.arange(low, high + 1).astype(np.int8)


E2M1 = rules.small_floats(1, 1, 8)  # up to 6
E4M3 = rules.small_floats(3, 7, 127)  # up to 448

USUAL_ERROR = 0.005  # NMSE of our own, about that of q4_k

_ALL: list[Quantiser] = [
    Blocks("q8_0", 32, _integers(-127, 127), rules.q8_0, "F16"),
    Blocks("q5_0", 32, _integers(-16, 15), rules.legacy(16), "F16"),
    Blocks("q4_0", 32, _integers(-8, 7), rules.legacy(8), "F16"),
    Blocks("nf4", 64, NF4, rules.nf4(NF4), across=True),
    Blocks("int8", 0, _integers(-128, 127), rules.integers(-128, 127), ""),
    Blocks("int4", 128, _integers(-8, 7), rules.integers(-8, 7), ""),
    Blocks("fp8", 0, E4M3, rules.floats(3, 7, E4M3), ""),
    Blocks("mxfp8", 32, E4M3, rules.mx(3, 7, 8, E4M3), "E8M0"),
    Blocks("mxfp4", 32, E2M1, rules.mx(1, 1, 2, E2M1), "E8M0"),
    scaled_scales.NVFP4(E2M1, E4M3),
    scaled_scales.Q4K(),
    Grid("slim", 8, error=USUAL_ERROR),
    Grid("slim-fast", 1, error=USUAL_ERROR),
    LQER(Grid("lqer", 8, error=USUAL_ERROR)),
    SpQR(),
    Blocks("bfp6", 16, _integers(-31, 31), rules.bfp(5), "E8M0"),
]
RECIPES = {each.name: each for each in _ALL}
INSTEAD = {"q4_k": "q5_0"}  # for tensors whose rows are no whole blocks, as llama.cpp has it

DIFFERENCES: dict[str, Quantiser] = {"bitdelta": BitDelta()}  # of nothing else
BOUNDED = {"abs": absolute, "rel": relative}


def quantisers_of(name: str) -> list[Quantiser]:
    """The one of a name, and what stands in for it where a tensor is not fit for it. Raises UsageError."""
    kind, equals, number = name.partition("=")
    if equals and kind in BOUNDED:
        return [_bounded(name, kind, number)]
    if name in DIFFERENCES:
        return [DIFFERENCES[name]]
    if name not in RECIPES:
        available = ", ".join([*RECIPES, *DIFFERENCES, "abs=NUMBER", "rel=NUMBER"])
        raise UsageError(f"unknown quantisation {name!r:.80}; available: {available}")
    return [RECIPES[each] for each in (name, INSTEAD.get(name)) if each is not None]


def smaller(recipe: str | Quantiser) -> str | Quantiser:
    """What takes less room, and more time to decode: codes on a grid given classes of rows and columns."""
    found = RECIPES.get(recipe) if isinstance(recipe, str) else None
    grid = None if found is None else grid_of(found)
    return recipe if found is None or grid is None else with_grid(found, replace(grid, classes=True))


def grid_of(quantiser: Quantiser) -> Grid | None:
    """The uniform grid that it has, if it has one."""
    if isinstance(quantiser, LQER):
        return quantiser.grid
    return quantiser if isinstance(quantiser, Grid) else None


def with_grid(quantiser: Quantiser, grid: Grid) -> Quantiser:
    """One that has a grid, with another."""
    return replace(quantiser, grid=grid) if isinstance(quantiser, LQER) else grid


def _bounded(name: str, kind: str, number: str) -> Quantiser:
    try:
        bound = float(number)
    except ValueError:
        bound = 0.0
    most = 0.5 if kind == "rel" else 1e30
    if not 1e-30 <= bound <= most or len(name) > 64:
        raise UsageError(f"{name!r:.80}: a bound is a number from 1e-30 to {most:g}, such as {kind}=0.001")
    return Bounded(f"{kind}={bound!r}".replace("+", ""), bound, BOUNDED[kind])
