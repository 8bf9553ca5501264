"""Layouts that have kernels of their own: split and join in the same pass as the coder.

They give the bytes that the plane-by-plane way gives; tests hold the two against each other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slimtensors.codecs import coded, mean
from slimtensors.codecs import contexts as context_coded
from slimtensors.codecs.contexts import Contexts, contexts_of
from slimtensors.codecs.head import GROUP, LANES, Bytes, Descriptor, Mode, Part, Plane
from slimtensors.codecs.place import Place
from slimtensors.codecs.planes import WORTH, check_status, packed_length, raw_payload
from slimtensors.codecs.workspace import own, work_space
from slimtensors.entropy.tables import Frequencies
from slimtensors.errors import FormatError
from slimtensors.expression import CLASS_TABLES, Bits, ClassContext, SignContext
from slimtensors.kernels.cpu import class_kernels, decode_kernels, histogram, mean_kernels, split, survey
from slimtensors.kernels.cpu.table import MOST_PRECISION
from slimtensors.kernels.status import BAD_ARGUMENT, OK
from slimtensors.limits import ESCAPE_SHARE

__all__ = ["Decoder", "decode", "encode", "encode_planes", "find", "layout_of"]

Units = npt.NDArray[Any]

# Counting all takes half as long as coding. A table from 64 Ki units is 0.0009 bit per symbol worse.
SAMPLE_UNITS = 1 << 16
RAW_ENOUGH = 0.95  # a raw plane with this share of its bits' entropy is not worth coding, unless floats are scales
NO_ESCAPES = coded.Escapes(np.empty(0, np.uint32), np.empty(0, np.uint16))


class Layout(NamedTuple):
    """Raw planes below one coded plane, rotated by one. positive: the first plane, of signs, is constant 0, and without
    it nothing is rotated.
    """

    unit_bytes: int
    widths: tuple[int, ...]
    decode: Callable[..., int]
    split: Callable[..., int] | None  # an encoder goes plane by plane without
    positive: bool = False

    @property
    def stored(self) -> tuple[int, ...]:
        """The planes' widths, 0 of the one that is constant."""
        return (0, *self.kept) if self.positive else self.widths

    @property
    def kept(self) -> tuple[int, ...]:
        """The widths of those that are not."""
        return self.widths[self.positive :]


class Decoder(NamedTuple):
    """What decodes the planes of a chunk in one pass; with `signs`, these in a second one."""

    layout: Layout
    contexts: Contexts | None
    signs: mean.Signs | None = None


LAYOUTS = {
    (layout.unit_bytes, layout.widths): layout
    for layout in [
        Layout(1, (1, 7), decode_kernels.decode_u8_1_7, None),
        Layout(2, (8, 8), decode_kernels.decode_u16_8_8, split.split_u16_8_8),
        Layout(2, (6, 10), decode_kernels.decode_u16_6_10, split.split_u16_6_10),
        Layout(4, (8, 8, 8, 8), decode_kernels.decode_u32_8_8_8_8, split.split_u32_8_8_8_8),
        Layout(4, (8, 8, 6, 10), decode_kernels.decode_u32_8_8_6_10, split.split_u32_8_8_6_10),
        Layout(4, (1, 8, 8, 5, 10), decode_kernels.decode_u32_8_8_5_10, split.split_u32_8_8_5_10, positive=True),
    ]
}


# With classes of rows and columns.
CLASS_LAYOUTS = {
    (layout.unit_bytes, layout.widths): layout
    for layout in [
        Layout(1, (1, 7), class_kernels.decode_u8_1_7, None),
        Layout(2, (8, 8), class_kernels.decode_u16_8_8, None),
        Layout(2, (6, 10), class_kernels.decode_u16_6_10, None),
        Layout(4, (8, 8, 6, 10), class_kernels.decode_u32_8_8_6_10, None),
    ]
}


# Below a coded sign, with classes and a mean: without the sign's plane.
MEAN_LAYOUTS = {
    (layout.unit_bytes, layout.widths): layout
    for layout in [
        Layout(1, (7,), mean_kernels.decode_u8_7, None),
        Layout(2, (7, 8), mean_kernels.decode_u16_7_8, None),
        Layout(2, (5, 10), mean_kernels.decode_u16_5_10, None),
        Layout(4, (8, 8, 5, 10), mean_kernels.decode_u32_8_8_5_10, None),
    ]
}


WIDTHS = {layout.widths[-1] for layout in LAYOUTS.values() if layout.split}
WIDTHS_OF = {layout.widths: np.array(layout.kept) for layout in LAYOUTS.values()}


def layout_of(bits: Bits, dtype: np.dtype[Any]) -> Layout | None:
    if bits.rotate != 1 or bits.sides or bits.contexts:
        return None
    return LAYOUTS.get((dtype.itemsize, bits.widths))


def find(bits: Bits, body: Units, planes: list[Plane], place: Place) -> Decoder | None:
    """What decodes these planes, if there is such a kernel."""
    if mean.has_sign(bits):
        return _find_mean(bits, body, planes, place)
    modes = [plane.descriptor.mode for plane in planes]
    plain_layout = layout_of(bits, body.dtype)
    if plain_layout is not None and plain_layout.positive:
        if planes[0].descriptor != Descriptor(Mode.CONSTANT):
            return None
        modes = modes[1:]
    if modes[-1] != Mode.CODED or any(mode != Mode.RAW for mode in modes[:-1]):
        return None
    if not bits.contexts:
        return None if plain_layout is None else Decoder(plain_layout, None)
    context, plain = bits.parts[-1].context, all(part.context is None for part in bits.parts[:-1])
    layout = CLASS_LAYOUTS.get((body.itemsize, bits.widths)) if bits.rotate == 1 and not bits.flags and plain else None
    if layout is None or not isinstance(context, ClassContext) or context.mean is not None:
        return None
    if _highest(context, place, planes[-1].descriptor.base, bits.widths[-1]) >= (2 << bits.widths[-1]) - 1:
        return None  # a field may be too wide; plane by plane that is seen
    return Decoder(layout, contexts_of(context, place, body.size, None))


def _find_mean(bits: Bits, body: Units, planes: list[Plane], place: Place) -> Decoder | None:
    signs, *rest, top = planes
    coded_both = signs.descriptor.mode == top.descriptor.mode == Mode.CODED
    layout = MEAN_LAYOUTS.get((body.itemsize, bits.widths[1:]))
    context = bits.parts[-1].context
    assert isinstance(context, ClassContext)
    if layout is None or not coded_both or bits.flags:
        return None
    if signs.descriptor.escapes or signs.descriptor.precision != MOST_PRECISION:  # an encoder of ours makes neither
        return None
    if any(plane.descriptor.mode != Mode.RAW for plane in rest) or len(bits.contexts) > 2:
        return None
    if _highest(context, place, top.descriptor.base, bits.widths[-1]) >= (2 << bits.widths[-1]) - 1:
        return None
    steered = mean.steer(context, place, body.size)
    sign = bits.parts[0].context
    assert isinstance(sign, SignContext)
    found = mean.Signs(signs, sign, sum(bits.widths[1:-1]), context.octave, steered.steers)
    return Decoder(layout, Contexts(steered.classes, context.all_tables, context.octave), found)


def _highest(context: ClassContext, place: Place, base: int, width: int) -> int:
    """No field is above this, before it goes round about its plane."""
    # A table whose symbols stand for wider fields without a class is refused when it is read.
    symbols = min(base + coded.WINDOW, 1 << width) - 1
    highest = int(place.sides[context.rows].max()) + int(place.sides[context.columns].max())
    if context.mean is not None:
        highest += len(context.mean.steps)
    return symbols + context.octave * (highest // CLASS_TABLES)


def pieces(packed: Bytes, width: int, units: int) -> list[Bytes]:
    """The pieces of a packed plane, the largest first (format_spec/coder.md, section 2)."""
    found, at = [], 0
    for piece in (8, 4, 2, 1):
        if width & piece:
            length = packed_length(piece, units // GROUP)
            found.append(packed[at : at + length])
            at += length
    return found


def decode(decoder: Decoder, planes: list[Plane], body: Units) -> None:
    """Fill the body. Raises FormatError."""
    (layout, contexts, signs), groups = decoder, body.size // GROUP
    if signs is not None or layout.positive:
        planes = planes[1:]
    raw: list[Bytes] = []
    for plane, width in zip(planes, layout.kept[:-1], strict=False):
        raw += pieces(raw_payload(plane, width, groups), width, body.size)
        if width % 2 and groups % 2 and (raw[-1][-LANES:] >> 4).any():
            raise FormatError("unused bits of packed fields are not zero")
    width = layout.widths[-1]
    if contexts is None:
        parts = coded.read_coded(planes[-1], width, groups)
        window: tuple[int, ...] = (parts.base,)
    else:
        parts = context_coded.read(planes[-1], width, groups, contexts)
        window = parts.base, contexts.octave
        raw.append(contexts.values)
    check_status(layout.decode(parts.table, *window, parts.states, parts.words, parts.starts, *raw, body))
    # unit = v / 2 + (v mod 2) * 2^(b - 1), and the field lies above bit 0 of v: shifting by one less needs no rotation
    below = sum(layout.widths[:-1]) - (1 if signs is None else 0)
    coded.put_escapes(body, below, width, parts.escapes)
    if signs is not None:
        mean.decode_signs(signs, body)


def encode(body: Units, bits: Bits) -> list[Part] | None:
    """Descriptors and payloads, or None where the layout has no kernel or its raw planes look as if they were worth
    coding. The payloads lie in work space that is used again.
    """
    layout = layout_of(bits, body.dtype)
    if layout is None or layout.split is None or body.size < GROUP:
        return None
    lengths = [packed_length(width, body.size // GROUP) for width in layout.kept[:-1]]
    raw = [work_space(f"raw {i}", length, np.uint8) for i, length in enumerate(lengths)]
    found = encode_planes(body, layout, raw)
    if found is None:
        return None
    parts: list[Part] = [(Descriptor(Mode.CONSTANT), [])] if layout.positive else []
    parts += [(Descriptor(Mode.RAW), [packed.data]) for packed in raw]
    return [*parts, found.part()]


class Encoded(NamedTuple):
    """What the coded plane comes to; words and states lie in work space."""

    base: int
    frequencies: Frequencies
    escapes: coded.Escapes
    coder: coded.Encoder

    def part(self) -> Part:
        blocks, escapes = self.coder.counts.size, self.escapes if self.escapes.positions.size else None
        descriptor = Descriptor(Mode.CODED, MOST_PRECISION, self.base, 0, blocks, self.escapes.positions.size)
        return descriptor, self.coder.payload(self.frequencies, escapes)


def encode_planes(body: Units, layout: Layout, raw: list[Bytes]) -> Encoded | None:
    """Fill the raw planes and encode the last one. None if it had better be done plane by plane."""
    room = own("survey", _SurveyRoom)
    sample = max(1, body.size // SAMPLE_UNITS)
    for every in {sample: None, 1: None}:  # a sample may not do
        status = room.look(body, layout, every)
        if status == survey.NOT_NOISE:
            return None
        encoded = _encode(body, layout, raw, room) if status == OK else None
        if encoded is not None:
            return encoded
    return None


class _SurveyRoom:
    """What a thread needs to look at a chunk."""

    def __init__(self) -> None:
        counts = np.arange(survey.MOST_SAMPLES + 1)
        self._terms = counts * np.log2(np.maximum(counts, 1))
        self._staging = np.empty(histogram.STAGING, np.uint16)
        self._counts = {width: np.empty(histogram.TABLES << width, np.uint32) for width in WIDTHS}
        self._fields = {width: np.empty(1 << width, np.int64) for width in WIDTHS}
        self._symbols = np.empty(coded.WINDOW, np.int64)
        self.frequencies = np.empty(coded.WINDOW, np.uint16)
        self.window = np.empty(2, np.int64)

    def look(self, body: Units, layout: Layout, every: int) -> int:
        """survey.survey"""
        width = layout.widths[-1]
        rotate, enough = (0, WORTH) if layout.positive else (1, RAW_ENOUGH)
        status = survey.survey(
            body, rotate, enough, WIDTHS_OF[layout.widths], every, self._terms, self._staging,
            self._counts[width], self._fields[width], self._symbols, self.frequencies, self.window,
        )  # fmt: skip
        assert status != BAD_ARGUMENT
        return status


def _encode(body: Units, layout: Layout, raw: list[Bytes], room: _SurveyRoom) -> Encoded | None:
    """With the table that was found; None if it does not do."""
    assert layout.split is not None
    base, last = room.window.tolist()
    symbols = work_space("symbols", body.size, np.uint8)
    split_pieces = [p for packed, w in zip(raw, layout.kept, strict=False) for p in pieces(packed, w, body.size)]
    escaped = layout.split(body, base, last, *split_pieces, symbols)
    if escaped == split.SIGNED or escaped * ESCAPE_SHARE > body.size:
        return None
    escapes = coded.find_escapes(body, 1, sum(layout.widths[:-1]), layout.widths[-1], symbols, escaped)
    coder = coded.Encoder(body.size, 1, coded.block_count(body.size, layout.unit_bytes))
    if not coder.encode(symbols, room.frequencies):
        return None
    return Encoded(base, room.frequencies, escapes or NO_ESCAPES, coder)
