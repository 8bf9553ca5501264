"""Checks of the kernels of low-rank predictions, for check.py: against NumPy and whole numbers without a limit."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import ml_dtypes
import numpy as np

from slimtensors.kernels.cpu import fit
from slimtensors.kernels.cpu.low_rank import WIDE, move_base
from slimtensors.kernels.cpu.sums import add_numbers
from slimtensors.kernels.status import BAD_ARGUMENT, OK

SHAPES = ((1, 1, 1), (7, 3, 33), (40, 16, 65), (3, 2, 2500))  # rows, rank, columns
FACTORS = ((np.int16, np.int32), (np.int32, np.int64))
FLOATS = ((ml_dtypes.bfloat16, np.uint16), (np.float32, np.uint32))


def moved(base: np.ndarray, left: np.ndarray, right: np.ndarray, scale: np.float32, wide: type) -> np.ndarray:
    """For a whole matrix of finite numbers; modulo by the width of the integers."""
    sums = (left.astype(np.int64) @ right.astype(np.int64)).astype(wide)
    with np.errstate(all="ignore"):
        found: np.ndarray = (base.astype(np.float32) + sums.astype(np.float32) * scale).astype(base.dtype)
    return found


def check_moves(rng: np.random.Generator) -> Iterator[np.ndarray]:
    for (narrow, wide), (dtype, unit), (rows, rank, columns) in product(FACTORS, FLOATS, SHAPES):
        units = rng.normal(0, 0.05, (rows, columns)).astype(dtype).view(unit)
        units[0, ::5] = rng.integers(0, 1 << 8 * units.itemsize, units[0, ::5].shape)  # NaNs, infinities and all
        limits = np.iinfo(narrow)
        left = rng.integers(limits.min, limits.max, (rows, rank)).astype(narrow)
        right = rng.integers(limits.min, limits.max, (rank, columns)).astype(narrow)
        sums, work = np.empty(WIDE, wide), np.empty(WIDE, np.uint32)
        pairs = np.empty(-(-rank // 2) * (-(-columns // 32) * 32 + 32), np.uint32)
        for scale in (np.float32(2.0**-38), np.float32(1)):
            # bits are compared, so that NaNs are too
            expected = moved(units.view(dtype), left, right, scale, wide).view(unit)
            exponent = unit(0x7F80 << 8 * (units.itemsize - 2))
            expected = np.where((units & exponent) == exponent, units, expected).reshape(-1)
            for first, last in ((0, units.size), (units.size // 3, units.size - units.size // 4)):
                out, piece = np.empty(last - first, unit), units.reshape(-1)[first:last].copy()
                given = (piece, left.reshape(-1), right.reshape(-1), columns, first, scale, pairs, sums, work, out)
                with np.errstate(all="ignore"):
                    assert move_base(*given) == OK
                assert np.array_equal(out, expected[first:last]), (narrow, dtype, rows, columns, first)
                yield out
                if unit is np.uint32 and np.isfinite(piece.view(np.float32)).all():
                    yield check_rounded(given, expected[first:last])
    yield from check_sums(rng)
    flat = (left.reshape(-1), right.reshape(-1))
    for bad in (
        (units.reshape(-1), *flat, columns, 1, scale, pairs, sums, work, np.empty(units.size, unit)),
        (units.reshape(-1), *flat, columns, -1, scale, pairs, sums, work, np.empty(units.size, unit)),
        (units.reshape(-1), *flat, columns, 0, scale, pairs, sums, work, np.empty(units.size - 1, unit)),
        (units.reshape(-1), *flat, columns, 0, scale, pairs, sums[1:], work, np.empty(units.size, unit)),
        (units.reshape(-1), flat[0], flat[1][1:], columns, 0, scale, pairs, sums, work, np.empty(units.size, unit)),
        (units.reshape(-1), *flat, 0, 0, scale, pairs, sums, work, np.empty(units.size, unit)),
    ):
        assert move_base(*bad) == BAD_ARGUMENT


def check_rounded(given: tuple[Any, ...], expected: np.ndarray) -> np.ndarray:
    """F32 moved and rounded to BF16, infinities of the base too."""
    base, *rest, _out = given
    out = np.empty(base.size, np.uint16)
    with np.errstate(all="ignore"):
        assert move_base(base, *rest, out) == OK
        assert np.array_equal(out, expected.view(np.float32).astype(ml_dtypes.bfloat16).view(np.uint16))
        infinite = np.where(np.arange(base.size) % 3 == 0, np.uint32(0xFF800000), base)
        assert move_base(infinite, *rest, out) == OK
    assert (out[::3] == 0xFF80).all()
    return out


def check_sums(rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Numbers added to a base of any bits."""
    for dtype, unit in FLOATS:
        base = rng.integers(0, 1 << 8 * np.dtype(unit).itemsize, 3000, unit)
        base[::2] = rng.normal(0, 1, 1500).astype(dtype).view(unit)
        numbers, out = (rng.standard_normal(3000) * 10.0 ** rng.integers(-9, 9, 3000)).astype(np.float32), base.copy()
        numbers[5::7] = -base.view(dtype).astype(np.float32)[5::7]
        numbers[~np.isfinite(numbers)], numbers[9::50] = 0, np.inf
        with np.errstate(all="ignore"):
            assert add_numbers(base, numbers, out) == OK
            expected = (base.view(dtype).astype(np.float32) + numbers).astype(dtype).view(unit)
        finite = np.isfinite(base.view(dtype).astype(np.float32))
        assert np.array_equal(out, np.where(finite, expected, base))
        yield out
        assert add_numbers(base[1:], numbers, out) == add_numbers(base, numbers[1:], out) == BAD_ARGUMENT


def check_fits(rng: np.random.Generator) -> Iterator[np.ndarray]:
    """What is summed, solved and orthonormalised; the last bits are for the digest, that all machines share."""
    for rows, rank, columns in ((5, 3, 17), (12, 8, 40), (6, 19, 70)):
        matrix, weights = rng.normal(size=(rows, columns)), rng.random((rows, columns))
        right = rng.normal(size=(columns, rank))
        out = np.zeros(rows * rank)
        assert fit.add_product(matrix.reshape(-1), right.reshape(-1), rank, out) == OK
        assert np.allclose(out.reshape(rows, rank), matrix @ right)
        squares, products, totals = np.zeros(rows * rank * rank), np.zeros(rows * rank), np.zeros(rows)
        flat = matrix.reshape(-1), weights.reshape(-1), right.reshape(-1)
        assert fit.add_equations(*flat, rank, squares, products, totals) == OK
        full = np.einsum("ij,jp,jq->ipq", weights, right, right)
        assert np.allclose(np.tril(squares.reshape(rows, rank, rank)), np.tril(full))
        assert np.allclose(totals, (weights * matrix * matrix).sum(1))
        expected = np.linalg.solve(full, np.einsum("ij,jp,ij->ip", weights, right, matrix)[:, :, None])
        assert fit.solve(squares, products, rank) == OK
        assert np.allclose(products.reshape(rows, rank), expected[:, :, 0])
        zeros = np.zeros(rank)
        assert fit.solve(np.zeros(rank * rank), zeros, rank) == OK  # nothing is known, and nothing breaks
        assert not zeros.any()
        columns_ = right.reshape(-1).copy()
        columns_[1::rank] = 0  # one that vanishes
        assert fit.orthonormalise(columns_, rank) == OK
        square = columns_.reshape(columns, rank).T @ columns_.reshape(columns, rank)
        assert np.allclose(square, np.diag([float(p != 1) for p in range(rank)]))
        yield from (out, products, totals, columns_)
        assert fit.add_product(matrix.reshape(-1)[1:], right.reshape(-1), rank, out) == BAD_ARGUMENT
        assert fit.add_equations(flat[0], flat[1][1:], flat[2], rank, squares, products, totals) == BAD_ARGUMENT
        assert fit.solve(squares[1:], products, rank) == BAD_ARGUMENT
        assert fit.orthonormalise(columns_[1:], rank) == BAD_ARGUMENT
