"""Sparse chunks decoded in few steps come out as they do the long way, and what one refuses the other refuses."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest

from slimtensors.codecs import scattered
from slimtensors.codecs.chunk import decode_chunk, encode_chunk
from slimtensors.container.source import aligned_empty
from slimtensors.errors import FormatError
from slimtensors.expression import Sparse, bits

WIDTHS = [(8, 8), (6, 10), (4, 12)]
KINDS = ["magnitude", "two of four", "rows", "most"]


def made(
    widths: tuple[int, ...], kind: str, units: int, *, outliers: bool = False
) -> tuple[Sparse, np.ndarray, np.ndarray]:
    """(expression, units, chunk): masks that are raw, coded and by Zstandard."""
    rng = np.random.default_rng(units)
    numbers = (rng.standard_normal(units) / 32).astype(np.float32)
    if outliers:
        numbers[:: max(1, units // 9)] *= np.float32(2.0) ** rng.integers(-60, 60, numbers[:: max(1, units // 9)].size)
    array = (numbers.view(np.uint32) >> 16).astype(np.uint16)
    at = np.arange(units)
    array[{
        "magnitude": np.abs(numbers) < 0.02,
        "two of four": (at + at // 4 * 3) % 4 < 2,
        "rows": at // 768 % 2 == 1,
        "most": rng.random(units) < 0.9,
    }[kind]] = 0  # fmt: skip
    expression = Sparse(bits(*widths, rotate=1))
    return expression, array, held(np.frombuffer(encode_chunk(array, expression), np.uint8))


def held(data: np.ndarray) -> np.ndarray:
    """Aligned as readers hand it over."""
    room = aligned_empty(data.size)
    room[:] = data
    return room


def outcome(data: np.ndarray, expression: Sparse, like: np.ndarray) -> bytes | str:
    out = np.zeros_like(like)
    try:
        decode_chunk(data, expression, out)
    except FormatError as error:
        return str(error)
    return out.tobytes()


def long_way(data: np.ndarray, expression: Sparse, like: np.ndarray) -> bytes | str:
    with patch.object(scattered, "decode", lambda *_: False):
        return outcome(data, expression, like)


@pytest.mark.parametrize("widths", WIDTHS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("searches", [False, True])
def test_units_come_back(widths, kind, searches, monkeypatch):
    monkeypatch.setattr(scattered, "_searches", lambda: searches)
    straightly, modes = 0, set()
    for units in (128, 129, 1000, 4096, 70_001, 150_001, 300_001, 524_288):
        for outliers in (False, True):
            expression, array, data = made(widths, kind, units, outliers=outliers)
            out = np.zeros_like(array)
            if scattered.decode(data, expression, out):
                straightly += 1
                modes.add(data[16])
                assert np.array_equal(out, array)
            else:
                assert data[0] != 2 or units <= 4096  # literal, or too few values to be coded
            assert outcome(data, expression, array) == array.tobytes()
            assert long_way(data, expression, array) == array.tobytes()
    assert straightly >= 8
    assert {"magnitude": 1, "two of four": 3, "rows": 3, "most": 2}[kind] in modes  # raw, by Zstandard, coded


@pytest.mark.parametrize("widths", WIDTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_seen_alike(widths, kind):
    expression, array, data = made(widths, kind, 20_013, outliers=True)
    assert scattered.decode(data, expression, np.zeros_like(array))
    rng = np.random.default_rng(1)
    front, refused = 16 + 16 * len(expression.bits.parts), 0
    for turn in range(300):
        bad = data.copy()
        # Everywhere, and often where the structure is: head, descriptors, and what follows.
        at = rng.integers(0, data.size) if turn % 3 else rng.integers(0, front)
        bad[at] = rng.integers(0, 256) if turn % 2 else bad[at] ^ 1 << rng.integers(0, 8)
        if turn % 10 == 0:
            bad = held(bad[: rng.integers(1, data.size // 64 + 1) * 64])
        found = outcome(bad, expression, array)
        assert found == long_way(bad, expression, array)
        refused += isinstance(found, str)
    assert 50 < refused < 300


def test_masks_of_all_and_of_nothing():
    """These have kernels of their own, or none."""
    for share in (0, 1):
        units = np.full(4096, 0x3F80, np.uint16) + np.arange(4096, dtype=np.uint16) % 3
        units[: 4000 * share] = 0
        expression = Sparse(bits(6, 10, rotate=1))
        data = held(np.frombuffer(encode_chunk(units, expression), np.uint8))
        assert outcome(data, expression, units) == units.tobytes()
