"""Differences from a base, decoded and added in one pass, and what no sound chunk has."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kernels import cases, naive
from slimtensors.kernels.cpu import context_coding, contexts, delta_kernels, table
from slimtensors.kernels.status import BAD_ARGUMENT, BAD_STREAM, OK

GEOMETRIES = ((1, 1, 1), (5, 2, 3), (8, 2, 1), (13, 5, 4))  # groups, blocks, classes of rows


def slots_of(frequencies: np.ndarray) -> np.ndarray:
    """A table's 2048 entries, by definition."""
    entries = []
    for symbol, frequency in enumerate(frequencies.tolist()):
        k, m = (symbol // 8 - 1, 8 + symbol % 8) if symbol >= 16 else (0, symbol)
        entries += [frequency << 21 | k << 16 | m << 12 | bias for bias in range(frequency)]
    return np.array(entries, np.uint32)


def check_differences(add: Callable[..., None]) -> None:
    rng = np.random.default_rng(23)
    for number, (groups, blocks, classes) in enumerate(GEOMETRIES):
        shift, first, tables = ((8, 120, 9), (11, 9, 12), (1, 32767, 2), (8, 0, 32))[number]
        check(add, rng, 128 * groups, blocks, classes, (shift, first, tables))


def check(
    add: Callable[..., None],
    rng: np.random.Generator,
    n: int,
    blocks: int,
    classes: int,
    context: tuple[int, int, int],
) -> None:
    shift, first, tables = context
    base = rng.integers(0, 1 << 16, n, dtype=np.uint16)
    base[: n // 2] = (rng.standard_normal(n // 2) / 32).astype(np.float32).view(np.uint32) >> 16
    base[:4] = 0, 0x8000, 0x7FFF, 0xFFFF
    moved = base ^ (rng.random(n) < 0.1).astype(np.uint16)
    steps = rng.laplace(0, 40, n).astype(int)
    steps[::3], steps[5::50] = 0, rng.integers(-32768, 32768, steps[5::50].size)
    ordered = np.where(moved >> 15, 0xFFFF - moved, moved + 0x8000).astype(int)
    back = (ordered + steps & 0xFFFF).astype(np.uint16)
    units = np.where(back >> 15, back ^ 0x8000, 0xFFFF - back).astype(np.uint16)
    fields = np.array(
        [naive.difference(int(u), int(v), 16, True) for u, v in zip(units, moved, strict=True)], np.uint16
    )

    lines = rng.integers(0, classes, n // 32).astype(np.uint8)
    value = np.clip(((base.astype(int) << 1 & 0xFFFF) >> shift) - first, 0, tables - 1)
    begins = 2048 * rng.integers(0, 3, classes)
    which = rng.integers(0, 30, 32 * classes)  # some contexts share a table
    selected = (which[32 * np.repeat(lines, 32) + value] + begins[np.repeat(lines, 32)] // 2048).astype(np.uint8)
    joined = np.zeros(n, np.uint16)
    assert contexts.join_bypass(fields, selected, 31, joined) == OK
    slots, by_symbol = np.zeros(34 * 2048, np.uint32), np.zeros(32 * 256, np.uint32)
    for t in np.unique(selected).tolist():
        counts = np.bincount(joined[joined >> 8 == t] & 255, minlength=256)
        counts[7] += 1
        frequencies = np.array(naive.normalise(counts, 11), np.uint16)
        slots[2048 * t : 2048 * (t + 1)] = slots_of(frequencies)
        assert table.build_encoder_table(frequencies, 11, by_symbol[256 * t : 256 * (t + 1)]) == OK
    by_symbol[by_symbol == 0] = table.ABSENT | 1 << 12
    words, states, sizes = np.zeros(2 * n, np.uint16), np.zeros(32 * blocks, np.uint32), np.zeros(blocks, np.int64)
    assert context_coding.encode_context_bypass(fields, joined, by_symbol, 11, words, states, sizes) == OK
    ends = [2 * block.stop for block in naive.blocks_of(n, blocks)]
    run = np.concatenate([words[end - size : end] for end, size in zip(ends, sizes, strict=True)])

    numbers, starts = (2048 * which).astype(np.uint16), np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    words = np.concatenate([run, cases.PADDING])
    arguments = (slots, begins, numbers, lines, *context, base, moved, states, words, starts)
    out = np.zeros(n, np.uint16)
    assert delta_kernels.decode_u16(*arguments, out) == OK
    assert np.array_equal(out, units)
    without = slots.copy()
    without.reshape(34, 2048)[selected[-1]] = 0
    assert delta_kernels.decode_u16(without, *arguments[1:], out) == BAD_STREAM
    for bad in cases.damaged(rng, arguments, 9):
        status = delta_kernels.decode_u16(*bad, out)
        assert status in (OK, BAD_STREAM)
        add(status, out)
    noise = (
        rng.integers(-(2**62), 2**62, classes),
        rng.integers(0, 1 << 16, numbers.size, dtype=np.uint16),
        rng.integers(0, 256, lines.size, dtype=np.uint8),
    )
    add(delta_kernels.decode_u16(slots, *noise, *arguments[4:], out), out)
    for short in cases.shortened((*arguments, out)):
        assert delta_kernels.decode_u16(*short) == BAD_ARGUMENT
    for wrong in ((0, first, tables), (16, first, tables), (shift, first, 0), (shift, first, 33)):
        assert delta_kernels.decode_u16(*arguments[:4], *wrong, *arguments[7:], out) == BAD_ARGUMENT
