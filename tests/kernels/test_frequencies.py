"""Normalised counts against their definition, and tables against their stored form."""

from __future__ import annotations

import numpy as np
import pytest

from slimtensors.entropy.tables import normalise, table_bytes
from slimtensors.kernels.cpu import frequencies, payload, table
from slimtensors.kernels.status import BAD_ARGUMENT, OK


def naive_normalise(counts: np.ndarray, precision: int) -> list[int]:
    """Exact fractions, in Python: one slot for the rare, the rest shared, the largest remainders rounded up."""
    slots, counts = 1 << precision, [int(c) for c in counts]
    small: set[int] = set()
    while True:
        left = slots - len(small)
        total = sum(c for s, c in enumerate(counts) if s not in small)
        more = {s for s, c in enumerate(counts) if s not in small and c > 0 and c * left < total}
        if not more:
            break
        small |= more
    found = [1 if s in small else c * left // total for s, c in enumerate(counts)]
    cuts = sorted((s for s in range(256) if s not in small), key=lambda s: (-(counts[s] * left % total), s))
    for s in cuts[: slots - sum(found)]:
        found[s] += 1
    if max(found) == slots:
        only = found.index(slots)
        found[only] -= 1
        found[only - 1 if only else 1] = 1
    return found


def cases() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    made = [np.eye(256, dtype=np.int64)[s] * 1000 for s in (0, 7, 255)]
    made += [np.ones(256, np.int64), np.arange(256, dtype=np.int64), (1 << np.arange(256) % 40).astype(np.int64)]
    for _ in range(200):
        counts = (rng.random(256) ** rng.integers(1, 40) * rng.integers(1, 1 << 20)).astype(np.int64)
        counts[rng.random(256) < rng.random()] = 0
        made += [counts] * bool(counts.any())
    return made


@pytest.mark.parametrize("precision", [11, 12])
def test_normalise(precision: int) -> None:
    for counts in cases():
        found = normalise(counts, precision)
        assert found.tolist() == naive_normalise(counts, precision)
        assert found.sum() == 1 << precision
        assert (found[counts > 0] > 0).all()


@pytest.mark.parametrize("precision", [11, 12])
def test_stored_tables_are_read_as_they_were(precision: int) -> None:
    for counts in cases():
        found = normalise(counts, precision)
        slots, again = np.zeros(table.SLOTS, np.uint32), np.zeros(table.SLOTS, np.uint32)
        assert table.build_table(found, precision, slots) == OK
        data = np.frombuffer(bytearray(table_bytes(found)), np.uint8)
        read = payload.read_table(data, data.size, precision, 0, again)
        assert read == data.size + 1024 * np.flatnonzero(found)[-1]
        assert np.array_equal(slots, again)
        assert payload.read_table(data[:-1], data.size - 1, precision, 0, again) == -1


def test_wrong_counts() -> None:
    out = np.zeros(256, np.uint16)
    for wrong in (np.zeros(256, np.int64), np.full(256, -1), np.full(256, 1 << 50), np.ones(255, np.int64)):
        assert frequencies.normalise(wrong, 12, out) == BAD_ARGUMENT
    assert frequencies.normalise(np.ones(256, np.int64), 13, out) == BAD_ARGUMENT
