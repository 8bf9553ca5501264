"""Chunks decoded plane by plane: contexts, bypass bits, differences; in the runner, against what was saved."""

from __future__ import annotations

import numpy as np
import pytest

from gpu.backend import Runner
from gpu.chunks import read_only
from gpu.lockstep import Cuda, Fresh, Types, device, launch
from slimtensors.codecs import lookup
from slimtensors.codecs.chunk import encode_chunk
from slimtensors.codecs.lookup import rounded
from slimtensors.codecs.place import Place
from slimtensors.codecs.sparse import stored_mask
from slimtensors.device.bases import bases_there
from slimtensors.device.chunks import Chunk
from slimtensors.device.layouts import Planes, planes_of
from slimtensors.device.lookups import divided
from slimtensors.device.planes import list_planes
from slimtensors.device.segments import ask, bundled, listed
from slimtensors.dtypes import DTYPES
from slimtensors.expression import (
    BaseContext,
    Bits,
    ClassContext,
    Decimal,
    Delta,
    Gather,
    LowRank,
    Mean,
    Mul,
    Part,
    SignContext,
    Sparse,
)
from slimtensors.kernels.cuda import rows
from slimtensors.kernels.cuda.decimal import make_decimals

RNG = np.random.default_rng(3)
ROWS, COLUMNS = 61, 75


def classes(count, most):
    return RNG.integers(0, most, count).astype(np.uint8)


def floats(dtype, shape, seed=0):
    values = (np.random.default_rng(seed).standard_normal(shape) * 0.02).astype(np.float32)
    if dtype == "BF16":
        return (values.view(np.uint32) >> 16).astype(np.uint16)
    return values.astype({"F16": np.float16, "F32": np.float32, "F64": np.float64}[dtype]).view(DTYPES[dtype].unit)


def run(expression, dtype, units, *, sides=(), base=None, parts=2, change=None, numbers=None):
    """Encode a tensor in so many chunks, decode them; (what came out, statuses, what was left, kernels). numbers: what
    codes make of its units, before these become sums or outliers are put over them.
    """
    backend, kind = Runner(1 << 21), DTYPES[dtype]
    each = -(-units.size // parts)
    layout = planes_of(expression, units.size, kind.unit_bytes, kind.is_float, dtype)
    assert layout is not None
    stored, chunks, at = [], [], 0
    target = backend.fresh(units.nbytes)
    out, (begin,) = backend.window([target])
    for first in range(0, units.size, each):
        some = units[first : first + each]
        its_base = None if base is None else base[first : first + each]
        place = Place(units.size, first, sides, kind, its_base)
        if numbers is not None:
            place = place._replace(numbers=numbers[first : first + each])
        data = encode_chunk(some, expression, place)
        stored.append(data)
        resident = None if base is None else backend.upload(np.ascontiguousarray(its_base).view(np.uint8))
        mask = None
        if isinstance(expression, Sparse):
            mask = stored_mask(np.frombuffer(data, np.uint8), some.size, some.itemsize, expression)
        where = begin + first * some.itemsize, some.nbytes, first
        chunks.append(Chunk(at, len(data), *where, units.size, sides, resident, mask=mask))
        at += len(data)
    segment = np.frombuffer(b"".join(stored), np.uint8).copy()
    if change is not None:
        change(segment)
    bases = bases_there(backend, chunks)
    work = list_planes(segment, chunks, (bases.places // kind.unit_bytes).tolist(), layout)
    given = listed(*work, np.zeros(0), np.zeros(0), digests=False)
    here = bundled(backend, given.arrays)
    lists = here.there(backend.upload(here.host))
    stored = backend.upload(segment)
    pending = ask(backend, given, stored, lists, out, lambda i: target[chunks[i].place :], bases)
    return target.view(units.dtype), pending.faulty(), pending.left, backend.launched


CLASSES = [("BF16", (6, 10)), ("F16", (8, 8)), ("F32", (8, 8, 6, 10)), ("F64", (8, 8, 8, 8, 8, 8, 3, 13))]


@pytest.mark.parametrize(("dtype", "widths"), CLASSES)
def test_classes_of_rows_and_columns(dtype, widths):
    context = ClassContext(0, 1, 2)
    top = [Part(width) for width in widths[:-1]] + [Part(widths[-1], context=context)]
    units = floats(dtype, ROWS * COLUMNS)
    sides = classes(ROWS, 6), classes(COLUMNS, 5)
    found, faulty, left, launched = run(Bits(tuple(top), 1), dtype, units, sides=sides)
    assert (faulty, left) == ([], [])
    assert (found == units).all()
    assert any(each.startswith("contexts") for each in launched)


def moved(units, seed=1):
    """A fine-tune: most numbers a few steps away, some far."""
    rng = np.random.default_rng(seed)
    step = rng.integers(-9, 10, units.size).astype(units.dtype)
    far = rng.random(units.size) < 0.02
    step[far] = rng.integers(0, 1 << 15, units.size).astype(units.dtype)[far]
    return units + step


def exponent(dtype, tables):
    shift = {"BF16": 8, "F16": 11, "F32": 24, "F64": 53}[dtype]
    return BaseContext(shift, {"BF16": 110, "F16": 5, "F32": 110, "F64": 1010}[dtype], tables)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32", "F64"])
@pytest.mark.parametrize("by_row", [False, True])
def test_differences(dtype, by_row):
    base = floats(dtype, ROWS * COLUMNS)
    units = moved(base)
    context = exponent(dtype, 12)
    sides = ()
    if by_row:
        context, sides = BaseContext(*(context.shift, context.first, 6), rows=0, classes=3), (classes(ROWS, 3),)
    halves = base.itemsize // 2
    expression = Delta(Bits((Part(16, context=context), *[Part(16)] * (halves - 1))), 0)
    found, faulty, left, launched = run(expression, dtype, units, sides=sides, base=base)
    assert (faulty, left) == ([], [])
    assert (found == units).all()
    assert any(each.startswith("finish") for each in launched)


MEANS = [("BF16", (1, 5, 10)), ("F16", (1, 7, 8)), ("F32", (1, 7, 8, 6, 10))]


@pytest.mark.parametrize(("dtype", "widths"), MEANS)
@pytest.mark.parametrize("seen", [True, False])
def test_signs_and_classes_given_a_mean(dtype, widths, seen):
    """With signs that are mostly those of the mean, and with signs that are all alike, whose plane is constant."""
    mean = ClassContext(0, 1, 4, Mean(2, (2, 1), (9, 17, 22)))
    middle = [Part(width) for width in widths[1:-1]]
    expression = Bits((Part(1, None, SignContext(600, 16)), *middle, Part(widths[-1], None, mean)), 1)
    sides = classes(ROWS, 6), classes(COLUMNS, 5), RNG.integers(0, 256, (3, ROWS + COLUMNS)).astype(np.uint8)
    factors = sides[2].astype(np.int64) - 128
    sums = (factors[:, :ROWS].T * (1, 1, 2)) @ factors[:, ROWS:]
    units = floats(dtype, ROWS * COLUMNS, seed=4)
    sign = units.dtype.type(1 << 8 * units.itemsize - 1)
    negative = (sums.astype(np.int16).reshape(-1) < 0) ^ (RNG.random(units.size) < 0.03)
    units = np.where(negative & seen, units | sign, units & ~sign)
    found, faulty, left, launched = run(expression, dtype, units, sides=sides, parts=1)
    assert (faulty, left) == ([], [])
    assert (found == units).all()
    assert {each.split("_")[0] for each in launched} >= {"steer", "plane"} | ({"signs", "flip"} if seen else set())


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("kind", ["<i2", "<i4"])
def test_bases_moved_by_products(dtype, kind):
    """Contexts are of the base as it was."""
    rng, base = np.random.default_rng(5), floats(dtype, ROWS * COLUMNS)
    shapes = (ROWS, 4), (4, COLUMNS)
    left, right = (rng.integers(-200, 200, shape).astype(kind).view(f"<u{kind[2]}") for shape in shapes)
    halves = base.itemsize // 2
    bits = Bits((Part(16, context=exponent(dtype, 12)), *[Part(16)] * (halves - 1)))
    units, expression = moved(base), Delta(bits, 0, LowRank(0, 1, 22))
    found, faulty, left_to_cpu, launched = run(expression, dtype, units, sides=(left, right), base=base)
    assert (faulty, left_to_cpu) == ([], [])
    assert (found == units).all()
    assert any(each.startswith("moved") for each in launched)


def test_integers_have_no_order():
    base = RNG.integers(0, 1 << 16, 900).astype(np.uint16)
    units = base + RNG.integers(-3, 4, 900).astype(np.uint16)
    found, faulty, left, _ = run(Delta(Bits((Part(16),)), 0), "I16", units, base=base)
    assert (faulty, left) == ([], [])
    assert (found == units).all()


@pytest.mark.parametrize("widths", [(8,), (5, 3), (1, 2, 5), (7,), (3, 4)])
def test_raw_and_constant_planes(widths):
    units = RNG.integers(0, 1 << sum(widths), 128 * 5 + 9).astype(np.uint8)
    units &= np.uint8(0xFD if len(widths) > 2 else 0xFF)
    found, faulty, left, _ = run(Bits(tuple(map(Part, widths))), "U8", units)
    assert (faulty, left) == ([], [])
    assert (found == units).all()


def test_wide_integers():
    units = (RNG.integers(0, 1 << 40, 700).astype(np.uint64) ** 2) >> np.uint64(20)
    found, faulty, left, _ = run(Bits((Part(16), Part(16), Part(16), Part(16))), "I64", units)
    assert (faulty, left) == ([], [])
    assert (found == units).all()


@pytest.mark.parametrize(("dtype", "shape"), [("F16", (7,)), ("U8", (4,)), ("F32", (ROWS, 5)), ("I64", (3,))])
def test_palettes(dtype, shape):
    unit = DTYPES[dtype].unit
    palette = RNG.integers(0, 1 << 7, shape).astype(unit) << unit.type(1)
    codes = RNG.integers(0, shape[-1], ROWS * COLUMNS)
    runs = np.arange(codes.size) // COLUMNS
    units = palette[runs, codes] if len(shape) == 2 else palette[codes]
    found, faulty, left, launched = run(Gather(0, Bits((Part(3),))), dtype, units, sides=(palette,))
    assert (faulty, left) == ([], [])
    assert (found == units).all()
    assert any(each.startswith("pick") for each in launched)


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
@pytest.mark.parametrize("kind", [np.int8, np.int16, np.float32])
def test_palettes_times_scales(dtype, kind):
    palette = (np.arange(-8, 8) * (0.3 if kind == np.float32 else 1)).astype(kind)
    scales = np.exp2(RNG.normal(-6, 1, ROWS)).astype(np.float32)
    codes = RNG.integers(0, 16, (ROWS, COLUMNS))
    units = rounded((palette.astype(np.float32)[codes] * scales[:, None]).reshape(-1), DTYPES[dtype])
    sides = palette.view(f"<u{palette.itemsize}"), scales.view(np.uint32)
    found, faulty, left, launched = run(Mul(Gather(0, Bits((Part(4),))), 1), dtype, units, sides=sides)
    assert (faulty, left) == ([], [])
    assert (found == units).all()
    assert any(each.startswith("scaled") for each in launched)


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
@pytest.mark.parametrize("offset", [None, 3, (3, 4)])
def test_scales_of_scales_and_offsets(dtype, offset):
    """Runs of 15, so that chunks begin within one; 5 of them to a common factor."""
    runs, rng = ROWS * COLUMNS // 15, np.random.default_rng(9)
    palette, of_runs = np.arange(16).astype(np.int8), [rng.integers(0, 64, runs).astype(np.float32) for _ in range(2)]
    common = [(sign * np.exp2(rng.normal(-8, 1, runs // 5))).astype(np.float32) for sign in (1, -1)]
    sides = palette.view(np.uint8), *(each.view(np.uint32) for k in range(2) for each in (of_runs[k], common[k]))
    expression = Mul(Gather(0, Bits((Part(4),))), (1, 2), offset)
    codes, sides = rng.integers(0, 16, ROWS * COLUMNS), sides[: {None: 3, 3: 4}.get(offset, 5)]
    scales = of_runs[0] * np.repeat(common[0], 5)
    offsets = of_runs[1] * (np.repeat(common[1], 5) if isinstance(offset, tuple) else 1)
    numbers = palette.astype(np.float32)[codes].reshape(runs, 15) * scales[:, None]
    units = rounded((numbers if offset is None else numbers + offsets[:, None]).reshape(-1), DTYPES[dtype])
    found, faulty, left, launched = run(expression, dtype, units, sides=sides)
    assert (faulty, left) == ([], [])
    assert (found == units).all()
    assert any(each.startswith("scaled" if offset is None else "shifted") for each in launched)


@pytest.mark.parametrize("dtype", ["F64", "F32", "BF16", "F16"])
@pytest.mark.parametrize("power", [0, 2, 7, 22])
def test_decimals(dtype, power):
    """Of all sizes, what is subnormal or infinite in F16 among them, zeros, and ties."""
    codes = RNG.integers(0, 1 << 53, 300) >> RNG.integers(0, 54, 300)
    codes[::7] = (codes[::7] & ~1) | 1
    codes[:4] = 0, 1, (1 << 53) - 1, 2 * 65520
    units, place = np.empty(codes.size, DTYPES[dtype].unit), Place(codes.size, 0, (), DTYPES[dtype], None)
    expression = Decimal(power, Bits((Part(16), Part(16), Part(16), Part(5))))
    lookup.decode(expression, codes.astype(np.uint64), units, place)
    found, faulty, left, launched = run(expression, dtype, units, parts=1)
    assert (faulty, left) == ([], [])
    assert (found == units).all(), np.flatnonzero(found != units)[:5]
    # What is wide, or what is odd in F16, is no decimal to the encoder: the kernel alone is asked for all.
    out, cuda = np.zeros_like(units), Cuda()
    items = divided([codes.size], [0], [0], [0], power)
    given = map(read_only, (items, codes.astype(np.uint64)))
    launch(cuda, make_decimals(cuda, Types, device, dtype), 1, rows.THREADS, *given, Fresh(out))
    assert (out == units).all(), np.flatnonzero(out != units)[:5]
    assert launched


SPARSE = [
    ("BF16", (6, 10), 0.5), ("F16", (8, 8), 0.97), ("F32", (8, 8, 6, 10), 0.3), ("F64", (8,) * 8, 0.6),
    ("U8", (8,), 0.4), ("BF16", (6, 10), 0.0),
]  # fmt: skip


@pytest.mark.parametrize(("dtype", "widths", "zeros"), SPARSE)
def test_zeros_left_out(dtype, widths, zeros):
    """By noise, and by a run of zeros in the middle: words of the mask that are empty, and full ones."""
    n = 5003
    units = floats(dtype, n) if dtype != "U8" else RNG.integers(1, 256, n).astype(np.uint8)
    units[RNG.random(n) < zeros] = 0
    units[2000:2300] = 0
    expression = Sparse(Bits(tuple(map(Part, widths)), int(dtype != "U8")))
    found, faulty, left, launched = run(expression, dtype, units)
    assert (faulty, left) == ([], [])
    assert (found == units).all()
    assert any(each.startswith("scatter") for each in launched)


@pytest.mark.parametrize(("dtype", "widths"), [("BF16", (6, 10)), ("F16", (8, 8)), ("F32", (8, 8, 6, 10))])
@pytest.mark.parametrize("apart", [0.0, 0.03, 0.3])
def test_units_that_stand_apart(dtype, widths, apart):
    """Over numbers from codes, of runs that chunks cut; of none, a few, many."""
    n, runs, rng = 2040, 170, np.random.default_rng(4)
    sides = np.arange(8).astype(np.uint8), *(rng.integers(1, 9, runs).astype(np.float32) for _ in range(2))
    sides = tuple(side.view(f"<u{side.itemsize}") for side in sides)
    grid = Mul(Gather(0, Bits((Part(3),))), 1, 2)
    expression = Sparse(Bits(tuple(map(Part, widths)), 1), grid)
    numbers = np.zeros(n, DTYPES[dtype].unit)
    codes = rng.integers(0, 8, n - n % 32)
    lookup.decode(grid, codes.astype(np.uint8), numbers[: codes.size], Place(n, 0, sides, DTYPES[dtype]))
    units = np.where(rng.random(n) < apart, floats(dtype, n), numbers)
    found, faulty, left, launched = run(expression, dtype, units, sides=sides, numbers=numbers)
    assert (faulty, left) == ([], [])
    assert (found == units).all(), np.flatnonzero(found != units)[:5]
    assert {f"shifted_{dtype.lower()}", f"scatter_u{8 * units.itemsize}"} <= set(launched)


def test_damaged_words_are_seen():
    base = floats("BF16", 2048)

    def change(segment):
        segment[-400:-300] ^= 0x5A

    expression = Delta(Bits((Part(16, context=exponent("BF16", 12)),)), 0)
    _found, faulty, _left, _ = run(expression, "BF16", moved(base), base=base, parts=1, change=change)
    assert faulty == [0]


@pytest.mark.parametrize("seed", range(6))
def test_noise_stays_inside(seed):
    """Bytes of noise in a chunk whose head is sound: indices out of range would be errors of the runner."""
    rng, base = np.random.default_rng(seed), floats("BF16", 2048)

    def change(segment):
        for at in rng.integers(16, segment.size, 9):
            segment[at] = rng.integers(0, 256)

    expression = Delta(Bits((Part(16, context=exponent("BF16", 12)),)), 0)
    _found, faulty, left, _ = run(expression, "BF16", moved(base), base=base, parts=1, change=change)
    assert faulty or left


def test_what_has_no_kernel():
    assert planes_of(Bits((Part(4), Part(12, side=0))), 100, 2, True) is None
    by_row = Bits((Part(16, context=BaseContext(8, 0, 4, rows=0, classes=2)),))
    assert planes_of(Delta(by_row, 0), 1 << 31, 2, True) is None
    assert planes_of(by_row, 100, 2, True) == Planes(2, by_row)
    assert rows.PLANE_ITEM > rows.ABOVE
