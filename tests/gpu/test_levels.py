"""Levels of a uniform grid, with a trellis and without: kernels in the runner, against the CPU's."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import save_file

import slimtensors
from gpu.backend import Runner
from gpu.chunks import read_only
from gpu.lockstep import Cuda, Fresh, Types, device, launch
from gpu.test_moved import called
from gpu.test_planes import COLUMNS, ROWS, run
from slimtensors.codecs import trellis
from slimtensors.codecs.chunk import decode_chunk
from slimtensors.codecs.place import Place
from slimtensors.device import items as device_items
from slimtensors.device import telling
from slimtensors.device.chunks import Chunk
from slimtensors.device.layouts import planes_of
from slimtensors.device.levels import levelled
from slimtensors.device.loading import fill_device
from slimtensors.dtypes import DTYPES
from slimtensors.errors import FormatError
from slimtensors.expression import Bits, FieldClass, Part, Trellis
from slimtensors.kernels.cuda import levels, rows
from slimtensors.quantise.grid import Grid
from slimtensors.reading.tensors import open_file

DTYPE_NAMES = ["F32", "BF16", "F16"]


@pytest.fixture
def small_segments(monkeypatch):
    """So that thousands of units make several items: 32 steps are 4 more than a multiple of 7, too."""
    monkeypatch.setattr(levels, "SEGMENT_UNITS", 1024)
    monkeypatch.setattr(rows, "SEGMENT_UNITS", 1024)
    monkeypatch.setattr(device_items, "ITEM_UNITS", 8192)


def on_cpu(grid, codes, dtype, *, sides=(), first=0, units=0):
    out = np.empty(codes.size, DTYPES[dtype].unit)
    with np.errstate(all="ignore"):
        trellis.decode(grid, codes, out, Place(units or codes.size, first, sides, DTYPES[dtype]))
    return out


def by_kernels(grid, codes, dtype, *, sides=(), first=0, units=0):
    """Of one chunk whose codes are `codes`."""
    chunk = Chunk(0, 0, 0, 0, first, units or codes.size, sides)
    found = levelled([chunk], [codes.size], [0], [0], [0], grid)
    out, ends, cuda = np.zeros(codes.size, DTYPES[dtype].unit), np.zeros(max(found.ends, 1), np.uint8), Cuda()
    items, given = found.items.size // rows.WIDE_ITEM, list(map(read_only, (found.items, codes)))
    if found.ends:
        launch(cuda, levels.make_parities(cuda, Types, device), items, rows.THREADS, *given, Fresh(ends))
    body = levels.make_levels(cuda, Types, device, dtype)
    launch(cuda, body, items, rows.THREADS, *given, *map(read_only, (ends, found.scales)), Fresh(out))
    return out


def codes_of(n, width, seed=0):
    return np.random.default_rng(seed).integers(0, 1 << width, n).astype(np.uint16)


@pytest.mark.parametrize("dtype", DTYPE_NAMES)
@pytest.mark.parametrize("states", [1, 8])
@pytest.mark.parametrize("width", [5, 16])
def test_steps_of_all_sizes(dtype, states, width):
    """Levels that are subnormal, infinite, and between."""
    for step in (1, 0x00400003, 0x2F123457, 0x337FFFFF, 0x3C23D70A, 0x47000001, 0x7F7FFFFF):
        grid = Trellis(states, step, 1 << width - 1, Bits((Part(width),)))
        codes = codes_of(128 * 3, width, step % 97)
        codes[:4] = 1 << width - 1
        found, expected = by_kernels(grid, codes, dtype), on_cpu(grid, codes, dtype)
        assert (found == expected).all(), (hex(step), np.flatnonzero(found != expected)[:5])


def test_segments_of_a_chunk():
    """More than a warp has, and an end within a tile."""
    grid, codes = Trellis(8, 0x3C23D70A, 16, Bits((Part(5),))), codes_of(rows.SEGMENT_UNITS + 1024 + 128, 5)
    assert (by_kernels(grid, codes, "BF16") == on_cpu(grid, codes, "BF16")).all()


@pytest.mark.usefixtures("small_segments")
def test_items_of_a_chunk():
    grid, codes = Trellis(8, 0x3C23D70A, 16, Bits((Part(5),))), codes_of(2 * 8192 + 1024 + 384, 5)
    assert (by_kernels(grid, codes, "F32") == on_cpu(grid, codes, "F32")).all()


def test_what_a_state_becomes():
    waited, tile = levels.make_waited(Types, device), levels.make_tile(Types, device)
    for state in range(8):
        found = state
        for _ in range(rows.SEGMENT_UNITS // levels.TILE_UNITS):
            _parities, found = called(tile, [0] * levels.TILE_UNITS, 0, levels.TILE_STEPS, found)
        assert called(waited, state) == found


@pytest.mark.parametrize("dtype", DTYPE_NAMES)
def test_steps_of_rows_and_columns(dtype):
    """From the middle of a row on; products that are subnormal or infinite among them."""
    count, first = 128 * 9, 31
    powers = [np.random.default_rng(n).uniform(-7, 7, n) for n in (ROWS, COLUMNS)]
    powers[0][::9], powers[0][1::9] = -120, 63
    powers[1][::9], powers[1][1::9] = -12, 80
    sides = tuple(np.exp2(each).astype(np.float32).view(np.uint32) for each in powers)
    grid = Trellis(8, 0x3923D70A, 30, Bits((Part(6),)), 0, 1)
    given = {"sides": sides, "first": first, "units": ROWS * COLUMNS}
    codes = codes_of(count, 6)
    found, expected = by_kernels(grid, codes, dtype, **given), on_cpu(grid, codes, dtype, **given)
    assert (found == expected).all(), np.flatnonzero(found != expected)[:5]
    assert len(set(expected.tolist())) > 300


@pytest.mark.parametrize("dtype", DTYPE_NAMES)
@pytest.mark.parametrize("states", [1, 8])
@pytest.mark.parametrize("widths", [(5,), (2, 7)])
def test_chunks(dtype, states, widths):
    """In two chunks, each of which begins anew, and whose tails are units."""
    grid = Trellis(states, 0x3C000000, 1 << sum(widths) - 1, Bits(tuple(map(Part, widths))))
    n, rng = ROWS * COLUMNS, np.random.default_rng(states)
    codes = (grid.zero + np.clip(rng.standard_normal(n), -4, 4) * (1 << sum(widths) - 4)).astype(np.uint16)
    units = np.empty(n, DTYPES[dtype].unit)
    half = -(-n // 2)
    for part in (slice(0, half), slice(half, n)):
        body = slice(part.start, part.stop - (part.stop - part.start) % 128)
        units[part] = DTYPES[dtype].unit.type(0x3F80)
        units[body] = on_cpu(grid, codes[body], dtype)
    found, faulty, left, launched = run(grid, dtype, units)
    assert (faulty, left) == ([], [])
    assert (found == units).all()
    assert any(each.startswith("levels") for each in launched)
    assert ("parities" in launched) == (states == 8)
    assert any(each.startswith("plane") for each in launched)


def test_codes_given_rows_and_columns():
    """The tables end before the classes do."""
    sides = tuple(np.random.default_rng(n).integers(0, 4, n).astype(np.uint8) for n in (ROWS, COLUMNS))
    grid = Trellis(8, 0x3C000000, 32, Bits((Part(6, context=FieldClass(0, 1, 5)),)))
    spread = np.exp2((sides[0][:, None] + sides[1]) / 2).reshape(-1)
    n = ROWS * COLUMNS - ROWS * COLUMNS % 128
    codes = np.clip(32 + np.random.default_rng(1).standard_normal(n) * spread[:n] * 2, 0, 63).astype(np.uint16)
    units = np.zeros(ROWS * COLUMNS, np.uint32)
    units[:n] = on_cpu(grid, codes, "F32")
    found, faulty, left, launched = run(grid, "F32", units, sides=sides, parts=1)
    assert (faulty, left) == ([], [])
    assert (found == units).all()
    assert {"contexts_u32", "levels_f32"} <= set(launched)


@pytest.mark.parametrize("seed", range(6))
def test_noise_is_seen_or_means_what_it_means_on_the_cpu(seed):
    """Bytes of noise in a chunk whose head is sound: indices out of range would be errors of the runner."""
    rng, n, damaged = np.random.default_rng(seed), 2048, []
    grid = Trellis(8, 0x3C000000, 16, Bits((Part(5),)))
    codes = codes_of(n, 5) if seed % 2 else np.clip(16 + rng.standard_normal(n) * 3, 0, 31).astype(np.uint16)

    def change(segment):
        for at in rng.integers(16, segment.size, 9 if seed % 2 else 2):
            segment[at] = rng.integers(0, 256)
        damaged.append(segment.copy())

    found, faulty, left, _ = run(grid, "F32", on_cpu(grid, codes, "F32"), parts=1, change=change)
    expected = np.zeros(n, np.uint32)
    try:
        decode_chunk(damaged[0], grid, expected, Place(n, 0, (), DTYPES["F32"]))
    except FormatError:
        assert faulty or left
    else:
        assert left or (found == expected).all()


def test_not_of_more_units_than_32_bits_count():
    grid = Trellis(8, 0x3C000000, 16, Bits((Part(5),)))
    assert planes_of(grid, (1 << 31) - 1, 4, True, "F32") is not None
    assert planes_of(grid, 1 << 31, 4, True, "F32") is None


@pytest.mark.filterwarnings("error::slimtensors.DecodedOnCpuWarning")
@pytest.mark.parametrize(("states", "preset"), [(1, "balanced"), (8, "small")])
def test_a_file(tmp_path, monkeypatch, states, preset):
    """What the quantiser makes, through the loader, against the CPU's decoder."""
    monkeypatch.setattr(telling, "_told", set())
    monkeypatch.setattr("slimtensors.quantise.stacks.MIN_ELEMENTS", 1024)
    monkeypatch.setattr("slimtensors.planning.building.PACK_TENSOR_BYTES", 2048)
    rng, path = np.random.default_rng(3), tmp_path / "a.slimtensors"
    n = 128 if preset == "small" else 64  # below, tables for classes do not pay
    w = rng.standard_normal((n, n)) * 0.02 * np.exp2(rng.integers(-3, 2, (n, 1)))
    save_file({"w": w.astype(np.float16)}, tmp_path / "a.safetensors")
    recipe = Grid("slim", states, error=0.01, classes=preset == "small")
    slimtensors.compress(tmp_path / "a.safetensors", path, quantise=recipe, preset=preset, durable=False)
    backend = Runner(1 << 20)
    with open_file(path) as file:
        assert isinstance(file.header.streams[file.header.tensor_stream[0]].expression, Trellis)
        target = backend.fresh(file.header.tensors[0].nbytes)
        fill_device(file, {0: target}, backend, threads=1)
        assert target.tobytes() == file.read(0, 1).tobytes()
    assert "levels_f16" in backend.launched
    assert ("contexts_u16" in backend.launched) == (preset == "small")
