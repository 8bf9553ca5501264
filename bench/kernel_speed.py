"""Speed of each kernel on one thread: python bench/kernel_speed.py [MiB of elements] [name ...]

GB/s of elements (of symbols for those that only see symbols), CPU time, the median and the best of many short runs over
chunks of 1 MiB, each into the same buffers; memcpy beside it. Differences below 10 % are noise on most machines.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from slimtensors.codecs.coded import bypass_counts
from slimtensors.entropy.tables import normalise
from slimtensors.kernels.cpu import bypass, decode_kernels, encode, histogram, planes, split, table

REPEATS = 25
BLOCK = 65536
PRECISION = 12


def weights(mebibytes: int) -> np.ndarray:
    """FP32 bit patterns of N(0, 1) x 0.02 x lognormal(0.25), one scale for each row of 4096; as many as BF16 needs."""
    rng = np.random.default_rng(1)
    rows = mebibytes * 2**20 // (2 * 4096)
    scales = (0.02 * np.exp(rng.normal(0, 0.25, rows))).astype(np.float32)
    return (rng.standard_normal((rows, 4096), dtype=np.float32) * scales[:, None]).view(np.uint32).ravel()


def report(name: str, action: Callable[[], Any], size: int) -> None:
    begin = time.perf_counter()
    action()
    first = time.perf_counter() - begin
    seconds = []
    for _ in range(REPEATS):
        begin = time.process_time()
        action()
        seconds.append(time.process_time() - begin)
    median, best = size / np.median(seconds) / 1e9, size / min(seconds) / 1e9
    print(f"{name:24} {median:6.2f} {best:6.2f} GB/s   first call {first:.2f} s", flush=True)


def coded(symbols: np.ndarray, blocks: int) -> tuple[Any, ...]:
    """Encode symbols; the decoder's (table, base, states, words, starts), and the encoder's arguments."""
    n = symbols.size
    frequencies = normalise(np.bincount(symbols, minlength=256), PRECISION).astype(np.uint16)
    slots, rows = np.empty(table.SLOTS, np.uint32), np.empty(256, np.uint32)
    assert table.build_table(frequencies, PRECISION, slots) == 0
    assert table.build_encoder_table(frequencies, PRECISION, rows) == 0
    words, states, counts = np.empty(n, np.uint16), np.empty(32 * blocks, np.uint32), np.empty(blocks, np.int64)
    encoder = (symbols, rows, PRECISION, np.empty(encode.ENTRIES, np.uint32), words, states, counts)
    assert encode.encode_symbols(*encoder) == 0
    ends = [(b + 1) * (n // 128) // blocks * 128 for b in range(blocks)]
    run = np.concatenate(
        [words[end - k : end] for end, k in zip(ends, counts, strict=True)] + [np.zeros(32, np.uint16)]
    )
    starts = np.concatenate([[0], np.cumsum(counts)])
    return (slots, 0, states, run, starts), encoder


def kernels(u32: np.ndarray) -> Iterator[tuple[str, Callable[[], Any], int]]:
    """(name, what to time, bytes)"""
    u16 = (u32 >> 16).astype(np.uint16)
    n = u16.size
    blocks = max(1, n // BLOCK)
    out16, out32, out8 = np.empty(n, np.uint16), np.empty(n, np.uint32), np.empty(n, np.uint8)
    rest, low, mid, high = (np.empty(n, np.uint8) for _ in range(4))
    nibbles, crumbs = np.empty(n // 2, np.uint8), np.empty(n // 4, np.uint8)
    staging = np.empty(histogram.STAGING, np.uint16)
    counts10, counts8 = np.empty(4 << 10, np.uint32), np.empty(4 << 8, np.uint32)
    symbols8, symbols10 = np.empty(n, np.uint8), np.empty(n, np.uint8)
    base = 270

    yield "memcpy", lambda: np.copyto(out16, u16), u16.nbytes
    yield "histogram u16 8", lambda: histogram.field_histogram(u16, 1, 8, 8, 1, staging, counts8), u16.nbytes
    yield "histogram u16 10", lambda: histogram.field_histogram(u16, 1, 6, 10, 1, staging, counts10), u16.nbytes
    yield "histogram u32 10", lambda: histogram.field_histogram(u32, 1, 22, 10, 1, staging, counts10), u32.nbytes
    yield "split u16 8_8", lambda: split.split_u16_8_8(u16, 0, 0 + 255, rest, symbols8), u16.nbytes
    yield "split u16 6_10", lambda: split.split_u16_6_10(u16, base, base + 255, nibbles, crumbs, symbols10), u16.nbytes
    yield "split u32 8_8_8_8", lambda: split.split_u32_8_8_8_8(u32, 0, 0 + 255, low, mid, high, symbols8), u32.nbytes
    symbols32 = np.empty(n, np.uint8)
    yield (
        "split u32 8_8_6_10",
        lambda: split.split_u32_8_8_6_10(u32, base, base + 255, low, mid, nibbles, crumbs, symbols32),
        u32.nbytes,
    )
    split.split_u16_8_8(u16, 0, 0 + 255, rest, symbols8)
    split.split_u16_6_10(u16, base, base + 255, nibbles, crumbs, symbols10)
    decoder8, encoder8 = coded(symbols8, blocks)
    decoder10, encoder10 = coded(symbols10, blocks)
    decoder10 = (*decoder10[:1], base, *decoder10[2:])
    yield "encode 8 (symbols)", lambda: encode.encode_symbols(*encoder8), n
    yield "encode 10 (symbols)", lambda: encode.encode_symbols(*encoder10), n

    def all_of_it() -> None:
        histogram.field_histogram(u16, 1, 6, 10, 1, staging, counts10)
        split.split_u16_6_10(u16, base, base + 255, nibbles, crumbs, symbols10)
        encode.encode_symbols(*encoder10)

    yield "whole encode u16 6_10", all_of_it, u16.nbytes
    yield "decode fields u8", lambda: decode_kernels.decode_fields_u8(*decoder8, out8), out8.nbytes
    yield "decode fields u16", lambda: decode_kernels.decode_fields_u16(*decoder10, out16), out16.nbytes
    yield "decode u16 8_8", lambda: decode_kernels.decode_u16_8_8(*decoder8, rest, out16), out16.nbytes
    yield "decode u16 6_10", lambda: decode_kernels.decode_u16_6_10(*decoder10, nibbles, crumbs, out16), out16.nbytes
    yield (
        "decode u32 8_8_8_8",
        lambda: decode_kernels.decode_u32_8_8_8_8(*decoder8, low, mid, high, out32),
        out32.nbytes,
    )
    yield (
        "decode u32 8_8_6_10",
        lambda: decode_kernels.decode_u32_8_8_6_10(*decoder10, low, mid, nibbles, crumbs, out32),
        out32.nbytes,
    )
    yield "unpack 6", lambda: planes.unpack(6, np.concatenate([nibbles, crumbs]), out8), n
    yield "pack 5", lambda: planes.pack(5, symbols8, np.empty(n // 2 + n // 8, np.uint8)), n
    yield "cut u32", lambda: planes.cut_plane(u32, 1, 16, 6, out8), u32.nbytes
    yield "join u32", lambda: planes.join_plane(out8, 16, out32), u32.nbytes
    symbol_counts, _bits = bypass_counts(np.bincount(u16, minlength=1 << 16))
    frequencies = normalise(symbol_counts, PRECISION)
    rows, slots = np.empty(256, np.uint32), np.empty(table.SLOTS, np.uint32)
    table.build_encoder_table(frequencies, PRECISION, rows)
    table.build_table(frequencies, PRECISION, slots)
    words, states, sizes = np.empty(2 * n, np.uint16), np.empty(32 * blocks, np.uint32), np.empty(blocks, np.int64)
    yield "encode bypass", lambda: bypass.encode_bypass(u16, rows, PRECISION, words, states, sizes), u16.nbytes
    bypass.encode_bypass(u16, rows, PRECISION, words, states, sizes)
    ends = [(b + 1) * (n // 128) // blocks * 256 for b in range(blocks)]
    run = np.concatenate([words[e - k : e] for e, k in zip(ends, sizes, strict=True)] + [np.zeros(32, np.uint16)])
    starts = np.concatenate([[0], np.cumsum(sizes)])
    yield "decode bypass", lambda: bypass.decode_bypass(slots, states, run, starts, out16), out16.nbytes


def main(mebibytes: str = "1", *names: str) -> None:
    print(f"{'':24} median  best")
    for name, action, size in kernels(weights(int(mebibytes))):
        if not names or any(wanted in name for wanted in names):
            report(name, action, size)


if __name__ == "__main__":
    main(*sys.argv[1:])
