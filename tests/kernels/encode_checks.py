"""What an encoder's kernels make of a chunk, against twins in NumPy and Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from kernels import cases, lane_kernels, naive
from slimtensors.entropy.tables import normalise
from slimtensors.kernels.cpu import encode, encode_few, histogram, survey, table, window
from slimtensors.kernels.status import BAD_ARGUMENT, OK

Add = Callable[..., Any]


def check_code_halves(rng: np.random.Generator) -> None:
    # Just below, at and above multiples of each divisor, for small quotients and the largest.
    f = np.repeat(np.arange(1, 4096), 32)
    start = rng.integers(0, 4097 - f)
    quotient = rng.integers(0, 2**20, f.size)
    quotient[::4], quotient[1::4] = 2**20 - 1, quotient[1::4] | 15
    x = np.clip(quotient * f + rng.integers(-1, 2, f.size), 0, 2**20 * f - 1)
    high, low = np.zeros(f.size, np.uint16), np.zeros(f.size, np.uint16)
    halves = [each.astype(np.uint16) for each in (x >> 16, x & 0xFFFF, f, start)]
    lane_kernels.code_halves_all(*halves, high, low)
    expected = x // f * 4096 + start + x % f
    assert np.array_equal(high, expected >> 16)
    assert np.array_equal(low, expected & 0xFFFF)


def check_few(add: Add, chunk: cases.Chunk) -> None:
    """The same words and states as encode_symbols."""
    symbols, n, blocks = chunk.symbols % 100, chunk.symbols.size, chunk.blocks
    frequencies = np.array(naive.normalise(np.bincount(symbols, minlength=256), 12), np.uint16)
    by_symbol, entries = np.zeros(256, np.uint32), np.zeros(encode.ENTRIES, np.uint32)
    assert table.build_encoder_table(frequencies, 12, by_symbol) == OK
    expected, made = (
        (np.zeros(n, np.uint16), np.zeros(32 * blocks, np.uint32), np.zeros(blocks, np.int64)) for _ in range(2)
    )
    assert encode.encode_symbols(symbols, by_symbol, 12, entries, *expected) == OK
    arguments = (symbols, frequencies, np.zeros(encode_few.PLACES, np.uint16), *made)
    assert encode_few.encode_few(*arguments) == OK, chunk.name
    for block, (a, b) in enumerate(zip(expected[1:], made[1:], strict=True)):
        assert np.array_equal(a, b), (chunk.name, block)
    for b, count in enumerate(made[2].tolist()):
        end = (b + 1) * (n // 128) // blocks * 128
        assert np.array_equal(expected[0][end - count : end], made[0][end - count : end]), chunk.name

    for bad in cases.shortened(arguments):
        assert encode_few.encode_few(*bad) == BAD_ARGUMENT, chunk.name
    for bad in (frequencies // 2, np.roll(frequencies, 128), np.eye(1, 256, 5, np.uint16)[0] * np.uint16(4096)):
        assert encode_few.encode_few(symbols, bad, *arguments[2:]) == BAD_ARGUMENT, chunk.name
    absent = np.flatnonzero(frequencies[: encode_few.FEW] == 0)
    if absent.size:
        wrong = symbols.copy()
        wrong[n // 2] = absent[0]
        assert encode_few.encode_few(wrong, *arguments[1:]) == BAD_ARGUMENT, chunk.name
    noise = np.random.default_rng(n).integers(0, 256, n, dtype=np.uint8)
    status = encode_few.encode_few(noise, *arguments[1:])
    add(status, *([made[1], made[2]] if status == OK else []))


def best_window(counts: np.ndarray, gaps: bool) -> tuple[int, int]:
    """choose_window, by its definition."""
    used = np.flatnonzero(counts[1:]) + 1
    if used.size == 0:
        return 0, 0
    outer = int(used[0]), int(used[-1])
    if gaps:
        used = np.arange(outer[0], outer[1] + 1)
    saved = np.arange(1, used.size + 1) * int(counts.sum())
    low, high = (saved - 102262 * np.cumsum(side) for side in (counts[used], counts[used][::-1]))
    left_out = [int(np.argmax(each)) + 1 if each.max() > 0 else 0 for each in (low, high)]
    kept = used[left_out[0] : used.size - left_out[1]]
    kept = kept[counts[kept] > 0]
    base, last = (int(kept[0]) - 1, int(kept[-1])) if kept.size >= 2 else (outer[0] - 1, outer[1])
    if last - base >= 256:
        covered = [counts[b + 1 : b + 256].sum() for b in range(counts.size - 255)]
        base = int(np.argmax(covered))
        last = base + 255
    return base, last


def check_windows(rng: np.random.Generator) -> None:
    for turn in range(200):
        size = 1 << int(rng.choice([1, 4, 6, 7, 8, 10]))
        counts = [
            rng.integers(0, 5, size),
            (np.exp(rng.normal(0, 6, size)).clip(0, 1e6) * (rng.random(size) < rng.random())).astype(np.int64),
            np.bincount(rng.normal(size / 2, size / 8 * rng.random(), 9999).astype(int) % size, minlength=size),
            np.bincount(rng.integers(0, size, rng.integers(0, 4)), minlength=size) * rng.integers(1, 10**6),
            np.bincount(rng.integers(0, size, 5), minlength=size) + 10**6 * (np.arange(size) == rng.integers(size)),
        ][turn % 5].astype(np.int64)
        found, symbols = np.zeros(2, np.int64), np.zeros(256, np.int64)
        gaps = turn % 2 == 1
        assert window.choose_window(counts, gaps, found) == OK
        base, last = best_window(counts, gaps)
        assert found.tolist() == [base, last]
        assert window.count_symbols(counts, base, last, symbols) == OK
        inside = counts[base + 1 : last + 1]
        assert np.array_equal(symbols[1 : 1 + inside.size], inside)
        assert not symbols[1 + inside.size :].any()
        assert symbols.sum() == counts.sum()
    for bad in (counts - 10**7, np.full(size, 1 << 62)):
        assert window.choose_window(bad, False, found) == BAD_ARGUMENT
    assert window.choose_window(counts, False, found[1:]) == BAD_ARGUMENT
    for wrong in ((-1, 0), (1, 0), (0, 256), (0, size)):
        assert window.count_symbols(counts, *wrong, symbols) == BAD_ARGUMENT
    assert window.count_symbols(counts, base, last, symbols[1:]) == BAD_ARGUMENT


def is_noise(body: np.ndarray, rotate: int, enough: float, widths: tuple[int, ...]) -> bool:
    """Whether the raw planes' entropy, in a sample, is near their width."""
    step = max(128, body.size // 16 // 128 * 128)
    sample = np.ascontiguousarray(body[: body.size // step * step].reshape(-1, step)[:, :128]).reshape(-1)
    rotated = sample
    if rotate:
        rotated = sample << sample.dtype.type(1) | sample >> sample.dtype.type(8 * sample.itemsize - 1)
    shift = 0
    for width in widths[:-1]:
        share = np.bincount(rotated >> sample.dtype.type(shift) & sample.dtype.type((1 << width) - 1)) / sample.size
        entropy = -(share[share > 0] * np.log2(share[share > 0])).sum()
        if entropy + ((1 << width) - 1) / (2 * sample.size * 0.693) < enough * width:
            return False
        shift += width
    return True


def check_survey(rng: np.random.Generator) -> None:
    terms = np.arange(survey.MOST_SAMPLES + 1) * np.log2(np.maximum(np.arange(survey.MOST_SAMPLES + 1), 1))
    staging, symbols = np.zeros(histogram.STAGING, np.uint16), np.zeros(256, np.int64)
    seen = set()
    for rotate, enough, widths, dtype in (
        (1, 0.95, (8, 8), np.uint16),
        (1, 0.95, (6, 10), np.uint16),
        (1, 0.95, (8, 8, 6, 10), np.uint32),
        (0, 0.99, (8, 8, 5, 10), np.uint32),
    ):
        rest, width = sum(widths[:-1]), widths[-1]
        counts, fields = np.zeros(histogram.TABLES << width, np.uint32), np.zeros(1 << width, np.int64)
        for units in (128, 4096 - 128, 9984):
            for bits in range(rest - 3, rest + 1):
                # Few bits of noise below, and one part of a narrow field that a sample of one in three does not see.
                low = rng.integers(0, 1 << bits, units)
                top = rng.normal((1 << width) / 2, 4, units).astype(int)
                top[1024:2048] += 40 * (bits % 2)
                joined = low | top << rest
                turned = joined >> 1 | (joined & 1) << 8 * np.dtype(dtype).itemsize - 1
                body = (turned if rotate else joined).astype(dtype)
                for every in (1, 3):
                    frequencies, found = np.zeros(256, np.uint16), np.zeros(2, np.int64)
                    arguments = (
                        body, rotate, enough, np.array(widths), every, terms, staging, counts, fields, symbols,
                        frequencies, found,
                    )  # fmt: skip
                    status = survey.survey(*arguments)
                    seen.add(status)
                    noise = is_noise(body, rotate, enough, widths)
                    assert (status == survey.NOT_NOISE) == (not noise), (widths, units, bits)
                    looked_at = np.concatenate([top[at : at + 1024] for at in range(0, units, 1024 * every)])
                    times = np.bincount(looked_at, minlength=1 << width)
                    if status != survey.NOT_NOISE:
                        assert found.tolist() == list(best_window(times, every > 1))
                    if status == OK:
                        base, last = found.tolist()
                        inside = times[base + 1 : last + 1]
                        expected = np.zeros(256, np.int64)
                        expected[1 : 1 + inside.size] = inside
                        expected[0] = times.sum() - inside.sum()
                        if every > 1:
                            expected[: last - base + 1] = np.maximum(expected[: last - base + 1], 1)
                        assert frequencies.tolist() == normalise(expected, 12).tolist()
                for bad in cases.shortened(arguments):
                    assert survey.survey(*bad) in (BAD_ARGUMENT, survey.NOT_NOISE)
    assert seen == {OK, survey.NOT_NOISE}
    for wrong in ((6, 11), (9, 7), (10,), (6, 6, 10)):
        assert survey.survey(body.astype(np.uint16), 1, 0.95, np.array(wrong), *arguments[4:]) == BAD_ARGUMENT
    assert survey.survey(body, 2, *arguments[2:]) == BAD_ARGUMENT
