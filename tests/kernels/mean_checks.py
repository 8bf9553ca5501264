"""Kernels for means, beside slower ways to the same: part of the program check.py."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kernels import cases, naive
from kernels.class_checks import PRECISION, tables
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


def check_steers(rng: np.random.Generator) -> None:
    for count, width, groups, steps in (
        (9, 50, [2, 1], [0, 5, 17]), (3, 7, [1], []), (5, 200, [0, 3, 0, 0, 0, 0, 0, 2], [9] * 16), (1, 1, [64], [63]),
    ):  # fmt: skip
        rows, columns = (rng.integers(0, 110, size, dtype=np.uint8) for size in (count, width))
        factors = rng.integers(100, 150, (sum(groups), count + width), dtype=np.uint8)
        factors[0, :2] = 128  # sums that are 0 where it is the only one
        scaled = np.zeros(sum(groups) * width, np.uint16)
        numbers = np.array(groups, np.int64), np.array(steps, np.int64)
        flat = factors.reshape(-1)
        assert mean.scale_columns(flat, numbers[0], count, width, scaled) == OK
        whole = slow_steers(rows, columns, factors, groups, steps)
        given = (rows, columns, flat, scaled, numbers[1])
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
        assert mean.steer_units(rows, columns, flat[1:], *given[3:], 0, *out) == BAD_ARGUMENT
        assert mean.steer_units(*given[:4], np.zeros(17, np.int64), 0, *out) == BAD_ARGUMENT
        assert mean.scale_columns(flat[1:], numbers[0], count, width, scaled) == BAD_ARGUMENT
        assert mean.scale_columns(flat, numbers[0], count, width, scaled[1:]) == BAD_ARGUMENT
        assert mean.scale_columns(flat, -numbers[0], count, width, scaled) == BAD_ARGUMENT


def check_unsigned(add: Callable[..., None], rng: np.random.Generator) -> None:
    """One pass gives what decoding a plane by its contexts and then joining gives."""
    for decode, dtype, widths, base, octave in LAYOUTS:
        for groups, blocks in ((1, 1), (5, 3), (9, 4), (21, 6)):
            n, width = 128 * groups, widths[-1]
            selected = rng.integers(0, 64, n).astype(np.uint8)
            fields = rng.integers(0, 1 << width, n).astype(np.uint8 if width <= 8 else np.uint16)
            joined = np.zeros(n, np.uint16)
            assert contexts.join_window(fields, selected, 3, base, octave, width, joined) >= 0
            run = encoded(joined, 4, blocks)
            coded = np.zeros_like(fields)
            assert context_coding.decode_context_fields(run[0], base, octave, width, selected, *run[1:], coded) == OK
            raw = [rng.integers(0, 1 << w, n).astype(np.uint16) for w in widths[:-1]]
            pieces = [piece for plane, w in zip(raw, widths, strict=False) for piece in naive.pack(plane, w)]
            arguments = (run[0], base, octave, *run[1:], *pieces, selected)
            out = np.zeros(n, dtype)
            assert decode(*arguments, out) == OK
            assert np.array_equal(out, naive.join([*raw, coded], 0, widths, dtype))
            for bad in cases.damaged(rng, arguments, 3):
                add(decode(*bad, out), out)
            for bad in cases.shortened((*arguments, out)):
                assert decode(*bad) == BAD_ARGUMENT


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


def check_signs(add: Callable[..., None], rng: np.random.Generator) -> None:
    """Signs put above units, against those that a plane by its contexts gives."""
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
            signs = rng.integers(0, 2, n).astype(np.uint16)
            counts = np.array([np.bincount(signs[values == c], minlength=2) + 1 for c in range(room)])
            zeros = np.zeros(32, np.uint16)
            by_symbol = np.full(256 * 32, table.ABSENT | 1 << table.FIELD_BITS, np.uint32)
            for c in range(room):
                frequencies = np.array(naive.normalise(np.pad(counts[c], (0, 254)), PRECISION), np.uint16)
                zeros[c] = frequencies[0]
                assert table.build_encoder_table(frequencies, PRECISION, by_symbol[256 * c : 256 * c + 256]) == OK
            words, states = np.zeros(n, np.uint16), np.zeros(32 * blocks, np.uint32)
            ends_at = np.zeros(blocks, np.int64)
            joined = signs | values.astype(np.uint16) << 8
            assert context_coding.encode_context_symbols(joined, by_symbol, PRECISION, words, states, ends_at) == OK
            check_sign_encoder((signs ^ flips).astype(np.uint8), fields, steers, (octave_bits, first, room), zeros,
                               (joined, words, states, ends_at))  # fmt: skip
            ends = [block.stop for block in naive.blocks_of(n, blocks)]
            run = np.concatenate([*(words[e - c : e] for e, c in zip(ends, ends_at, strict=True)), cases.PADDING])
            starts = np.concatenate([[0], np.cumsum(ends_at)])
            choose = (shift, octave_bits, first, room)
            out = units.copy()
            assert mean_kernels.decode_signs(zeros, *choose, steers, states, run, starts, out) == OK
            expected = units | (signs ^ flips).astype(dtype) << dtype(bits - 1)
            assert np.array_equal(out, expected)
            for bad in cases.damaged(rng, (zeros, *choose, steers, states, run, starts), 6):
                out = units.copy()
                add(mean_kernels.decode_signs(*bad, out), out)
            lacking = zeros.copy()
            lacking[values[n // 2]] = 0
            status = mean_kernels.decode_signs(lacking, *choose, steers, states, run, starts, units.copy())
            assert status == BAD_STREAM
            for bad in ((bits, *choose[1:]), (-1, *choose[1:]), (shift, 5, first, room), (shift, 2, 1 << 16, room),
                        (shift, 2, first, 0), (shift, 2, first, 33)):  # fmt: skip
                assert mean_kernels.decode_signs(zeros, *bad, steers, states, run, starts, units) == BAD_ARGUMENT
            for short in ((zeros[1:], steers, states), (zeros, steers[32:], states), (zeros, steers, states[32:])):
                status = mean_kernels.decode_signs(short[0], *choose, short[1], short[2], run, starts, units)
                assert status == BAD_ARGUMENT
            assert mean.sign_contexts(fields[1:], steers, 2, first, room, values, flips) == BAD_ARGUMENT
            assert mean.sign_contexts(fields, steers, 5, first, room, values, flips) == BAD_ARGUMENT
            assert mean.sign_contexts(fields, steers, 2, first, 257, values, flips) == BAD_ARGUMENT


def check_means(add: Callable[..., None], rng: np.random.Generator) -> None:
    check_steers(rng)
    check_unsigned(add, rng)
    check_signs(add, rng)
