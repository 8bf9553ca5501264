"""Floats of one dtype in another: the library against the reference's fractions, at every kind of edge."""

from __future__ import annotations

import random

import numpy as np
import pytest

import casts
from slimtensors.codecs.casts import cast_units
from slimtensors.dtypes import CASTABLE, DTYPES


def edges(name: str, rng: random.Random) -> list[int]:
    """Bit patterns of a dtype: all exponents with mantissas near 0, near 1, and near every tie of a shorter one."""
    bits, mantissa = casts.FLOATS[name]
    out = []
    for exponent in range(1 << bits - 1 - mantissa):
        for _ in range(4):
            fraction = rng.randrange(1 << mantissa)
            cut = rng.randrange(mantissa)
            middle = (fraction >> cut << cut) + rng.choice([0, 1 << cut >> 1]) + rng.choice([-1, 0, 0, 1])
            fraction = rng.choice([0, 1, (1 << mantissa) - 1, 1 << mantissa - 1, fraction, middle % (1 << mantissa)])
            out.append(rng.randrange(2) << bits - 1 | exponent << mantissa | fraction)
    return out


@pytest.mark.parametrize("source", sorted(CASTABLE))
@pytest.mark.parametrize("target", sorted(CASTABLE))
def test_casts(source: str, target: str) -> None:
    if source == target:
        return
    units = edges(source, random.Random(source + target))
    found = cast_units(np.array(units, DTYPES[source].unit), DTYPES[source], DTYPES[target])
    assert found.dtype == DTYPES[target].unit
    expected = [casts.cast(unit, source, target) for unit in units]
    assert found.tolist() == expected


@pytest.mark.parametrize("source", ["F16", "BF16"])
@pytest.mark.parametrize("target", sorted(CASTABLE))
def test_every_half(source: str, target: str) -> None:
    if source == target:
        return
    units = np.arange(1 << 16, dtype=np.uint16)
    found = cast_units(units, DTYPES[source], DTYPES[target])
    assert found.tolist() == [casts.cast(unit, source, target) for unit in units.tolist()]
    # There and back again, where it is wider: all but NaNs that were not quiet.
    if DTYPES[target].bits > 16:
        back = cast_units(found, DTYPES[target], DTYPES[source])
        quiet = cast_units(cast_units(units, DTYPES[source], DTYPES["F64"]), DTYPES["F64"], DTYPES[source])
        assert (back == quiet).all()
