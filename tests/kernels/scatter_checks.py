"""Values that a mask puts in their places as they are decoded, and what no sound chunk has."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kernels import cases
from slimtensors.kernels.cpu import scatter, scatter_kernels, search, table
from slimtensors.kernels.status import BAD_ARGUMENT, BAD_STREAM, OK

LAYOUTS = [
    cases.Layout(f"scattered u16 {low} {high}", np.uint16, (low, high), 1, decode, None, searching)
    for low, high, decode, searching in (
        (8, 8, scatter_kernels.decode_u16_8_8, scatter_kernels.search_u16_8_8),
        (6, 10, scatter_kernels.decode_u16_6_10, scatter_kernels.search_u16_6_10),
        (4, 12, scatter_kernels.decode_u16_4_12, scatter_kernels.search_u16_4_12),
    )
]


def drawn(rng: np.random.Generator, ones: int, share: float) -> np.ndarray:
    """Whether a unit has a value: so many have, in runs that are longer than a word, too."""
    flags = np.zeros(-(-int(ones / share) // 32) * 32 + 96, bool)
    runs = np.repeat(rng.random(flags.size // 24 + 1) < share, 24)[: flags.size]
    order = np.argsort(rng.random(flags.size) - runs * rng.integers(0, 2), kind="stable")
    flags[order[:ones]] = True
    return flags


def words_of(flags: np.ndarray) -> np.ndarray:
    return np.packbits(flags, bitorder="little").view(np.uint32)


def check_scattered(add: Callable[..., None]) -> None:
    rng = np.random.default_rng(17)
    for layout in LAYOUTS:
        for number, (groups, blocks) in enumerate(cases.GEOMETRIES):
            kind, precision = ("skewed", "wide", "any")[number % 3], 12 - number % 2
            chunk = cases.make(rng, layout, kind, 128 * groups, blocks, precision)
            check(add, rng, chunk, (0.02, 0.5, 0.9, 1.0)[number % 4])


def check(add: Callable[..., None], rng: np.random.Generator, chunk: cases.Chunk, share: float) -> None:
    n, blocks, layout = chunk.elements.size, chunk.blocks, chunk.layout
    slots, tree = np.zeros(table.SLOTS, np.uint32), np.zeros(search.TREE, np.uint16)
    assert table.build_table(chunk.frequencies, chunk.precision, slots) == OK
    words = np.concatenate([chunk.words, cases.PADDING])
    positions = np.flatnonzero((chunk.symbols == 0) & (chunk.fields != 0)).astype(np.uint32)
    fields = chunk.fields[positions].astype(np.uint16)
    flags = drawn(rng, n, share)
    cursors, values = np.empty(scatter.CURSORS * (blocks + 1), np.int64), np.empty(n + 32, np.uint16)
    before = (chunk.base, chunk.states, words, chunk.starts, *chunk.pieces)
    after = (words_of(flags), cursors, values, np.ones(flags.size, np.uint16))
    ways: list[tuple[Callable[..., int], tuple]] = [(layout.decode, (slots,))]
    if chunk.precision == search.PRECISION:
        assert search.plant(slots, tree) >= 0
        assert layout.search is not None
        ways.append((layout.search, (slots, tree)))
    expected = np.zeros(flags.size, np.uint16)
    expected[flags] = chunk.elements
    for decode, tables in ways:
        out = after[-1]
        out[:] = 1
        assert decode(*tables, *before, positions, fields, *after) == OK, chunk.name
        assert np.array_equal(out, expected), chunk.name
        for at in np.flatnonzero(chunk.fields)[:1]:  # where the symbol is not 0 there is no escape
            if at not in positions:
                wrong = np.array([at], np.uint32), np.array([1], np.uint16)
                assert decode(*tables, *before, *wrong, *after) == BAD_STREAM, chunk.name
        assert decode(*tables, *before, np.array([n], np.uint32), np.array([1], np.uint16), *after) == BAD_STREAM
        for ones, status in ((n - 1, None), (n - 127, None), (n - 128, BAD_STREAM), (n + 1, BAD_STREAM)):
            fewer = drawn(rng, ones, 0.9 * share) if ones else np.zeros(32, bool)
            if status is None:  # values after the last of the mask have to be zero
                status = BAD_STREAM if chunk.elements[ones:].any() else OK
            given = (words_of(fewer), cursors, values, np.ones(fewer.size, np.uint16))
            assert decode(*tables, *before, positions, fields, *given) == status, chunk.name
        arguments = (*tables, *before, *after)
        for bad in cases.shortened(arguments):
            split = len(arguments) - len(after)
            assert decode(*bad[:split], positions, fields, *bad[split:]) == BAD_ARGUMENT, chunk.name
        assert decode(*tables, *before, positions, np.zeros(positions.size + 1, np.uint16), *after) == BAD_ARGUMENT
        at = len(tables) + 1
        for bad in cases.damaged(rng, arguments, at):
            if bad[0] is slots:  # another table would have another tree
                split, out[:] = len(arguments) - len(after), 1
                add(decode(*bad[:split], positions, fields, *bad[split:]), out)
