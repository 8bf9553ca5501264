"""Chunks decoded in few steps come out as they do the long way, and what one refuses the other refuses."""

from __future__ import annotations

from unittest.mock import patch

import ml_dtypes
import numpy as np
import pytest

from slimtensors.codecs import coded, straight, trellis
from slimtensors.codecs.chunk import decode_chunk, encode_chunk
from slimtensors.codecs.layouts import floats, unsigned
from slimtensors.codecs.place import Place
from slimtensors.container.source import aligned_empty
from slimtensors.dtypes import DTYPES
from slimtensors.errors import FormatError
from slimtensors.expression import Bits, Part, Trellis

PLANS = [
    ("BF16", "fast"),
    ("BF16", "balanced"),
    ("F16", "fast"),
    ("F32", "fast"),
    ("F32", "balanced"),
    ("F32", "none is negative"),
    ("F8_E4M3", "fast"),
]


def made(name: str, preset: str, units: int, *, outliers: bool = False) -> tuple[Bits, np.ndarray, np.ndarray]:
    """(expression, units, chunk)"""
    rng = np.random.default_rng(units)
    numbers = (rng.standard_normal(units) / 32).astype(np.float32)
    if outliers:
        numbers[:: max(1, units // 9)] *= np.float32(2.0) ** rng.integers(-60, 60, numbers[:: max(1, units // 9)].size)
    bits = numbers.view(np.uint32)
    kinds = {
        "BF16": lambda: (bits >> 16).astype(np.uint16),
        "F16": lambda: np.clip(numbers, -9, 9).astype(np.float16).view(np.uint16),
        "F32": lambda: bits,
        "F8_E4M3": lambda: np.clip(32 * numbers, -240, 240).astype(ml_dtypes.float8_e4m3fn).view(np.uint8),
    }
    array = kinds[name]().astype(DTYPES[name].unit)
    if preset == "none is negative":
        array &= array.dtype.type((1 << DTYPES[name].bits - 1) - 1)
        expression = unsigned(DTYPES[name], "balanced")
    else:
        expression = floats(DTYPES[name], preset)
    return expression, array, held(np.frombuffer(encode_chunk(array, expression), np.uint8))


def held(data: np.ndarray) -> np.ndarray:
    """Aligned as readers hand it over."""
    room = aligned_empty(data.size)
    room[:] = data
    return room


def outcome(data: np.ndarray, expression: Bits, like: np.ndarray) -> bytes | str:
    out = np.zeros_like(like)
    try:
        decode_chunk(data, expression, out)
    except FormatError as error:
        return str(error)
    return out.tobytes()


def long_way(data: np.ndarray, expression: Bits, like: np.ndarray) -> bytes | str:
    with patch.object(straight, "decode", lambda *_: False):
        return outcome(data, expression, like)


@pytest.mark.parametrize(("name", "preset"), PLANS)
@pytest.mark.parametrize("searches", [False, True])
def test_units_come_back(name, preset, searches, monkeypatch):
    monkeypatch.setattr(straight.instruction_set, "searches", lambda: searches)
    straight._plan.cache_clear()
    for units in (128, 129, 1000, 4096, 70_001, 300_001):
        for outliers in (False, True):
            expression, array, data = made(name, preset, units, outliers=outliers)
            out = np.zeros_like(array)
            # Small chunks may be literal; of those that are coded, none may take the long way.
            assert straight.decode(data, expression, out) == (data[0] == 2)
            assert outcome(data, expression, array) == array.tobytes()
            assert long_way(data, expression, array) == array.tobytes()
    straight._plan.cache_clear()


@pytest.mark.parametrize(("name", "preset"), PLANS)
def test_chunks_are_made_alike(name, preset, monkeypatch):
    straightly = 0
    for units in (127, 128, 129, 1000, 4096, 70_001, 140_000, 300_001):
        for outliers in (False, True):
            expression, array, data = made(name, preset, units, outliers=outliers)
            direct = straight.encode(array, expression, lambda length: np.full(length + 9, 255, np.uint8))
            if direct is not None:
                straightly += 1
                assert bytes(direct) == data.tobytes()
            for registers in (False, True):
                monkeypatch.setattr(coded, "_finds_in_registers", lambda found=registers: found)
                with patch.object(straight, "encode", lambda *_: None):
                    assert bytes(encode_chunk(array, expression)) == data.tobytes()
    assert straightly >= 4 or name.startswith("F8")


@pytest.mark.parametrize("at", [0, 2000, 4095, 4100])
def test_a_number_below_zero_among_others(at):
    expression, array, data = made("F32", "none is negative", 4101)
    array[at] |= 1 << 31
    stored = held(np.frombuffer(encode_chunk(array, expression), np.uint8))
    # The last five fill no group, and lie apart from all planes.
    assert (straight.encode(array, expression, lambda length: np.empty(length, np.uint8)) is None) == (at < 4096)
    assert straight.decode(stored, expression, np.zeros_like(array)) == (at >= 4096)
    assert outcome(stored, expression, array) == array.tobytes()
    assert stored.size >= data.size


def test_memory_may_be_short():
    expression, array, _data = made("BF16", "balanced", 4096)
    noise = np.random.default_rng(1).integers(0, 1 << 16, 4096).astype(np.uint16)
    assert straight.encode(noise, expression, lambda length: np.empty(length, np.uint8)) is None
    assert encode_chunk(noise, expression)[0] == 0
    assert straight.encode(array[:0], expression, lambda length: np.empty(length, np.uint8)) is None


@pytest.mark.parametrize(("name", "preset"), PLANS)
def test_damage_is_seen_alike(name, preset):
    expression, array, data = made(name, preset, 4101, outliers=True)
    assert data[0] == 2
    rng = np.random.default_rng(1)
    front = 16 + 16 * len(expression.parts)
    refused = 0
    for turn in range(300):
        bad = data.copy()
        # Everywhere, and often where the structure is: head, descriptors, and what follows the raw planes.
        at = rng.integers(0, data.size) if turn % 3 else rng.integers(0, front)
        bad[at] = rng.integers(0, 256) if turn % 2 else bad[at] ^ 1 << rng.integers(0, 8)
        if turn % 10 == 0:
            bad = held(bad[: rng.integers(1, data.size // 64 + 1) * 64])
        found = outcome(bad, expression, array)
        assert found == long_way(bad, expression, array)
        refused += isinstance(found, str)
    assert 50 < refused < 300


def grid(name: str, states: int, width: int, *, scaled: bool) -> tuple[Trellis, Place, np.ndarray, np.ndarray]:
    """(expression, place, units, chunk), with rare codes that are escapes."""
    rng, middle = np.random.default_rng(width + states), 1 << width - 1
    codes = np.clip(np.rint(rng.standard_normal(262_144) * 2), -middle, middle - 1)
    codes[30_000] = -(middle - 1)
    sides = tuple(np.exp2(rng.uniform(-2, 2, n)).astype(np.float32).view(np.uint32) for n in (527, 500))
    where = (0, 1) if scaled else ()
    expression = Trellis(states, int(np.float32(0.1).view(np.uint32)), middle, Bits((Part(width),)), *where)
    place = Place(527 * 500, 77, sides, DTYPES[name])
    units = np.empty(codes.size + 5, DTYPES[name].unit)
    trellis.decode(expression, (codes + middle).astype(np.uint8), units[:-5], place)
    units[-5:] = 3
    return expression, place, units, held(np.frombuffer(encode_chunk(units, expression, place), np.uint8))


@pytest.mark.parametrize("name", ["F32", "BF16", "F16"])
@pytest.mark.parametrize(("states", "width", "scaled"), [(1, 8, False), (1, 5, False), (8, 8, False), (1, 8, True)])
@pytest.mark.parametrize("searches", [False, True])
def test_codes(name, states, width, scaled, searches, monkeypatch):
    """Sound and damaged, they come out as they do the long way."""
    monkeypatch.setattr(straight.instruction_set, "searches", lambda: searches)
    straight._code_plan.cache_clear()
    expression, place, units, data = grid(name, states, width, scaled=scaled)
    opened = straight.open_codes(data, expression.bits, np.zeros_like(units))
    assert opened is not None
    assert (opened.tree is not None) == searches
    assert opened.escapes.positions.size or width < 8
    rng, refused = np.random.default_rng(1), 0
    for turn in range(41):
        bad = data.copy()
        at = rng.integers(0, data.size if turn % 3 else 400)
        bad[at] ^= 1 << rng.integers(0, 8) if turn else 0
        found = []
        for way in (straight.open_codes, lambda *_: None):
            out = np.zeros_like(units)
            with patch.object(straight, "open_codes", way):
                try:
                    decode_chunk(bad, expression, out, place)
                    found.append(out.tobytes())
                except FormatError as error:
                    found.append(str(error).removeprefix("plane 0: "))
        assert found[0] == found[1]
        refused += isinstance(found[0], str)
        assert turn or found[0] == units.tobytes()
    assert refused > 20
    straight._code_plan.cache_clear()


def test_a_few_chunks_with_many_strays_are_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    """For so few no other kernel is compiled; what comes out is the same."""
    rng, size = np.random.default_rng(2), 1 << 15
    numbers = (rng.standard_normal(size) * np.exp2(rng.uniform(-12, 12, size))).astype(np.float32)
    units, bits = (numbers.view(np.uint32) >> 16).astype(np.uint16), floats(DTYPES["BF16"], "balanced")
    stored = encode_chunk(units, bits, Place(size))
    data = aligned_empty(len(stored))
    data[:] = np.frombuffer(stored, np.uint8)
    plan, used = straight._plan(2, bits.widths), []
    assert plan is not None
    search = straight.SEARCHES[bits.widths]
    spied = plan._replace(
        decode=lambda *given: (used.append("look up"), plan.decode(*given))[1],
        search=lambda *given: (used.append("search"), search(*given))[1],
    )
    monkeypatch.setitem(straight._odd, "left", 2)
    for _ in range(3):
        out = np.zeros_like(units)
        with patch.object(straight, "_plan", lambda *_: spied):
            assert straight.decode(data, bits, out)
        assert np.array_equal(out, units)
    assert used == ["search", "search", "look up"]
