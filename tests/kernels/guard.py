"""A program: feed noise to kernels, each array at the edge of a page that may not be touched. It lives or it dies."""

from __future__ import annotations

import ctypes
import itertools
import json
import math
import mmap
import struct

import numpy as np

from kernels import cases, class_checks, mean_checks, record_checks, scatter_checks
from slimtensors.kernels.cpu import (
    bounds,
    bypass,
    casts,
    closing,
    context_coding,
    contexts,
    delta,
    delta_kernels,
    delta_opening,
    directions,
    encode,
    encode_few,
    errors,
    find_codes,
    find_scales,
    histogram,
    level_kernels,
    lookup,
    mean,
    merging,
    opening,
    outliers,
    payload,
    planes,
    quantise,
    records,
    rows,
    scales,
    scatter,
    search,
    search_scales,
    sparse,
    sums,
    survey,
    table,
    trellis,
    whole_directions,
    window,
    xxh3,
)
from slimtensors.kernels.cpu.encode_signs import encode_signs
from slimtensors.kernels.cpu.frequencies import MOST_TABLE_BYTES, write_table
from slimtensors.kernels.status import BAD_ARGUMENT, BAD_STREAM, OK

PAGE = mmap.PAGESIZE
NO_ACCESS = 0
PATTERNS = 3  # noise, zeros, ones

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_kept: list[mmap.mmap] = []  # mappings go together, at the end of a round: a process has 65,530 at most


class Fence:
    """Arrays that end (or begin) where a forbidden page begins (or ends)."""

    def __init__(self, side: str, rng: np.random.Generator, pattern: int) -> None:
        self.side, self.rng, self.pattern = side, rng, pattern

    def array(self, dtype: type, size: int) -> np.ndarray:
        length = size * np.dtype(dtype).itemsize
        inside = max(1, -(-length // PAGE)) * PAGE
        area = mmap.mmap(-1, inside + 2 * PAGE)
        _kept.append(area)
        begin = ctypes.addressof(ctypes.c_char.from_buffer(area))
        for page in (begin, begin + PAGE + inside):
            if _libc.mprotect(page, PAGE, NO_ACCESS) != 0:
                raise OSError(ctypes.get_errno(), "mprotect")
        offset = PAGE if self.side == "begin" else PAGE + inside - length
        array = np.frombuffer(area, dtype, size, offset)
        if self.pattern == 0:
            array.view(np.uint8)[:] = self.rng.integers(0, 256, length, dtype=np.uint8)
        else:
            array.view(np.uint8)[:] = 255 * (self.pattern - 1)
        return array

    def arrays(self, *kinds: tuple[type, int]) -> list[np.ndarray]:
        return [self.array(dtype, size) for dtype, size in kinds]


def piece_sizes(widths: tuple[int, ...], n: int) -> list[int]:
    """Bytes of the raw planes' pieces."""
    return [32 * -(-n // 32 * p // 8) for width in widths[:-1] for p in (8, 4, 2, 1) if width & p]


def feed_decoders(fence: Fence, n: int, blocks: int) -> None:
    states, words = fence.arrays((np.uint32, 32 * blocks), (np.uint16, 32 + n // 50))
    slots, starts, tree = fence.arrays((np.uint32, table.SLOTS), (np.int64, blocks + 1), (np.uint16, search.TREE))
    for layout in cases.LAYOUTS:
        sizes = piece_sizes(layout.widths, n)
        pieces, out = fence.arrays(*((np.uint8, size) for size in sizes)), fence.array(layout.dtype, n)
        for base in (0, 65535):
            status = layout.decode(slots, base, states, words, starts, *pieces, out)
            assert status in (OK, BAD_STREAM)
            if layout.search:
                status = layout.search(slots, tree, base, states, words, starts, *pieces, out)
                assert status in (OK, BAD_STREAM)
    for plain, searching, unit in (
        (level_kernels.decode_f32, level_kernels.search_f32, np.uint32),
        (level_kernels.decode_bf16, level_kernels.search_bf16, np.uint16),
        (level_kernels.decode_f16, level_kernels.search_f16, np.uint16),
    ):
        grid = 255, np.float32(0.1), states, words, starts, fence.array(unit, n)
        assert plain(slots, *grid) in (OK, BAD_STREAM)
        assert searching(slots, tree, *grid) in (OK, BAD_STREAM)
    search.plant(slots, tree)
    slots[:] = (256 << 20) + np.arange(256, dtype=np.uint32).repeat(16) * 4096  # 16 symbols, or many strays
    assert search.plant(slots, tree) == 0
    slots[:] = (16 << 20) + np.arange(256, dtype=np.uint32).repeat(16) * 4096
    assert search.plant(slots, tree) == (256 - 62) * 16
    out = fence.array(np.uint16, n)
    assert bypass.decode_bypass(slots, states, words, starts, out) in (OK, BAD_STREAM)


def feed_scattered(fence: Fence, n: int, blocks: int) -> None:
    """Masks that ask for as many values as there are, and others; the rest is noise."""
    states, words = fence.arrays((np.uint32, 32 * blocks), (np.uint16, 32 + n // 50))
    slots, starts, tree = fence.arrays((np.uint32, table.SLOTS), (np.int64, blocks + 1), (np.uint16, search.TREE))
    for layout in scatter_checks.LAYOUTS:
        pieces = fence.arrays(*((np.uint8, size) for size in piece_sizes(layout.widths, n)))
        for ones, seed in ((n, 1), (n - 100, 2), (n + 77, 3), (0, 4)):
            flags = scatter_checks.drawn(np.random.default_rng(seed), ones, 0.4)
            bits, out = fence.arrays((np.uint32, flags.size // 32), (np.uint16, flags.size))
            values = fence.array(np.uint16, n + 32)
            bits[:] = scatter_checks.words_of(flags)
            cursors = fence.array(np.int64, scatter.CURSORS * (blocks + 1))
            positions, fields = fence.arrays((np.uint32, 9), (np.uint16, 9))
            for last in (n - 1, 0):
                positions[-1] = last
                rest = (states, words, starts, *pieces, positions, fields, bits, cursors, values, out)
                assert layout.decode(slots, 65535, *rest) in (OK, BAD_STREAM)
                assert layout.search is not None
                assert layout.search(slots, tree, 65535, *rest) in (OK, BAD_STREAM)
                positions[:-1] = np.arange(8)


def feed_encoders(fence: Fence, n: int, blocks: int, precision: int) -> None:
    symbols, by_symbol, states, counts = fence.arrays(
        (np.uint8, n), (np.uint32, 256), (np.uint32, 32 * blocks), (np.int64, blocks)
    )
    by_symbol |= np.uint32(1 << 12)  # else it is refused
    words, entries = fence.arrays((np.uint16, n), (np.uint32, encode.ENTRIES))
    encode.encode_symbols(symbols, by_symbol, precision, entries, words, states, counts)
    frequencies = fence.array(np.uint16, 256)
    places = fence.array(np.uint16, encode_few.PLACES)
    encode_few.encode_few(symbols, frequencies, places, words, states, counts)
    frequencies[:] = 0
    frequencies[3:128:5] = 4096 // 25
    frequencies[3] += 4096 % 25
    encode_few.encode_few(symbols, frequencies, places, words, states, counts)
    feed_closing(fence, n, blocks)
    fields, twice = fence.arrays((np.uint16, n), (np.uint16, 2 * n))
    bypass.encode_bypass(fields, by_symbol, precision, twice, states, counts)
    staging = fence.array(np.uint16, histogram.STAGING)
    for layout in cases.LAYOUTS:
        src = fence.array(layout.dtype, n)
        width, shift = layout.widths[-1], sum(layout.widths[:-1])
        if layout.split:
            sizes = piece_sizes(layout.widths, n)
            pieces = fence.arrays(*((np.uint8, size) for size in sizes))
            assert layout.split(src, 77, 300, *pieces, symbols) >= 0 or layout.rotate == 0
        field_counts = fence.array(np.uint32, 4 << width)
        assert histogram.field_histogram(src, layout.rotate, shift, width, 3, staging, field_counts) == OK
        where = fence.arrays((np.uint32, 9), (np.uint16, 9))
        assert histogram.find_escapes(src, layout.rotate, shift, width, symbols, staging, *where) <= 9


def feed_closing(fence: Fence, n: int, blocks: int) -> None:
    words, states, frequencies = fence.arrays((np.uint16, n), (np.uint32, 32 * blocks), (np.uint16, 256))
    for counts in (fence.array(np.int64, blocks), np.full(blocks, n // 128 // blocks * 128)):
        for escapes, tail in ((0, 0), (9, 77)):
            noise = fence.arrays((np.uint32, escapes), (np.uint16, escapes))
            for room in (0, 64, 256, n, 2 * n + 4096):
                out = fence.array(np.uint8, room)
                for lengths in (fence.array(np.int64, 2), np.array([n // 4]), np.array([0, n // 4])):
                    length = closing.close_chunk(
                        out, out.view(np.uint16), lengths, n, 2 * n, 5, frequencies, *noise, states, counts, words,
                        fence.array(np.uint8, tail),
                    )  # fmt: skip
                    assert 0 <= length <= room
    for widths, dtype in (((6, 10), np.uint16), ((8, 8, 8, 8), np.uint32)):
        body, terms, staging = fence.arrays(
            (dtype, n), (np.float64, survey.MOST_SAMPLES + 1), (np.uint16, histogram.STAGING)
        )
        counts, fields = fence.arrays((np.uint32, 4 << widths[-1]), (np.int64, 1 << widths[-1]))
        symbols, found = fence.arrays((np.int64, 256), (np.int64, 2))
        for every in (1, 3):
            for rotate in (0, 1):
                arguments = body, rotate, 0.95, np.array(widths), every, terms, staging, counts, fields, symbols
                survey.survey(*arguments, frequencies, found)
        window.choose_window(fence.array(np.int64, 64), False, found)
        window.count_symbols(fence.array(np.int64, 64), 3, 63, symbols)
        write_table(fence.array(np.uint16, 256), fence.array(np.uint8, MOST_TABLE_BYTES))


def feed_the_rest(fence: Fence, n: int, precision: int) -> None:
    frequencies, slots, by_symbol = fence.arrays((np.uint16, 256), (np.uint32, table.SLOTS), (np.uint32, 256))
    table.build_table(frequencies, precision, slots)
    table.build_encoder_table(frequencies, precision, by_symbol)
    for width in range(1, 9):
        size = sum(32 * -(-n // 32 * p // 8) for p in (8, 4, 2, 1) if width & p)
        packed, out = fence.arrays((np.uint8, size), (np.uint8, n))
        assert planes.unpack(width, packed, out) != BAD_ARGUMENT
        assert planes.pack(width, out, packed) == OK
    for dtype in (np.uint8, np.uint16, np.uint32, np.uint64):
        out, plane = fence.arrays((dtype, n), (np.uint8, n))
        assert planes.join_plane(plane, 3, out) == OK
        assert planes.rotate_right(out, 5) == OK
        assert planes.cut_plane(out, 1, 2, 6, plane) == OK
        present = fence.array(np.uint8, n // 7 + 3)
        compact = fence.array(np.uint8, int(np.count_nonzero(np.repeat(present, 7)[5 : 5 + n])))
        assert rows.join_rows(compact, present, 7, 5, 3, out) == OK
        assert rows.compact_rows(plane, present, 7, 5, compact) == OK
        assert rows.spread_rows(compact, plane, present, 7, 5, fence.array(np.uint8, n)) == OK
        bits, values = fence.arrays((np.uint32, n // 32), (dtype, n + 32))
        for spare in (n, n // 2, 1, 0):  # also fewer values than the noise of the mask asks for
            assert sparse.spread_values(bits, fence.array(dtype, spare + 32), out) != BAD_ARGUMENT
        assert 0 <= sparse.squeeze_values(fence.array(dtype, n), bits, values) <= n


def feed_records(fence: Fence, n: int) -> None:
    """Layouts that are sound, and layouts of noise."""
    for size, per, layout in record_checks.LAYOUTS:
        count = n // per
        runs, data = fence.arrays((np.int64, 6 * len(layout)), (np.uint8, count * size))
        for dtype in (np.uint8, np.uint16):
            fields = fence.array(dtype, count * per)
            for each in (runs.reshape(-1, 6), np.array(layout, np.int64)):
                records.put_fields(fields, per, each, size, data)
                records.cut_fields(data, per, each, size, fields)
            lifted = fence.array(np.uint16, fields.size)
            assert records.less_means(fields, 7, 3, 256, lifted) == OK or fields.itemsize == 2
            selected = fence.array(np.uint8, 3 * fields.size)
            assert records.field_contexts(fields, 3, 1, 5, 64, selected) == OK
            assert records.scale_classes(fields, lifted.view(np.uint8), 3, 1, 4, 2, selected[1:]) == OK
            assert records.add_to_records(selected & 63, 1, 40, fence.array(np.uint8, selected.size)) == OK


def feed_quantisers(fence: Fence, n: int) -> None:
    """Weights, scales and tables of noise."""
    for length in (16, 32, 128):
        weights, scales, codes = fence.arrays((np.float32, n), (np.float32, n // length), (np.uint8, n))
        offsets, middles = fence.arrays((np.float32, n // length), (np.float32, 15))
        runs = weights, scales, length
        assert quantise.peaks(weights, length, fence.array(np.float32, n // length)) == OK
        assert quantise.round_away(*runs, 127, codes) == OK
        assert quantise.round_down(*runs, 8.5, 15, codes) == OK
        assert quantise.round_even(*runs, -8, 7, codes) == OK
        assert quantise.nearest(*runs, middles, codes) == OK
        assert quantise.round_floats(*runs, 3, 7, 126, 448.0, codes) == OK
        assert codes.max() <= 2 * 126
        assert quantise.round_shifted(weights, scales, offsets, length, 15, codes) == OK
        assert codes.max() <= 15
        assert outliers.sum_ranges(weights, length, fence.array(np.float64, 1)) == OK
        for worth in (0.0, math.inf, math.nan):
            assert outliers.flag_outliers(weights, length, 3, worth, codes, scales, offsets) == OK
            assert codes.reshape(-1, length).sum(1).max() <= 3
    for unit in (np.uint16, np.uint32):
        base, made = fence.arrays((unit, n), (unit, n))
        assert sums.add_numbers(base, weights, made) == OK
    room, minima = fence.arrays((np.float32, search_scales.ROOM), (np.float32, n // 32))
    assert search_scales.search_scales(weights, room, fence.array(np.float32, n // 32), minima) == OK
    totals = fence.arrays((np.float64, 32), (np.float64, 32), (np.float64, 1))
    assert errors.add_errors(*fence.arrays((np.float64, n), (np.float64, n)), *totals) == OK


def feed_bounds(fence: Fence, n: int) -> None:
    """Tables of noise too: what cannot come from ours."""
    x, y, codes = fence.arrays((np.float32, n), (np.float32, n), (np.uint16, n))
    found = fence.array(np.int64, 2)
    bits = x.view(np.uint32)
    assert bounds.magnitudes(bits, found) == OK
    assert bounds.multiples(x, 1e-3, codes, found) == OK
    assert bounds.too_far(x, y, 1.0) >= 0
    for unit in (np.uint16, np.uint32):
        for entries, shift in ((1, 31), (5, 0), (300, 20)):
            firsts, limits = fence.arrays((np.int64, 9), (np.uint32, entries))
            numbers, units, out = fence.arrays((np.float64, entries), (unit, entries), (unit, n))
            for most in (0, 3):
                assert bounds.nearest(bits, shift, firsts, limits, most, numbers, units, 0.1, out) >= 0


def feed_payload(fence: Fence, groups: int, blocks: int, precision: int) -> None:
    """Noise behind a table that is sound, or behind noise, and cut off anywhere."""
    half = 1 << precision - 1
    sound_table = bytes([7, 8, *[half % 128 + 128, half // 128] * 2])
    slots, starts, parts = fence.arrays((np.uint32, table.SLOTS), (np.int64, blocks + 1), (np.int64, payload.PARTS))
    for size in (0, 1, 5, 6, 16, 40, 200, 128 * blocks + 64):
        stored = fence.array(np.uint8, size)
        for begin in (b"", sound_table):
            stored[: len(begin)] = np.frombuffer(begin, np.uint8)[:size]
            for escapes, bypass_mode in ((0, True), (3, False)):
                payload.open_payload(
                    stored, size, 10, 99, bypass_mode, escapes, precision, 128 * groups, slots, starts, parts
                )
    feed_chunk(fence, groups, blocks, slots, starts, sound_table)
    feed_classes(fence, groups, blocks, precision, fence.array(np.uint32, 4 * table.SLOTS), sound_table)
    feed_sparse(fence, groups, blocks, slots, starts, sound_table)
    body, positions, fields = fence.arrays((np.uint32, 128 * groups), (np.uint32, 9), (np.uint16, 9))
    payload.patch(body, 21, 1023, positions, fields)


def feed_chunk(
    fence: Fence, groups: int, blocks: int, slots: np.ndarray, starts: np.ndarray, sound_table: bytes
) -> None:
    """Noise; then a sound head and descriptors before noise, cut off anywhere."""
    units, (places, widths) = 128 * groups, fence.arrays((np.int64, opening.PLACES), (np.int64, 2))
    no_mask = fence.arrays((np.uint8, 0), (np.uint32, 0))
    front = struct.pack("<BBHIQ", 2, 2, 0, units, 0) + struct.pack("<BBHIII", 1, 0, 0, units, 0, 0)
    for size in (0, 1, 16, 47, 48, 64, 48 + units, 48 + units + 64 + 128 * blocks, 48 + units + 64 + 200 * blocks):
        data = fence.array(np.uint8, size)
        for payload_length in (0, size - 48 - units - 64, 1 << 31):
            opening.open_chunk(data, units, 2, *no_mask, widths, slots, starts, places)
            widths[:] = 8
            top = struct.pack("<BBHIII", 2, 12, 0, max(0, payload_length), blocks, 0)
            start = (front + top)[:size]
            data[: len(start)] = np.frombuffer(start, np.uint8)
            data[48 + units : 48 + units + len(sound_table)] = np.frombuffer(sound_table, np.uint8)[
                : max(0, size - 48 - units)
            ]
            assert opening.open_chunk(data, units, 2, *no_mask, widths, slots, starts, places) in (OK, opening.LEFT)
            widths[0], data[16:32] = 0, 0
            assert opening.open_chunk(data, units, 2, *no_mask, widths, slots, starts, places) in (OK, opening.LEFT)


def feed_classes(
    fence: Fence, groups: int, blocks: int, precision: int, slots: np.ndarray, sound_table: bytes
) -> None:
    """The same for chunks with classes: without signs, and with."""
    units, sound_signs = 128 * groups, bytes((0, 1, 0x81, 16, 0xFF, 15))
    some, columns = fence.arrays((np.uint8, 7), (np.uint8, 9))
    given = fence.arrays(*(2 * ((np.int64, blocks + 1), (np.int64, opening.PLACES))))
    for signs in (0, 3):
        widths, zeros = fence.arrays((np.int64, 2), (np.uint16, signs))
        widths[:] = (1, 10) if signs else (8, 10)
        below = 64 if signs else units
        first = (2, 12, 0, below, blocks, 0) if signs else (1, 0, 0, below, 0, 0)
        front = struct.pack("<BBHIQ", 2, 2, 0, units, 0) + struct.pack("<BBHIII", *first)
        for size in (0, 1, 16, 47, 48, 64, 48 + below, 48 + below + 64 + 130 * blocks, 48 + below + 200 * (blocks + 2)):
            data = fence.array(np.uint8, size)
            for length in (0, max(0, size - 48 - below - 64), 1 << 31):
                start = (front + struct.pack("<BBHIII", 2, precision, 0, length, blocks, 0))[:size]
                data[: len(start)] = np.frombuffer(start, np.uint8)
                for at, table_ in ((48, sound_signs * signs), (48 + below, sound_table + 3 * bytes((2, 0)))):
                    data[at : at + len(table_)] = np.frombuffer(table_, np.uint8)[: max(0, size - at)]
                found = opening.open_classes(
                    data, units, 2, widths, some, columns, 4, 16, slots, *given[:2], zeros, *given[2:]
                )
                assert found in (OK, opening.LEFT)


def feed_sparse(
    fence: Fence, groups: int, blocks: int, slots: np.ndarray, starts: np.ndarray, sound_table: bytes
) -> None:
    """The same for a chunk with a mask: of which a sixteenth is noise, or all."""
    body, (places, widths) = 1024 * groups, fence.arrays((np.int64, opening.PLACES), (np.int64, 2))
    widths[:] = 8
    for noise in (8 * groups, 128 * groups):
        mask = fence.array(np.uint8, 128 * groups)
        mask[noise:] = 0
        n = -(-int(np.unpackbits(mask).sum()) // 128) * 128
        start = 80 + n
        for size in (0, 1, 16, 31, 32, 63, 64, 80, start, start + 64 + 128 * blocks, start + 64 + 200 * blocks):
            for mask_length, top in ((16, size - start - 64), (1 << 31, 0), (0, 1 << 31)):
                data = fence.array(np.uint8, size)
                front = struct.pack("<BBHIQ", 2, 3, 0, body, 0) + struct.pack("<BBHIII", 3, 0, 0, mask_length, 0, 0)
                front += struct.pack("<BBHIII", 1, 0, 0, n, 0, 0)
                front += struct.pack("<BBHIII", 2, 12, 0, max(0, top), blocks, 0)
                data[: len(front)] = np.frombuffer(front[:size], np.uint8)
                data[start : start + len(sound_table)] = np.frombuffer(sound_table, np.uint8)[: max(0, size - start)]
                for raw in (False, True):
                    if raw and size > 16:
                        data[16] = 1
                    found = opening.open_chunk(
                        data, body, 2, mask, mask.view(np.uint32), widths, slots, starts, places
                    )
                    assert found == opening.LEFT or (found == OK and places[opening.GROUPS] == n // 128)


def feed_scales(fence: Fence) -> None:
    """Palettes too are noise: what cannot come from ours."""
    for dtype, half in ((np.uint32, False), (np.uint16, False), (np.uint16, True)):
        for length, entries in ((1, 1), (70, 3), (70, 0), (16, 300)):
            units, room, scales, used = fence.arrays(
                (dtype, 4 * length), (np.int64, length), (np.uint32, 4), (np.float64, 4)
            )
            positive, negative, tops = fence.arrays((np.float64, entries), (np.float64, entries), (np.float64, 2))
            for number in (tops[0], 1.0, 2.0):
                tops[0] = number
                positive[-1:] = 1.0
                find_scales.find_scales(units, half, length, positive, negative, tops, room, scales, used)


def feed_lookups(fence: Fence, n: int) -> None:
    """Codes are noise, most of them beyond a short palette."""
    scales, table = fence.arrays((np.float32, 5), (np.uint32, 12))
    for kind in (np.uint8, np.uint16):
        codes = fence.array(kind, n)
        for unit in (np.uint8, np.uint16, np.uint32):
            out = fence.array(unit, n)
            ranked, order, found = fence.arrays((np.uint32, 12), (np.uint32, 12), (np.uint16, n))
            for entries, length, first in ((12, n, 0), (3, 1 << 62, 7), (1, n // 3, n // 3 * 2 - 1)):
                runs = (first + n - 1) // length - first // length + 1
                rows = (ranked[: entries * runs], order[: entries * runs])
                assert find_codes.find_entries(*rows, entries, length, first, out, found) != BAD_ARGUMENT
                assert lookup.pick(table[: entries * runs], entries, length, first, codes, out) != BAD_ARGUMENT
        for scaled, find, unit in (
            (lookup.scaled_f32, find_codes.find_f32, np.uint32),
            (lookup.scaled_bf16, find_codes.find_bf16, np.uint16),
            (lookup.scaled_f16, find_codes.find_f16, np.uint16),
        ):
            units, room = fence.arrays((unit, n), (np.uint32, 32))
            numbers, order, found = fence.arrays((np.uint32, 32), (np.uint32, 32), (np.uint16, n))
            runs = (scales, -(-(n + 3) // 5), 3)
            assert scaled(table, *runs, codes, units) != BAD_ARGUMENT
            assert scaled(table, scales, -(-n // 160) * 32, 0, codes, units) != BAD_ARGUMENT  # whole vectors
            assert find(numbers, order, 12, *runs, units, room, found) != BAD_ARGUMENT
        for shifted, find, unit in (
            (lookup.shifted_f32, find_codes.find_shifted_f32, np.uint32),
            (lookup.shifted_bf16, find_codes.find_shifted_bf16, np.uint16),
            (lookup.shifted_f16, find_codes.find_shifted_f16, np.uint16),
        ):
            units, room, offsets = fence.arrays((unit, n), (np.uint32, 32), (np.float32, 5))
            numbers, order, found = fence.arrays((np.uint32, 32), (np.uint32, 32), (np.uint16, n))
            runs = (scales, offsets, -(-(n + 3) // 5), 3)
            assert shifted(table, *runs, codes, units) != BAD_ARGUMENT
            assert find(numbers, order, 12, *runs, units, room, found) != BAD_ARGUMENT
    for kind in (np.uint8, np.uint16, np.uint32, np.uint64):
        codes = fence.array(kind, n)
        assert lookup.decimals_f32(codes, 10.0, fence.array(np.uint32, n)) == OK
        assert lookup.decimals_f64(codes, 10.0, fence.array(np.uint64, n)) == OK
    for number, unit in ((np.float32, np.uint32), (np.float64, np.uint64)):
        arrays = fence.arrays((number, n), (unit, n))
        assert find_codes.find_decimals(*arrays, 10.0, fence.array(np.uint64, n)) != BAD_ARGUMENT


def feed_trellis(fence: Fence, n: int) -> None:
    chosen, found = fence.arrays((np.uint8, n), (np.uint16, n))
    x = fence.array(np.float32, n)
    for slack in (fence.array(np.float32, n), fence.array(np.float32, 0)):
        for most in (0, 255, 65535):
            assert trellis.search(x, slack, most // 2, most, chosen, found) == OK
    assert trellis.codes_of(x, 0, 65535, found) in (OK, BAD_STREAM)
    assert trellis.nearest(x, 0, 65535, found) == OK
    for kind in (np.uint8, np.uint16):
        codes = fence.array(kind, n)
        for levels, unit in (
            (trellis.levels_f32, np.uint32), (trellis.levels_bf16, np.uint16), (trellis.levels_f16, np.uint16),
        ):  # fmt: skip
            for states in (1, 8):
                assert levels(codes, 65535, states, np.float32(3e38), fence.array(unit, n)) == OK
        for scaled, unit in (
            (trellis.scaled_f32, np.uint32), (trellis.scaled_bf16, np.uint16), (trellis.scaled_f16, np.uint16),
        ):  # fmt: skip
            for width, first in ((1, 0), (31, 30), (32, 0), (n, 0), (n + 1, n), (97, 3)):
                scales, columns = fence.arrays((np.float32, -(-(first + n) // width)), (np.uint32, width))
                room, out = fence.arrays((np.uint32, 32), (unit, n))
                assert scaled(codes, 9, 8, np.float32(2), scales, columns, first, room, out) == OK
    for states in (1, 8):
        assert trellis.narrow_bf16(*fence.arrays((np.uint8, n)), 255, states, np.float32(3), found) == OK


def feed_merging(fence: Fence, precision: int) -> None:
    counts, shared, frequencies, logarithms = fence.arrays(
        (np.int64, 256 * 5), (np.int64, 256), (np.uint16, 256), (np.int64, (1 << precision) + 1)
    )
    room = fence.arrays(*[(np.int64, 5)] * 4)
    for most in (1 << 62, 1000):
        counts %= most
        merging.merge_tables(counts, precision, logarithms, *room[:3], shared, frequencies, room[3])


def feed_contexts(fence: Fence, n: int, blocks: int, precision: int) -> None:
    states, words, selected = fence.arrays((np.uint32, 32 * blocks), (np.uint16, 32 + n // 50), (np.uint8, n))
    slots, starts, out = fence.arrays((np.uint32, 16 * table.SLOTS), (np.int64, blocks + 1), (np.uint16, n))
    stream = (selected, states, words, starts, out)
    narrow = fence.array(np.uint32, 4 << precision)
    assert context_coding.decode_context_bypass(narrow, precision, 16, *stream) in (OK, BAD_STREAM)
    assert context_coding.decode_context_fields(slots, 65535, 16, 16, *stream) in (OK, BAD_STREAM)
    for decode, dtype, widths, _base, _octave in class_checks.LAYOUTS:
        pieces = fence.arrays(*((np.uint8, size) for size in piece_sizes(widths, n)))
        elements = fence.array(dtype, n)
        for tables in (1, 4, 16):
            some = fence.array(np.uint32, tables * table.SLOTS)
            status = decode(some, 65535, 16, states, words, starts, *pieces, selected, elements)
            assert status in (OK, BAD_STREAM)
    feed_means(fence, n, states, words, starts, selected)
    sums = fence.arrays((np.int64, 7), (np.int64, n))
    work = fence.arrays((np.uint16, n), (np.uint32, n))
    for both in (False, True):
        assert scales.fit_scales(fence.array(np.uint16, 7 * n), 2, -8, both, *sums, *work) == OK
    codes, counts = fence.arrays((np.uint8, 7 * n), (np.int64, 5 * 256))
    of_blocks, takes, costs = fence.arrays((np.int64, n), (np.int64, 9 * 256), (np.int64, 3 * 5))
    numbers = (*sums, of_blocks)
    for _ in range(2):
        assert scales.count_codes(codes, *numbers, 7, 256, counts) in (OK, BAD_ARGUMENT)
        assert scales.add_costs(codes, *numbers, 7, numbers, takes, 9, 5, costs) in (OK, BAD_ARGUMENT)
        for each in numbers:
            each %= 2
    assert scales.count_codes(codes, *numbers, 7, 256, counts) == OK
    assert scales.count_codes(codes, *numbers, 7, 5, counts) in (OK, BAD_ARGUMENT)
    for each in numbers[1:]:
        each[:] = 0
    assert scales.add_costs(codes, *numbers, 7, numbers, takes, 9, 5, costs) == OK
    feed_directions(fence, n)
    by_symbol, twice, counts, fields = fence.arrays(
        (np.uint32, 4096), (np.uint16, 2 * n), (np.int64, blocks), (np.uint16, n)
    )
    by_symbol |= np.uint32(1 << 12)
    context_coding.encode_context_bypass(fields, out, by_symbol, precision, twice, states, counts)
    feed_differences(fence, n, states, words, starts)
    context_coding.encode_context_symbols(out, by_symbol, precision, fence.array(np.uint16, n), states, counts)
    assert contexts.join_bypass(fields, selected, 63, out) == OK
    assert contexts.join_window(fields, selected, 3, 65535, 16, 16, out) >= 0
    assert contexts.count_moved(fields, selected, 4, 3, fence.array(np.int64, 1 << 16)) == OK
    contexts.number_tables(selected, fence.array(np.uint32, 256))
    assert contexts.add_row_classes(fence.array(np.uint8, 7), n, 5, 64, fence.array(np.uint8, 7 * n - 32)) == OK
    assert contexts.class_contexts(selected, fence.array(np.uint8, 7), 5, fence.array(np.uint8, 7 * n - 5)) == OK
    for dtype in (np.uint8, np.uint16, np.uint32, np.uint64):
        base, units = fence.arrays((dtype, n), (dtype, n))
        bits = 8 * base.itemsize
        assert contexts.base_contexts(base, bits - 5, 3, 20, selected) == OK
        for floats in (False, True):
            assert delta.differences(units, base, floats, units) == OK
            assert delta.add_base(units, base, floats) == OK
    casts.compare_rounded(*fence.arrays((np.uint32, n), (np.uint16, n)))
    feed_merging(fence, precision)
    parts, number = fence.arrays((np.int64, payload.PARTS), (np.uint32, 256))
    for size in (0, 1, 2, 3, 9, 40, 200, 128 * blocks + 64):
        stored = fence.array(np.uint8, size)
        for _ in range(2):
            for bypass_mode in (True, False):
                for each in (table.SLOTS, 1 << precision):
                    payload.open_contexts(
                        stored, size, 10, 99, bypass_mode, 0, precision, n, 16, each, slots, starts, parts, number
                    )
            stored[:] = np.resize([1, 0, 2, 0], size)


def feed_differences(fence: Fence, n: int, states: np.ndarray, words: np.ndarray, starts: np.ndarray) -> None:
    """To the decoder noise; to what opens chunks also a sound head, descriptor and tables before it, cut off."""
    blocks, classes = starts.size - 1, 3
    begins, numbers, places = fence.arrays(
        (np.int64, classes), (np.uint16, 32 * classes), (np.int64, delta_opening.PLACES)
    )
    lines, base, moved, out = fence.arrays((np.uint8, n // 32), *[(np.uint16, n)] * 3)
    stream = base, moved, states, words, starts, out
    for shift, first, tables in ((1, 0, 32), (15, 65535, 1), (8, 100, 20)):
        slots = fence.array(np.uint32, 33 * 2048)
        status = delta_kernels.decode_u16(slots, begins, numbers, lines, shift, first, tables, *stream)
        assert status in (OK, BAD_STREAM)
    slots, half = fence.array(np.uint32, delta_opening.ROOM), 1 << 10
    sound_tables = bytes([1, 0, 7, 8, *[half % 128 + 128, half // 128] * 2, 2, 0])
    for size in (0, 1, 16, 31, 32, 48, 96, 128 * blocks + 160, 128 * blocks + 400):
        for used in (-1, 0, size - 32 - 64, 1 << 31):
            data = fence.array(np.uint8, size)
            front = struct.pack("<BBHIQ", 2, 1, 0, n, 5) + struct.pack("<BBHIII", 4, 11, 0, max(0, used), blocks, 0)
            front = (front + sound_tables)[:size] if used >= 0 else b""
            data[: len(front)] = np.frombuffer(front, np.uint8)
            for tables in (1, 32):
                status = delta_opening.open_differences(data, n, n, tables, slots, begins, numbers, starts, places)
                assert status in (OK, opening.LEFT)


def feed_directions(fence: Fence, n: int) -> None:
    for rows_, width in ((1, 32), (5, 45), (67, 33)):
        size = rows_ * width
        kinds = ((np.float32, size), (np.uint32, 32 * width), (np.uint32, 32 * rows_), (np.uint32, 32 * width))
        matrix, right, along, turned = fence.arrays(*kinds)
        assert directions.products(matrix, right, along) == OK
        assert directions.turn(matrix, right, fence.array(np.uint32, 32 * directions.ROWS), turned) == OK
        assert directions.add_squares(matrix, fence.array(np.float64, width)) == OK
        assert directions.straighten(turned, turned.view(np.float32), fence.array(np.float32, 32)) == OK
        of_rows, of_columns = fence.arrays((np.float32, rows_), (np.uint32, width))
        kinds_ = (np.uint8, 3 * (rows_ + width + 2)), (np.uint16, 3 * width), (np.uint32, size)
        factors, scaled, out = fence.arrays(*kinds_)
        for dtype, form in ((np.uint8, (7, 20, 128)), (np.uint16, (15, 13, 1 << 14)), (np.uint32, (31, 0, 1 << 30))):
            given = fence.array(dtype, size), form, np.float32(1), of_rows, of_columns
            assert directions.over_scales(*given, 1 << 29, out) == OK
            assert directions.leave_rests(*given, factors, 2, scaled, out) == OK
            filled = fence.array(np.uint8, -(-rows_ // 4) * -(-width // 4) * 16)
            assert whole_directions.whole_over_scales(*given, 0x427C0000, filled) == OK
        feed_whole_directions(fence, rows_, width)
    for dtype in (np.uint8, np.uint16, np.uint32, np.uint64):
        size = n + 5
        assert scales.logarithms(fence.array(dtype, size), 7, 3, fence.array(np.uint16, size)) == OK


def feed_whole_directions(fence: Fence, rows_: int, width: int) -> None:
    high, wide = -(-rows_ // 4), -(-width // 4)
    kinds = ((np.uint8, 16 * high * wide), (np.uint32, high * width), (np.uint32, 32 * wide), (np.uint32, 32 * high))
    matrix, fours, right, along = fence.arrays(*kinds)
    assert whole_directions.by_fours(matrix, width, fours) == OK
    assert whole_directions.sum_squares(matrix) >= 0
    out, turned, most = fence.arrays((np.uint32, 32 * rows_), (np.uint32, 32 * width), (np.float32, 32))
    assert whole_directions.products(fence.array(np.uint32, rows_ * wide), right, out) == OK
    assert whole_directions.turn(fours, along, turned) == OK
    for numbers in (out.view(np.int32), out.view(np.float32)):
        assert whole_directions.largest(numbers, most) == OK
        assert whole_directions.to_bytes(numbers, most, along) == OK
    lines = fence.array(np.uint8, 9 * rows_).reshape(9, rows_)
    numbers, factors = out.view(np.int32), fence.array(np.float32, 9)
    assert whole_directions.round_rows(numbers, factors, np.float32(0.4), 127, lines) == OK


def feed_means(
    fence: Fence, n: int, states: np.ndarray, words: np.ndarray, starts: np.ndarray, selected: np.ndarray
) -> None:
    for rank, width in ((1, 7), (3, 45), (33, 300)):
        rows = -(-(n + 5) // width)
        of_rows, of_columns = rows * mean.numbers_of(rank), (rank + 1) * mean.line_of(width)
        kinds = ((np.uint8, rows), (np.uint8, of_rows), (np.uint16, of_columns), (np.uint16, mean.LOGARITHMS))
        given = fence.arrays(*kinds)
        for first in (0, 5):
            size = rows * width - first
            some, steers = fence.arrays((np.uint8, size), (np.uint16, size))
            assert mean.steer_units(*given[:3], width, given[3], first, some, steers) == OK
        for decode, dtype, widths, _base, _octave in mean_checks.LAYOUTS:
            pieces = fence.arrays(*((np.uint8, size) for size in piece_sizes(widths, n)))
            elements, zeros = fence.array(dtype, n), fence.array(np.uint16, 32)
            positions, fields, some = fence.arrays((np.uint32, 9), (np.uint16, 9), (np.uint32, 4 * table.SLOTS))
            stream = states, words, starts
            status = decode(
                some, (65535, 16), (4, 65535, 32), zeros, stream, stream, (positions, fields), tuple(given), (5, width),
                *pieces, elements,
            )  # fmt: skip
            assert status in (OK, BAD_STREAM)
    fields, steers, out, flips = fence.arrays((np.uint16, n), (np.uint16, n), (np.uint8, n), (np.uint8, n))
    assert mean.sign_contexts(fields, steers, 2, 65535, 256, out, flips) == OK
    assert mean.sign_contexts(selected, steers, 0, 0, 1, out, flips) == OK
    assert mean.join_signs(flips, fields, steers, 2, 65535, 128, out) == OK
    assert mean.join_signs(flips, selected, steers, 0, 0, 1, out) == OK
    for blocks in (1, n // 128):
        words, states = fence.arrays((np.uint16, n), (np.uint32, 32 * blocks))
        zeros = fence.array(np.uint16, 32)
        zeros %= 4095
        zeros += 1
        assert encode_signs(out, zeros, words, states, fence.array(np.int64, blocks)) == OK


def feed_hash(fence: Fence, pieces: int) -> None:
    kinds = ((np.uint64, 2048 * pieces), (np.uint64, xxh3.STAGING), (np.uint64, pieces))
    assert xxh3.hash_pieces(*fence.arrays(*kinds)) == OK


def main() -> None:
    rng = np.random.default_rng(11)
    fed = 0
    geometries = ((1, 1), (6, 4), (11, 3), (37, 5))
    for side, pattern, (groups, blocks) in itertools.product(("begin", "end"), range(PATTERNS), geometries):
        fence = Fence(side, rng, pattern)
        precision = 11 + groups % 2
        feed_decoders(fence, 128 * groups, blocks)
        feed_scattered(fence, 128 * groups, blocks)
        feed_encoders(fence, 128 * groups, blocks, precision)
        feed_the_rest(fence, 128 * groups, precision)
        feed_records(fence, 128 * groups)
        feed_quantisers(fence, 128 * groups)
        feed_bounds(fence, 128 * groups)
        feed_payload(fence, groups, blocks, precision)
        feed_contexts(fence, 128 * groups, blocks, precision)
        feed_hash(fence, blocks)
        feed_scales(fence)
        feed_lookups(fence, 128 * groups)
        feed_trellis(fence, 128 * groups)
        fed += 1
        _kept.clear()
    print(json.dumps({"fed": fed}))


if __name__ == "__main__":
    main()
