"""Chunks of every layout, sound and damaged. All is drawn from one generator, so every process makes the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from kernels import naive
from slimtensors.kernels.cpu import decode_kernels as plain
from slimtensors.kernels.cpu import search_kernels as searching
from slimtensors.kernels.cpu import split

PADDING = np.zeros(32, np.uint16)


@dataclass(frozen=True)
class Layout:
    name: str
    dtype: type
    widths: tuple[int, ...]
    rotate: int
    decode: Callable[..., int]
    split: Callable[..., int] | None
    search: Callable[..., int] | None = None


LAYOUTS = [
    Layout("fields u8", np.uint8, (8,), 0, plain.decode_fields_u8, None, searching.decode_fields_u8),
    Layout("fields u16", np.uint16, (16,), 0, plain.decode_fields_u16, None),
    Layout("u8 1 7", np.uint8, (1, 7), 1, plain.decode_u8_1_7, None),
    Layout("u16 8 8", np.uint16, (8, 8), 1, plain.decode_u16_8_8, split.split_u16_8_8, searching.decode_u16_8_8),
    Layout("u16 6 10", np.uint16, (6, 10), 1, plain.decode_u16_6_10, split.split_u16_6_10, searching.decode_u16_6_10),
    Layout(
        "u32 8 8 8 8",
        np.uint32,
        (8, 8, 8, 8),
        1,
        plain.decode_u32_8_8_8_8,
        split.split_u32_8_8_8_8,
        searching.decode_u32_8_8_8_8,
    ),
    Layout(
        "u32 8 8 6 10",
        np.uint32,
        (8, 8, 6, 10),
        1,
        plain.decode_u32_8_8_6_10,
        split.split_u32_8_8_6_10,
        searching.decode_u32_8_8_6_10,
    ),
    Layout(
        "u32 8 8 5 10",
        np.uint32,
        (8, 8, 5, 10),
        0,
        plain.decode_u32_8_8_5_10,
        split.split_u32_8_8_5_10,
        searching.decode_u32_8_8_5_10,
    ),
]

GEOMETRIES = [(1, 1), (2, 2), (5, 3), (9, 1), (11, 4), (13, 5), (21, 6), (29, 9), (15, 7), (16, 8)]  # groups, blocks


@dataclass(frozen=True)
class Chunk:
    """A sound chunk: the elements, and everything that coding it comes to, from the naive twin."""

    name: str
    layout: Layout
    precision: int
    base: int
    elements: np.ndarray
    fields: np.ndarray
    symbols: np.ndarray
    pieces: list[np.ndarray]
    frequencies: np.ndarray
    states: np.ndarray
    words: np.ndarray
    counts: np.ndarray
    decoded: np.ndarray = field(repr=False)  # the elements, with 0 for the fields of escapes

    @property
    def starts(self) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(self.counts)]).astype(np.int64)

    @property
    def blocks(self) -> int:
        return self.counts.size


def draw_fields(rng: np.random.Generator, kind: str, n: int, width: int) -> np.ndarray:
    top = (1 << width) - 1
    if kind == "skewed":
        values = rng.geometric(0.3, n) + min(110, top // 2)
    elif kind == "two":
        values = np.where(np.arange(n) == n - 5, top, top // 2)
    elif kind == "wide":
        values = rng.normal(top / 2, 60, n).round().astype(np.int64)
    else:
        values = rng.integers(0, top + 1, n)
    return np.clip(values, 0, top).astype(np.uint16)


def sound() -> Iterator[Chunk]:
    rng = np.random.default_rng(7)
    for layout in LAYOUTS:
        for number, (groups, blocks) in enumerate(GEOMETRIES):
            kind = ("skewed", "wide", "two", "any")[number % 4]
            yield make(rng, layout, kind, 128 * groups, blocks, 12 - number % 2)


def make(rng: np.random.Generator, layout: Layout, kind: str, n: int, blocks: int, precision: int) -> Chunk:
    width = layout.widths[-1]
    fields = draw_fields(rng, kind, n, width)
    base = 0 if width <= 8 else min(max(int(np.median(fields)) - 128, 0), (1 << width) - 256)
    symbols = np.array([naive.symbol_of(int(f), base) for f in fields], np.uint8)
    raw = [rng.integers(0, 1 << w, n).astype(np.uint16) for w in layout.widths[:-1]]
    frequencies = naive.normalise(np.bincount(symbols, minlength=256), precision)
    states, words, counts = naive.encode(naive.plain(symbols), blocks, frequencies, precision)
    assert naive.decode(states, words, counts, n, frequencies, precision) == symbols.tolist()
    kept = np.where(symbols > 0, fields, 0)
    return Chunk(
        f"{layout.name}, {kind}, {n} in {blocks}, precision {precision}",
        layout,
        precision,
        base,
        naive.join([*raw, fields], layout.rotate, layout.widths, layout.dtype),
        fields,
        symbols,
        [piece for plane, w in zip(raw, layout.widths, strict=False) for piece in naive.pack(plane, w)],
        np.array(frequencies, np.uint16),
        states,
        words,
        counts,
        naive.join([*raw, kept], layout.rotate, layout.widths, layout.dtype),
    )


def damaged(rng: np.random.Generator, arguments: tuple, at: int) -> Iterator[tuple]:
    """A decoder's arguments (..., states, words, starts, ...) with noise in one of them; lengths stay true.

    `at` is where the states are; the table is the first.
    """

    def instead(index: int, array: np.ndarray) -> tuple:
        return (*arguments[:index], array, *arguments[index + 1 :])

    states, words, starts = arguments[at : at + 3]
    yield instead(at + 1, rng.integers(0, 2**16, words.size, dtype=np.uint16))
    yield instead(at + 1, PADDING.copy())
    yield instead(at, rng.integers(0, 2**32, states.size, dtype=np.uint32))
    yield instead(at + 2, rng.integers(-(2**62), 2**62, starts.size))
    yield instead(at + 2, np.full(starts.size, 2**63 - 1, np.int64))
    noise = rng.integers(0, 2**32, arguments[0].size, dtype=np.uint32)
    yield instead(0, noise.astype(arguments[0].dtype))


def shortened(arguments: tuple) -> Iterator[tuple]:
    """The same with one array too short, or one integer out of range."""
    for index, argument in enumerate(arguments):
        if isinstance(argument, np.ndarray):
            short = argument[: min(31, argument.size - 1)]
            yield (*arguments[:index], short, *arguments[index + 1 :])
        else:
            for wrong in (-1, 1 << 16):
                yield (*arguments[:index], wrong, *arguments[index + 1 :])
