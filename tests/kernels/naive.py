"""The coder in plain Python, written from format_spec/coder.md: the slow twin of the kernels, independent of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

LANES, GROUP, STATE_MIN = 32, 128, 1 << 16


def blocks_of(n: int, blocks: int) -> list[range]:
    """The elements of each block."""
    groups = n // GROUP
    bounds = [b * groups // blocks * GROUP for b in range(blocks + 1)]
    return [range(a, b) for a, b in itertools.pairwise(bounds)]


# ---- tables


def normalise(counts: np.ndarray, precision: int) -> list[int]:
    """Frequencies that sum to 2^precision, at least 1 for what occurs, and at least two symbols."""
    slots = 1 << precision
    frequencies = [max(1, int(c) * slots // int(counts.sum())) if c else 0 for c in counts]
    if sum(f > 0 for f in frequencies) == 1:
        frequencies[(frequencies.index(max(frequencies)) + 1) % 256] = 1
    while sum(frequencies) != slots:
        frequencies[frequencies.index(max(frequencies))] += 1 if sum(frequencies) < slots else -1
    return frequencies


def starts_of(frequencies: Sequence[int]) -> list[int]:
    return [sum(frequencies[:s]) for s in range(256)]


# ---- rANS. A field is (symbol, bypass bits, how many of them); plain symbols have none.

Field = tuple[int, int, int]


def encode(fields: Sequence[Field], blocks: int, frequencies: Sequence[int], precision: int):
    """(states, words, word counts), blocks one after another."""
    states, words, counts = [], [], []
    starts = starts_of(frequencies)
    for block in blocks_of(len(fields), blocks):
        x = [STATE_MIN] * LANES
        written = []
        for step in reversed(range(block.start, block.stop, LANES)):
            for lane in reversed(range(LANES)):
                _symbol, value, k = fields[step + lane]
                if x[lane] >= 1 << 32 - k:
                    written.append(x[lane] % 2**16)
                    x[lane] //= 2**16
                x[lane] = x[lane] * 2**k + value
            for lane in reversed(range(LANES)):
                s = fields[step + lane][0]
                while x[lane] >= frequencies[s] << 32 - precision:
                    written.append(x[lane] % 2**16)
                    x[lane] //= 2**16
                x[lane] = (x[lane] // frequencies[s] << precision) + starts[s] + x[lane] % frequencies[s]
        states += x
        words += reversed(written)
        counts.append(len(written))
    return np.array(states, np.uint32), np.array(words, np.uint16), np.array(counts, np.int64)


def decode(states, words, counts, n: int, frequencies: Sequence[int], precision: int, *, bypass: bool = False):
    """The symbols, or the fields if `bypass`. The stream must be sound."""
    starts = starts_of(frequencies)
    owner = [s for s in range(256) for _ in range(frequencies[s])]
    out = []
    at = 0
    blocks = len(counts)
    for b, block in enumerate(blocks_of(n, blocks)):
        x = [int(v) for v in states[b * LANES : (b + 1) * LANES]]
        end = at + int(counts[b])
        for _step in range(block.start, block.stop, LANES):
            symbols = []
            for lane in range(LANES):
                slot = x[lane] % 2**precision
                s = owner[slot]
                x[lane] = frequencies[s] * (x[lane] // 2**precision) + slot - starts[s]
                if x[lane] < STATE_MIN:
                    x[lane] = x[lane] * 2**16 + int(words[at])
                    at += 1
                symbols.append(s)
            if not bypass:
                out += symbols
                continue
            for lane, s in enumerate(symbols):
                k = s // 8 - 1 if s >= 16 else 0
                v, x[lane] = x[lane] % 2**k, x[lane] // 2**k
                if x[lane] < STATE_MIN:
                    x[lane] = x[lane] * 2**16 + int(words[at])
                    at += 1
                out.append(s if s < 16 else (8 + s % 8) * 2**k + v)
        assert x == [STATE_MIN] * LANES
        assert at == end
    return out


def plain(symbols) -> list[Field]:
    return [(int(s), 0, 0) for s in symbols]


def bypass_field(field: int) -> Field:
    """Section 6: the bit length and the three bits below the highest make the symbol."""
    if field < 16:
        return field, 0, 0
    k = field.bit_length() - 4
    return 8 * (k + 1) + field // 2**k % 8, field % 2**k, k


# ---- planes


def cut(elements: np.ndarray, rotate: int, widths: Sequence[int]) -> list[np.ndarray]:
    """The planes of elements rotated left, low ones first."""
    bits = elements.itemsize * 8
    planes, shift = [], 0
    values = [int(e) for e in elements]
    rotated = [(v << rotate | v >> bits - rotate) % (1 << bits) for v in values]
    for width in widths:
        planes.append(np.array([v >> shift & (1 << width) - 1 for v in rotated], np.uint16))
        shift += width
    return planes


def join(planes: Sequence[np.ndarray], rotate: int, widths: Sequence[int], dtype) -> np.ndarray:
    """The inverse of cut."""
    bits = np.dtype(dtype).itemsize * 8
    out = []
    for parts in zip(*planes, strict=True):
        value, shift = 0, 0
        for part, width in zip(parts, widths, strict=True):
            value |= int(part) << shift
            shift += width
        out.append((value >> rotate | value << bits - rotate) % (1 << bits))
    return np.array(out, dtype)


def pack(plane: np.ndarray, width: int) -> list[np.ndarray]:
    """The pieces of a packed plane, in their order."""
    steps = len(plane) // LANES
    pieces, below = [], 0
    for p in (8, 4, 2, 1):
        if width & p:
            piece = np.zeros(32 * -(-steps // (8 // p)), np.uint8)
            for i, value in enumerate(plane):
                t, lane = divmod(i, LANES)
                piece[32 * (t // (8 // p)) + lane] |= (int(value) >> below & (1 << p) - 1) << p * (t % (8 // p))
            pieces.append(piece)
            below += p
    return pieces


def symbol_of(field: int, base: int) -> int:
    """0 for field 0 and for what the window does not hold."""
    return field - base if base < field <= base + 255 else 0


def difference(unit: int, base: int, bits: int, floats: bool) -> int:
    """expressions.md, section 8"""

    def order(u: int) -> int:
        if not floats:
            return u
        return u + 2 ** (bits - 1) if u < 2 ** (bits - 1) else 2**bits - 1 - u

    d = (order(unit) - order(base)) % 2**bits
    return 2 * d if d < 2 ** (bits - 1) else 2 * (2**bits - d) - 1
