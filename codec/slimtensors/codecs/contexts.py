"""Planes with a frequency table for each context (format_spec/coder.md, section 7)."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slimtensors.codecs import coded
from slimtensors.codecs import mean as means
from slimtensors.codecs.coded import WINDOW, Coded, Escapes
from slimtensors.codecs.head import LANES, Bytes, Descriptor, Mode, Part, Plane
from slimtensors.codecs.place import Counted, Place
from slimtensors.codecs.workspace import work_space
from slimtensors.entropy.tables import normalise, table_bytes
from slimtensors.errors import FormatError
from slimtensors.expression import BaseContext, ClassContext, Context, FactorContext, FieldClass
from slimtensors.kernels.cpu import context_coding as kernels
from slimtensors.kernels.cpu import contexts as selecting
from slimtensors.kernels.cpu import merging, payload, table
from slimtensors.kernels.cpu.encode_signs import encode_signs
from slimtensors.kernels.status import OK, must
from slimtensors.limits import ESCAPE_SHARE, MAX_CHUNK_BYTES

__all__ = ["Contexts", "coded_length", "contexts_of", "decode", "encode", "read", "tables_length"]

Fields = npt.NDArray[Any]

ABSENT = bytes((1, 0))  # instead of a table that no unit selects
SAME = bytes((2, 0))  # instead of a table that is the one before it
PRECISION = 12
BYPASS_PRECISION = 11  # what symbols would save with 12 goes into longer tables, and half as many slots are faster
FEW = 24  # tables that a decoder lays out one for each context
SAMPLE_EVERY = 17  # fields, where a window is chosen


class Contexts(NamedTuple):
    """What selects each unit's table: table = context mod 2^b, cut to `tables` where it was made."""

    values: Bytes
    tables: int
    octave: int = 0  # by which the fields of mode coded move for each four classes
    flips: Bytes | None = None  # of signs: 1 where 0 is coded as 1, and 1 as 0
    narrow: bool = False  # whether fields of more than 8 bits lie near to each other
    signs: bool = False  # whether values are twice that, and the sign as it is coded: for encoders

    @property
    def room(self) -> int:
        """The tables, rounded up to a power of two."""
        return 1 << (self.tables - 1).bit_length()

    @property
    def mask(self) -> int:
        return self.room - 1


def contexts_of(context: Context, place: Place, count: int, side: int | None) -> Contexts:
    """The contexts of a chunk's first `count` units; of those in the rows marked by `side`, if it is given."""
    if isinstance(context, FactorContext):
        return _factors(context, place, count)
    values = work_space("contexts", count, np.uint8)
    if isinstance(context, FieldClass):
        must(selecting.class_contexts(place.sides[context.rows], place.sides[context.columns], place.first, values))
        np.minimum(values, np.uint8(context.tables - 1), out=values)
        return Contexts(values, context.tables, narrow=True)
    if isinstance(context, BaseContext):
        assert place.base is not None
        base = place.base[:count]
        must(selecting.base_contexts(base, context.shift, context.first, context.tables, values))
        if context.rows is not None:
            classes = place.sides[context.rows]
            length = place.units // classes.size
            must(selecting.add_row_classes(classes, length, place.first, context.tables, values))
        octave = 0
    else:
        # A sign's contexts are made by who has the fields above.
        assert isinstance(context, ClassContext)
        octave = context.octave
        if context.mean is not None:
            return Contexts(means.steer(context, place, count).classes, context.all_tables, octave)
        rows, columns = place.sides[context.rows], place.sides[context.columns]
        must(selecting.class_contexts(rows, columns, place.first, values))
    if side is not None:
        values = place.rows(side).compact(values)
    return Contexts(values, context.all_tables, octave)


def _factors(context: FactorContext, place: Place, count: int) -> Contexts:
    rows, columns = place.sides[context.rows], place.sides[context.columns]
    line = np.full(rows.size + columns.size, context.classes, np.uint8)
    # max(class, first) - first does not fall below 0
    line[: rows.size] = np.minimum(np.maximum(rows, context.first) - context.first, context.classes - 1)
    first, end = place.first // line.size, -(-(place.first + count) // line.size)
    begin = np.array([t.bit_length() * (context.classes + 1) for t in range(first, end)], np.uint8)
    size = begin.size * line.size  # lines of a foreign file may be longer than any chunk
    whole = work_space("factors' contexts", size, np.uint8) if size <= MAX_CHUNK_BYTES else np.empty(size, np.uint8)
    np.add.outer(begin, line, out=whole.reshape(begin.size, line.size))
    values = whole[place.first - first * line.size :][:count]
    return Contexts(values, context.tables(place.units // line.size))


def decode(plane: Plane, width: int, groups: int, contexts: Contexts, out: Fields) -> None:
    """Fill the fields of a plane in mode coded or bypass. Raises FormatError."""
    parts = read(plane, width, groups, contexts, narrow=plane.descriptor.mode == Mode.BYPASS)
    stream = (contexts.values, parts.states, parts.words, parts.starts, out)
    if plane.descriptor.mode == Mode.BYPASS:
        status = kernels.decode_context_bypass(parts.table, plane.descriptor.precision, width, *stream)
    else:
        window = (parts.base, contexts.octave, width)
        status = kernels.decode_context_fields(parts.table, *window, *stream)
    if status != OK:
        raise FormatError("a coded stream does not end as it began, or a field is wider than its plane")
    coded.put_escapes(out, 0, width, parts.escapes)
    if contexts.flips is not None:
        out ^= contexts.flips


def read(plane: Plane, width: int, groups: int, contexts: Contexts, *, narrow: bool = False) -> Coded:
    """As `coded.read_coded`, with a table for each context.

    narrow: each table has 2^precision slots, not 4096.
    """
    coded.check_descriptor(plane.descriptor, groups)
    mode, precision, base, length, blocks, escapes = plane.descriptor
    slots = work_space("tables", contexts.room * table.SLOTS, np.uint32)
    starts, parts = np.empty(blocks + 1, np.int64), np.empty(payload.PARTS, np.int64)
    number = np.empty(selecting.CONTEXTS, np.uint32)
    each = 1 << precision if narrow else table.SLOTS
    status = payload.open_contexts(
        plane.payload, length, width, base, mode == Mode.BYPASS, escapes, precision, contexts.values.size,
        contexts.tables, each, slots, starts, parts, number,
    )  # fmt: skip
    coded.check_opened(status)
    present = number[number != payload.NO_TABLE]
    found = int(present.max(initial=0)) + 1
    if contexts.tables <= FEW and present.size == contexts.tables:
        # Copies cost less than a look at each context, while they fit the cache.
        rows = slots[: contexts.room * each].reshape(-1, each)
        for i, held in reversed(list(enumerate(present.tolist()))):
            if held != i:
                rows[i] = rows[held]
        rows[contexts.tables :] = 0
        found = contexts.tables
    elif found < contexts.tables:
        _number_tables(contexts, number)
    return coded.cut(plane, slots[: each << (found - 1).bit_length()], starts, parts)


def _number_tables(contexts: Contexts, number: npt.NDArray[np.uint32]) -> None:
    """Put where the tables are into the contexts' low bits. Raises FormatError."""
    every = np.arange(selecting.CONTEXTS, dtype=np.uint32)
    # Classes go round the tables; a base's contexts end with the last.
    number = number[every & contexts.mask]
    if contexts.octave:
        number |= every & ~np.uint32(contexts.mask)
    if selecting.number_tables(contexts.values, number) != OK:
        raise FormatError("a unit's context selects a frequency table that is absent")


# ---- encoding


def encode(
    fields: Fields, width: int, contexts: Contexts, blocks: int, counted: Counted | None = None
) -> Part | None:
    """A payload in mode coded or bypass from fields (uint8[n] or uint16[n], n a multiple of 128), or None. counted: the
    symbols, unless the fields have changed since.
    """
    if contexts.signs:
        return _encode_signs(contexts, blocks)
    joined = work_space("joined", fields.size, np.uint16)
    if width <= 8 or contexts.octave or contexts.narrow:
        base = _window_base(fields, width, contexts) if counted is None else counted.base
        escaped = selecting.join_window(fields, contexts.values, contexts.mask, base, contexts.octave, width, joined)
        if counted is not None and counted.escaped != escaped:
            return encode(fields, width, contexts, blocks)
        if escaped * ESCAPE_SHARE <= fields.size:
            escapes = None
            if escaped:
                symbols = joined.astype(np.uint8)
                escapes = coded.find_escapes(fields, 0, 0, 8 * fields.itemsize, symbols, escaped)
            counts = _symbol_counts(joined, contexts) if counted is None else counted.counts
            found = _encode(Mode.CODED, fields, joined, base, escapes, contexts, blocks, counts)
            if found is None and counted is not None:
                return encode(fields, width, contexts, blocks)
            return found
    if width <= 8:
        return None
    must(selecting.join_bypass(fields, contexts.values, contexts.mask, joined))
    return _encode(Mode.BYPASS, fields, joined, 0, None, contexts, blocks, _symbol_counts(joined, contexts))


def coded_length(fields: Fields, width: int, contexts: Contexts) -> tuple[float, Counted | None]:
    """About what a payload in mode coded takes, but for its states, by counts, and these, except of signs; arguments as
    `encode` takes them.
    """
    if contexts.signs:
        return tables_length(_sign_counts(contexts)), None
    joined = work_space("joined", fields.size, np.uint16)
    base = _window_base(fields, width, contexts)
    escaped = selecting.join_window(fields, contexts.values, contexts.mask, base, contexts.octave, width, joined)
    counts = _symbol_counts(joined, contexts)
    size = tables_length(counts[: contexts.tables]) + coded.ESCAPE_BYTES * escaped
    return size, Counted(base, escaped, counts)


def tables_length(counts: npt.NDArray[np.integer]) -> float:
    """Bytes of symbols and of their tables, some of them merged. counts: [tables, 256]

    By whole numbers, so that every machine compares the same ones.
    """
    _counts, leader, costs = _merged(counts, len(counts), PRECISION)
    leads = leader == np.arange(leader.size)
    marks = leader.size - np.count_nonzero(leads)
    return float(costs[leads].sum() + merging.MARK * marks) / (8 * merging.BIT)


def _symbol_counts(joined: npt.NDArray[np.uint16], contexts: Contexts) -> npt.NDArray[np.uint32]:
    """How often each symbol occurs in each context."""
    return coded.count_fields(joined, 0, 0, 8 + contexts.mask.bit_length()).reshape(-1, WINDOW)


def _window_base(fields: Fields, width: int, contexts: Contexts) -> int:
    """The base whose window holds the most fields, each moved down by its class's octaves."""
    if fields.itemsize == 1:
        return 0
    counts = np.empty(1 << width, np.int64)
    must(selecting.count_moved(fields, contexts.values, contexts.octave, SAMPLE_EVERY, counts))
    return coded.choose_window(counts).base


def _sign_counts(contexts: Contexts) -> npt.NDArray[np.integer]:
    """How often each sign occurs in each context: [tables, 256]."""
    found = coded.count_pairs(contexts.values, (2 * contexts.tables - 1).bit_length())
    counts = np.zeros((contexts.tables, WINDOW), np.int64)
    counts[:, :2] = found[: 2 * contexts.tables].reshape(-1, 2)
    return counts


def _encode_signs(contexts: Contexts, blocks: int) -> Part:
    joined = contexts.values
    tables, head = _tables(_sign_counts(contexts), contexts.tables, PRECISION)
    # The frequency of 0 is where 1 begins.
    zeros = np.full(LANES, 1 << PRECISION - 1, np.uint16)
    begin = tables.reshape(-1, WINDOW)[:, 1]
    zeros[: begin.size] = np.where(begin < table.ABSENT, begin & table.LOW, zeros[: begin.size])
    states, word_counts = np.empty(LANES * blocks, np.uint32), np.empty(blocks, np.int64)
    words = work_space("words", joined.size, np.uint16)
    must(encode_signs(joined, zeros, words, states, word_counts))
    pieces = coded.payload_pieces(head, states, word_counts, words, 1, None)
    return Descriptor(Mode.CODED, PRECISION, 0, 0, blocks, 0), pieces


def _encode(
    mode: int,
    fields: Fields,
    joined: npt.NDArray[np.uint16],
    base: int,
    escapes: Escapes | None,
    contexts: Contexts,
    blocks: int,
    counts: npt.NDArray[np.uint32],
) -> Part | None:
    """None where a symbol occurs that has no count."""
    precision = BYPASS_PRECISION if mode == Mode.BYPASS else PRECISION
    tables, head = _tables(counts, contexts.tables, precision)
    states, word_counts = np.empty(LANES * blocks, np.uint32), np.empty(blocks, np.int64)
    words_each = 2 if mode == Mode.BYPASS else 1
    words = work_space("words", fields.size * words_each, np.uint16)
    if mode == Mode.BYPASS:
        status = kernels.encode_context_bypass(fields, joined, tables, precision, words, states, word_counts)
    else:
        status = kernels.encode_context_symbols(joined, tables, precision, words, states, word_counts)
    if status != OK:
        return None
    count = 0 if escapes is None else escapes.positions.size
    pieces = coded.payload_pieces(head, states, word_counts, words, words_each, escapes)
    return Descriptor(mode, precision, base, 0, blocks, count), pieces


@cache
def _logarithms(precision: int) -> npt.NDArray[np.int64]:
    """merging.BIT * log2 of the frequencies, rounded down: by whole numbers, which every machine makes alike."""
    return np.array([(max(f, 1) ** merging.BIT).bit_length() - 1 for f in range((1 << precision) + 1)], np.int64)


def _merged(
    counts: npt.NDArray[np.integer], number: int, precision: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(counts, leaders, costs) of the tables, as `merge_tables` leaves them."""
    joint = counts[:number].astype(np.int64)
    costs, gains, after, leader = (np.empty(number, np.int64) for _ in range(4))
    shared, work = np.empty(WINDOW, np.int64), np.empty(WINDOW, np.uint16)
    status = merging.merge_tables(
        joint.reshape(-1), precision, _logarithms(precision), costs, gains, after, shared, work, leader
    )
    must(status)
    return joint, leader, costs


def _tables(counts: npt.NDArray[np.integer], number: int, precision: int) -> tuple[npt.NDArray[np.uint32], bytes]:
    """The encoder's tables, and their stored form. counts: of each symbol in each context, for `number` of them."""
    tables, head = np.full(counts.size, table.ABSENT | 1 << table.FIELD_BITS, np.uint32), b""
    joint, leader, _costs = _merged(counts, number, precision)
    for i, first in enumerate(leader.tolist()):
        here = tables[WINDOW * i : WINDOW * (i + 1)]
        if first < i:
            here[:] = tables[WINDOW * first : WINDOW * (first + 1)]
            head += SAME
        elif joint[i].any():
            frequencies = normalise(joint[i], precision)
            must(table.build_encoder_table(frequencies, precision, here))
            head += table_bytes(frequencies)
        else:
            head += ABSENT
    return tables, head
