"""Chunks with classes of rows and columns decoded in few steps come out as they do the long way, and what one refuses
the other refuses.
"""

from __future__ import annotations

from unittest.mock import patch

import ml_dtypes
import numpy as np
import pytest

from slimtensors.codecs import classes, straight
from slimtensors.codecs.chunk import decode_chunk, encode_chunk
from slimtensors.codecs.place import NOWHERE, Place
from slimtensors.container.source import aligned_empty
from slimtensors.dtypes import DTYPES
from slimtensors.errors import FormatError
from slimtensors.expression import Bits, ClassContext, Mean, Part, SignContext

# Widths without a sign of its own, and with one; the octave; the first table of signs.
PLANS = {
    "BF16": ((6, 10), (1, 5, 10), 4, 730),
    "F16": ((8, 8), (1, 7, 8), 8, 300),
    "F32": ((8, 8, 6, 10), (1, 8, 8, 5, 10), 4, 730),
    "F8_E4M3": ((1, 7), (1, 7), 8, 270),
}
COLUMNS, ROWS, FIRST = 70, 900, 77


def made(name: str, units: int, *, mean: bool, wild: bool = False) -> tuple[Bits, Place, np.ndarray, np.ndarray]:
    """(expression, place, units, chunk) of numbers that have the scales of their rows and columns."""
    rng = np.random.default_rng(units + mean)
    rows, columns = (rng.integers(0, 12, n).astype(np.uint8) for n in (ROWS, COLUMNS))
    factors = rng.integers(118, 139, (3, ROWS + COLUMNS)).astype(np.uint8)
    factors[rng.random(factors.shape) < 0.3] = 128
    weights = np.array([1, 1, 2])[:, None]
    signed = factors.astype(np.int64) - 128
    products = (signed[:, :ROWS] * weights).T @ signed[:, ROWS:]
    numbers = rng.standard_normal((ROWS, COLUMNS)) + products / 60 * mean
    numbers = (numbers / 64 * np.exp2((rows[:, None] + columns) / 4.0)).astype(np.float32).reshape(-1)
    numbers = numbers[FIRST : FIRST + units]
    if wild:
        numbers[:: max(1, units // 9)] *= np.float32(2.0) ** rng.integers(-60, 60, numbers[:: max(1, units // 9)].size)
    kinds = {
        "BF16": lambda: (numbers.view(np.uint32) >> 16).astype(np.uint16),
        "F16": lambda: np.clip(numbers, -9, 9).astype(np.float16).view(np.uint16),
        "F32": lambda: numbers.view(np.uint32),
        "F8_E4M3": lambda: np.clip(32 * numbers, -240, 240).astype(ml_dtypes.float8_e4m3fn).view(np.uint8),
    }
    plain, signs, octave, first = PLANS[name]
    widths = signs if mean else plain
    steered = Mean(2, (2, 1), (10, 14, 16, 18, 20, 22, 25)) if mean else None
    top = Part(widths[-1], context=ClassContext(0, 1, octave, steered))
    sign = Part(1, context=SignContext(first, 16) if mean else None)
    below = [Part(width) for width in widths[:-1]]
    expression = Bits((*([sign, *below[1:]] if mean else below), top), 1)
    sides = (rows, columns, factors) if mean else (rows, columns)
    place, array = Place(ROWS * COLUMNS, FIRST, sides, DTYPES[name]), kinds[name]().astype(DTYPES[name].unit)
    return expression, place, array, held(np.frombuffer(encode_chunk(array, expression, place), np.uint8))


def held(data: np.ndarray) -> np.ndarray:
    """Aligned as readers hand it over."""
    room = aligned_empty(data.size)
    room[:] = data
    return room


def outcome(data: np.ndarray, expression: Bits, place: Place, like: np.ndarray) -> bytes | str:
    out = np.zeros_like(like)
    try:
        decode_chunk(data, expression, out, place)
    except FormatError as error:
        return str(error)
    return out.tobytes()


def long_way(data: np.ndarray, expression: Bits, place: Place, like: np.ndarray) -> bytes | str:
    with patch.object(classes, "decode", lambda *_: False), patch.object(straight, "decode", lambda *_: False):
        return outcome(data, expression, place, like)


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("name", PLANS)
def test_units_come_back(name, mean):
    short = 0
    for units in (128, 1000, 4096, 20_000, 50_001):
        for wild in (False, True):
            expression, place, array, data = made(name, units, mean=mean, wild=wild)
            found = classes.decode(data, expression, np.zeros_like(array), place)
            assert outcome(data, expression, place, array) == array.tobytes()
            assert long_way(data, expression, place, array) == array.tobytes()
            short += found
            # Small chunks may lack a table, or be literal.
            assert found or units < 20_000
    assert short >= 4


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("name", PLANS)
def test_damage_is_seen_alike(name, mean):
    expression, place, array, data = made(name, 20_005, mean=mean, wild=True)
    rng, refused = np.random.default_rng(1), 0
    front, end = 16 + 16 * len(expression.parts), int(np.flatnonzero(data)[-1])
    for turn in range(200):
        bad = data.copy()
        # Everywhere, and often where the structure is: head, descriptors, tables, the end.
        at = rng.integers((0, 0, front, end - 200)[turn % 4], (data.size, front, front + 300, data.size)[turn % 4])
        bad[at] = rng.integers(0, 256) if turn % 8 > 3 else bad[at] ^ 1 << rng.integers(0, 8)
        if turn % 20 == 0:
            bad = held(bad[: rng.integers(1, data.size // 64 + 1) * 64])
        found = outcome(bad, expression, place, array)
        assert found == long_way(bad, expression, place, array)
        refused += isinstance(found, str)
    assert 50 < refused < 200


@pytest.mark.parametrize("units", [128, 384, 1000, 30_522])
def test_planes_of_bytes(units):
    """Of a Zstandard frame."""
    expression, rng = Bits((Part(8),)), np.random.default_rng(units)
    array = np.repeat(rng.integers(0, 9, units // 16 + 1), 16)[:units].astype(np.uint8)
    data = held(np.frombuffer(encode_chunk(array, expression, try_zstd=True), np.uint8))
    assert straight.decode_bytes(data, expression, np.zeros_like(array)) == (units > 128)
    refused = 0
    for turn in range(200):
        bad = data.copy()
        at = rng.integers(0, data.size if turn % 2 else min(data.size, 60))
        bad[at] ^= 1 << rng.integers(0, 8) if turn else 0
        found = outcome(bad, expression, NOWHERE, array)
        assert found == long_way(bad, expression, NOWHERE, array)
        refused += isinstance(found, str)
        assert turn or found == array.tobytes()
    assert refused > 50
