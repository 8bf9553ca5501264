"""Products of palettes and scales in the runner, against NumPy's."""

from __future__ import annotations

import numpy as np
import pytest

from gpu.chunks import read_only
from gpu.lockstep import Cuda, Fresh, Types, device, launch
from slimtensors.codecs.lookup import rounded
from slimtensors.dtypes import DTYPES
from slimtensors.kernels.cuda import rows
from slimtensors.kernels.cuda.lookup import make_scaled

RUN = 128


def numbers(n, seed):
    """Finite ones of all sizes: subnormal, zero, huge, few bits."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 1 << 32, n, np.uint32)
    bits[::3] = (bits[::3] & 0x807FFFFF) | (rng.integers(90, 165, bits[::3].size).astype(np.uint32) << 23)
    bits[::5] &= 0xFFF80000  # ties
    bits[::11] &= 0x807FFFFF  # subnormal
    bits[7::40] &= 0x80000000
    bits[(bits & 0x7F800000) == 0x7F800000] &= 0xBFFFFFFF
    return bits


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
@pytest.mark.parametrize("shifted", [False, True])
def test_products(dtype, shifted):
    """With offsets of all sizes; those of which a product is near among them, whatever its sign."""
    palette, scales, offsets = numbers(RUN, 1), numbers(60, 2), numbers(60, 3)
    with np.errstate(all="ignore"):
        near = palette.view(np.float32)[5] * scales.view(np.float32)
    offsets[::2] = np.where(np.isfinite(near), -near, np.float32(1e38)).view(np.uint32)[::2] ^ 1
    items = np.zeros(rows.WIDE_ITEM, np.uint32)
    items[[rows.UNITS, rows.LENGTH, rows.ENTRIES, rows.OFFSETS]] = RUN * scales.size, RUN, RUN, scales.size
    codes = np.tile(np.arange(RUN, dtype=np.uint16), scales.size)
    out, status, cuda = np.zeros(codes.size, DTYPES[dtype].unit), np.zeros(1, np.uint32), Cuda()
    given = map(read_only, (items, codes, palette, np.concatenate([scales, offsets])))
    body = make_scaled(cuda, Types, device, dtype, shifted=shifted)
    launch(cuda, body, 1, rows.THREADS, *given, Fresh(out), status)
    with np.errstate(all="ignore"):
        products = scales.view(np.float32)[:, None] * palette.view(np.float32)
        found = products + offsets.view(np.float32)[:, None] if shifted else products
    expected = rounded(found.reshape(-1), DTYPES[dtype])
    assert np.isinf(products).any()
    assert (products == 0).any()
    assert (out == expected).all(), np.flatnonzero(out != expected)[:9]
    assert status[0] == 0


def test_a_code_without_an_entry():
    items = np.zeros(rows.WIDE_ITEM, np.uint32)
    items[[rows.UNITS, rows.LENGTH, rows.ENTRIES]] = 2, 8, 3
    out, status, cuda = np.zeros(2, np.uint32), np.zeros(1, np.uint32), Cuda()
    given = map(read_only, (items, np.array([2, 3], np.uint16), numbers(3, 1), numbers(1, 2)))
    launch(cuda, make_scaled(cuda, Types, device, "F32"), 1, rows.THREADS, *given, Fresh(out), status)
    assert status[0] == rows.BAD_FIELD
