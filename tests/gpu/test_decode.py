"""The GPU's decoder gives what the CPU's gives, on real chunks, in the runner."""

from __future__ import annotations

import numpy as np
import pytest

from gpu import chunks
from slimtensors.codecs import coded, fused
from slimtensors.codecs.chunk import decode_chunk, encode_chunk
from slimtensors.errors import FormatError
from slimtensors.expression import bits
from slimtensors.kernels.cpu import worklist
from slimtensors.kernels.cuda import rows
from slimtensors.kernels.cuda.decode import LAYOUTS

POISON = 0xA5


def weights(layout, n, seed=0, scale=0.02):
    """Random floats whose coded plane has escapes."""
    rng = np.random.default_rng(seed)
    values = (rng.standard_normal(n) * scale).astype(np.float32).view(np.uint32)
    odd = rng.random(n) < 0.01
    values[odd] = rng.integers(0, 1 << 32, n, np.uint32)[odd]  # infinite, subnormal, NaN
    return (values >> 32 - 8 * layout.unit_bytes).astype(chunks.UNITS[layout.unit_bytes])


@pytest.fixture(autouse=True)
def many_escapes(monkeypatch):
    """Only the middle of the fields has symbols; usually the rare ones of small chunks have too. The encoder takes the
    long way, where that can be had.
    """

    def narrow(counts):
        shares = np.cumsum(counts) / counts.sum()
        base = int(np.searchsorted(shares, 0.01))
        return coded.Window(base, min(int(np.searchsorted(shares, 0.99)), base + 255))

    monkeypatch.setattr(fused, "layout_of", lambda *_: None)
    monkeypatch.setattr(coded, "choose_window", narrow)
    monkeypatch.setattr(coded, "bypass_counts", lambda _counts: (np.ones(256), 1 << 40))  # never the better mode


def run(layout, units_of, **options):
    """Encode, list, decode in the runner; (what it gave, what the CPU gives, statuses, the work)."""
    expression = bits(*layout.widths, rotate=layout.rotate)
    stored = [encode_chunk(units, expression) for units in units_of]
    segment = chunks.segment_of(stored)
    asked, expected, at, first = [], [], 0, 5  # what comes first is not ours
    for data, units in zip(stored, units_of, strict=True):
        asked.append((at, len(data), units.size, first))
        out = np.empty_like(units)
        decode_chunk(segment[at : at + len(data)], expression, out)
        assert (out == units).all()
        expected.append(out)
        at, first = at + len(data), first + units.size
    work = chunks.list_work(segment, asked, expression, layout.unit_bytes)
    out = np.full(first + 3, POISON, chunks.UNITS[layout.unit_bytes])
    status = chunks.decode(segment, work, layout, out, **options)
    assert (out[:5] == POISON).all()
    assert (out[first:] == POISON).all()
    return out[5:first], np.concatenate(expected), status, work


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_bit_for_bit(layout):
    given = [weights(layout, n, seed=n) for n in (128, 3 * 128 + 77, 4096 + 1, 100)]
    given.append(np.full(300, 7, given[0].dtype))
    found, expected, status, work = run(layout, given)
    assert (work.becomes == worklist.LISTED).all()
    assert work.items.size > 0
    assert (status == 0).all()
    assert (found == expected).all()


@pytest.mark.parametrize("order", [range(4), range(3, -1, -1)])
def test_many_blocks(monkeypatch, order):
    """More than four blocks are several items, which share escapes and a table; in any order of warps."""
    monkeypatch.setattr("slimtensors.codecs.coded.block_count", lambda _units, _bytes: 11)
    found, expected, status, work = run(LAYOUTS[0], [weights(LAYOUTS[0], 128 * 37 + 5)], order=order)
    assert work.items.size == 3 * rows.ITEM
    assert (work.items.reshape(3, -1)[:, rows.ESCAPES] > 0).all()
    assert (status == 0).all()
    assert (found == expected).all()


@pytest.mark.parametrize("layout", LAYOUTS[:2] + LAYOUTS[3:5], ids=lambda layout: layout.name)
def test_constant_planes(layout):
    """Floats that were made from fewer bits: planes of zeros below."""
    units = weights(layout, 1000)
    low = layout.widths[0] - layout.rotate
    units = units >> low << low | 3 & (1 << low) - 1
    units &= ~np.array(1 << 8 * units.itemsize - 1, units.dtype)  # the sign is in the lowest plane too
    found, expected, status, work = run(layout, [units])
    assert work.becomes[0] == worklist.LISTED
    assert work.items[rows.FILL] > 0
    assert (status == 0).all()
    assert (found == expected).all()


@pytest.mark.parametrize("precision", [11, 12])
def test_precisions(monkeypatch, precision):
    monkeypatch.setattr("slimtensors.codecs.coded.PRECISION", precision)
    monkeypatch.setattr(coded, "_finds_in_registers", lambda: False)  # which is for the one that encoders use
    found, expected, status, work = run(LAYOUTS[1], [weights(LAYOUTS[1], 2048)])
    assert work.items[rows.PRECISION] == precision
    assert (status == 0).all()
    assert (found == expected).all()


# ---- damage: what no digest has found


def damaged(layout, change):
    """(status, out) of a chunk whose segment `change` has changed after the work list was made."""
    units = weights(layout, 128 * 8)
    expression = bits(*layout.widths, rotate=layout.rotate)
    segment = chunks.segment_of([encode_chunk(units, expression)])
    work = chunks.list_work(segment, [(0, segment.size, units.size, 0)], expression, layout.unit_bytes)
    change(segment, work.items)
    out = np.full(units.size, POISON, units.dtype)
    return chunks.decode(segment, work, layout, out), out


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
@pytest.mark.parametrize("value", [0, 0xFFFF])
def test_damaged_words(layout, value):
    def change(segment, items):
        segment.view(np.uint16)[items[rows.LAST] - 20 : items[rows.LAST]] = value

    status, _out = damaged(layout, change)  # accesses outside are KernelErrors
    assert status[0] & rows.BAD_END


@pytest.mark.parametrize("value", [0, 1, 0xFFFF, 0xFFFFFFFF])
def test_damaged_states(value):
    def change(segment, items):
        segment.view(np.uint32)[items[rows.STATES] : items[rows.STATES] + 32] = value

    status, _out = damaged(LAYOUTS[1], change)
    assert status[0] & rows.BAD_END


def test_damaged_escapes():
    def change(segment, items):
        positions = segment.view(np.uint32)[items[rows.POSITIONS] :][: items[rows.ESCAPES]]
        assert positions.size > 2
        positions[1] += 1 if positions[2] > positions[1] + 1 else -1

    status, _out = damaged(LAYOUTS[0], change)
    assert status[0] == rows.BAD_ESCAPE


def test_noise_stays_inside():
    """Payloads of noise: whatever they decode to, nothing outside is touched."""
    rng = np.random.default_rng(0)

    def change(segment, items):
        begin, end = 4 * items[rows.STATES], segment.size
        segment[begin:end] = rng.integers(0, 256, end - begin)

    for layout in LAYOUTS:
        status, _out = damaged(layout, change)
        assert status[0] & rows.BAD_END


def test_what_no_kernel_decodes_is_left():
    """Malformed chunks too: the decoder for CPUs has the words for them."""
    layout = LAYOUTS[0]
    expression = bits(*layout.widths, rotate=layout.rotate)
    sound = bytearray(encode_chunk(weights(layout, 1000), expression))
    for at in (0, 1, 2, 4, 8, 16, 17, 20, 33, 36, 40, 44, len(sound) - 1):
        broken = bytearray(sound)
        broken[at] ^= 0x40
        work = chunks.list_work(chunks.segment_of([bytes(broken)]), [(0, len(sound), 1000, 0)], expression, 2)
        with pytest.raises(FormatError):
            decode_chunk(np.frombuffer(bytes(broken), np.uint8).copy(), expression, np.empty(1000, np.uint16))
        assert work.becomes[0] == worklist.LEFT, at
        assert work.items.size == 0
