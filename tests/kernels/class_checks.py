"""Kernels for classes of rows and columns, beside slower ways to the same: part of the program check.py."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kernels import cases, naive
from slimtensors.kernels.cpu import class_kernels, context_coding, contexts, scales, table
from slimtensors.kernels.status import BAD_ARGUMENT, BAD_STREAM, OK

PRECISION = 12
# (kernel, dtype, widths, base, octave): what is coded is the last plane.
LAYOUTS = [
    (class_kernels.decode_u8_1_7, np.uint8, (1, 7), 0, 8),
    (class_kernels.decode_u16_8_8, np.uint16, (8, 8), 0, 8),
    (class_kernels.decode_u16_6_10, np.uint16, (6, 10), 700, 4),
    (class_kernels.decode_u32_8_8_6_10, np.uint32, (8, 8, 6, 10), 300, 4),
]


def tables(joined: np.ndarray, room: int) -> tuple[np.ndarray, np.ndarray]:
    """(the decoder's, the encoder's) of each context."""
    slots, by_symbol = np.zeros(room * table.SLOTS, np.uint32), np.zeros(256 * room, np.uint32)
    for t in range(room):
        counts = np.bincount(joined[joined >> 8 == t] & 255, minlength=256)
        counts[[7, 8]] += 1  # two symbols at least
        frequencies = np.array(naive.normalise(counts, PRECISION), np.uint16)
        assert table.build_table(frequencies, PRECISION, slots[table.SLOTS * t : table.SLOTS * (t + 1)]) == OK
        assert table.build_encoder_table(frequencies, PRECISION, by_symbol[256 * t : 256 * t + 256]) == OK
    return slots, by_symbol


def check_classes(add: Callable[..., None], rng: np.random.Generator) -> None:
    """One pass gives what decoding a plane by its contexts and then joining gives; what damage gives goes to `add`."""
    for decode, dtype, widths, base, octave in LAYOUTS:
        for groups, blocks, room in ((1, 1, 4), (5, 3, 2), (9, 4, 1), (21, 6, 4), (16, 8, 16)):
            n, width = 128 * groups, widths[-1]
            selected = rng.integers(0, 64, n).astype(np.uint8)
            # With the class the field is anything, round about the plane; its symbol is what leads there.
            fields = rng.integers(0, 1 << width, n).astype(np.uint8 if width <= 8 else np.uint16)
            fields[::9] = 0
            joined = np.zeros(n, np.uint16)
            assert contexts.join_window(fields, selected, room - 1, base, octave, width, joined) >= 0
            slots, by_symbol = tables(joined, room)
            words, states = np.zeros(n, np.uint16), np.zeros(32 * blocks, np.uint32)
            counts = np.zeros(blocks, np.int64)
            assert context_coding.encode_context_symbols(joined, by_symbol, PRECISION, words, states, counts) == OK
            ends = [block.stop for block in naive.blocks_of(n, blocks)]
            runs = [words[end - count : end] for end, count in zip(ends, counts, strict=True)]
            run, starts = np.concatenate([*runs, cases.PADDING]), np.concatenate([[0], np.cumsum(counts)])
            coded = np.zeros_like(fields)
            status = context_coding.decode_context_fields(
                slots, base, octave, width, selected, states, run, starts, coded
            )
            assert status == OK
            raw = [rng.integers(0, 1 << w, n).astype(np.uint16) for w in widths[:-1]]
            pieces = [piece for plane, w in zip(raw, widths, strict=False) for piece in naive.pack(plane, w)]
            arguments = (slots, base, octave, states, run, starts, *pieces, selected)
            out = np.zeros(n, dtype)
            assert decode(*arguments, out) == OK
            assert np.array_equal(out, naive.join([*raw, coded], 1, widths, dtype))
            for bad in cases.damaged(rng, arguments, 3):
                add(decode(*bad, out), out)
            for bad in cases.shortened((*arguments, out)):
                assert decode(*bad) == BAD_ARGUMENT
            three = np.zeros(3 * table.SLOTS, np.uint32)
            assert decode(three, *arguments[1:], out) == BAD_ARGUMENT
            assert decode(slots, base, 17, *arguments[3:], out) == BAD_ARGUMENT
            assert decode(slots, base, octave, states + np.uint32(1), *arguments[4:], out) == BAD_STREAM


def fitted(logs: np.ndarray, rows: np.ndarray, columns: np.ndarray, rounds: int, least: int, both: bool) -> None:
    """fit_scales, by its definition."""
    for _ in range(rounds):
        near = (columns + 32) // 64
        for of_rows in (True, False)[: 1 + both]:
            lines = (rows + 32) // 64
            rest = np.maximum(logs.astype(np.int64) - lines[:, None] - near, least)
            if of_rows:
                rows[:] = 64 * lines + 64 * rest.sum(1) // columns.size
            else:
                columns[:] = 64 * near + 64 * rest.sum(0) // rows.size


def check_rests(rng: np.random.Generator) -> None:
    """Scales of rows and columns, and counts of codes and of moved fields, against NumPy's."""
    for rows, columns in ((1, 32), (7, 40), (33, 64), (40, 95), (3, 4130)):
        logs = rng.integers(-2000, 2000, (rows, columns)).astype(np.int16)
        given = logs.view(np.uint16).ravel()
        for both in (True, False):
            means = tuple(rng.integers(-9000, 9000, k) for k in (rows, columns))
            expected = tuple(each.copy() for each in means)
            fitted(logs, *expected, 3, -8, both)
            work = np.ones(columns, np.uint16), np.ones(columns, np.uint32)
            assert scales.fit_scales(given, 3, -8, both, *means, *work) == OK
            assert np.array_equal(means[0], expected[0])
            assert np.array_equal(means[1], expected[1])
        arrays = given, *means, *work
        for i in range(len(arrays)):
            given_here, *others = (each[1:] if i == k else each for k, each in enumerate(arrays))
            assert scales.fit_scales(given_here, 3, -8, True, *others) == BAD_ARGUMENT
        codes = rng.integers(0, 16, (rows, columns)).astype(np.uint8)
        classes = rng.integers(0, 5, rows), rng.integers(0, 4, columns)
        for each in (1, 5, codes.size):
            blocks = rng.integers(0, 3, -(-codes.size // each))
            check_codes(codes, *classes, blocks, each)
    for dtype, width, octave in ((np.uint8, 7, 8), (np.uint16, 10, 4), (np.uint16, 10, 0)):
        fields, selected = rng.integers(0, 1 << width, 999).astype(dtype), rng.integers(0, 256, 999, dtype=np.uint8)
        fields[::5] = 0
        fields[34], selected[34] = (1 << width) - 1, 3  # looked at, and not moved
        moved = np.where(fields == 0, 0, np.maximum(fields.astype(int) - octave * (selected >> 2).astype(int), 0))
        counts = np.ones(1 << width, np.int64)
        assert contexts.count_moved(fields, selected, octave, 17, counts) == OK
        assert np.array_equal(counts, np.bincount(moved[::17], minlength=1 << width))
        given = (fields, selected, octave, 17, counts)
        for i, wrong in ((0, fields[1:]), (1, selected[1:]), (2, 17), (3, 0), (4, counts[1:])):
            changed = (*given[:i], wrong, *given[i + 1 :])
            assert contexts.count_moved(*changed) == BAD_ARGUMENT


def check_codes(codes: np.ndarray, rows: np.ndarray, columns: np.ndarray, blocks: np.ndarray, each: int) -> None:
    """How often codes come, and what they take, given classes of rows, of columns and of blocks: against NumPy's."""
    of_blocks = np.repeat(np.arange(blocks.size), each)[: codes.size].reshape(codes.shape)
    classes, flat, counted = rows[:, None] + columns + blocks[of_blocks], codes.ravel(), (rows, columns, blocks, each)
    expected = np.ones((10, 16), np.int64)
    np.add.at(expected, (classes, codes), 1)
    counts = np.ones(10 * 16, np.int64)
    assert scales.count_codes(flat, *counted, 16, counts) == OK
    assert np.array_equal(counts, expected.ravel())
    takes = np.arange(16 * 14).reshape(16, 14) ** 2
    for axis, line in enumerate((np.arange(len(rows))[:, None], np.arange(len(columns)), of_blocks)):
        lines = [np.arange(each.size) if i == axis else 0 * each for i, each in enumerate((rows, columns, blocks))]
        expected = np.ones((lines[axis].size, 5), np.int64)
        one_by_one = takes[codes[..., None], classes[..., None] + np.arange(5)]
        np.add.at(expected, np.broadcast_to(line, codes.shape), one_by_one)
        sums = np.ones(expected.size, np.int64)
        given = (flat, *counted, tuple(lines), takes.ravel(), 14, 5)
        assert scales.add_costs(*given, sums) == OK
        assert np.array_equal(sums, expected.ravel())
        wrong = [(flat[1:], *given[1:]), (flat + np.uint8(16), *given[1:]), (flat, rows - 9, *given[2:])]
        wrong += [(*given[:5], (lines[0][1:], *lines[1:]), *given[6:]), (*given[:-2], 13, 5), (*given[:-1], 0)]
        wrong += [(*given[:4], 0, *given[5:]), (flat, rows + 9, *given[2:]), (*given[:-1], 15)]
        for bad in wrong:
            assert scales.add_costs(*bad, sums) == BAD_ARGUMENT
        assert scales.add_costs(*given, sums[:5] if sums.size > 5 else sums[:0]) == BAD_ARGUMENT
    for bad in ((flat[1:], *counted, 16), (flat + np.uint8(16), *counted, 16), (flat, rows - 9, *counted[1:], 16),
                (flat, rows + 10, *counted[1:], 16), (flat, *counted, 7), (flat, *counted, 0),
                (flat, *counted[:2], blocks[1:], each, 16), (flat, *counted[:3], 0, 16)):  # fmt: skip
        assert scales.count_codes(*bad, counts) == BAD_ARGUMENT
