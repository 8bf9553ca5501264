"""Bases moved by products of factors: kernels in the runner, against NumPy's F32."""

from __future__ import annotations

import numpy as np
import pytest

from gpu.chunks import read_only
from gpu.lockstep import Cuda, Fresh, Types, device, launch
from gpu.test_lookup import numbers
from slimtensors.codecs.casts import cast_units
from slimtensors.codecs.lookup import rounded
from slimtensors.dtypes import DTYPES
from slimtensors.kernels.cuda import rows
from slimtensors.kernels.cuda.floats import NOT_FINITE, make_sum
from slimtensors.kernels.cuda.moved import make_moved

COLUMNS = 97


def called(function, *numbers):
    """What a device function without collectives gives."""
    with pytest.raises(StopIteration) as ended:
        next(function.generator(*numbers))
    return ended.value.value


def test_sums_of_floats():
    """Of all sizes: ties, subnormal numbers, what cancels in part and whole, infinity."""
    a, b = numbers(3000, 1), numbers(3000, 2)
    b[::4] = a[::4] ^ np.uint32(0x80000000)
    b[1::4] = a[1::4] ^ np.uint32(0x80000001)
    near = slice(2, None, 4)  # a step or so of the sum away
    b[near] = (a[near] & 0x7F800000) - np.minimum(a[near] & 0x7F800000, 24 << 23) | (b[near] & 0x807FFFFF)
    a[:5], b[:5] = (0, 1 << 31, 0, 1 << 31, 0x7F7FFFFF), (0, 1 << 31, 1 << 31, 0, 0x7F000000)
    with np.errstate(all="ignore"):
        expected = (a.view(np.float32) + b.view(np.float32)).view(np.uint32)
    sum_of = make_sum(Cuda(), Types, device)
    found = np.array([called(sum_of, x, y) for x, y in zip(a.tolist(), b.tolist(), strict=True)], np.uint32)
    assert (found == expected).all(), np.flatnonzero(found != expected)[:9]
    assert ((expected & 0x7F800000) == 0).sum() > 100
    assert (expected == 0x7F800000).any()


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
@pytest.mark.parametrize(("kind", "shift"), [("<i2", 9), ("<i2", 0), ("<i4", 40), ("<i4", 60)])
def test_moved(dtype, kind, shift):
    """Sums that wrap among them, and bases that are not finite."""
    rng, rank, count, first = np.random.default_rng(shift), 3, 20 * COLUMNS, 31
    info = np.iinfo(kind)
    left, right = (rng.integers(info.min, info.max, shape).astype(kind) for shape in ((21, rank), (rank, COLUMNS)))
    left[3:5], left[7] = left[3:5] >> 8, 0
    base = rounded(numbers(count, 5).view(np.float32), DTYPES[dtype])
    base[::50] |= NOT_FINITE[dtype]
    with np.errstate(all="ignore"):
        sums = (left.astype(np.int64) @ right.astype(np.int64)).reshape(-1)[first : first + count]
        sums = sums.astype(np.int32) if kind == "<i2" else sums
        wide = cast_units(base, DTYPES[dtype], DTYPES["F32"]).view(np.float32)
        total = wide + sums.astype(np.float32) * np.float32(2.0**-shift)
        expected = rounded(np.where(np.isfinite(wide), total, 0).astype(np.float32), DTYPES[dtype])
    expected = np.where(np.isfinite(wide), expected, base)
    items = np.zeros(rows.WIDE_ITEM, np.uint32)
    items[[rows.UNITS, rows.COLUMN_AT, rows.LENGTH, rows.RIGHT]] = count, first, COLUMNS, left.size
    items[[rows.RANK, rows.OVER, rows.NARROW_SUMS]] = rank, shift, int(kind == "<i2")
    factors = np.concatenate([left.reshape(-1), right.reshape(-1)]).astype(np.int32)
    out, cuda = np.zeros(count, DTYPES[dtype].unit), Cuda()
    given = map(read_only, (items, factors, base))
    launch(cuda, make_moved(cuda, Types, device, dtype), 1, rows.THREADS, *given, Fresh(out))
    assert (out == expected).all(), np.flatnonzero(out != expected)[:9]
