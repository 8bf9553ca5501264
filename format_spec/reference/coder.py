"""Chapter `coder.md`: one plane of a chunk from its bytes. Quotations are from that text."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import zstandard

LANES = 32
MAX_WINDOW = 16 << 20  # of a Zstandard frame
GROUP = 128
LOW_STATE = 1 << 16  # "After a block's last step every state is 2^16"; "States in the file are at least 2^16."


class Refused(Exception):  # noqa: N818 - the word of the specification
    """The file is malformed, or asks for more than the format allows."""


def check(holds: bool, reason: str) -> None:
    if not holds:
        raise Refused(reason)


def round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


# -- section 2: packed bits ------------------------------------------------------------------------------------------


def pieces(width: int) -> list[int]:
    """ "one for each power of two in `w`, largest first" """
    return [p for p in (8, 4, 2, 1) if width & p]


def raw_length(width: int, groups: int) -> int:
    """ "The piece's length is `32 * ceil(4 * G / (8 / p))` bytes." """
    return sum(LANES * -(-4 * groups // (8 // p)) for p in pieces(width))


def raw(payload: bytes, width: int, groups: int) -> list[int]:
    check(1 <= width <= 8, "raw plane wider than 8 bits")
    check(len(payload) == raw_length(width, groups), "raw plane of another length")
    steps = 4 * groups
    fields = [0] * (GROUP * groups)
    begin = shift = 0
    for p in pieces(width):
        per_byte = 8 // p
        for i in range(len(fields)):
            t, lane = divmod(i, LANES)
            byte = payload[begin + LANES * (t // per_byte) + lane]
            # "The largest piece holds the symbol's lowest bits, the next piece the bits above them"
            fields[i] |= (byte >> p * (t % per_byte)) % (1 << p) << shift
        end = begin + LANES * -(-steps // per_byte)
        if steps % per_byte:  # "the unused bits are zero and a decoder refuses others"
            check(not any(byte >> p * (steps % per_byte) for byte in payload[end - LANES : end]), "unused bits set")
        begin, shift = end, shift + p
    return fields


def zstd(payload: bytes, width: int, groups: int) -> list[int]:
    """ "one Zstandard frame (RFC 8878) that states its content size, without a dictionary" """
    check(width <= 8, "zstd plane wider than 8 bits")  # "it holds what `raw` would", and raw ends at 8
    check(payload[:4] == b"\x28\xb5\x2f\xfd", "not a Zstandard frame")  # nor a skippable one
    try:
        frame = zstandard.get_frame_parameters(payload)
        # Checked before decompression: a frame that claims more never gets the memory.
        check(frame.content_size == raw_length(width, groups), "zstd frame of another content size")
        check(frame.dict_id == 0, "zstd frame wants a dictionary")
        check(frame.window_size <= MAX_WINDOW, "zstd frame with a large window")
        plain = zstandard.ZstdDecompressor().decompress(payload, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise Refused(f"zstd: {error}") from None
    return raw(plain, width, groups)


# -- section 3: frequency tables -------------------------------------------------------------------------------------


def read_table(payload: bytes, precision: int) -> tuple[list[int], int]:
    """The 256 frequencies, and the number of bytes they took."""
    check(precision in (11, 12), "precision is not 11 or 12")
    check(len(payload) >= 2, "table cut short")
    first, last = payload[0], payload[1]
    check(first < last, "table: first is not below last")
    frequency = [0] * 256
    at = 2
    for s in range(first, last + 1):
        check(at < len(payload), "table cut short")
        value = payload[at]
        at += 1
        if value >= 128:
            check(at < len(payload), "table cut short")
            value += 128 * payload[at] - 128
            at += 1
            check(value >= 128, "table: two bytes for a frequency below 128")
        frequency[s] = value
    check(frequency[first] > 0 and frequency[last] > 0, "table: first or last has frequency 0")
    check(sum(frequency) == 1 << precision, "table: the sum is not 2^P")
    return frequency, at


# -- sections 4 to 6: rANS -------------------------------------------------------------------------------------------


class PlaneParts:
    """ "each part beginning at a multiple of 16 bytes from the plane's first byte, padding zero" """

    def __init__(self, payload: bytes, begin: int) -> None:
        self.payload = payload
        self.at = begin

    def take(self, length: int) -> bytes:
        begin = round_up(self.at, 16)
        check(not any(self.payload[self.at : begin]), "padding inside a plane is not zero")
        self.at = begin + length
        check(self.at <= len(self.payload), "plane cut short")
        return self.payload[begin : self.at]


@dataclass
class Contexts:
    """Section 7: of each field, the number of its table and by how much it is moved."""

    tables: int
    table: list[int]
    moved: list[int]


def read_tables(payload: bytes, precision: int, contexts: Contexts | None) -> tuple[list[list[int] | None], int]:
    """The frequencies of each table, None for an absent one, and the number of bytes they took."""
    tables: list[list[int] | None] = []
    at = 0
    for _ in range(contexts.tables if contexts else 1):
        if contexts and payload[at : at + 2] == b"\1\0":  # "the two bytes 1, 0 for a table that no unit selects"
            check(precision in (11, 12), "precision is not 11 or 12")
            tables.append(None)
            at += 2
        elif tables and payload[at : at + 2] == b"\2\0":  # "2, 0 for the same table as the one before it"
            check(precision in (11, 12), "precision is not 11 or 12")
            tables.append(tables[-1])
            at += 2
        else:
            frequency, length = read_table(payload[at:], precision)
            tables.append(frequency)
            at += length
    if contexts:
        check(all(tables[t] is not None for t in contexts.table), "a unit selects an absent table")
    return tables, at


def coded(
    payload: bytes,
    width: int,
    groups: int,
    precision: int,
    base: int,
    blocks: int,
    escapes: int,
    contexts: Contexts | None = None,
) -> list[int]:
    n = GROUP * groups
    check(1 <= blocks <= groups, "blocks are not between 1 and G")
    check(escapes <= n // 16, "too many escapes")
    tables, at = read_tables(payload, precision, contexts)
    for frequency in tables:
        for s in range(1, 256):  # "a symbol whose field would not fit has frequency 0"
            fits = base + s < 1 << width
            check(frequency is None or frequency[s] == 0 or fits, "a symbol's field does not fit the plane")
    parts = PlaneParts(payload, at)
    positions = struct.unpack(f"<{escapes}I", parts.take(4 * escapes))
    values = struct.unpack(f"<{escapes}H", parts.take(2 * escapes))
    symbols = read_blocks(parts, tables, precision, groups, blocks, contexts, bypass=False)
    fields = [base + s if s else 0 for s in symbols]
    if contexts:
        # "a symbol `s` other than 0 stands for `base + s + octave * floor(k / 4)`, less 2^w - 1 if that is 2^w or more"
        fields = [f + moved if f else 0 for f, moved in zip(fields, contexts.moved, strict=True)]
        fields = [f - (1 << width) + 1 if f >= 1 << width else f for f in fields]
        check(max(fields) < 1 << width, "a moved field does not fit the plane")
    previous = -1
    for position, value in zip(positions, values, strict=True):
        check(previous < position < n, "escape positions do not rise, or leave the body")
        check(value < 1 << width, "an escape's field does not fit the plane")
        check(symbols[position] == 0, "an escape's element is not symbol 0")
        fields[position] = value
        previous = position
    return fields


def bypass(
    payload: bytes, width: int, groups: int, precision: int, blocks: int, contexts: Contexts | None = None
) -> list[int]:
    check(9 <= width <= 16, "bypass plane is not 9 to 16 bits wide")
    check(1 <= blocks <= groups, "blocks are not between 1 and G")
    tables, at = read_tables(payload, precision, contexts)
    for frequency in tables:
        for s in range(256):  # "Symbols of 112 and more, and symbols whose fields reach `2^w`, have frequency 0."
            fits = s < 112 and s >> 3 < width - 2
            check(frequency is None or frequency[s] == 0 or fits, "a symbol's fields do not fit the plane")
    return read_blocks(PlaneParts(payload, at), tables, precision, groups, blocks, contexts, bypass=True)


def read_blocks(
    parts: PlaneParts,
    tables: list[list[int] | None],
    precision: int,
    groups: int,
    blocks: int,
    contexts: Contexts | None,
    *,
    bypass: bool,
) -> list[int]:
    """Word counts, states and words to symbols (coded) or fields (bypass)."""
    counts = struct.unpack(f"<{blocks}I", parts.take(4 * blocks))
    states = struct.unpack(f"<{LANES * blocks}I", parts.take(4 * LANES * blocks))
    check(min(states) >= LOW_STATE, "a state below 2^16")
    words_at = parts.at
    check(words_at + 2 * sum(counts) == len(parts.payload), "coded plane of another length")

    scale = 1 << precision
    owners: list[list[int]] = []  # "Symbol `s` owns the slots `start[s]` to `start[s] + frequency[s] - 1`."
    starts = []
    for table in tables:
        owner: list[int] = []
        start = []
        for s, f in enumerate(table or []):
            start.append(len(owner))
            owner += [s] * f
        owners.append(owner)
        starts.append(start)

    out: list[int] = []
    for b in range(blocks):
        words = struct.unpack_from(f"<{counts[b]}H", parts.payload, words_at)
        words_at += 2 * counts[b]
        taken = 0
        x = list(states[LANES * b : LANES * (b + 1)])
        try:
            # "block `b` holds the groups `floor(b * G / B)` up to, not including, `floor((b + 1) * G / B)`"
            for _ in range(4 * ((b + 1) * groups // blocks - b * groups // blocks)):
                for lane in range(LANES):
                    slot = x[lane] % scale
                    t = contexts.table[len(out)] if contexts else 0
                    s = owners[t][slot]
                    value = tables[t][s] * (x[lane] // scale) + slot - starts[t][s]
                    if value < LOW_STATE:
                        value = LOW_STATE * value + words[taken]
                        taken += 1
                    x[lane] = value
                    out.append(s)
                if not bypass:
                    continue
                # "all lanes read their symbols first and then, in lane order again, all lanes read their bypass bits"
                for lane in range(LANES):
                    s = out[lane - LANES]
                    if s >= 16:
                        k = s // 8 - 1
                        out[lane - LANES] = (8 + s % 8 << k) + x[lane] % (1 << k)
                        x[lane] >>= k
                        if x[lane] < LOW_STATE:
                            x[lane] = LOW_STATE * x[lane] + words[taken]
                            taken += 1
        except IndexError:
            raise Refused("a block has too few words") from None
        check(taken == counts[b], "a block has words left")
        check(x == [LOW_STATE] * LANES, "a final state is not 2^16")
    return out
