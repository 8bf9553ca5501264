"""What an encoder has to know of a chunk of the usual kind: whether raw planes are noise, the window, the table."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.kernels._jit import inlined, kernel
from slimtensors.kernels.cpu.blocks import GROUP
from slimtensors.kernels.cpu.frequencies import normalise
from slimtensors.kernels.cpu.histogram import TABLES, field_histogram
from slimtensors.kernels.cpu.table import MOST_PRECISION, SYMBOLS
from slimtensors.kernels.cpu.window import choose_window, count_symbols
from slimtensors.kernels.status import BAD_ARGUMENT, OK

Array = npt.NDArray[Any]

RUNS = 16  # of GROUP elements, spread evenly, that are looked at before raw planes are taken for noise; at most twice
MOST_SAMPLES = 2 * RUNS * GROUP
UNSEEN = 16  # symbols of the window that a sample may lack
NOT_NOISE, NOT_SEEN = 11, 12  # beside the statuses of all kernels


@inlined
def is_noise(src: Array, rotate: int, enough: float, shift: int, width: int, terms: Array, counts: Array) -> bool:
    """Whether a plane's entropy, in a sample, is near its width. rotate: src to the left, by 0 or 1 bits, first."""
    bits = src.itemsize * 8
    size = 1 << width
    for field in range(size):
        counts[field] = 0
    step = max(GROUP, src.size // RUNS // GROUP * GROUP)
    samples = 0
    for begin in range(0, src.size // step * step, step):
        for at in range(begin, begin + GROUP):
            value = np.uint64(src[at])
            value = value << np.uint64(rotate) | value >> np.uint64(bits - rotate)
            counts[np.int64(value >> np.uint64(shift)) & size - 1] += 1
        samples += GROUP
    # n entropy = n log2 n - sum(c log2 c); n draws from K symbols show (K - 1) / (2 n ln 2) bits too little entropy
    entropy = terms[min(samples, MOST_SAMPLES)]
    for field in range(size):
        entropy -= terms[min(np.int64(counts[field]), MOST_SAMPLES)]
    return bool(entropy / samples + (size - 1) / (2 * samples * 0.693) >= enough * width)


@kernel
def survey(
    src: Array, rotate: int, enough: float, widths: Array, every: int, terms: Array, staging: Array, counts: Array,
    fields: Array, symbols: Array, frequencies: Array, found: Array,
) -> int:  # fmt: skip
    """Look at a body whose planes, rotated left by 0 or 1 bits, have these widths, the last of them to be coded.

    src          uint8, 16 or 32 [n]      n is a multiple of 128, at least that
    widths       int64[planes]            those of raw planes are at most 8, that of the coded one at most 10
    terms        float64[MOST_SAMPLES+1]  c log2 c
    staging, counts                       work space, as for field_histogram
    fields       int64[2^w]               work space
    symbols      int64[256]               work space
    frequencies  uint16[256]              of the symbols, at precision 12
    found        int64[2]                 the window: base and last

    enough: a raw plane with this share of its bits' entropy is not worth coding.
    every: 1 to count all elements, k to count 1024 out of every k * 1024; then each symbol of the window has a
    frequency. Returns OK; NOT_NOISE if a raw plane looks as if it were worth coding; NOT_SEEN if the sample lacks too
    much, or there are not two symbols; BAD_ARGUMENT.
    """
    if src.size < GROUP or widths.size < 2 or terms.size != MOST_SAMPLES + 1 or symbols.size != SYMBOLS:
        return BAD_ARGUMENT
    if not 0 <= rotate <= 1 or not 0 < enough <= 1:
        return BAD_ARGUMENT
    shift = 0
    for plane in range(widths.size - 1):
        if not 1 <= widths[plane] <= 8:
            return BAD_ARGUMENT
        shift += int(widths[plane])
    width = int(widths[widths.size - 1])
    if not 1 <= width <= 10 or fields.size != 1 << width or counts.size != TABLES << width or counts.size < SYMBOLS:
        return BAD_ARGUMENT
    below = 0
    for plane in range(widths.size - 1):
        if not is_noise(src, rotate, enough, below, int(widths[plane]), terms, counts):
            return NOT_NOISE
        below += int(widths[plane])
    if field_histogram(src, rotate, shift, width, every, staging, counts) != OK:
        return BAD_ARGUMENT
    for field in range(fields.size):
        fields[field] = counts[field]
    if choose_window(fields, every > 1, found) != OK or count_symbols(fields, found[0], found[1], symbols) != OK:
        return BAD_ARGUMENT
    inside, seen = found[1] - found[0] + 1, 0
    for symbol in range(inside):
        seen += symbols[symbol] > 0
    if every > 1:
        if seen + UNSEEN < inside:
            return NOT_SEEN
        for symbol in range(inside):
            symbols[symbol] = max(symbols[symbol], 1)
        seen = inside
    if seen < 2:
        return NOT_SEEN
    return normalise(symbols, MOST_PRECISION, frequencies)
