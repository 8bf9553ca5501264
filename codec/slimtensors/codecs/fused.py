"""Layouts that have kernels of their own: split and join in the same pass as the coder.

They give the bytes that the plane-by-plane way gives; tests hold the two against each other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slimtensors.codecs import coded
from slimtensors.codecs.head import GROUP, LANES, Bytes, Descriptor, Mode, Part, Plane
from slimtensors.codecs.planes import WORTH, check_status, packed_length, raw_payload
from slimtensors.codecs.workspace import own, work_space
from slimtensors.entropy.tables import Frequencies
from slimtensors.errors import FormatError
from slimtensors.expression import Bits
from slimtensors.kernels.cpu import decode_kernels, histogram, split, survey
from slimtensors.kernels.cpu.table import MOST_PRECISION
from slimtensors.kernels.status import BAD_ARGUMENT, OK
from slimtensors.limits import ESCAPE_SHARE

__all__ = ["decode", "encode", "encode_planes", "find", "layout_of"]

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


WIDTHS = {layout.widths[-1] for layout in LAYOUTS.values() if layout.split}
WIDTHS_OF = {layout.widths: np.array(layout.kept) for layout in LAYOUTS.values()}


def layout_of(bits: Bits, dtype: np.dtype[Any]) -> Layout | None:
    if bits.rotate != 1 or bits.sides or bits.contexts:
        return None
    return LAYOUTS.get((dtype.itemsize, bits.widths))


def find(bits: Bits, body: Units, planes: list[Plane]) -> Layout | None:
    """What decodes these planes, if there is such a kernel."""
    layout, modes = layout_of(bits, body.dtype), [plane.descriptor.mode for plane in planes]
    if layout is not None and layout.positive:
        if planes[0].descriptor != Descriptor(Mode.CONSTANT):
            return None
        modes = modes[1:]
    if modes[-1] != Mode.CODED or any(mode != Mode.RAW for mode in modes[:-1]):
        return None
    return layout


def pieces(packed: Bytes, width: int, units: int) -> list[Bytes]:
    """The pieces of a packed plane, the largest first (format_spec/coder.md, section 2)."""
    found, at = [], 0
    for piece in (8, 4, 2, 1):
        if width & piece:
            length = packed_length(piece, units // GROUP)
            found.append(packed[at : at + length])
            at += length
    return found


def decode(layout: Layout, planes: list[Plane], body: Units) -> None:
    """Fill the body. Raises FormatError."""
    groups = body.size // GROUP
    if layout.positive:
        planes = planes[1:]
    raw: list[Bytes] = []
    for plane, width in zip(planes, layout.kept[:-1], strict=False):
        raw += pieces(raw_payload(plane, width, groups), width, body.size)
        if width % 2 and groups % 2 and (raw[-1][-LANES:] >> 4).any():
            raise FormatError("unused bits of packed fields are not zero")
    width = layout.widths[-1]
    parts = coded.read_coded(planes[-1], width, groups)
    check_status(layout.decode(parts.table, parts.base, parts.states, parts.words, parts.starts, *raw, body))
    # unit = v / 2 + (v mod 2) * 2^(b - 1), and the field lies above bit 0 of v: shifting by one less needs no rotation
    coded.put_escapes(body, sum(layout.widths[:-1]) - 1, width, parts.escapes)


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
