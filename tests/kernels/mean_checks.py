"""Kernels for means, beside slower ways to the same: part of the program check.py."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kernels import cases, naive
from kernels.class_checks import PRECISION, tables
from slimtensors.codecs import mean as codecs_mean
from slimtensors.kernels.cpu import context_coding, contexts, mean, mean_kernels, table
from slimtensors.kernels.cpu.encode_signs import encode_signs
from slimtensors.kernels.status import BAD_ARGUMENT, BAD_STREAM, OK

LAYOUTS = [
    (mean_kernels.decode_u8_7, np.uint8, (7,), 0, 8),
    (mean_kernels.decode_u16_7_8, np.uint16, (7, 8), 0, 8),
    (mean_kernels.decode_u16_5_10, np.uint16, (5, 10), 700, 4),
    (mean_kernels.decode_u32_8_8_5_10, np.uint32, (8, 8, 5, 10), 300, 4),
]


def slow_steers(
    rows: np.ndarray, columns: np.ndarray, factors: np.ndarray, groups: list[int], steps: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """(contexts, steers) of all units."""
    count = rows.size
    weights = np.repeat([2**g for g in range(len(groups))], groups)[:, None]
    signed = factors.astype(np.int64) - 128
    sums = (signed[:, :count] * weights).T @ signed[:, count:]
    sums = (sums + 2**15) % 2**16 - 2**15
    of_classes, steers = [], []
    for (i, j), s in np.ndenumerate(sums):
        k, s = int(rows[i]) + int(columns[j]), int(s)
        e = abs(s).bit_length() - 1
        logarithm = 4 * e + (4 * abs(s) >> e) - 4 if s else 0
        of_classes.append(k + sum(step <= logarithm for step in steps) if s else k)
        steers.append(2 * (logarithm + 256 - k) + (s < 0) if s else 0)
    return np.array(of_classes, np.uint8), np.array(steers, np.uint16)


def prepared(factors: np.ndarray, groups: list[int], steps: list[int], columns: np.ndarray) -> tuple[np.ndarray, ...]:
    """(of_rows, of_columns, lifted)"""
    return *codecs_mean.prepared(factors, groups, columns), codecs_mean.lifted(steps)


def check_steers(rng: np.random.Generator) -> None:
    for count, width, groups, steps in (
        (9, 50, [2, 1], [0, 5, 17]), (3, 7, [1], []), (5, 200, [0, 3, 0, 0, 0, 0, 0, 2], [9] * 16), (1, 1, [64], [63]),
        (40, 130, [33], [4, 20]), (2, 300, [1], [4, 5]),
    ):  # fmt: skip
        rows, columns = (rng.integers(0, 110, size, dtype=np.uint8) for size in (count, width))
        factors = rng.integers(100, 150, (sum(groups), count + width), dtype=np.uint8)
        factors[0, :2] = 128  # sums that are 0 where it is the only one
        factors[rng.random(factors.shape) < 0.3] = 128
        if groups == [1]:
            factors[0] = rng.integers(0, 256, factors.shape[1])
            factors[0, count - 1 :] = np.concatenate([[0, 0, 127, 130, 129, 129], factors[0]])[: width + 1]
        of_rows, of_columns, lifted = prepared(factors, groups, steps, columns)
        whole = slow_steers(rows, columns, factors, groups, steps)
        given = (rows, of_rows, of_columns, width, lifted)
        size = count * width
        for first in {0, min(1, size), size // 3, size - 1, size}:
            for n in {0, 1, size - first, (size - first) // 2}:
                if first + n > size:
                    continue
                out = np.zeros(n, np.uint8), np.zeros(n, np.uint16)
                assert mean.steer_units(*given, first, *out) == OK
                assert np.array_equal(out[0], whole[0][first : first + n])
                assert np.array_equal(out[1], whole[1][first : first + n])
        out = np.zeros(size, np.uint8), np.zeros(size, np.uint16)
        assert mean.steer_units(*given, 1, *out) == mean.steer_units(*given, -1, *out) == BAD_ARGUMENT
        assert mean.steer_units(*given, 0, out[0], out[1][1:]) == BAD_ARGUMENT
        for bad in (
            (rows[1:], *given[1:]), (rows, of_rows[1:], *given[2:]), (rows, of_rows, of_columns[1:], *given[3:]),
            (*given[:3], width - 1, lifted), (*given[:3], 0, lifted), (*given[:4], lifted[1:]),
        ):  # fmt: skip
            assert mean.steer_units(*bad, 0, *out) == BAD_ARGUMENT


def flat(arguments: tuple) -> tuple:
    return tuple(each for given in arguments for each in (given if isinstance(given, tuple) else (given,)))


def call(decode: Callable[..., int], given: tuple) -> int:
    """A kernel of mean_kernels, its arguments one after another."""
    (slots, *rest), sizes, grouped = given, (2, 3, 0, 3, 3, 2, 4, 2), []
    for size in sizes:
        grouped.append(tuple(rest[:size]) if size else rest[0])
        rest = rest[max(size, 1) :]
    return decode(slots, *grouped, *rest)


def check_units(add: Callable[..., None], rng: np.random.Generator) -> None:
    """Units decoded at once, against what planes decoded by their contexts come to."""
    for decode, dtype, widths, base, octave in LAYOUTS:
        for groups, blocks, columns, room in (
            (1, 1, 45, 2), (5, 3, 7, 16), (9, 4, 130, 32), (21, 6, 300, 9), (90, 4, 384, 16),
        ):  # fmt: skip
            n, width, first = 128 * groups, widths[-1], 5
            count, rank = -(-(n + first) // columns), 3
            rows, of_columns = (rng.integers(0, 20, size, dtype=np.uint8) for size in (count, columns))
            factors = rng.integers(120, 137, (rank, count + columns), dtype=np.uint8)
            factors[rng.random(factors.shape) < 0.4] = 128
            steps = [3, 9, 14, 20]
            said = slow_steers(rows, of_columns, factors, [2, 1], steps)
            selected, steers = (found[first : first + n] for found in said)
            fields = rng.integers(0, 1 << width, n).astype(np.uint8 if width <= 8 else np.uint16)
            joined, coded = np.zeros(n, np.uint16), np.zeros_like(fields)
            assert contexts.join_window(fields, selected, 3, base, octave, width, joined) >= 0
            joined[rng.integers(0, n, 4)] &= 0xFF00
            run = encoded(joined, 4, blocks)
            assert context_coding.decode_context_fields(run[0], base, octave, width, selected, *run[1:], coded) == OK
            escapes = np.flatnonzero(coded != fields).astype(np.uint32)
            assert escapes.size
            assert not coded[escapes].any()
            raw = [rng.integers(0, 1 << w, n).astype(np.uint16) for w in widths[:-1]]
            pieces = [piece for plane, w in zip(raw, widths, strict=False) for piece in naive.pack(plane, w)]
            signs = rng.integers(0, 2, n).astype(np.uint16)
            octave_bits, expected = octave.bit_length() - 1, (4 * int(fields.max()) // octave + 200) // 2
            zeros, stream, flips = signs_coded(signs, fields, steers, (octave_bits, expected, room), blocks)
            prepared_ = prepared(factors, [2, 1], steps, of_columns)
            arguments = (
                run[0], (base, octave), (octave_bits, int(expected), room), zeros, run[1:], stream,
                (escapes, fields[escapes].astype(np.uint16)), (rows, *prepared_), (first, columns), *pieces,
            )  # fmt: skip
            out = np.zeros(n, dtype)
            assert decode(*arguments, out) == OK
            whole = naive.join([*raw, fields], 0, widths, dtype)
            sign = (signs ^ flips).astype(dtype) << dtype(8 * out.itemsize - 1)
            assert np.array_equal(out, whole | sign)
            given = flat(arguments)
            for at in (7, 10):
                for bad in cases.damaged(rng, given, at):
                    add(call(decode, (*bad, out)), out)
            noise = rng.integers(0, 2**32, escapes.size, dtype=np.uint32)
            for bad in (noise, escapes[::-1].copy(), escapes * np.uint32(0)):
                add(call(decode, (*given[:13], bad, *given[14:], out)), out)
            for bad in cases.shortened((*given, out)):
                assert call(decode, bad) == BAD_ARGUMENT
            lacking = zeros.copy()
            lacking[mean_contexts(fields, steers, (octave_bits, expected, room))[n // 2]] = 0
            assert call(decode, (*given[:6], lacking, *given[7:], out)) == BAD_STREAM
            filled = escapes.copy()
            filled[-1] = np.flatnonzero(coded)[-1]
            if (np.diff(filled.astype(np.int64)) > 0).all():
                assert call(decode, (*given[:13], filled, *given[14:], out)) == BAD_STREAM


def mean_contexts(fields: np.ndarray, steers: np.ndarray, choose: tuple[int, int, int]) -> np.ndarray:
    values = np.zeros(fields.size, np.uint8)
    assert mean.sign_contexts(fields, steers, *choose, values, np.zeros_like(values)) == OK
    return values


def signs_coded(
    signs: np.ndarray, fields: np.ndarray, steers: np.ndarray, choose: tuple[int, int, int], blocks: int
) -> tuple[np.ndarray, tuple[np.ndarray, ...], np.ndarray]:
    """(zeros, (states, words, starts), flips) of signs as they are coded, 0 or 1."""
    n, values, flips = signs.size, np.zeros(signs.size, np.uint8), np.zeros(signs.size, np.uint8)
    assert mean.sign_contexts(fields, steers, *choose, values, flips) == OK
    zeros, by_symbol = sign_tables(signs, values, choose[2])
    words, states, counts = np.zeros(n, np.uint16), np.zeros(32 * blocks, np.uint32), np.zeros(blocks, np.int64)
    joined = signs | values.astype(np.uint16) << 8
    assert context_coding.encode_context_symbols(joined, by_symbol, PRECISION, words, states, counts) == OK
    ends = [block.stop for block in naive.blocks_of(n, blocks)]
    run = np.concatenate([*(words[e - c : e] for e, c in zip(ends, counts, strict=True)), cases.PADDING])
    check_sign_encoder((signs ^ flips).astype(np.uint8), fields, steers, choose, zeros, (joined, words, states, counts))
    return zeros, (states, run, np.concatenate([[0], np.cumsum(counts)])), flips


def sign_tables(signs: np.ndarray, values: np.ndarray, room: int) -> tuple[np.ndarray, np.ndarray]:
    """(the frequency of 0 in each context, the encoder's tables)"""
    zeros = np.zeros(32, np.uint16)
    by_symbol = np.full(256 * 32, table.ABSENT | 1 << table.FIELD_BITS, np.uint32)
    for c in range(room):
        counts = np.bincount(signs[values == c], minlength=2) + 1
        frequencies = np.array(naive.normalise(np.pad(counts, (0, 254)), PRECISION), np.uint16)
        zeros[c] = frequencies[0]
        assert table.build_encoder_table(frequencies, PRECISION, by_symbol[256 * c : 256 * c + 256]) == OK
    return zeros, by_symbol


def encoded(joined: np.ndarray, room: int, blocks: int) -> tuple[np.ndarray, ...]:
    """(table, states, words, starts)"""
    slots, by_symbol = tables(joined, room)
    words, states = np.zeros(joined.size, np.uint16), np.zeros(32 * blocks, np.uint32)
    counts = np.zeros(blocks, np.int64)
    assert context_coding.encode_context_symbols(joined, by_symbol, PRECISION, words, states, counts) == OK
    ends = [block.stop for block in naive.blocks_of(joined.size, blocks)]
    runs = [words[end - count : end] for end, count in zip(ends, counts, strict=True)]
    starts = np.concatenate([[0], np.cumsum(counts)])
    return slots, states, np.concatenate([*runs, cases.PADDING]), starts


def check_sign_encoder(
    signs: np.ndarray, fields: np.ndarray, steers: np.ndarray, choose: tuple[int, int, int], zeros: np.ndarray,
    expected: tuple[np.ndarray, ...],
) -> None:  # fmt: skip
    """Words and states from registers, against those of encode_context_symbols. expected: what it took and gave."""
    joined, words, states, counts = expected
    n = joined.size
    given, zeros = np.zeros(n, np.uint8), np.where(zeros == 0, 1, zeros)
    assert mean.join_signs(signs, fields, steers, *choose, given) == OK
    assert np.array_equal(given, joined >> 8 << 1 | joined & 1)
    if fields.max() < 256:
        assert mean.join_signs(signs, fields.astype(np.uint8), steers, *choose, given) == OK
        assert np.array_equal(given, joined >> 8 << 1 | joined & 1)
    found = np.zeros_like(words), np.zeros_like(states), np.zeros_like(counts)
    assert encode_signs(given, zeros, *found) == OK
    assert np.array_equal(found[1], states)
    assert np.array_equal(found[2], counts)
    for block, count in zip(naive.blocks_of(n, counts.size), counts, strict=True):
        assert np.array_equal(found[0][block.stop - count : block.stop], words[block.stop - count : block.stop])
    for place, frequency in ((0, 0), (31, 4096)):
        wrong = zeros.copy()
        wrong[place] = frequency
        assert encode_signs(given, wrong, *found) == BAD_ARGUMENT
    assert encode_signs(given, zeros[1:], *found) == BAD_ARGUMENT
    assert encode_signs(given[128:], zeros, *found) == BAD_ARGUMENT
    assert mean.join_signs(signs[1:], fields, steers, *choose, given) == BAD_ARGUMENT
    assert mean.join_signs(signs, fields, steers, 5, choose[1], choose[2], given) == BAD_ARGUMENT
    assert mean.join_signs(signs, fields, steers, *choose[:2], 129, given) == BAD_ARGUMENT


def check_signs(rng: np.random.Generator) -> None:
    """Contexts of signs, and signs encoded, against slower ways."""
    for dtype, shift, octave_bits in ((np.uint8, 0, 3), (np.uint16, 7, 3), (np.uint16, 5, 2), (np.uint32, 21, 2)):
        for groups, blocks, room in ((1, 1, 2), (5, 3, 9), (9, 4, 16), (21, 6, 32), (16, 8, 5)):
            n, bits = 128 * groups, 8 * np.dtype(dtype).itemsize
            units = rng.integers(0, 1 << bits - 1, n).astype(dtype)
            steers = rng.integers(2, 2 * 317, n).astype(np.uint16)
            steers[::7] = 0
            first = 200
            fields = (units >> dtype(shift)).astype(np.uint16)
            values, flips = np.zeros(n, np.uint8), np.zeros(n, np.uint8)
            assert mean.sign_contexts(fields, steers, octave_bits, first, room, values, flips) == OK
            likely = (fields.astype(int) * 4 >> octave_bits) + (steers >> 1) - first
            slow = np.where((steers == 0) | (likely < 0), 0, np.minimum(likely >> 1, room - 1))
            assert np.array_equal(values, slow)
            assert np.array_equal(flips, steers & 1)
            signs_coded(rng.integers(0, 2, n).astype(np.uint16), fields, steers, (octave_bits, first, room), blocks)
            assert mean.sign_contexts(fields[1:], steers, 2, first, room, values, flips) == BAD_ARGUMENT
            assert mean.sign_contexts(fields, steers, 5, first, room, values, flips) == BAD_ARGUMENT
            assert mean.sign_contexts(fields, steers, 2, first, 257, values, flips) == BAD_ARGUMENT


def check_means(add: Callable[..., None], rng: np.random.Generator) -> None:
    check_steers(rng)
    check_signs(rng)
    check_units(add, rng)
