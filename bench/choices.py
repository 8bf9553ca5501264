"""The format's open choices, measured on the real model: python -m bench.choices [--page codec/decisions/coder.md]

Bits per symbol above the entropy of each chunk's own counts, and where they go. Sizes only: what a choice costs in time
is on the same page, or in kernel_speed.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.data import files
from slimtensors.codecs import coded, layouts
from slimtensors.dtypes import DTYPES, units_of
from slimtensors.entropy.tables import cost, normalise, table_bytes
from slimtensors.kernels.cpu import encode, planes, split, table

CHUNK = 1 << 19  # symbols
LANE_BITS = 16 * 32  # what seeding 32 states with raw bits saves per block


def matrices(dtype: str) -> Iterator[np.ndarray]:
    """The units of the model's matrices, cast as for the benchmark of sizes."""
    for spec, array in files.cast_e4m3() if dtype == "F8_E4M3" else files.cast(dtype):
        if spec.dtype == dtype and array.ndim == 2:
            yield units_of(array, DTYPES[dtype])


def symbol_chunks(dtype: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(symbols, their counts) of the model's matrices cast to `dtype`, in chunks of 512 Ki."""
    widths = layouts.usual(DTYPES[dtype], "balanced").widths
    width, shift = widths[-1], sum(widths[:-1])
    for units in matrices(dtype):
        for at in range(0, units.size, CHUNK):
            part = units[at : at + CHUNK]
            part = part[: part.size // 128 * 128]
            if part.size < CHUNK // 2:
                continue
            counts = coded.count_fields(part, 1, shift, width)
            fields = np.empty(part.size, np.uint16)
            window = coded.choose_window(counts)
            planes.cut_plane(part, 1, shift, width, fields)
            symbols = np.empty(part.size, np.uint8)
            split.symbols_of(fields, *window, symbols)
            yield symbols, coded.symbol_counts(counts, window)


def coded_bits(symbols: np.ndarray, counts: np.ndarray, precision: int, blocks: int) -> int:
    """Bits that the real coder writes: words and states, without the table."""
    entries, encoder = np.empty(encode.ENTRIES, np.uint32), np.empty(256, np.uint32)
    table.build_encoder_table(normalise(counts, precision), precision, encoder)
    words, states = np.empty(symbols.size, np.uint16), np.empty(32 * blocks, np.uint32)
    lengths = np.empty(blocks, np.int64)
    coded.must(encode.encode_symbols(symbols, encoder, precision, entries, words, states, lengths))
    return 16 * int(lengths.sum()) + 32 * 32 * blocks


def rows(dtype: str) -> list[tuple[str, float]]:
    """(what, bits per symbol) for one dtype."""
    data = list(symbol_chunks(dtype))
    n = sum(symbols.size for symbols, _ in data)
    ideal = sum(cost(counts) for _, counts in data)
    made: list[tuple[str, float]] = [("entropy of each chunk's counts", ideal / n)]
    whole = np.sum([counts for _, counts in data], axis=0)
    made.append(("entropy with one table for all", cost(whole) / n))
    for precision in (12, 11):
        loss = 0.0
        for _, counts in data:
            used = counts > 0
            loss -= float((counts[used] * np.log2(normalise(counts, precision)[used] / (1 << precision))).sum())
        made.append((f"rounding to {precision} bits", (loss - ideal) / n))
    made.append(("tables, one per chunk", sum(8 * len(table_bytes(normalise(c, 12))) for _, c in data) / n))
    for size in (65536, 32768, 16384):
        extra = seeded = 0.0
        for symbols, counts in data:
            blocks = max(1, symbols.size // size)
            bits = coded_bits(symbols, counts, 12, blocks)
            used = counts > 0
            exact = -float((counts[used] * np.log2(normalise(counts, 12)[used] / 4096)).sum())
            extra += bits - exact
            seeded += bits - exact - LANE_BITS * blocks
        made.append((f"blocks of {size // 1024} Ki: states, above the table's cost", extra / n))
        made.append((f"blocks of {size // 1024} Ki, states seeded with raw bits (computed)", seeded / n))
    return made


def markdown() -> str:
    """One table, a column per dtype."""
    columns = {dtype: rows(dtype) for dtype in ("BF16", "F8_E4M3")}
    lines = ["| bits per symbol | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    for i, (what, _) in enumerate(next(iter(columns.values()))):
        lines.append(f"| {what} | " + " | ".join(f"{column[i][1]:.4f}" for column in columns.values()) + " |")
    return "\n".join(lines)


def main() -> None:
    """Print the table, or put it between the markers of a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page", type=Path, help="file with <!-- choices:begin --> and <!-- choices:end -->")
    arguments: Any = parser.parse_args()
    text = markdown()
    print(text)
    if arguments.page:
        before, rest = arguments.page.read_text().split("<!-- choices:begin -->")
        after = rest.split("<!-- choices:end -->")[1]
        arguments.page.write_text(f"{before}<!-- choices:begin -->\n{text}\n<!-- choices:end -->{after}")


if __name__ == "__main__":
    main()
