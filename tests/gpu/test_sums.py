"""Numbers from codes added to a base or to a product: kernels in the runner, against the CPU's."""

from __future__ import annotations

import numpy as np
import pytest

from gpu.chunks import read_only
from gpu.lockstep import Cuda, Fresh, Types, device, launch
from gpu.test_lookup import numbers as floats_of_all_sizes
from gpu.test_planes import run
from slimtensors.codecs import sums
from slimtensors.codecs.lookup import rounded
from slimtensors.codecs.place import Place
from slimtensors.dtypes import DTYPES
from slimtensors.expression import Bits, Gather, LowRank, Mul, Part, Sum, Trellis
from slimtensors.kernels.cuda import rows
from slimtensors.kernels.cuda.floats import NOT_FINITE
from slimtensors.kernels.cuda.sums import make_sums

ROWS, COLUMNS = 31, 45
SIZE = ROWS * COLUMNS
PRODUCT = LowRank(0, 1, 22)


def base_of(dtype, n=SIZE):
    """Of all sizes, and what is not finite."""
    units = rounded(floats_of_all_sizes(n, 5).view(np.float32), DTYPES[dtype])
    units[::50] |= NOT_FINITE[dtype]
    return units


def factors(kind="<i2", most=200):
    rng = np.random.default_rng(5)
    shapes = (ROWS, 4), (4, COLUMNS)
    return tuple(rng.integers(-most, most, shape).astype(kind).view(f"<u{kind[2]}") for shape in shapes)


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
def test_a_base_and_numbers_of_all_sizes(dtype):
    """Infinite numbers among them, which products make."""
    n = 2000
    base, number = base_of(dtype, n), floats_of_all_sizes(n, 7)
    number[::30] = 0x7F800000
    number[1::30] = 0xFF800000
    items = np.zeros(rows.WIDE_ITEM, np.uint32)
    items[[rows.UNITS, rows.LENGTH, rows.HAS_BASE]] = n, 1, 1
    out, cuda = np.zeros(n, DTYPES[dtype].unit), Cuda()
    given = map(read_only, (items, np.zeros(1, np.int32), base, number))
    launch(cuda, make_sums(cuda, Types, device, dtype), 1, rows.THREADS, *given, Fresh(out))
    expected = np.empty_like(base)
    sums.on_base(base, number, DTYPES[dtype], expected)
    assert (out == expected).all(), np.flatnonzero(out != expected)[:9]
    infinite = base.dtype.type(NOT_FINITE[dtype])
    assert ((expected == infinite) & (base & infinite != infinite)).any()


def made(grid, dtype, sides, base, product=None):
    """(the tensor's units, the numbers that codes make), in two chunks."""
    codes = np.random.default_rng(2).integers(0, 1 << grid.bits.width, SIZE).astype(np.uint16)
    half = -(-SIZE // 2)
    number, units = np.zeros(SIZE, np.uint32), np.zeros(SIZE, DTYPES[dtype].unit)
    for part in (slice(0, half), slice(half, SIZE)):
        body = slice(part.start, part.stop - (part.stop - part.start) % 128)
        its_base = None if base is None else base[body]
        place = Place(SIZE, part.start, sides, DTYPES[dtype], its_base)
        sums.decode_codes(grid, codes[body], number[body], place._replace(dtype=sums.F32))
        sums.add(Sum(grid, 0 if product is None else product), number[body], units[body], place)
    return units, number


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
@pytest.mark.parametrize("kind", ["trellis", "palette"])
@pytest.mark.parametrize("product", [None, PRODUCT])
def test_chunks(dtype, kind, product):
    """Products of I16 factors, or a base; units of the tail are stored as they are."""
    sides = () if product is None else factors()
    grid = Trellis(8, 0x3A03126F, 16, Bits((Part(5),)))
    if kind == "palette":
        scales = np.array([0.001, 0.0003, 0.002], np.float32)[np.arange(ROWS) % 3]
        grid = Mul(Gather(len(sides), Bits((Part(2),))), len(sides) + 1)
        sides = *sides, np.array([-3, -1, 1, 3], np.int8).view(np.uint8), scales.view(np.uint32)
    base = base_of(dtype) if product is None else None
    units, number = made(grid, dtype, sides, base, product)
    expression = Sum(grid, 0 if product is None else product)
    found, faulty, left, launched = run(expression, dtype, units, sides=sides, base=base, numbers=number)
    assert (faulty, left) == ([], [])
    assert (found == units).all(), np.flatnonzero(found != units)[:5]
    assert f"sums_{dtype.lower()}" in launched


def test_products_of_64_bits():
    """What is no number of 32 bits."""
    grid, sides, product = Trellis(1, 0x3A03126F, 16, Bits((Part(5),))), factors("<i4", 1 << 20), LowRank(0, 1, 44)
    units, number = made(grid, "F32", sides, None, product)
    assert (abs(sides[0].view("<i4").astype(np.int64) @ sides[1].view("<i4")) >> 32).any()
    found, faulty, left, _ = run(Sum(grid, product), "F32", units, sides=sides, numbers=number)
    assert (faulty, left) == ([], [])
    assert (found == units).all()
