"""Differences from a base, by the library: what is given comes back, and a wrong base is refused."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import decode
import slimtensors.numpy
from slimtensors.codecs.chunk import decode_chunk, encode_chunk
from slimtensors.codecs.place import Place
from slimtensors.container.digest import new_identity
from slimtensors.container.header import Base
from slimtensors.container.writer import MemoryOutput
from slimtensors.dtypes import DTYPES, bytes_of, from_numpy, units_of
from slimtensors.errors import BaseError
from slimtensors.expression import BaseContext, Bits, ClassContext, Delta, Part
from slimtensors.planning.differing import MatchedBase
from slimtensors.planning.planner import make_plan
from slimtensors.reading.scheduling import Piece
from slimtensors.reading.tensors import open_file
from slimtensors.sources.inputs import ArrayInput
from slimtensors.writing.saving import write_plan

VALID = Path(__file__).resolve().parents[2] / "format_spec" / "vectors" / "valid"
FLOATS = ["bfloat16", "float16", "float32", "float64", "complex64", "float8_e4m3fn", "float8_e5m2"]
INTEGERS = ["int8", "uint8", "int16", "int32", "int64", "uint64"]


def numpy_dtype(name: str) -> np.dtype:
    return np.dtype(getattr(ml_dtypes, name, None) or name)


def matched(array: np.ndarray) -> MatchedBase:
    dtype = from_numpy(array.dtype)
    units = units_of(array, dtype)
    identity = bytes(new_identity(bytes_of(units)).digest())
    return MatchedBase(Base(dtype, array.shape, identity, {"name": "w"}), lambda start, n: units[start : start + n])


class One:
    """A file's only base."""

    def __init__(self, base: MatchedBase) -> None:
        self.base = base

    def read(self, _index: int, _base: Base, start: int, count: int) -> np.ndarray:
        return self.base.read(start, count)

    def stored(self, _base: Base) -> None:
        """It is in memory."""

    def settle(self, _base: Base) -> bool:
        return False

    def close(self) -> None:
        """Nothing was opened."""


def saved(array: np.ndarray, base: MatchedBase, threads: int = 1) -> bytes:
    inputs = [ArrayInput("w", array)]
    output = MemoryOutput()
    write_plan(make_plan(inputs, bases=[base]), inputs, output, threads=threads)
    return output.getvalue()


def pair(name: str, rows: int, base_rows: int, columns: int = 515) -> tuple[np.ndarray, np.ndarray]:
    """A tensor and its base: moved a little, some rows not at all, with all that is odd about floats."""
    rng = np.random.default_rng(rows)
    dtype = numpy_dtype(name)
    most = max(rows, base_rows)
    if dtype.kind in "iu":
        base = rng.integers(0, 100, (most, columns)).astype(dtype)
        array = base + rng.integers(0, 3, base.shape).astype(dtype)
    else:
        values = rng.normal(0, 0.04, (most, columns))
        base = values.astype(dtype)
        array = (values + rng.normal(0, 0.0002, base.shape)).astype(dtype)
        odd = np.array([0.0, -0.0, 1.0, -1.0, np.nan, 5e-8, -5e-8], dtype)
        array[0, :7], array[1, 7:14] = odd, odd[::-1]
        base[2, :7], base[1, :7] = odd, odd
    array[most // 2 : most // 2 + most // 4] = base[most // 2 : most // 2 + most // 4]
    return np.ascontiguousarray(array[:rows]), np.ascontiguousarray(base[:base_rows])


@pytest.mark.parametrize("name", FLOATS + INTEGERS)
@pytest.mark.parametrize(("rows", "base_rows"), [(301, 200), (200, 301)])
def test_round_trip(name: str, rows: int, base_rows: int) -> None:
    array, base = pair(name, rows, base_rows)
    match = matched(base)
    data = saved(array, match)
    units = units_of(array, from_numpy(array.dtype))
    with open_file(data, bases=One(match)) as file:
        assert isinstance(file.header.streams[-1].expression, Delta)
        assert np.array_equal(file.read(0, 2), units)
    assert len(data) < len(slimtensors.numpy.save({"w": array}))
    assert saved(array, match, threads=3) == data


def test_reference_reads_what_the_library_writes() -> None:
    array, base = pair("bfloat16", 300, 280)
    data = saved(array, matched(base))
    file = decode.decode_file(data, bases=lambda _identity: base.tobytes())
    assert file.tensors["w"][2] == array.tobytes()


def test_equal_to_the_base_costs_nothing() -> None:
    _array, base = pair("bfloat16", 2000, 2000)
    assert len(saved(base.copy(), matched(base))) < base.nbytes // 1024 + 1500


def test_plain_where_the_base_is_no_help() -> None:
    rng = np.random.default_rng(1)
    array, base = (rng.normal(0, 0.04, (400, 500)).astype(np.float32) for _ in range(2))
    assert saved(array, matched(base)) == slimtensors.numpy.save({"w": array})


def test_a_missing_base_is_named() -> None:
    array, base = pair("bfloat16", 400, 400)
    match = matched(base)
    data = saved(array, match)
    with pytest.raises(BaseError, match=match.base.identity.hex()):
        slimtensors.numpy.load(data)


def test_a_changed_base_is_refused() -> None:
    array, base = pair("bfloat16", 400, 400)
    data = saved(array, matched(base))
    changed = base.copy()
    changed[-1, -1] += 1
    with open_file(data, verify="none", bases=One(matched(changed))) as file, pytest.raises(BaseError, match="digest"):
        file.read(0, 1)


CONTEXTS = [BaseContext(8, 100, 24), BaseContext(8, 121, 2), BaseContext(2, 7900, 64), BaseContext(15, 0, 2)]


@pytest.mark.parametrize("context", [*CONTEXTS, ClassContext(0, 1, 0), ClassContext(0, 1, 4), None])
@pytest.mark.parametrize("blocks_of", [200, 1000, 9000, 70_000, 140_000, 300_000])
def test_contexts(context: BaseContext | ClassContext | None, blocks_of: int) -> None:
    """Sizes that give one block, odd numbers of them, and many."""
    rng = np.random.default_rng(blocks_of)
    values = rng.normal(0, 0.04, blocks_of)
    base = values.astype(ml_dtypes.bfloat16).view(np.uint16)
    units = (values + rng.normal(0, 1e-3, blocks_of)).astype(ml_dtypes.bfloat16).view(np.uint16)
    rows, columns = rng.integers(0, 16, blocks_of // 50).astype(np.uint8), rng.integers(0, 16, 50).astype(np.uint8)
    place = Place(blocks_of, 0, (rows, columns), DTYPES["BF16"], base)
    expression = Delta(Bits((Part(16, context=context),)), 0)
    chunk = np.frombuffer(bytearray(encode_chunk(units, expression, place)), np.uint8)
    out = np.empty_like(units)
    decode_chunk(chunk, expression, out, place)
    assert np.array_equal(out, units)


@pytest.mark.parametrize("first", [0, 1, 4999, 123_457])
def test_row_classes(first: int) -> None:
    """Chunks that begin anywhere in a row."""
    rng = np.random.default_rng(first)
    classes = rng.integers(0, 10, 300).astype(np.uint8)
    values = rng.normal(0, 0.04, 150_000)
    moves = rng.normal(0, 1e-3, 150_000) * (rng.random(150_000) < np.repeat(2.0 ** (classes - 9.0), 500))
    base = values.astype(ml_dtypes.bfloat16).view(np.uint16)[first:]
    units = (values + moves).astype(ml_dtypes.bfloat16).view(np.uint16)[first:]
    place = Place(150_000, first, (classes,), DTYPES["BF16"], base)
    sizes = []
    for context in (BaseContext(8, 100, 24), BaseContext(8, 100, 24, 0, 10)):
        expression = Delta(Bits((Part(16, context=context),)), 0)
        chunk = np.frombuffer(bytearray(encode_chunk(units, expression, place)), np.uint8)
        out = np.empty_like(units)
        decode_chunk(chunk, expression, out, place)
        assert np.array_equal(out, units)
        sizes.append(chunk.size)
    assert sizes[1] < 0.9 * sizes[0] or first > 100_000


def test_rows_that_differ_by_more_or_less_are_found() -> None:
    rng = np.random.default_rng(5)
    values = rng.normal(0, 0.04, (600, 400))
    share = 2.0 ** -rng.integers(0, 9, 600)
    share[:200] = 0
    moves = rng.normal(0, 1e-3, values.shape) * (rng.random(values.shape) < share[:, None])
    base, array = values.astype(ml_dtypes.bfloat16), (values + moves).astype(ml_dtypes.bfloat16)
    data = saved(array, matched(base))
    assert saved(array, matched(base), threads=3) == data
    read = decode.decode_file(data, bases=lambda _identity: base.tobytes())
    assert read.tensors["w"][2] == array.tobytes()
    assert b'"rows":[1,10]' in data


@pytest.mark.parametrize("octave", [0, 4, 16])
@pytest.mark.parametrize("width", [8, 10])
def test_classes_in_mode_coded(octave: int, width: int) -> None:
    rng = np.random.default_rng(width)
    rows, columns = rng.integers(0, 8, 300).astype(np.uint8), rng.integers(0, 8, 500).astype(np.uint8)
    classes = rows[:, None].astype(int) + columns
    fields = np.minimum(octave * (classes // 4) + rng.geometric(0.4, classes.shape), (1 << width) - 1)
    fields[rng.random(fields.shape) < 0.01] = 0
    units = fields.astype(np.uint16).ravel()
    place = Place(units.size, 0, (rows, columns))
    expression = Bits((Part(width, context=ClassContext(0, 1, octave)),))
    data = encode_chunk(units, expression, place)
    assert data[0] == 2
    assert data[16] == (2 if width == 8 or octave else 4)  # coded, bypass
    out = np.empty_like(units)
    decode_chunk(np.frombuffer(bytearray(data), np.uint8), expression, out, place)
    assert np.array_equal(out, units)
    if octave:
        assert len(data) < len(encode_chunk(units, Bits((Part(width),)), place))


def merged_pair(name: str, rows: int, columns: int, rank: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """A tensor with an adapter merged into it, and its base; rows past the base's end, and what is not finite."""
    rng = np.random.default_rng(columns)
    base = rng.normal(0, 0.04, (rows, columns)).astype(numpy_dtype(name))
    adapter = rng.normal(0, 0.03, (rows, rank)) @ rng.normal(0, 0.03, (rank, columns))
    array = (base.astype(np.float64) + adapter).astype(base.dtype)
    array[0, :3], base[1, :3] = [np.nan, np.inf, -0.0], [-np.inf, np.nan, -0.0]
    return array, base[:-5]


@pytest.mark.parametrize("name", ["bfloat16", "float16", "float32"])
def test_a_merged_adapter_is_found(name: str) -> None:
    array, base = merged_pair(name, 505, 384)
    match = matched(base)
    data = saved(array, match)
    with open_file(data, bases=One(match)) as file:
        expression = file.header.streams[-1].expression
        assert isinstance(expression, Delta)
        assert expression.moved is not None
        left, right = file.header.tensors[0].sides
        assert (left.shape[0], right.shape[1]) == (505, 384)
        assert left.shape[1] in (8, 16)  # the rows past the base's end count too
        units = units_of(array, from_numpy(array.dtype))
        assert np.array_equal(file.read(0, 2), units)
        part = np.empty(50_000, units.dtype)
        file.fill([Piece(0, 70_001, part)], 1)  # it begins in mid-row
        assert np.array_equal(part, units[70_001:120_001])
    assert len(data) < array.nbytes / 4
    assert saved(array, match, threads=3) == data


def test_the_reference_reads_a_merged_adapter() -> None:
    array, base = merged_pair("bfloat16", 200, 200, rank=4)
    data = saved(array, matched(base))
    assert b'"matmul"' in data
    assert decode.decode_file(data, bases=lambda _identity: base.tobytes()).tensors["w"][2] == array.tobytes()


def test_noise_is_not_predicted() -> None:
    rng = np.random.default_rng(3)
    base = rng.normal(0, 0.04, (512, 512)).astype(ml_dtypes.bfloat16)
    array = (base.astype(np.float32) + rng.normal(0, 1e-3, base.shape)).astype(ml_dtypes.bfloat16)
    assert b'"matmul"' not in saved(array, matched(base))
