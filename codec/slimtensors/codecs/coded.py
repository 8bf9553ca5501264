"""The binding of the rANS coder: payloads of the modes `coded` and `bypass` (format_spec/coder.md, sections 3 to 6)."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slimtensors.codecs.head import GROUP, LANES, Buffer, Bytes, Descriptor, Mode, Part, Plane
from slimtensors.codecs.workspace import work_space
from slimtensors.dtypes import bytes_of
from slimtensors.entropy.tables import PRECISIONS, Frequencies, normalise, table_bytes
from slimtensors.errors import FormatError
from slimtensors.kernels import instruction_set
from slimtensors.kernels.cpu import bypass, encode, encode_few, histogram, payload, split, table
from slimtensors.kernels.cpu import window as window_kernels
from slimtensors.kernels.status import OK, must
from slimtensors.limits import BLOCK_BYTES, BLOCK_UNITS, ESCAPE_SHARE

__all__ = ["Coded", "Escapes", "count_fields", "encode_bypass", "encode_fields", "encode_symbols", "read_coded"]

PRECISION = 12
WINDOW = 256  # symbols
ESCAPE_BYTES = 6  # its position and its field
PAIRED, PAIRED_UNITS = 5, 1 << 16  # bits of fields, and of how many, that are counted two at a time

Words = npt.NDArray[np.uint16]


class Escapes(NamedTuple):
    """Fields outside the window."""

    positions: npt.NDArray[np.uint32]
    fields: npt.NDArray[np.uint16]


class Coded(NamedTuple):
    """A payload, cut up and checked, as kernels take it."""

    table: npt.NDArray[np.uint32]
    base: int
    states: npt.NDArray[np.uint32]
    words: Words  # goes on past the plane's own words
    starts: npt.NDArray[np.int64]
    escapes: Escapes


def read_coded(plane: Plane, width: int, groups: int) -> Coded:
    """Cut up the payload of a plane in mode `coded` or `bypass` whose body has `groups` groups. Raises FormatError."""
    check_descriptor(plane.descriptor, groups)
    mode, precision, base, length, blocks, escapes = plane.descriptor
    slots = work_space("table", table.SLOTS, np.uint32)
    starts = np.empty(blocks + 1, np.int64)
    parts = np.empty(payload.PARTS, np.int64)
    units, is_bypass = groups * GROUP, mode == Mode.BYPASS
    status = payload.open_payload(
        plane.payload, length, width, base, is_bypass, escapes, precision, units, slots, starts, parts
    )
    check_opened(status)
    return cut(plane, slots, starts, parts)


def check_descriptor(descriptor: Descriptor, groups: int) -> None:
    """The numbers of a plane in mode `coded` or `bypass`. Raises FormatError."""
    mode, precision, base, _length, blocks, escapes = descriptor
    if precision not in PRECISIONS:
        raise FormatError(f"a precision of {precision}; 11 and 12 are known")
    if not 1 <= blocks <= groups:
        raise FormatError(f"{blocks} blocks for {groups} groups")
    if escapes * ESCAPE_SHARE > groups * GROUP or (mode == Mode.BYPASS and (escapes or base)):
        raise FormatError(f"{escapes} escapes and base {base} in mode {Mode.NAMES[mode]}")


def check_opened(status: int) -> None:
    """Turn the status of a kernel of payload.py into an error."""
    if status != OK:
        raise FormatError(_WRONG.get(status, "a coded plane is malformed"))


def cut(
    plane: Plane, slots: npt.NDArray[np.uint32], starts: npt.NDArray[np.int64], parts: npt.NDArray[np.int64]
) -> Coded:
    """The parts of an opened payload."""
    data, escapes = plane.payload, plane.descriptor.escapes
    _table_end, positions_at, fields_at, states_at, words_at = parts.tolist()
    return Coded(
        slots,
        plane.descriptor.base,
        data[states_at:words_at].view("<u4"),
        data[words_at:].view("<u2"),
        starts,
        Escapes(
            data[positions_at : positions_at + 4 * escapes].view("<u4"),
            data[fields_at : fields_at + 2 * escapes].view("<u2"),
        ),
    )


NOT_ZERO = "an escape where the symbol is not 0"
_WRONG = {
    payload.BAD_TABLE: "a frequency table is cut off, or its frequencies do not sum to 2^precision",
    payload.BAD_SYMBOL: "a symbol stands for a field that is wider than its plane",
    payload.BAD_LENGTH: "a coded plane's length is not that of its parts",
    payload.BAD_PADDING: "padding inside a coded plane is not zero",
    payload.BAD_STATE: "a state below 2^16",
    payload.BAD_ESCAPES: "escapes do not rise, lie outside the body, or are too wide",
}


def put_escapes(body: npt.NDArray[Any], shift: int, width: int, escapes: Escapes) -> None:
    """Put escaped fields into decoded units, where they are 0. Raises FormatError."""
    if escapes.positions.size and payload.patch(body, shift, (1 << width) - 1, *escapes) != OK:
        raise FormatError(NOT_ZERO)


def block_count(units: int, unit_bytes: int) -> int:
    """How many blocks an encoder makes: in fours, which one thread decodes at once, where that costs little."""
    block = max(BLOCK_UNITS, BLOCK_BYTES // unit_bytes)
    if units >= 3 * BLOCK_UNITS:
        return 4 * max(1, round(units / (4 * block)))
    if units >= 2 * BLOCK_UNITS:
        return 3  # flushing a fourth would cost more than the quarter of the time that is lost
    return max(1, min(units // (BLOCK_UNITS // 4), 4))


def code_blocks(units: int) -> int:
    """For codes, that take few bits of large chunks: four blocks, which are decoded at once, or one."""
    return 4 if units >= 3 * BLOCK_UNITS else 1


class Window(NamedTuple):
    """The fields base + 1 to last, which symbols stand for."""

    base: int
    last: int


def choose_window(counts: npt.NDArray[np.integer]) -> Window:
    """The best window. `counts`: how often each field occurs, at least in a sample."""
    found = np.empty(2, np.int64)
    must(window_kernels.choose_window(counts.astype(np.int64), False, found))
    return Window(*found.tolist())


class Windowed(NamedTuple):
    """A plane's counts as symbols."""

    window: Window
    symbols: npt.NDArray[np.int64]  # how often each occurs; what the window lacks counts as symbol 0
    escaped: int  # of these, the fields that are not 0


def through_window(counts: npt.NDArray[np.integer]) -> Windowed:
    """How often each symbol of the best window occurs, from how often each field does."""
    window, symbols = choose_window(counts), np.empty(WINDOW, np.int64)
    must(window_kernels.count_symbols(counts.astype(np.int64), *window, symbols))
    return Windowed(window, symbols, int(counts.sum()) - int(counts[0]) - int(symbols[1:].sum()))


def count_fields(
    units: npt.NDArray[Any], rotate: int, shift: int, width: int, every: int = 1
) -> npt.NDArray[np.uint32]:
    """How often each field of `width` bits at bit `shift` of the rotated units occurs, in 1024 of `every` * 1024 units.

    units.size is a multiple of 128.
    """
    counts = work_space("counts", histogram.TABLES << width, np.uint32)
    staging = np.empty(histogram.STAGING, np.uint16)
    must(histogram.field_histogram(units, rotate, shift, width, every, staging, counts))
    found: npt.NDArray[np.uint32] = counts[: 1 << width].copy()
    return found


def count_plane(fields: npt.NDArray[np.integer], width: int) -> npt.NDArray[np.integer]:
    """How often each field of a plane occurs. fields: below 2^width, uint8 or uint16 [n], n a multiple of 128"""
    if width == 1:
        ones = np.count_nonzero(fields)
        return np.array([fields.size - ones, ones])
    if width <= PAIRED and fields.size >= PAIRED_UNITS:
        return count_pairs(fields, width)
    return count_fields(fields, 0, 0, width)


def count_pairs(fields: npt.NDArray[np.integer], width: int) -> npt.NDArray[np.integer]:
    """The same, two at a time. fields: uint8"""
    pairs = count_fields(fields.view(np.uint16), 0, 0, 8 + width).reshape(-1, 1 << 8)[:, : 1 << width]
    counts: npt.NDArray[np.integer] = pairs.sum(axis=0) + pairs.sum(axis=1)
    return counts


def find_escapes(
    units: npt.NDArray[Any], rotate: int, shift: int, width: int, symbols: Bytes, count: int
) -> Escapes | None:
    """The `count` fields that became symbol 0 and are not 0."""
    if count == 0:
        return None
    positions, fields = np.empty(count, np.uint32), np.empty(count, np.uint16)
    staging = np.empty(histogram.STAGING, np.uint16)
    found = histogram.find_escapes(units, rotate, shift, width, symbols, staging, positions, fields)
    assert found == count
    return Escapes(positions, fields)


def encode_fields(
    fields: npt.NDArray[np.integer], counts: npt.NDArray[np.integer], window: Window, blocks: int
) -> Part:
    """A payload in mode `coded` from fields (uint8[n] or uint16[n], n a multiple of 128); counts: of the symbols."""
    symbols = work_space("symbols", fields.size, np.uint8)
    escaped = split.symbols_of(fields, *window, symbols)
    escapes = find_escapes(fields, 0, 0, 8 * fields.itemsize, symbols, escaped)
    part = encode_symbols(symbols, counts, window.base, escapes, blocks)
    assert part is not None  # the counts are of these symbols
    return part


def encode_symbols(
    symbols: Bytes, counts: npt.NDArray[np.integer], base: int, escapes: Escapes | None, blocks: int
) -> Part | None:
    """A payload in mode `coded` from symbols (uint8[n], n a multiple of 128). None if one occurs that has no count."""
    frequencies = normalise(counts, PRECISION)
    coder = Encoder(symbols.size, 1, blocks)
    if not coder.encode(symbols, frequencies):
        return None
    count = 0 if escapes is None else escapes.positions.size
    return Descriptor(Mode.CODED, PRECISION, base, 0, blocks, count), coder.payload(frequencies, escapes)


def bypass_counts(counts: npt.NDArray[np.integer]) -> tuple[npt.NDArray[np.int64], int]:
    """(how often each symbol of mode bypass occurs, bypass bits in all), from how often each field does."""
    fields = np.arange(counts.size)
    lengths = np.frexp(fields.astype(np.float64))[1]  # the bit length, exactly
    extra = np.maximum(lengths - 4, 0)
    symbols = np.where(fields < 16, fields, 8 * (extra + 1) + (fields >> extra) % 8)
    return np.bincount(symbols, weights=counts, minlength=WINDOW).astype(np.int64), int((extra * counts).sum())


def encode_bypass(fields: npt.NDArray[np.uint16], counts: npt.NDArray[np.integer], blocks: int) -> Part:
    """A payload in mode `bypass` from fields (uint16[n]); counts: of the symbols, as `bypass_counts` gives them."""
    frequencies = normalise(counts, PRECISION)
    coder = Encoder(fields.size, 2, blocks)
    must(bypass.encode_bypass(fields, encoder_table(frequencies), PRECISION, coder.words, coder.states, coder.counts))
    return Descriptor(Mode.BYPASS, PRECISION, 0, 0, blocks), coder.payload(frequencies, None)


@cache
def _finds_in_registers() -> bool:
    """Whether frequencies of few symbols are found in registers: gathers are slower, also where they are fast."""
    return instruction_set.chosen() == "avx512"


def encoder_table(frequencies: Frequencies) -> npt.NDArray[np.uint32]:
    """What kernels look symbols up in."""
    entries = np.empty(WINDOW, np.uint32)
    must(table.build_encoder_table(frequencies, PRECISION, entries))
    return entries


class Encoder:
    """Work space of an encoder, and what it comes to. `words_each`: at most so many words per unit."""

    def __init__(self, units: int, words_each: int, blocks: int) -> None:
        self.words = work_space("words", units * words_each, np.uint16)
        self.states = np.empty(LANES * blocks, np.uint32)
        self.counts = np.empty(blocks, np.int64)
        self._words_each = words_each

    def encode(self, symbols: Bytes, frequencies: Frequencies) -> bool:
        """Encode a plane of mode `coded`; False if a symbol occurs that has no frequency."""
        outputs = self.words, self.states, self.counts
        if _finds_in_registers() and not frequencies[encode_few.FEW :].any():
            places = work_space("places", encode_few.PLACES, np.uint16)
            return encode_few.encode_few(symbols, frequencies, places, *outputs) == OK
        entries = work_space("entries", encode.ENTRIES, np.uint32)
        return encode.encode_symbols(symbols, encoder_table(frequencies), PRECISION, entries, *outputs) == OK

    def payload(self, frequencies: Frequencies, escapes: Escapes | None) -> list[Buffer]:
        """The stored form (format_spec/coder.md, section 5)."""
        head = table_bytes(frequencies)
        return payload_pieces(head, self.states, self.counts, self.words, self._words_each, escapes)


def payload_pieces(
    tables: bytes,
    states: npt.NDArray[np.uint32],
    counts: npt.NDArray[np.int64],
    words: Words,
    words_each: int,
    escapes: Escapes | None,
) -> list[Buffer]:
    """A payload from what an encoder's kernel left: block b's words end where its units end."""
    arrays = [counts.astype("<u4"), states]
    if escapes is not None:
        arrays = [escapes.positions, escapes.fields, *arrays]
    pieces: list[Buffer] = [tables]
    for array in arrays:
        pieces.append(bytes(-len(pieces[-1]) % 16))
        pieces.append(bytes_of(array))
    blocks, groups = counts.size, words.size // words_each // GROUP
    for b, count in enumerate(counts.tolist()):
        end = (b + 1) * groups // blocks * GROUP * words_each
        pieces.append(bytes_of(words[end - count : end]))
    return pieces
