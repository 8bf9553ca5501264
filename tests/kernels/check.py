"""A program: check every kernel against its naive twin, with the instruction set of this process, and print a digest.

The digest is of all outputs, those of damaged inputs too, where the naive twin gives up. It is to be the same for every
instruction set. test_instruction_sets.py runs this program; to debug it, run it by hand with SLIMTENSORS_ISA set, and
`digest` as its argument; `registers` says which kernels of one layout use which registers, `all` both, for all kernels.
"""

from __future__ import annotations

import hashlib
import json
import sys
from itertools import pairwise

import numpy as np
import xxhash

from kernels import cases, lane_kernels, naive
from kernels.check_low_rank import check_fits, check_moves
from kernels.check_scales import check_scales
from kernels.class_checks import check_classes, check_rests
from kernels.delta_checks import check_differences
from kernels.direction_checks import check_directions
from kernels.encode_checks import check_code_halves, check_few, check_survey, check_windows
from kernels.lookup_checks import check_lookups
from kernels.mean_checks import check_means
from kernels.quantise_checks import check_quantisers
from kernels.record_checks import check_records
from kernels.scatter_checks import check_scattered
from kernels.search_checks import check_search, check_trees
from kernels.trellis_checks import check_straight, check_trellis
from slimtensors.codecs.casts import round_to_bf16
from slimtensors.kernels.cpu import (
    bounds,
    bypass,
    casts,
    class_kernels,
    closing,
    context_coding,
    contexts,
    decode_kernels,
    delta,
    delta_kernels,
    directions,
    encode,
    encode_few,
    errors,
    find_codes,
    find_scales,
    fit,
    histogram,
    level_kernels,
    lookup,
    low_rank,
    merging,
    outliers,
    planes,
    quantise,
    records,
    rows,
    scales,
    scatter_kernels,
    search,
    search_kernels,
    search_scales,
    sparse,
    split,
    sums,
    survey,
    table,
    trellis,
    whole_directions,
    window,
    xxh3,
)
from slimtensors.kernels.status import BAD_ARGUMENT, BAD_STREAM, OK

MODULES = (
    bounds, bypass, casts, class_kernels, closing, context_coding, contexts, decode_kernels, delta, delta_kernels,
    directions, encode, encode_few, errors, find_codes, find_scales, fit, histogram, level_kernels, lookup, low_rank,
    merging, outliers, planes, quantise, records, rows, scales, scatter_kernels, search, search_kernels, search_scales,
    sparse, split, sums, survey, table, trellis, whole_directions, window, xxh3,
)  # fmt: skip


class Digest:
    def __init__(self) -> None:
        self.sha256 = hashlib.sha256()

    def add(self, status: int, *arrays: np.ndarray) -> None:
        self.sha256.update(repr(int(status)).encode())
        for array in arrays:
            self.sha256.update(array.tobytes())


def tables(frequencies: np.ndarray, precision: int) -> tuple[np.ndarray, np.ndarray]:
    """(the decoder's, the encoder's)"""
    slots, by_symbol = np.zeros(table.SLOTS, np.uint32), np.zeros(256, np.uint32)
    assert table.build_table(frequencies, precision, slots) == OK
    assert table.build_encoder_table(frequencies, precision, by_symbol) == OK
    return slots, by_symbol


def gathered(words: np.ndarray, counts: np.ndarray, n: int, words_each: int) -> np.ndarray:
    """The words of all blocks, one after another, from the places where the encoder leaves them."""
    ends = [block.stop * words_each for block in naive.blocks_of(n, counts.size)]
    return np.concatenate([words[end - count : end] for end, count in zip(ends, counts, strict=True)])


def check_lanes(rng: np.random.Generator) -> None:
    # Just below, at and above multiples of each divisor, for small quotients and the largest.
    divisor = np.repeat(np.arange(1, 4097), 32)
    largest = np.minimum(divisor * 2**21, 2**32) - 1
    quotient = rng.integers(0, 2**21, divisor.size)
    quotient[::4] = 2**21 - 1
    multiple = np.minimum(quotient, largest // divisor) * divisor
    f = divisor.astype(np.uint32)
    x = np.clip(multiple + rng.integers(-1, 2, f.size), 0, largest).astype(np.uint32)
    quotients, remainders = np.zeros_like(x), np.zeros_like(x)
    lane_kernels.divide_all(x, f, quotients, remainders)
    assert np.array_equal(quotients, x // f)
    assert np.array_equal(remainders, x % f)

    x[:64] = np.uint32(1) << (np.arange(64, dtype=np.uint32) % 32)
    x[64] = 0
    zeros, high = np.zeros_like(x), np.zeros(x.size, np.uint16)
    lane_kernels.leading_zeros_all(x, zeros)
    assert zeros.tolist() == [32 - int(v).bit_length() for v in x]
    lane_kernels.high_all(x, high)
    assert np.array_equal(high, x >> 16)
    lane_kernels.gather_all(x, f % 999, zeros)
    assert np.array_equal(zeros, x[f % 999])
    lane_kernels.halves_all(x, (f % 999).astype(np.uint16), zeros)
    assert np.array_equal(zeros, x[f % 999])
    check_permutes(rng, high[:3200])
    for bits in (-3, 0, 1, 15, 16):
        turned = np.zeros_like(high)
        lane_kernels.rotate_all(high, bits, turned)
        assert np.array_equal(turned, high >> np.uint16(bits % 16) | high << np.uint16(-bits % 16)), bits

    bits, shifted = rng.integers(0, 1 << 16, high.size, dtype=np.uint16), np.zeros_like(high)
    lane_kernels.shift_all(high, high[::-1].copy(), bits, shifted)
    assert np.array_equal(shifted, ((high.astype(int) << 16 | high[::-1]) >> bits % 16) & 0xFFFF)

    octets, fields = rng.integers(0, 256, 3200, dtype=np.uint8), np.zeros(3200, np.uint8)
    for at in range(8):
        for width in range(1, 9 - at):
            for up in range(9 - width):
                lane_kernels.cut_all(octets, at, width, up, fields)
                expected = [(octet >> at) % 2**width * 2**up for octet in octets.tolist()]
                assert fields.tolist() == expected, (at, width, up)

    wants = (rng.random(32 * 300) < np.repeat(rng.random(300), 32)).astype(np.uint8)
    wants[:64], wants[-64:] = 1, 0
    # Any eight lanes, in each of four places.
    eights = (np.arange(256)[:, None] + [0, 70, 140, 210]).astype(np.uint8)
    wants = np.concatenate([np.unpackbits(eights, bitorder="little"), wants])
    words = rng.integers(0, 2**16, wants.sum() + 32, dtype=np.uint16)
    taken = np.full(wants.size, 12345, np.uint16)
    assert lane_kernels.take_all(words, wants, taken) == wants.sum()
    assert np.array_equal(taken[wants != 0], words[:-32])
    assert (taken[wants == 0] == 12345).all()
    given = np.zeros(wants.sum() + 64, np.uint16)
    assert lane_kernels.give_all(taken | np.uint32(0x70000), wants, given) == 64
    assert np.array_equal(given[64:], words[:-32])
    given[:] = 0
    assert lane_kernels.give_halves(taken, wants, given) == 64
    assert np.array_equal(given[64:], words[:-32])


def check_permutes(rng: np.random.Generator, index: np.ndarray) -> None:
    tables = rng.integers(0, 2**16, 64, dtype=np.uint16)
    one, two = np.zeros_like(index), np.zeros_like(index)
    lane_kernels.permute_all(tables, index, one, two)
    assert np.array_equal(one, tables[index % 32])
    assert np.array_equal(two, tables[index % 64])
    numbers = rng.integers(0, 2**16, index.size, dtype=np.uint16)
    lane_kernels.append_all(index, numbers, one)
    assert np.array_equal(one, index << 1 | numbers >> 15)
    every, top = np.arange(1 << 16, dtype=np.uint16), np.zeros(1 << 16, np.uint16)
    lane_kernels.top_all(every, top)
    assert np.array_equal(top % 32, every % 32)
    whole = every.view(np.int16).astype(int)
    exponents = np.array([abs(n).bit_length() - 1 for n in whole.tolist()])
    slow = (127 + exponents << 2) + (4 * abs(whole) >> np.maximum(exponents, 0)) - 4 | (whole < 0) << 10
    assert np.array_equal(top >> 5, np.where(whole == 0, 0, slow))
    words = rng.integers(0, 2**32, 64, dtype=np.uint32)
    high, low = numbers | 1, two
    high[1000] = 0  # one vector of many
    entries = np.zeros(index.size, np.uint32)
    lane_kernels.missing_all(words, index % 64, high, low, entries)
    expected = high.astype(np.uint32) << 16 | low
    expected[992:1024] = words[index[992:1024] % 64]
    assert np.array_equal(entries, expected)


def check_tables(digest: Digest) -> None:
    rng = np.random.default_rng(1)
    for precision in (11, 12):
        counts = rng.integers(0, 100, 256) * (rng.random(256) < 0.3)
        frequencies = np.array(naive.normalise(counts, precision), np.uint16)
        slots, by_symbol = tables(frequencies, precision)
        starts = naive.starts_of(frequencies.tolist())
        owner = [s for s in range(256) for _ in range(int(frequencies[s]))]
        # What a state becomes whose low 12 bits are `slot` is frequency * floor(x / 2^12) + bias, for any precision.
        for slot, entry in enumerate(slots.tolist()):
            s = owner[slot % (1 << precision)]
            bias = int(frequencies[s]) * (slot >> precision) + slot % (1 << precision) - starts[s]
            assert entry == int(frequencies[s]) << (32 - precision) | s << 12 | bias
        digest.add(OK, slots, by_symbol)
        for bad in (frequencies[1:], frequencies + np.uint16(1), np.full(256, 65535, np.uint16), frequencies // 2):
            assert table.build_table(bad, precision, slots) == BAD_ARGUMENT
            assert table.build_encoder_table(bad, precision, by_symbol) == BAD_ARGUMENT
        whole = np.zeros(256, np.uint16)
        whole[9] = 1 << precision
        assert table.build_table(whole, precision, slots) == BAD_ARGUMENT
        for bad_precision in (10, 13, 23 - precision, -1, 64):
            assert table.build_table(frequencies, bad_precision, slots) == BAD_ARGUMENT


def check_decoder(digest: Digest, chunk: cases.Chunk) -> None:
    slots, _ = tables(chunk.frequencies, chunk.precision)
    words = np.concatenate([chunk.words, cases.PADDING])
    arguments = (slots, chunk.base, chunk.states, words, chunk.starts, *chunk.pieces)
    out = np.zeros(chunk.elements.size, chunk.layout.dtype)
    assert chunk.layout.decode(*arguments, out) == OK, chunk.name
    assert np.array_equal(out, chunk.decoded), chunk.name

    rng = np.random.default_rng(chunk.elements.size)
    for number, bad in enumerate(cases.damaged(rng, arguments, 2)):
        status = chunk.layout.decode(*bad, out)
        # Noise where no word is read is no damage.
        assert status == BAD_STREAM or (number < 2 and chunk.words.size == 0), (chunk.name, number)
        digest.add(status, out)
    one_more = np.concatenate([chunk.starts[:-1], chunk.starts[-1:] + 1])
    assert chunk.layout.decode(*arguments[:4], one_more, *chunk.pieces, out) == BAD_STREAM, chunk.name
    untouched = out.copy()
    for bad in cases.shortened((*arguments, out)):
        assert chunk.layout.decode(*bad) == BAD_ARGUMENT, chunk.name
    assert np.array_equal(out, untouched)


def check_encoder(digest: Digest, chunk: cases.Chunk) -> None:
    _, by_symbol = tables(chunk.frequencies, chunk.precision)
    n = chunk.symbols.size
    words, counts = np.zeros(n, np.uint16), np.zeros(chunk.blocks, np.int64)
    states = np.zeros(32 * chunk.blocks, np.uint32)
    entries = np.zeros(encode.ENTRIES, np.uint32)
    arguments = (chunk.symbols, by_symbol, chunk.precision, entries, words, states, counts)
    assert encode.encode_symbols(*arguments) == OK, chunk.name
    assert np.array_equal(counts, chunk.counts), chunk.name
    assert np.array_equal(states, chunk.states), chunk.name
    assert np.array_equal(gathered(words, counts, n, 1), chunk.words), chunk.name

    for bad in cases.shortened(arguments):
        assert encode.encode_symbols(*bad) == BAD_ARGUMENT, chunk.name
    absent = np.flatnonzero(chunk.frequencies == 0)
    if absent.size:
        symbols = chunk.symbols.copy()
        symbols[n // 2] = absent[0]
        assert encode.encode_symbols(symbols, *arguments[1:]) == BAD_ARGUMENT, chunk.name
    assert encode.encode_symbols(chunk.symbols, by_symbol & 0xFFF, *arguments[2:]) == BAD_ARGUMENT, chunk.name
    noise = np.random.default_rng(n).integers(0, 2**24, 256, dtype=np.uint32) | 1 << 12
    status = encode.encode_symbols(chunk.symbols, noise, *arguments[2:])
    digest.add(status, states, counts, gathered(words, counts, n, 1))


def check_split(chunk: cases.Chunk) -> None:
    layout, n = chunk.layout, chunk.elements.size
    expected = np.flatnonzero((chunk.symbols == 0) & (chunk.fields != 0))
    symbols = np.zeros(n, np.uint8)
    if layout.split:
        pieces = [np.zeros_like(piece) for piece in chunk.pieces]
        arguments = (chunk.elements, chunk.base, chunk.base + 255, *pieces, symbols)
        assert layout.split(*arguments) == expected.size, chunk.name
        assert all(np.array_equal(a, b) for a, b in zip(pieces, chunk.pieces, strict=True)), chunk.name
        for bad in cases.shortened(arguments):
            assert layout.split(*bad) == -1, chunk.name
    else:
        source = chunk.elements if len(layout.widths) == 1 else chunk.fields
        assert split.symbols_of(source, chunk.base, chunk.base + 255, symbols) == expected.size
        assert split.symbols_of(source, chunk.base, chunk.base + 255, symbols[1:]) == -1
        assert split.symbols_of(source, chunk.base, chunk.base + 256, symbols) == -1
    assert np.array_equal(symbols, chunk.symbols), chunk.name
    for at in (0, n // 2, n - 1) if layout.split and layout.rotate == 0 else ():
        negative = chunk.elements.copy()
        negative[at] |= 1 << 31
        assert layout.split(negative, *arguments[1:]) == split.SIGNED, chunk.name

    width, shift = layout.widths[-1], sum(layout.widths[:-1])
    staging = np.zeros(histogram.STAGING, np.uint16)
    counts = np.ones(histogram.TABLES << width, np.uint32)
    where = (chunk.elements, layout.rotate, shift, width)
    assert histogram.field_histogram(*where, 1, staging, counts) == OK
    assert np.array_equal(counts[: 1 << width], np.bincount(chunk.fields, minlength=1 << width)), chunk.name
    positions, fields = np.zeros(expected.size, np.uint32), np.zeros(expected.size, np.uint16)
    assert histogram.find_escapes(*where, symbols, staging, positions, fields) == expected.size
    assert np.array_equal(positions, expected)
    assert np.array_equal(fields, chunk.fields[expected])
    for bad in cases.shortened((*where, 1, staging, counts)):
        assert histogram.field_histogram(*bad) == BAD_ARGUMENT
    room_for_fewer = (positions[: expected.size // 2], fields[: expected.size // 2])
    assert histogram.find_escapes(*where, symbols, staging, *room_for_fewer) == expected.size // 2


def check_bypass(digest: Digest, rng: np.random.Generator, groups: int, blocks: int, precision: int) -> None:
    n = 128 * groups
    values = (2.0 ** rng.uniform(0, 16, n)).astype(np.uint16)
    fields = [naive.bypass_field(int(v)) for v in values]
    counts = np.bincount([s for s, _v, _k in fields], minlength=256)

    frequencies = np.array(naive.normalise(counts, precision), np.uint16)
    slots, by_symbol = tables(frequencies, precision)
    words, states, sizes = np.zeros(2 * n, np.uint16), np.zeros(32 * blocks, np.uint32), np.zeros(blocks, np.int64)
    encoder = (values, by_symbol, precision, words, states, sizes)
    assert bypass.encode_bypass(*encoder) == OK
    expected = naive.encode(fields, blocks, frequencies.tolist(), precision)
    run = gathered(words, sizes, n, 2)
    for ours, theirs in zip((states, run, sizes), expected, strict=True):
        assert np.array_equal(ours, theirs)
    for bad in cases.shortened(encoder):
        assert bypass.encode_bypass(*bad) == BAD_ARGUMENT

    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    out = np.zeros(n, np.uint16)
    decoder = (slots, states, np.concatenate([run, cases.PADDING]), starts)
    assert bypass.decode_bypass(*decoder, out) == OK
    assert np.array_equal(out, values)
    assert naive.decode(*expected, n, frequencies.tolist(), precision, bypass=True) == values.tolist()
    for bad in cases.damaged(rng, decoder, 1):
        status = bypass.decode_bypass(*bad, out)
        assert status == BAD_STREAM
        digest.add(status, out)
    for bad in cases.shortened((*decoder, out)):
        assert bypass.decode_bypass(*bad) == BAD_ARGUMENT


def check_planes(rng: np.random.Generator) -> None:
    for width in range(1, 9):
        for groups in (0, 1, 2, 5, 8):
            symbols = rng.integers(0, 1 << width, 128 * groups).astype(np.uint8)
            expected = np.concatenate(naive.pack(symbols, width))
            packed, out = np.zeros_like(expected), np.ones_like(symbols)
            assert planes.pack(width, symbols, packed) == OK
            assert np.array_equal(packed, expected)
            assert planes.unpack(width, packed, out) == OK
            assert np.array_equal(out, symbols)
            for bad in ((width, packed[1:], out), (width, packed, out[1:]), (0, packed, out), (9, packed, out)):
                assert planes.unpack(*bad) == BAD_ARGUMENT or packed.size == 0
            if width % 2 and groups % 2:
                packed[-1] |= 0x80
                assert planes.unpack(width, packed, out) == BAD_STREAM

    for dtype, widths in (
        (np.uint8, (3, 5)),
        (np.uint16, (1, 2, 4, 9)),
        (np.uint32, (16, 7, 9)),
        (np.uint64, (8,) * 8),
    ):
        bits = np.dtype(dtype).itemsize * 8
        elements = rng.integers(0, 2**bits, 256, dtype=dtype)
        for rotate in (0, 1, bits - 1):
            out, shift = np.zeros(256, dtype), 0
            for plane, width in zip(naive.cut(elements, rotate, widths), widths, strict=True):
                fields = np.zeros(256, np.uint8 if width <= 8 else np.uint16)
                assert planes.cut_plane(elements, rotate, shift, width, fields) == OK
                assert np.array_equal(fields, plane)
                assert planes.join_plane(fields, shift, out) == OK
                assert planes.cut_plane(elements, rotate, bits - width + 1, width, fields) == BAD_ARGUMENT
                shift += width
            assert planes.rotate_right(out, rotate) == OK
            assert np.array_equal(out, elements)
        assert planes.rotate_right(out, bits) == BAD_ARGUMENT
        assert planes.join_plane(fields, bits, out) == BAD_ARGUMENT
        assert planes.join_plane(fields[:32], 0, out) == BAD_ARGUMENT


def check_rows(rng: np.random.Generator) -> None:
    for length, first, n in ((40, 17, 512), (32, 31, 256), (1, 0, 30), (1000, 999, 3), (7, 350, 0), (128, 256, 384)):
        present = (rng.random((first + n) // length + 2) < 0.5).astype(np.uint8) * np.uint8(3)
        there = np.repeat(present, length)[first : first + n] != 0
        for dtype in (np.uint8, np.uint16):
            src = rng.integers(1, 256, n).astype(dtype)
            compact, out = np.zeros(np.count_nonzero(there), dtype), np.ones(n, np.uint32)
            assert rows.compact_rows(src, present, length, first, compact) == OK
            assert np.array_equal(compact, src[there])
            assert rows.join_rows(compact, present, length, first, 5, out) == OK
            assert np.array_equal(out, np.where(there, src.astype(np.uint32) << np.uint32(5), 0) | 1)
            assert rows.join_rows(compact, present, length, first, 32, out) == BAD_ARGUMENT
            others, spread = rng.integers(0, 256, n).astype(dtype), np.zeros(n, dtype)
            assert rows.spread_rows(compact, others, present, length, first, spread) == OK
            assert np.array_equal(spread, np.where(there, src, others))
            assert rows.spread_rows(compact, others[1:], present, length, first, spread) == (BAD_ARGUMENT if n else OK)
            one_more = np.zeros(compact.size + 1, dtype)
            too_far = present.size * length - n + 1
            for bad in (
                (one_more, length, first),
                (compact, 0, first),
                (compact, length, -1),
                (compact, length, too_far),
            ):
                assert rows.join_rows(bad[0], present, bad[1], bad[2], 5, out) == BAD_ARGUMENT
                assert rows.compact_rows(src, present, bad[1], bad[2], bad[0]) == BAD_ARGUMENT
                assert rows.spread_rows(bad[0], others, present, bad[1], bad[2], spread) == BAD_ARGUMENT


def check_hash(rng: np.random.Generator) -> None:
    staging = np.empty(xxh3.STAGING, np.uint64)
    for pieces in (0, 1, 2, 3, 4, 5, 9):
        noise = rng.integers(0, 1 << 64, (pieces, 2048), dtype=np.uint64)
        for data in (noise, noise & np.uint64(0xFF), np.zeros_like(noise), ~np.zeros_like(noise)):
            words, digests = data.reshape(-1), np.zeros(pieces, np.uint64)
            assert xxh3.hash_pieces(words, staging, digests) == OK
            assert digests.tolist() == [xxhash.xxh3_64_intdigest(piece.tobytes()) for piece in data]
    for bad in cases.shortened((words, staging, digests)):
        assert xxh3.hash_pieces(*bad) == BAD_ARGUMENT


def check_casts(rng: np.random.Generator) -> None:
    for n in (32, 960, 4096):
        numbers = rng.integers(0, 1 << 32, n, np.uint32) & np.uint32(0xFF7FFFFF)  # no NaN, and no infinity
        numbers[:6] = [0, 0x80000000, 0x7F7FFFFF, 0x7F800000, 0x3F808000, 0x3F818000]  # rounded to infinity; ties
        rounded = round_to_bf16(numbers)
        assert rounded[2:6].tolist() == [0x7F80, 0x7F80, 0x3F80, 0x3F82]
        assert casts.compare_rounded(numbers, rounded) == OK
        for at in (0, n // 2, n - 1):
            other, nan = rounded.copy(), numbers.copy()
            other[at] ^= 1 << at % 16
            nan[at] = 0xFF800001
            assert casts.compare_rounded(numbers, other) == casts.DIFFERENT
            assert casts.compare_rounded(nan, rounded) == casts.NOT_A_NUMBER
        for bad in cases.shortened((numbers, rounded)):
            assert casts.compare_rounded(*bad) == BAD_ARGUMENT
        assert casts.compare_rounded(numbers[:0], rounded[:0]) == BAD_ARGUMENT


def check_delta(digest: Digest, rng: np.random.Generator) -> None:
    for bits in (8, 16, 32, 64):
        dtype = np.dtype(f"u{bits // 8}")
        units, base = (rng.integers(0, 1 << bits, 256, dtype=dtype) for _ in range(2))
        units[:6], base[3:9] = [0, 1, (1 << bits - 1) - 1, 1 << bits - 1, (1 << bits - 1) + 1, (1 << bits) - 1], 0
        units[20:40] = base[20:40]
        for floats in (False, True):
            out = np.zeros_like(units)
            assert delta.differences(units, base, floats, out) == OK
            assert out.tolist() == [
                naive.difference(int(u), int(v), bits, floats) for u, v in zip(units, base, strict=True)
            ]
            digest.add(OK, out)
            assert delta.add_base(out, base, floats) == OK
            assert np.array_equal(out, units)
        for bad in ((units[:31], base, out), (units, base[:31], out), (units, base, out[:31])):
            assert delta.differences(bad[0], bad[1], True, bad[2]) == BAD_ARGUMENT
        assert delta.add_base(out, base[:31], False) == BAD_ARGUMENT
        check_base_contexts(base, bits)
    rows, columns = rng.integers(0, 128, 9, dtype=np.uint8), rng.integers(0, 128, 50, dtype=np.uint8)
    whole = (rows[:, None] + columns).ravel()
    for first, count in ((0, 450), (49, 2), (50, 50), (77, 300), (449, 1), (450, 0)):
        out = np.zeros(count, np.uint8)
        assert contexts.class_contexts(rows, columns, first, out) == OK
        assert np.array_equal(out, whole[first : first + count])
    for first, count in ((0, 448), (49, 32), (77, 288), (449, 0)):
        out = np.ones(count, np.uint8)
        assert contexts.add_row_classes(rows % 5, 50, first, 7, out) == OK
        assert np.array_equal(out, 1 + 7 * np.repeat(rows % 5, 50)[first : first + count])
    for length, first, tables in ((50, 400, 7), (0, 0, 7), (50, -1, 7), (50, 0, 65), (50, 0, 0)):
        assert contexts.add_row_classes(rows, length, first, tables, np.zeros(64, np.uint8)) == BAD_ARGUMENT
    assert contexts.add_row_classes(rows, 50, 0, 7, np.zeros(51, np.uint8)) == BAD_ARGUMENT
    for bad in ((rows, columns, 400), (rows, columns, -1), (rows, columns[:0], 0)):
        assert contexts.class_contexts(*bad, np.zeros(51, np.uint8)) == BAD_ARGUMENT


def check_base_contexts(base: np.ndarray, bits: int) -> None:
    out = np.zeros(base.size, np.uint8)
    for shift, first, tables in ((bits - 1, 0, 2), (max(0, bits - 16), 9, 64), (bits - 5, 4, 20)):
        assert contexts.base_contexts(base, shift, first, tables, out) == OK
        turned = [(int(u) << 1 | int(u) >> bits - 1) % (1 << bits) for u in base]
        assert out.tolist() == [max(0, min((v >> shift) - first, tables - 1)) for v in turned]
    for bad in ((bits, 0, 2), (bits - 17, 0, 2), (bits - 1, 1 << 16, 2), (bits - 1, 0, 65), (bits - 1, -1, 2)):
        assert contexts.base_contexts(base, *bad, out) == BAD_ARGUMENT
    assert contexts.base_contexts(base, bits - 1, 0, 2, out[:31]) == BAD_ARGUMENT
    number = np.arange(contexts.CONTEXTS, dtype=np.uint32)[::-1].copy()
    turned_round = 255 - out
    assert contexts.number_tables(out, number) == OK
    assert np.array_equal(out, turned_round)
    number[out[-1]] = 256
    assert contexts.number_tables(out, number) == BAD_ARGUMENT
    assert contexts.number_tables(out, number[1:]) == BAD_ARGUMENT


def check_merging(digest: Digest) -> None:
    rng = np.random.default_rng(8)
    logarithms = np.array([(max(f, 1) ** merging.BIT).bit_length() - 1 for f in range(2049)], np.int64)

    def cost(counts: np.ndarray) -> int:
        if not counts.any():
            return 0
        work, found = counts.astype(np.int64), np.zeros(256, np.uint16)
        return merging.table_cost(work, 0, 0, 256, 11, logarithms, work.copy(), found)

    for tables in (1, 2, 7, 30):
        # neighbours that are nearly alike, some without symbols
        scale = np.repeat(rng.integers(1, 9, -(-tables // 3)), 3)[:tables]
        counts = np.stack([np.bincount(rng.geometric(1 / (1 + 2 * s), 500).clip(0, 99), minlength=256) for s in scale])
        counts[rng.random(tables) < 0.2] = 0
        given = counts.reshape(-1).astype(np.int64)
        room = [np.zeros(tables, np.int64) for _ in range(3)]
        leader = np.zeros(tables, np.int64)
        work = *room, np.zeros(256, np.int64), np.zeros(256, np.uint16)
        assert merging.merge_tables(given, 11, logarithms, *work, leader) == OK
        digest.add(OK, leader)
        # the same, slowly
        groups = [[i] for i in range(tables) if counts[i].any()]
        while len(groups) > 1:
            sums = [counts[g].sum(0) for g in groups]
            gains = [cost(a + b) + merging.MARK - cost(a) - cost(b) for a, b in pairwise(sums)]
            best = gains.index(min(gains))
            if gains[best] >= 0:
                break
            groups[best : best + 2] = [groups[best] + groups[best + 1]]
        of = {i: g[0] for g in groups for i in g}
        expected: list[int] = []
        for i in range(tables):
            expected.append(of.get(i, expected[-1] if i and counts[:i].any() else i))
        for i in range(tables):
            if counts[i].any():
                assert leader[i] == expected[i]
            else:
                assert leader[i] == (leader[i - 1] if counts[:i].any() else i)
        for g in groups:
            assert np.array_equal(given.reshape(-1, 256)[g[0]], counts[g].sum(0))
        assert merging.merge_tables(given[1:], 11, logarithms, *work, leader) == BAD_ARGUMENT
        assert merging.merge_tables(given, 12, logarithms, *work, leader) == BAD_ARGUMENT


def check_context_coding(
    digest: Digest, rng: np.random.Generator, groups: int, blocks: int, precision: int, room: int
) -> None:
    """With one table the words are those of the coder without contexts; with more, what went in comes out."""
    n = 128 * groups
    selected = rng.integers(0, 256, n, dtype=np.uint8)
    for mode in ("bypass", "coded"):
        each = 2 if mode == "bypass" else 1
        if mode == "bypass":
            fields = (2.0 ** rng.uniform(0, 16, n)).astype(np.uint16)
            joined = np.zeros(n, np.uint16)
            assert contexts.join_bypass(fields, selected, room - 1, joined) == OK
        else:
            symbols = np.minimum(rng.geometric(0.1, n) - 1, 255)
            fields = np.where(symbols, symbols + 300 + 3 * (selected >> 2).astype(int), 0).astype(np.uint16)
            fields[::50] = 9
            joined = np.zeros(n, np.uint16)
            escapes = contexts.join_window(fields, selected, room - 1, 300, 3, 10, joined)
            assert escapes == np.count_nonzero((joined & 255 == 0) & (fields != 0)) >= n // 50
            assert np.array_equal(joined & 255, np.where(fields == 9, 0, symbols))
        assert np.array_equal(joined >> 8, selected & room - 1)
        width, staging = 8 + (room - 1).bit_length(), np.zeros(histogram.STAGING, np.uint16)
        found = np.ones(histogram.TABLES << width, np.uint32)
        assert histogram.field_histogram(joined, 0, 0, width, 1, staging, found) == OK
        assert np.array_equal(found[: 1 << width], np.bincount(joined, minlength=1 << width))
        slots, by_symbol = np.zeros(room * table.SLOTS, np.uint32), np.zeros(256 * room, np.uint32)
        for t in range(room):
            counts = np.bincount(joined[joined >> 8 == t] & 255, minlength=256)
            counts[7] += 1
            frequencies = np.array(naive.normalise(counts, precision), np.uint16)
            slots[table.SLOTS * t : table.SLOTS * (t + 1)], by_symbol[256 * t : 256 * t + 256] = tables(
                frequencies, precision
            )
        words, states = np.zeros(each * n, np.uint16), np.zeros(32 * blocks, np.uint32)
        sizes = np.zeros(blocks, np.int64)
        if mode == "bypass":
            encode_them, encoder = context_coding.encode_context_bypass, (fields, joined, by_symbol, precision)
        else:
            encode_them, encoder = context_coding.encode_context_symbols, (joined, by_symbol, precision)
        assert encode_them(*encoder, words, states, sizes) == OK
        for bad in cases.shortened((*encoder, words, states, sizes)):
            assert encode_them(*bad) == BAD_ARGUMENT
        run = gathered(words, sizes, n, each)
        digest.add(OK, run, states, sizes)
        if room == 1:
            plain = np.zeros_like(words), np.zeros_like(states), np.zeros_like(sizes)
            if mode == "bypass":
                assert bypass.encode_bypass(fields, by_symbol, precision, *plain) == OK
            else:
                entries = np.zeros(encode.ENTRIES, np.uint32)
                assert encode.encode_symbols(joined.astype(np.uint8), by_symbol, precision, entries, *plain) == OK
            assert np.array_equal(gathered(plain[0], plain[2], n, each), run)
            assert np.array_equal(plain[1], states)
        starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        stream = (selected, states, np.concatenate([run, cases.PADDING]), starts)
        out = np.zeros(n, np.uint16)
        if mode == "bypass":
            narrow = np.ascontiguousarray(slots.reshape(room, -1)[:, : 1 << precision]).reshape(-1)
            decode_them, decoder = context_coding.decode_context_bypass, (narrow, precision, 16, *stream)
            assert decode_them(narrow, precision, 8, *stream, out) == BAD_STREAM  # fields of more bits
            for wrong in (10, 13):
                assert decode_them(narrow, wrong, 16, *stream, out) == BAD_ARGUMENT
        else:
            decode_them, decoder = context_coding.decode_context_fields, (slots, 300, 3, 10, *stream)
            assert decode_them(slots, 300, 3, 8, *stream, out) == BAD_STREAM
        assert decode_them(*decoder, out) == OK
        assert np.array_equal(out, np.where(joined & 255, fields, 0) if mode == "coded" else fields)
        for number, bad in enumerate(cases.damaged(rng, decoder, len(decoder) - 3)):
            status = decode_them(*bad, out)
            assert status == BAD_STREAM or (number < 2 and run.size == 0)
            digest.add(status, out)
        for at in range(len(decoder) - 4, len(decoder)):
            short = (*decoder[:at], decoder[at][: min(31, decoder[at].size - 1)], *decoder[at + 1 :])
            assert decode_them(*short, out) == BAD_ARGUMENT
        assert decode_them(decoder[0][:-1], *decoder[1:], out) == BAD_ARGUMENT


def check_sparse(rng: np.random.Generator) -> None:
    for dtype in (np.uint8, np.uint16, np.uint32, np.uint64):
        for share in (0.0, 0.03, 0.5, 0.97, 1.0):
            src = rng.integers(1, 256, 640).astype(dtype) << dtype(np.dtype(dtype).itemsize * 8 - 8)
            src[rng.random(src.size) < share] = 0
            there = src != 0
            m = np.count_nonzero(there)
            bits, values = np.empty(20, np.uint32), np.empty(src.size + 32, dtype)
            assert sparse.squeeze_values(src, bits, values) == m
            assert np.array_equal(bits.view(np.uint8), np.packbits(there, bitorder="little"))
            assert np.array_equal(values[:m], src[there])
            assert sparse.count_bits(bits) == m
            each = np.empty(3, np.uint32)
            assert sparse.count_each(bits, 8, each) == OK
            assert each.tolist() == [np.count_nonzero(there[at : at + 256]) for at in (0, 256, 512)]
            assert sparse.count_each(bits, 8, each[1:]) == BAD_ARGUMENT
            out = np.ones_like(src)
            assert sparse.spread_values(bits, values[: m + 32], out) == OK
            assert np.array_equal(out, src)
            if 0 < m < src.size:
                assert sparse.spread_values(bits, values[: m + 31], out) == BAD_STREAM
                assert sparse.spread_values(bits, values[: m + 33], out) == BAD_STREAM
            assert sparse.spread_values(bits, values[:31], out) == BAD_ARGUMENT
            assert sparse.spread_values(bits[1:], values, out) == BAD_ARGUMENT
            assert sparse.squeeze_values(src, bits[1:], values) == -1
            assert sparse.squeeze_values(src, bits, values[1:]) == -1


def digest_of_all() -> str:
    check_lanes(np.random.default_rng(5))
    digest = Digest()
    check_tables(digest)
    check_trees()
    for chunk in cases.sound():
        check_decoder(digest, chunk)
        check_search(chunk)
        check_straight(digest.add, chunk)
        check_encoder(digest, chunk)
        check_few(digest.add, chunk)
        check_split(chunk)
    rng = np.random.default_rng(3)
    for groups, blocks, precision in ((1, 1, 11), (5, 2, 12), (7, 3, 12), (13, 5, 11)):
        check_bypass(digest, rng, groups, blocks, precision)
    for groups, blocks, precision, room in ((1, 1, 11, 1), (5, 2, 12, 1), (7, 3, 12, 4), (13, 5, 11, 64)):
        check_context_coding(digest, rng, groups, blocks, precision, room)
    check_classes(digest.add, np.random.default_rng(9))
    check_rests(np.random.default_rng(10))
    check_means(digest.add, np.random.default_rng(12))
    check_lookups(digest.add, np.random.default_rng(11))
    check_trellis(digest.add, np.random.default_rng(12))
    check_delta(digest, rng)
    check_differences(digest.add)
    check_casts(np.random.default_rng(3))
    check_merging(digest)
    check_planes(rng)
    for check_encoding in (check_code_halves, check_windows, check_survey):
        check_encoding(np.random.default_rng(13))
    check_rows(rng)
    check_hash(rng)
    check_sparse(rng)
    check_scattered(digest.add)
    for check in (check_scales, check_moves, check_fits, check_directions, check_records, check_quantisers):
        for found in check(rng):
            digest.add(OK, found)
    return digest.sha256.hexdigest()


def registers_used() -> dict[str, list[str]]:
    """The kernels whose assembly uses 256-bit and 512-bit registers; empty where no kernel is compiled."""
    users: dict[str, list[str]] = {"ymm": [], "zmm": []}
    for module in MODULES:
        for name, kernel in vars(module).items():
            if hasattr(kernel, "inspect_asm") and kernel.__module__ == module.__name__:
                assembly = "".join(kernel.inspect_asm().values())
                for register, names in users.items():
                    if "%" + register in assembly:
                        names.append(name)
    return users


def compile_some() -> None:
    """The kernels of one layout, and what they need."""
    digest, layout = Digest(), next(layout for layout in cases.LAYOUTS if layout.name == "u16 6 10")
    chunk = cases.make(np.random.default_rng(7), layout, "skewed", 1024, 1, 12)
    check_decoder(digest, chunk)
    check_encoder(digest, chunk)
    check_split(chunk)


if __name__ == "__main__":
    # Numba shows the assembly of what it has compiled in this process only.
    what = sys.argv[1]
    if what == "registers":
        compile_some()
    found = {} if what == "registers" else {"digest": digest_of_all()}
    print(json.dumps(found if what == "digest" else {**found, **registers_used()}))
