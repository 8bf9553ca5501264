"""A naive encoder: the inverse of `coder.py` and of chapter 6 of `container.md`. It chooses nothing; the caller does.

It exists to make files that an ordinary encoder would not: every choice that the format leaves open is a parameter.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace

import zstandard

from coder import GROUP, LANES, LOW_STATE, Contexts, pieces, round_up
from decode import AFFINE, BYPASS, CONSTANT, DESCRIPTOR, HEAD, LITERAL, MAX_RATIO, PLANES, RAW, READ_AHEAD, ZSTD
from expressions import Bits, Records, ordered

# -- planes ----------------------------------------------------------------------------------------------------------


def raw_payload(fields: Sequence[int], width: int) -> bytes:
    out = b""
    shift = 0
    for p in pieces(width):
        per_byte = 8 // p
        piece = bytearray(LANES * -(-len(fields) // (LANES * per_byte)))
        for i, field in enumerate(fields):
            t, lane = divmod(i, LANES)
            piece[LANES * (t // per_byte) + lane] |= (field >> shift) % (1 << p) << p * (t % per_byte)
        out += piece
        shift += p
    return out


def even_table(symbols: Sequence[int], precision: int) -> list[int]:
    """Frequencies about as the symbols are; a lone symbol gets a companion that never occurs."""
    counts = [0] * 256
    for s in symbols:
        counts[s] += 1
    if counts.count(0) == 255:
        counts[1 if symbols[0] == 0 else symbols[0] - 1] = 1
    total = 1 << precision
    frequency = [max(1, c * total // sum(counts)) if c else 0 for c in counts]
    while (excess := sum(frequency) - total) > 0:
        largest = frequency.index(max(frequency))
        frequency[largest] -= min(excess, frequency[largest] // 2)
    frequency[frequency.index(max(frequency))] += total - sum(frequency)
    return frequency


def table_bytes(frequency: Sequence[int]) -> bytes:
    present = [s for s, f in enumerate(frequency) if f]
    first, last = present[0], present[-1]
    out = bytearray([first, last])
    for f in frequency[first : last + 1]:
        out += bytes([f]) if f < 128 else bytes([f % 128 + 128, f // 128])
    return bytes(out)


def bypass_symbol(field: int) -> tuple[int, int, int]:
    """symbol, number of bypass bits, bypass bits"""
    if field < 16:
        return field, 0, 0
    k = field.bit_length() - 4
    return 8 * (k + 1) + (field >> k) - 8, k, field % (1 << k)


def encode_block(
    symbols: Sequence[int],
    low_bits: Sequence[tuple[int, int]] | None,
    frequency: Sequence[int] | Sequence[Sequence[int] | None],
    precision: int,
    final: int = LOW_STATE,
    table: Sequence[int] | None = None,
) -> tuple[list[int], list[int]]:
    """States and words of one block; section 4 backwards. `low_bits`: (k, bits) of each element, mode bypass only.

    `table`: which table each element takes, if there are several in `frequency`.

    `final` is the state that decoding ends with; a decoder refuses all but 2^16.
    """
    tables = [frequency] if table is None else frequency
    starts = [[sum(f[:s]) for s in range(256)] if f else [] for f in tables]
    x = [final] * LANES
    words: list[int] = []
    for step in range(len(symbols) - LANES, -1, -LANES):
        for lane in reversed(range(LANES) if low_bits else ()):
            k, v = low_bits[step + lane]
            if x[lane] >= 1 << 32 - k:
                words.append(x[lane] % LOW_STATE)
                x[lane] //= LOW_STATE
            x[lane] = (x[lane] << k) + v
        for lane in reversed(range(LANES)):
            t = table[step + lane] if table else 0
            f = tables[t][symbols[step + lane]]
            while x[lane] >= f << 32 - precision:
                words.append(x[lane] % LOW_STATE)
                x[lane] //= LOW_STATE
            x[lane] = (x[lane] // f << precision) + starts[t][symbols[step + lane]] + x[lane] % f
    return x, words[::-1]


@dataclass
class CodedParts:
    """The parts of a coded plane, open to the knife."""

    table: bytes
    positions: list[int]
    values: list[int]
    counts: list[int]
    states: list[int]
    words: list[int]
    padding: int = 0  # what the padding between parts consists of; 0 in a sound file

    def payload(self) -> bytes:
        out = self.table
        numbers_of = (self.positions, self.values, self.counts, self.states, self.words)
        for code, numbers in zip("IHIIH", numbers_of, strict=True):
            out = out.ljust(round_up(len(out), 16), bytes([self.padding]))
            out += struct.pack(f"<{len(numbers)}{code}", *numbers)
        return out


@dataclass
class Plane:
    """How to store one plane."""

    mode: int
    precision: int = 12
    blocks: int = 1
    base: int = 0
    frequency: list[int] | None = None  # None: about as the symbols are
    escape: frozenset[int] = frozenset()  # positions escaped without need; their fields must be escapable
    frame: bytes | None = None  # a zstd frame made elsewhere


@dataclass
class Coded:
    """A stored plane: its descriptor's numbers, and its payload or the parts of it."""

    mode: int
    precision: int = 0
    base: int = 0
    blocks: int = 0
    escapes: int = 0
    payload: bytes = b""
    parts: CodedParts | None = None
    length: int | None = None  # None: the payload's

    def bytes(self) -> bytes:
        return self.parts.payload() if self.parts else self.payload

    def descriptor(self) -> bytes:
        length = len(self.bytes()) if self.length is None else self.length
        return DESCRIPTOR.pack(self.mode, self.precision, self.base, length, self.blocks, self.escapes)


def plane_symbols(
    fields: Sequence[int], width: int, plan: Plane, contexts: Contexts | None = None
) -> tuple[list[int], list[int]]:
    """The symbols, and the positions of the escapes."""
    if plan.mode == BYPASS:
        return [bypass_symbol(f)[0] for f in fields], []
    symbols, positions = [], []
    for i, f in enumerate(fields):
        s = f - plan.base - (contexts.moved[i] if contexts else 0)
        if contexts and f <= contexts.moved[i]:
            s += (1 << width) - 1  # "less 2^w - 1 if that is 2^w or more"
        if i in plan.escape or (f and not 1 <= s <= 255):
            positions.append(i)
            s = 0
        symbols.append(s if f else 0)
    return symbols, positions


def context_tables(symbols: Sequence[int], plan: Plane, contexts: Contexts) -> list[list[int] | None]:
    """A table for each context that occurs."""
    tables: list[list[int] | None] = []
    for t in range(contexts.tables):
        of_table = [s for s, c in zip(symbols, contexts.table, strict=True) if c == t]
        tables.append((plan.frequency or even_table(of_table, plan.precision)) if of_table else None)
    return tables


def encode_plane(fields: Sequence[int], width: int, plan: Plane, contexts: Contexts | None = None) -> Coded:
    if plan.mode == CONSTANT:
        return Coded(CONSTANT, base=fields[0] if fields else 0)
    if plan.mode == RAW:
        return Coded(RAW, payload=raw_payload(fields, width))
    if plan.mode == ZSTD:
        frame = plan.frame or zstandard.ZstdCompressor().compress(raw_payload(fields, width))
        return Coded(ZSTD, payload=frame)
    symbols, positions = plane_symbols(fields, width, plan, contexts)
    if contexts:
        frequency = context_tables(symbols, plan, contexts)
        head = b""
        for t, f in enumerate(frequency):
            same = t > 0 and f is not None and f == frequency[t - 1]
            head += b"\2\0" if same else table_bytes(f) if f else b"\1\0"
    else:
        frequency = plan.frequency or even_table(symbols, plan.precision)
        head = table_bytes(frequency)
    low_bits = [bypass_symbol(f)[1:] for f in fields] if plan.mode == BYPASS else None
    parts = CodedParts(head, positions, [fields[i] for i in positions], [], [], [])
    groups = len(fields) // GROUP
    for b in range(plan.blocks):
        here = slice(GROUP * (b * groups // plan.blocks), GROUP * ((b + 1) * groups // plan.blocks))
        table = contexts and contexts.table[here]
        low = low_bits and low_bits[here]
        states, words = encode_block(symbols[here], low, frequency, plan.precision, table=table)
        parts.counts.append(len(words))
        parts.states += states
        parts.words += words
    return Coded(plan.mode, plan.precision, plan.base, plan.blocks, len(positions), parts=parts)


# -- chunks ----------------------------------------------------------------------------------------------------------


def to_units(data: bytes, unit: int) -> list[int]:
    return [int.from_bytes(data[i : i + unit], "little") for i in range(0, len(data), unit)]


def finish(stored: bytes, decoded_length: int, extra: int = 0) -> bytes:
    """Zeros up to a multiple of 64, those of the 1024 rule, and `extra` times 64 more."""
    least = -(-decoded_length // MAX_RATIO)
    return stored.ljust(round_up(max(len(stored), least), 64) + 64 * extra, b"\0")


def literal_chunk(data: bytes, unit: int, extra: int = 0) -> bytes:
    return finish(HEAD.pack(LITERAL, 0, 0, len(data) // unit, 0) + data, len(data), extra)


def affine_chunk(start: int, step: int, n: int, unit: int, extra: int = 0) -> bytes:
    return finish(HEAD.pack(AFFINE, 0, 0, n, 0) + struct.pack("<QQ", start, step), n * unit, extra)


@dataclass
class PlanesChunk:
    n: int
    unit: int
    planes: list[Coded]
    tail: bytes
    extra: int = 0
    base_digest: int = 0

    def bytes(self) -> bytes:
        out = HEAD.pack(PLANES, len(self.planes), 0, self.n, self.base_digest)
        out += b"".join(p.descriptor() for p in self.planes)
        for part in [*(plane.bytes() for plane in self.planes), self.tail]:
            if part:
                out = out.ljust(round_up(len(out), 16), b"\0") + part
        return finish(out + bytes(READ_AHEAD), self.n * self.unit, self.extra)

    def replace(self, plane: int, **changes: object) -> PlanesChunk:
        planes = list(self.planes)
        planes[plane] = replace(planes[plane], **changes)
        return replace(self, planes=planes)


def split_fields(units: Sequence[int], expression: Bits, unit_bits: int) -> list[list[int]]:
    """The inverse of `combine`."""
    r = expression.rotate
    mask = (1 << unit_bits) - 1
    turned = [(u << r | u >> unit_bits - r) & mask for u in units] if r else units
    out, below = [], 0
    for part in expression.parts:
        out.append([v >> below & (1 << part.width) - 1 for v in turned])
        below += part.width
    return out


def stored_fields(fields: list[int], side: bytes | None, row: int, start: int) -> list[int]:
    """What a plane under `scatter` stores: the fields of the rows present, and zeros up to a multiple of 128."""
    if side is None:
        return fields
    present = [f for j, f in enumerate(fields) if side[(start + j) // row]]
    return present + [0] * (-len(present) % GROUP)


def difference(unit: int, base: int, bits: int, *, floats: bool) -> int:
    """The inverse of `add_difference`."""
    d = (ordered(unit, bits, floats=floats) - ordered(base, bits, floats=floats)) % (1 << bits)
    return 2 * d if d < 1 << bits - 1 else 2 * ((1 << bits) - d) - 1


def record_fields(data: bytes, record: Records) -> list[list[int]]:
    """The planes of whole records, each followed by zeros up to a multiple of 128."""
    planes: list[list[int]] = [[] for _ in record.fields]
    for at in range(0, len(data), record.size):
        bits = int.from_bytes(data[at : at + record.size], "little")
        for plane, field in zip(planes, record.fields, strict=True):
            for n, cuts in field.spans:
                for i in range(n):
                    value = below = 0
                    for bit, step, width in cuts:
                        value |= (bits >> bit + i * step) % (1 << width) << below
                        below += width
                    plane.append(value)
    return [plane + [0] * (-len(plane) % GROUP) for plane in planes]


def mask_and_values(units: Sequence[int], keep: frozenset[int] = frozenset()) -> tuple[list[int], list[int]]:
    """The fields of the mask, and the units that are not 0; `keep`: positions whose bit is 1 though the unit is 0.

    Both are filled up with zeros to a multiple of 128.
    """
    kept = [i for i, unit in enumerate(units) if unit or i in keep]
    mask = [0] * round_up(len(units) // 8, GROUP)
    for i in kept:
        mask[i // 8] |= 1 << i % 8
    return mask, [units[i] for i in kept] + [0] * (-len(kept) % GROUP)
