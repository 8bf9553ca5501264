"""Kernels that find directions, beside NumPy's ways to about the same: part of the program check.py."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import ml_dtypes
import numpy as np

from slimtensors.detect.subspace import form_of
from slimtensors.dtypes import DTYPES
from slimtensors.kernels.cpu import directions, scales
from slimtensors.kernels.cpu import whole_directions as whole
from slimtensors.kernels.status import BAD_ARGUMENT, OK

SHAPES = ((1, 32), (3, 33), (64, 70), (67, 97), (130, 131))
FLOATS = {
    "F32": np.float32, "BF16": ml_dtypes.bfloat16, "F16": np.float16, "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
}  # fmt: skip
FAR = np.float32(6)


def bits(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1).view(np.uint32)


def check_directions(rng: np.random.Generator) -> Iterator[np.ndarray]:
    """The last bits are for the digest, that all machines share."""
    for n, m in SHAPES:
        matrix = rng.standard_normal((n, m), dtype=np.float32)
        right = rng.standard_normal((m, 32), dtype=np.float32)
        out, turned = np.empty(32 * n, np.uint32), np.empty(32 * m, np.uint32)
        work = np.empty(32 * directions.ROWS, np.uint32)
        assert directions.products(matrix.reshape(-1), bits(right), out) == OK
        expected = matrix.astype(np.float64) @ right
        assert np.allclose(out.view(np.float32).reshape(n, 32), expected, atol=1e-4)
        assert directions.turn(matrix.reshape(-1), bits(right), work, turned) == OK
        expected = matrix.T.astype(np.float64) @ expected
        assert np.allclose(turned.view(np.float32).reshape(m, 32), expected, atol=1e-3 * np.abs(expected).max())
        sums = np.zeros(m)
        assert directions.add_squares(matrix.reshape(-1), sums) == OK
        assert np.allclose(sums, (matrix.astype(np.float64) ** 2).sum(0))
        yield from (out, turned, sums, *check_straight(right))
        for bad in (
            (matrix.reshape(-1)[1:], bits(right), out),
            (matrix.reshape(-1), bits(right)[32:], out),
            (matrix.reshape(-1), bits(right)[:0], out),
            (matrix.reshape(-1), bits(right), out[1:]),
        ):
            assert directions.products(*bad) == BAD_ARGUMENT
        assert directions.turn(matrix.reshape(-1), bits(right), work[1:], turned) == BAD_ARGUMENT
        assert directions.turn(matrix.reshape(-1), bits(right), work, turned[32:]) == BAD_ARGUMENT
        assert directions.add_squares(matrix.reshape(-1), sums[:0]) == BAD_ARGUMENT
    for n, m in SHAPES:
        yield from check_whole(rng, n, m)
    yield check_rounding(rng)
    for name, (n, m) in product(FLOATS, SHAPES):
        yield from check_numbers(rng, name, n, m)


def check_whole(rng: np.random.Generator, n: int, m: int) -> Iterator[np.ndarray]:
    """Products of whole numbers, exactly."""
    high, wide = -(-n // 4) * 4, -(-m // 4) * 4
    matrix = np.full((high, wide), whole.ZERO, np.uint8)
    matrix[:n, :m] = rng.integers(1, 128, (n, m))
    numbers = matrix.astype(np.int64) - whole.ZERO
    fours = np.empty(high // 4 * m, np.uint32)
    assert whole.by_fours(matrix.reshape(-1), m, fours) == OK
    assert np.array_equal(fours.view(np.uint8).reshape(-1, m, 4).transpose(0, 2, 1).reshape(high, m), matrix[:, :m])
    assert whole.sum_squares(matrix.reshape(-1)) == (numbers**2).sum()
    right, most, words = rng.standard_normal((m, 32), dtype=np.float32), np.empty(32, np.float32), words_for(m)
    right[:, 7] = 0
    assert whole.largest(right.reshape(-1), most) == OK
    assert np.array_equal(most, np.abs(right).max(0))
    factors = np.float32(127) / np.maximum(most, 1)
    assert whole.to_bytes(right.reshape(-1), factors, words) == OK
    rounded = rows_of(words)[:m]
    assert (np.abs(rounded - right * factors) < 0.51).all()
    assert not rows_of(words)[m:].any()
    words[...] = rng.integers(0, 1 << 32, words.size, np.uint32)  # -128 too
    words.view(np.uint8).reshape(-1, 32, 4).transpose(0, 2, 1).reshape(-1, 32)[m:] = 0
    out = np.empty((n, 32), np.uint32)
    given = matrix[:n].reshape(-1).view(np.uint32)
    assert whole.products(given, words, out.reshape(-1)) == OK
    assert np.array_equal(out.view(np.int32), numbers[:n] @ rows_of(words))
    assert whole.largest(out.reshape(-1).view(np.int32), most) == OK
    assert np.array_equal(most, np.abs(out.view(np.int32)).max(0).astype(np.float32))
    along, turned = words_for(n), np.empty((m, 32), np.uint32)
    along[...] = rng.integers(0, 1 << 32, along.size, np.uint32)
    assert whole.turn(fours, along, turned.reshape(-1)) == OK
    assert np.array_equal(turned.view(np.int32), (numbers.T @ rows_of(along))[:m])
    for bad in ((given[1:], words, out), (given, words[1:], out), (given, words[:0], out), (given, words, out[:, 1:])):
        assert whole.products(bad[0], bad[1], bad[2].reshape(-1)) == BAD_ARGUMENT
    assert whole.turn(fours[1:], along, turned.reshape(-1)) == BAD_ARGUMENT
    assert whole.turn(fours, along[1:], turned.reshape(-1)) == BAD_ARGUMENT
    assert whole.turn(fours, along, turned.reshape(-1)[1:]) == BAD_ARGUMENT
    assert whole.by_fours(matrix.reshape(-1)[1:], m, fours) == BAD_ARGUMENT
    assert whole.by_fours(matrix.reshape(-1), 31, fours) == BAD_ARGUMENT
    assert whole.largest(right.reshape(-1)[1:], most) == BAD_ARGUMENT
    assert whole.largest(right.reshape(-1), most[1:]) == BAD_ARGUMENT
    assert whole.to_bytes(right.reshape(-1), most[1:], words) == BAD_ARGUMENT
    assert whole.to_bytes(right.reshape(-1), most, words[1:]) == BAD_ARGUMENT
    yield from (fours, words, out, turned)


def words_for(rows: int) -> np.ndarray:
    return np.empty(-(-rows // 4) * 32, np.uint32)


def rows_of(words: np.ndarray) -> np.ndarray:
    """Bytes in two's complement, [rows, 32]."""
    return words.view(np.int8).reshape(-1, 32, 4).transpose(0, 2, 1).reshape(-1, 32).astype(np.int64)


def check_rounding(rng: np.random.Generator) -> np.ndarray:
    along = (900 * rng.standard_normal((37, 32))).astype(np.int32)
    along[:4, 0] = 50, -50, 60, -60
    scales_ = np.full(32, 0.01, np.float32)
    for rank in (0, 1, 7, 32):
        out = np.zeros((rank, 40), np.uint8)
        assert whole.round_rows(along.reshape(-1), scales_[:rank], np.float32(0.4), 20, out[:, 2:39]) == OK
        some = along[:, :rank].astype(np.float32) * scales_[:rank]
        expected = np.sign(some) * np.minimum(np.floor(np.abs(some) + np.float32(0.4)), 20) + 128
        assert np.array_equal(out[:, 2:39], expected.T)
        assert not out[:, :2].any()
        assert not out[:, 39:].any()
    for bad in ((along.reshape(-1)[1:], 32, 20, out[:, :37]), (along.reshape(-1), 31, 20, out[:, :37]),
                (along.reshape(-1), 32, 128, out[:, :37]), (along.reshape(-1), 32, 20, out)):  # fmt: skip
        assert whole.round_rows(bad[0], scales_[: bad[1]], np.float32(0.4), *bad[2:]) == BAD_ARGUMENT
    return out


def check_straight(right: np.ndarray) -> Iterator[np.ndarray]:
    m, factors = right.shape[0], np.empty(32, np.float32)
    columns = right.copy()
    columns[:, 5] = 0
    columns[:, 30:] = 0
    for _ in range(2):
        assert directions.straighten(bits(columns), columns.reshape(-1), factors) == OK
        yield columns.copy()
    ones = np.array([float(p not in (5, 30, 31) and p < m) for p in range(32)])
    if m > 33:  # no more directions than there is room for
        assert np.allclose(columns.T @ columns, np.diag(ones), atol=1e-5)
    assert directions.straighten(bits(columns)[1:], columns.reshape(-1)[1:], factors) == BAD_ARGUMENT
    assert directions.straighten(bits(columns), columns.reshape(-1)[32:], factors) == BAD_ARGUMENT
    assert directions.straighten(bits(columns), columns.reshape(-1), factors[1:]) == BAD_ARGUMENT


def check_numbers(rng: np.random.Generator, name: str, n: int, m: int) -> Iterator[np.ndarray]:
    dtype = DTYPES[name]
    numbers = rng.normal(0, 0.05, (n, m)).astype(FLOATS[name])
    units = numbers.view(dtype.unit).reshape(-1).copy()
    units[::7] = rng.integers(0, 1 << 8 * units.itemsize, units[::7].shape, dtype=units.dtype)  # infinities and all
    if name == "F8_E4M3":
        units[units & 0x7F == 0x7F] = 0
    with np.errstate(all="ignore"):  # NaNs
        numbers = units.view(FLOATS[name]).astype(np.float32).reshape(n, m)
    numbers[~np.isfinite(numbers)] = 0
    of_rows, of_columns = (rng.integers(0, 8, size).astype(np.float32) + 1 for size in (n, m))
    out = np.empty(n * m, np.uint32)
    form = form_of(dtype)
    given = units, *form, of_rows, bits(of_columns)
    assert directions.over_scales(*given, int(bits(FAR[None])[0]), out) == OK
    with np.errstate(all="ignore"):  # overflow to infinity
        expected = np.clip(numbers * of_rows[:, None] * of_columns, -FAR, FAR)
    assert np.array_equal(out.view(np.float32).reshape(n, m), expected), (name, n, m)
    high, wide = -(-n // 4) * 4, -(-m // 4) * 4
    rounded = np.empty(high * wide, np.uint8)
    most = int(bits(np.array([63], np.float32))[0])
    assert whole.whole_over_scales(*given, most, rounded) == OK
    with np.errstate(all="ignore"):  # overflow to infinity
        expected = np.rint(np.clip(numbers * of_rows[:, None] * of_columns, -63, 63)) + 64
    expected = np.pad(expected, ((0, high - n), (0, wide - m)), constant_values=64)
    assert np.array_equal(rounded.reshape(high, wide), expected), (name, n, m)
    assert whole.whole_over_scales(*given, most, rounded[1:]) == BAD_ARGUMENT
    assert whole.whole_over_scales(units[1:], *given[1:], most, rounded) == BAD_ARGUMENT
    for rank, first, most in ((1, 0, 127), (3, 2, 5), (9, 0, 127)):  # whose sums pass 2^15, or not
        factors = rng.integers(128 - most, 129 + most, (rank, first + n + m + 1)).astype(np.uint8)
        factors[:, first + n // 2] = 128
        scaled = rng.integers(-127, 128, (rank, m)).astype(np.int16)
        left = factors[:, first : first + n].astype(np.int64) - 128
        sums = (left.T @ scaled.astype(np.int64)).astype(np.int16).astype(np.float32)
        with np.errstate(all="ignore"):
            rests = numbers + sums * -of_rows[:, None] * of_columns
        factors, scaled = factors.reshape(-1), scaled.reshape(-1).view(np.uint16)
        assert directions.leave_rests(*given, factors, first, scaled, out) == OK
        assert np.array_equal(out.view(np.float32).reshape(n, m), rests), (name, n, m)
        yield out.copy()
    assert directions.leave_rests(*given, factors[1:], first, scaled, out) == BAD_ARGUMENT
    assert directions.leave_rests(*given, factors, 2, scaled, out) == BAD_ARGUMENT
    assert directions.leave_rests(*given, factors, -1, scaled, out) == BAD_ARGUMENT
    assert directions.leave_rests(*given, factors, first, scaled[1:], out) == BAD_ARGUMENT
    assert directions.leave_rests(*given, factors, first, scaled, out[1:]) == BAD_ARGUMENT
    assert directions.over_scales(units[1:], *given[1:], 1, out) == BAD_ARGUMENT
    assert directions.over_scales(units, (32, 0, 0), *given[2:], 1, out) == BAD_ARGUMENT
    narrow = (units[:31], *form, of_rows[:1], bits(of_columns)[:31])
    assert directions.over_scales(*narrow, 1, out[:31]) == BAD_ARGUMENT
    yield from check_logarithms(units, dtype.unit_bits - 1)


def check_logarithms(units: np.ndarray, sign: int) -> Iterator[np.ndarray]:
    for shift in (-3, 0, 2, sign - 4):
        found = np.empty(units.size, np.uint16)
        assert scales.logarithms(units, sign, shift, found) == OK
        magnitudes = units.astype(object) & (1 << sign) - 1
        expected = magnitudes >> shift if shift >= 0 else magnitudes << -shift
        assert found.tolist() == [int(each) & 0xFFFF for each in expected]
        yield found
    assert scales.logarithms(units[:31], sign, 0, found[:31]) == BAD_ARGUMENT
    assert scales.logarithms(units, sign, sign, found) == BAD_ARGUMENT
    assert scales.logarithms(units, units.itemsize * 8, 0, found) == BAD_ARGUMENT
