"""The preset `small`: signs and classes told by a product of low rank, and every bit given back."""

from __future__ import annotations

import re
from dataclasses import replace

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from api.made import same
from slimtensors import safe_open
from slimtensors.cli.why import explain
from slimtensors.codecs import classes, layouts
from slimtensors.codecs.chunk import chunk_length, chunk_lengths, decode_chunk, encode_chunk
from slimtensors.codecs.contexts import contexts_of
from slimtensors.codecs.place import Place
from slimtensors.container.source import aligned_empty
from slimtensors.detect.classes import fit_classes, with_classes
from slimtensors.detect.means import Means, fit_means, with_mean
from slimtensors.dtypes import units_of
from slimtensors.expression import Bits, FactorContext, Part
from slimtensors.numpy import load, save
from slimtensors.reading.tensors import open_file
from slimtensors.sources.inputs import ArrayInput

Array = npt.NDArray[np.generic]

DTYPES = ["bfloat16", "float16", "float32", "float8_e4m3fn", "float8_e5m2"]


def expected(dtype: str, shape: tuple[int, ...], rank: int = 3, seed: int = 5) -> Array:
    """Numbers about a product of low rank, with scales of rows and columns."""
    rng = np.random.default_rng(seed)
    rows, columns = shape[0], int(np.prod(shape[1:]))
    means = rng.normal(0, 1, (rows, rank)) @ rng.normal(0, 0.7, (rank, columns))
    scales = 2 ** rng.uniform(-2, 2, (rows, 1)) * 2 ** rng.uniform(-2, 2, (1, columns))
    values = (means + rng.normal(0, 1, (rows, columns))) * scales * 0.04
    found: Array = values.reshape(shape).astype(getattr(ml_dtypes, dtype, dtype))
    return found


@pytest.mark.parametrize("dtype", DTYPES)
def test_round_trip(dtype: str) -> None:
    shapes = [(257, 385), (900, 600), (3000, 33), (33, 3000), (64, 33, 3, 5)]
    tensors = {str(shape): expected(dtype, shape) for shape in shapes}
    odd = expected(dtype, (300, 300))
    odd[7] = 0
    odd[:, 9] = 0
    odd[11, 13] = np.nan
    odd[12] = odd[12] * odd.dtype.type(1e-5)  # subnormal in the narrow dtypes
    if dtype in ("bfloat16", "float32"):
        odd[13] = odd[13] * odd.dtype.type(1e38)
        odd[14, :3] = np.inf
    tensors["odd"] = odd
    data = save(tensors, preset="small", threads=1)
    again = load(data)
    assert all(same(again[name], tensors[name]) for name in tensors)
    assert save(tensors, preset="small", threads=3) == data
    words = str(explain(data)["(900, 600)"])
    assert "which sign to expect" in words
    plain, scales, both = map(float, re.findall(r"takes plain (.*), with the scales (.*), with .* (.*) bits", words)[0])
    assert plain > scales > both


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_smaller_and_slices(dtype: str) -> None:
    with_means, without = expected(dtype, (900, 600)), expected(dtype, (900, 600), rank=1)
    without = np.abs(without) * np.random.default_rng(4).choice([-1, 1], without.shape).astype(without.dtype)
    small, plain = (len(save({"a": a}, preset="small")) for a in (with_means, without))
    assert 8 * (plain - small) / with_means.size > 0.3  # bits per weight
    with safe_open(save({"a": with_means}, preset="small"), framework="np") as file:
        rows = file.get_slice("a")
        for low, high in ((0, 1), (3, 4), (211, 899), (899, 900)):
            assert same(rows[low:high], with_means[low:high])


def test_rows_that_lack_bits_too() -> None:
    array = np.array(expected("float32", (900, 600)), np.float32)
    array[::2] = array[::2].astype(np.float16)
    data = save({"a": array}, preset="small")
    assert same(load(data)["a"], array)
    assert "which sign to expect" in str(explain(data)["a"])


def fitted(array: Array) -> tuple[ArrayInput, Means, Bits]:
    tensor = ArrayInput("a", array)
    classes = fit_classes(tensor)
    assert classes is not None
    means = fit_means(tensor, classes)
    assert means is not None
    return tensor, means, with_mean(layouts.floats(tensor.dtype, "small"), tensor.dtype, 0, means)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("first", [0, 5000])
def test_one_pass_gives_what_planes_give(dtype: str, first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    array = expected(dtype, (200, 333))
    tensor, means, bits = fitted(array)
    place = Place(array.size, first, (*means.classes, means.factors), tensor.dtype)
    units = tensor.read(first, 60_001)
    stored = encode_chunk(units, bits, place)
    data = aligned_empty(len(stored))
    data[:] = np.frombuffer(stored, np.uint8)
    out = np.zeros_like(units)
    assert classes.decode(data, bits, out, place)
    assert np.array_equal(out, units)
    monkeypatch.setattr(classes, "decode", lambda *_: False)
    out[:] = 0
    decode_chunk(data, bits, out, place)
    assert np.array_equal(out, units)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [100, 129, 1000, 66_000])
def test_lengths_by_counts(dtype: str, count: int) -> None:
    """What a trial counts is what the chunk then takes."""
    array = expected(dtype, (200, 333))
    tensor, means, bits = fitted(array)
    plain = layouts.floats(tensor.dtype, "small")
    place = Place(array.size, 333, (*means.classes, means.factors), tensor.dtype)
    units = tensor.read(333, count)
    for given in (plain, with_classes(plain, tensor.dtype, 0), bits):
        taken = len(encode_chunk(units, given, place))
        # Rounding to 64 bytes, the states' share, and what payloads' alignment takes.
        assert abs(chunk_length(units, given, place) - taken) < 500 + 0.002 * taken


@pytest.mark.parametrize("dtype", DTYPES)
def test_counts_of_a_trial(dtype: str) -> None:
    """They give the same chunk; others, of a tensor that changed meanwhile, one that is sound."""
    array = expected(dtype, (200, 333))
    tensor, means, bits = fitted(array)
    place = Place(array.size, 0, (*means.classes, means.factors), tensor.dtype)
    units = tensor.read(0, array.size)
    changed = units.copy()
    changed[: units.size // 2] = np.random.default_rng(1).permutation(changed)[: units.size // 2]
    narrow = np.full_like(units, units[0])
    narrow[::2] = units[1]
    [(_length, counted)] = chunk_lengths(units, [bits], place)
    assert counted is not None
    assert encode_chunk(units, bits, place._replace(counted=counted)) == encode_chunk(units, bits, place)
    for given in (changed, narrow):
        stored = encode_chunk(given, bits, place._replace(counted=counted))
        data, out = aligned_empty(len(stored)), np.zeros_like(given)
        data[:] = np.frombuffer(stored, np.uint8)
        decode_chunk(data, bits, out, place)
        assert np.array_equal(out, given)
    [(_length, few)] = chunk_lengths(narrow, [bits], place)
    assert few is not None
    assert encode_chunk(units, bits, place._replace(counted=few)) == encode_chunk(units, bits, place)


def test_no_mean_where_hardly_anything_is_expected() -> None:
    """Its first directions promise less than side planes and headers take: it is given up there."""
    array = expected("bfloat16", (300, 300), rank=1)
    array = (array.astype(np.float32) * np.random.default_rng(1).choice([-1, 1], array.shape)).astype(array.dtype)
    tensor = ArrayInput("a", array)
    classes = fit_classes(tensor)
    assert classes is not None
    assert fit_means(tensor, classes) is None


@pytest.mark.parametrize(("dtype", "first_side"), [("bfloat16", 0), ("float32", 1)])
def test_factors_given_their_rows(dtype: str, first_side: int) -> None:
    """Rows of which some are small and hardly differ, as those of tokens that were never trained."""
    array = expected(dtype, (3000, 256), rank=12)
    array[::3] = array[::3][:1] * np.float32(0.05)
    if first_side:
        array[::2] = array[::2].astype(np.float16)
    data = save({"a": array}, preset="small")
    with open_file(data) as file:
        (sides,) = file.header.side_streams.values()
        (context,) = file.header.streams[sides[-1]].bits.contexts
        assert isinstance(context, FactorContext)
        assert (context.rows, context.columns) == (first_side, first_side + 1)
        assert context.classes > 1
    assert same(load(data)["a"], array)


@pytest.mark.parametrize("classes", [1, 5, 31])
def test_factors_in_chunks(classes: int) -> None:
    """Chunks that begin anywhere select the tables that the whole selects."""
    rng = np.random.default_rng(7)
    rows, columns = rng.integers(0, 40, 70, np.uint8), rng.integers(0, 4, 30, np.uint8)
    factors = (128 + rng.normal(size=(64, 100)) * 4).astype(np.uint8).reshape(-1)
    context = FactorContext(0, 1, 6, classes)
    whole = contexts_of(context, Place(6400, 0, (rows, columns)), 6400, None)
    m = np.append(np.clip(rows.astype(int) - 6, 0, classes - 1), [classes] * 30)
    assert whole.values.tolist() == [int(t).bit_length() * (classes + 1) + int(k) for t in range(64) for k in m]
    assert whole.tables == 7 * (classes + 1) > whole.values.max()
    bits = Bits((Part(8, None, context),))
    for first, count in ((0, 6400), (1, 5000), (3333, 1280), (6272, 128)):
        place, out = Place(6400, first, (rows, columns)), np.zeros(count, np.uint8)
        units = factors[first : first + count]
        stored = encode_chunk(units, bits, place)
        data = aligned_empty(len(stored))
        data[:] = np.frombuffer(stored, np.uint8)
        decode_chunk(data, bits, out, place)
        assert np.array_equal(out, units)


def test_means_are_found() -> None:
    array = expected("bfloat16", (1000, 400), rank=2)
    _tensor, means, _bits = fitted(array)
    assert 2 <= len(means.factors) <= 4
    assert sum(means.groups) == len(means.factors)
    weights = np.repeat(2 ** np.arange(len(means.groups)), means.groups)[:, None]
    factors = means.factors.astype(int) - 128
    sums = (factors[:, :1000] * weights).T @ factors[:, 1000:]
    agree = np.sign(sums) == np.sign(array.astype(np.float32))
    strong = np.abs(sums) > np.quantile(np.abs(sums), 0.8)
    assert agree[strong].mean() > 0.9


@pytest.mark.parametrize("least", [0, 1])
def test_units_of_another_expectation(least: int) -> None:
    """A chunk that the mean tells nothing of is stored all the same."""
    array = expected("bfloat16", (200, 333))
    tensor, means, bits = fitted(array)
    place = Place(array.size, 0, (*means.classes, means.factors), tensor.dtype)
    noise = np.random.default_rng(1).integers(least, 1 << 16, 50_000).astype(np.uint16)
    for units in (noise, np.full(50_000, 0x8000, np.uint16), noise & 0x7FFF, units_of(array, tensor.dtype) ^ 0x8000):
        stored = encode_chunk(units, bits, place)
        data = aligned_empty(len(stored))
        data[:] = np.frombuffer(stored, np.uint8)
        out = np.zeros_like(units)
        decode_chunk(data, replace(bits), out, place)
        assert np.array_equal(out, units)
