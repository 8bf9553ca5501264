"""Differences decoded in few steps come out as they do the long way, and what one refuses the other refuses."""

from __future__ import annotations

import tracemalloc
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
import pytest

from slimtensors.codecs import straight_delta
from slimtensors.codecs.chunk import decode_chunk, encode_chunk
from slimtensors.codecs.place import Place
from slimtensors.container.source import aligned_empty
from slimtensors.dtypes import DTYPES
from slimtensors.errors import BaseError, FormatError
from slimtensors.expression import BaseContext, Bits, Delta, LowRank, Part
from slimtensors.kernels.cpu import delta_kernels

LENGTH = 96  # of a row
KINDS = ["plain", "rows", "classes", "rows and classes", "rows and many classes", "moved", "moved rows"]


class Made(NamedTuple):
    expression: Delta
    place: Place
    units: np.ndarray
    data: np.ndarray


def made(kind: str, units: int, dtype: str = "BF16", first: int = 0, length: int = LENGTH) -> Made:
    rng = np.random.default_rng(units)
    shape = -(-(first + units) // length), length
    base, factors = rng.standard_normal(shape).astype(np.float32) / 32, rng.integers(-40, 40, (2, max(shape)))
    present = (rng.random(shape[0]) < 0.6).astype(np.uint8)
    present[-1] = 1
    some = 10 if "many" in kind else 3
    classes = rng.integers(0, some, shape[0]).astype(np.uint8)
    given = narrow(base, dtype)
    base = widened(given, dtype)
    new = base + rng.standard_normal(shape).astype(np.float32) * (2.0 ** -(11 + 6.0 / some * classes[:, None])) * (
        rng.random(shape) < 0.7
    )
    sides, moved, side, rows = [present, classes], None, None, None
    if "moved" in kind:
        left, right = factors[0, : shape[0]].astype("<i2"), factors[1, : shape[1]].astype("<i2")
        sides += [left.view("<u2").reshape(-1, 1), right.view("<u2").reshape(1, -1)]
        moved = LowRank(2, 3, 20)
        new += np.outer(left, right).astype(np.float32) * np.float32(2.0**-20)
        base += np.outer(left, right).astype(np.float32) * np.float32(2.0**-20)
    fresh = narrow(new, dtype)
    if "rows" in kind:  # those that are left out are the base's, moved
        side, fresh = 0, np.where(present[:, None], fresh, narrow(base, dtype))
    if "classes" in kind:
        rows = 1
    context = BaseContext(8, 112, 11, rows, 1 if rows is None else some)
    if dtype == "F16":
        context = BaseContext(11, 2, 14, rows, context.classes)
    expression = Delta(Bits((Part(16, side, context),), 0), 0, moved)
    end = first + units
    place = Place(
        shape[0] * length, first, tuple(sides), DTYPES[dtype], np.ascontiguousarray(given.reshape(-1)[first:end])
    )
    array = np.ascontiguousarray(fresh.reshape(-1)[first:end])
    return Made(expression, place, array, held(np.frombuffer(encode_chunk(array, expression, place), np.uint8)))


def narrow(numbers: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "F16":
        return numbers.astype(np.float16).view(np.uint16)
    bits = np.ascontiguousarray(numbers, np.float32).view(np.uint32)
    return (bits + 0x7FFF + (bits >> 16 & 1) >> 16).astype(np.uint16)


def widened(units: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "F16":
        return units.view(np.float16).astype(np.float32)
    return (units.astype(np.uint32) << 16).view(np.float32)


def held(data: np.ndarray) -> np.ndarray:
    """Aligned as readers hand it over."""
    room = aligned_empty(data.size)
    room[:] = data
    return room


def straightly(case: Made) -> bytes | None:
    out = np.zeros_like(case.units)
    return out.tobytes() if straight_delta.decode(case.data, case.expression, out, case.place) else None


def outcome(case: Made) -> bytes | str:
    out = np.zeros_like(case.units)
    try:
        decode_chunk(case.data, case.expression, out, case.place)
    except (FormatError, BaseError) as error:
        return f"{type(error).__name__}: {error}"
    return out.tobytes()


def long_way(case: Made) -> bytes | str:
    with patch.object(straight_delta, "decode", lambda *_: False):
        return outcome(case)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_units_come_back(kind, dtype):
    taken = 0
    for units, first in ((127, 0), (128, 0), (1000, 96 * 5), (4096, 128), (70_001, 32), (196_608, 0)):
        case = made(kind, units, dtype, first)
        found = straightly(case)
        if found is None:
            assert case.data[0] != 2 or units < 1000  # literal, or no group of fields
        else:
            assert found == case.units.tobytes()
            assert case.data[16] == 4  # mode bypass
            taken += 1
        assert outcome(case) == long_way(case) == case.units.tobytes()
    assert taken >= 4


@pytest.mark.parametrize("kind", ["rows", "classes", "rows and classes"])
def test_rows_that_do_not_end_with_a_step(kind):
    """A step may then have two classes, which only the long way has; rows without classes go the short one."""
    for units, first, length in ((50_000, 0, 100), (50_000, 51, 96), (40_960, 7, 33)):
        case = made(kind, units, first=first, length=length)
        found = straightly(case)
        assert found == (None if "classes" in kind else case.units.tobytes())
        assert outcome(case) == long_way(case) == case.units.tobytes()


def test_flags_of_other_rows_than_classes():
    """Which nothing forbids: half as many rows are left out or not."""
    case = made("rows and classes", 128 * LENGTH)
    assert case.place.base is not None
    flags, classes = case.place.sides[0][::2].copy(), case.place.sides[1]
    array = np.where(np.repeat(flags, 2 * LENGTH) != 0, case.units, case.place.base)
    place = case.place._replace(sides=(flags, classes))
    data = held(np.frombuffer(encode_chunk(array, case.expression, place), np.uint8))
    case = Made(case.expression, place, array, data)
    assert straightly(case) is None
    assert outcome(case) == array.tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_seen_alike(kind):
    case = made(kind, 20_013)
    assert straightly(case) == case.units.tobytes()
    rng, refused = np.random.default_rng(1), 0
    for turn in range(300):
        bad = case.data.copy()
        # Everywhere, and often where the structure is: head, descriptor, tables, and what follows.
        at = rng.integers(0, (bad.size, 32, 400)[turn % 3])
        bad[at] = rng.integers(0, 256) if turn % 2 else bad[at] ^ 1 << rng.integers(0, 8)
        if turn % 10 == 0:
            bad = held(bad[: rng.integers(1, bad.size // 64 + 1) * 64])
        found = outcome(case._replace(data=bad))
        assert found == long_way(case._replace(data=bad))
        refused += isinstance(found, str)
    assert 100 < refused < 300


@pytest.mark.parametrize("kind", KINDS)
def test_another_base_is_refused(kind):
    case = made(kind, 20_013)
    assert case.place.base is not None
    for at in (0, 7_000, 20_012):
        base = case.place.base.copy()
        base[at] ^= 1
        wrong = case._replace(place=case.place._replace(base=base))
        assert straightly(wrong) is None
        assert "it is another base" in str(outcome(wrong))


def test_tables_that_are_absent():
    """A chunk says so of those that no unit selects; with another base of the same digest, units would."""
    case = made("plain", 20_013)
    assert case.place.base is not None
    case.place.base[:] = 0x3C00 + case.place.base % 0x80  # one exponent
    array = case.place.base ^ np.arange(20_013, dtype=np.uint16) % 3
    data = held(np.frombuffer(encode_chunk(array, case.expression, case.place), np.uint8))
    case = case._replace(units=array, data=data)
    assert straightly(case) == array.tobytes()
    other = case.place.base - np.uint16(0x80)
    with patch("slimtensors.codecs.delta.decoded_digest", lambda _: int(data[8:16].view("<u8")[0])):
        bad = case._replace(place=case.place._replace(base=other))
        assert straightly(bad) is None
        assert "absent" in str(outcome(bad)) or "does not end" in str(outcome(bad))


def test_a_base_that_is_read_only_needs_no_kernel_of_its_own():
    case = made("plain", 20_013)
    assert straightly(case) == case.units.tobytes()
    assert case.place.base is not None
    case.place.base.flags.writeable = False
    assert straightly(case) == case.units.tobytes()
    assert len(getattr(delta_kernels.decode_u16, "signatures", [None])) == 1


def test_lines_of_long_rows_take_no_more_than_the_chunk() -> None:
    """A class of a row of 2^31 units is repeated for the chunk's 512 Ki alone."""
    context = BaseContext(7, 100, 4, rows=0, classes=2)
    place = Place(1 << 32, (1 << 31) - (1 << 18), (np.array([0, 1], np.uint8),))
    tracemalloc.start()
    try:
        lines = straight_delta._lines(context, None, place, 1 << 19)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert lines is not None
    np.testing.assert_array_equal(lines, np.repeat([0, 1], 1 << 13))
