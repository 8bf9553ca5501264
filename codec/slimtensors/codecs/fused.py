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
from slimtensors.codecs.planes import check_status, packed_length, raw_payload
from slimtensors.codecs.workspace import work_space
from slimtensors.entropy.tables import cost
from slimtensors.errors import FormatError
from slimtensors.expression import CLASS_TABLES, Bits, ClassContext, SignContext
from slimtensors.kernels.cpu import class_kernels, decode_kernels, mean_kernels, split
from slimtensors.kernels.cpu.table import MOST_PRECISION
from slimtensors.limits import ESCAPE_SHARE

__all__ = ["Decoder", "decode", "encode", "find"]

Units = npt.NDArray[Any]

SAMPLE_RUNS, SAMPLE_RUN = 16, GROUP  # what is looked at before a rest is stored raw unseen
# Counting is a quarter of the encoder's time. A table from one unit in four is 0.0005 bit per symbol worse.
SAMPLE_FROM, SAMPLE_EVERY = 1 << 17, 4
UNSEEN = 16  # symbols of the window that a sample may lack
RAW_ENOUGH = 0.95  # a rest with this share of its bits' entropy is not worth coding


class Layout(NamedTuple):
    """Raw planes below one coded plane, rotated by one."""

    unit_bytes: int
    widths: tuple[int, ...]
    decode: Callable[..., int]
    split: Callable[..., int] | None  # an encoder goes plane by plane without


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


def _layout(bits: Bits, dtype: np.dtype[Any]) -> Layout | None:
    if bits.rotate != 1 or bits.sides or bits.contexts:
        return None
    return LAYOUTS.get((dtype.itemsize, bits.widths))


def find(bits: Bits, body: Units, planes: list[Plane], place: Place) -> Decoder | None:
    """What decodes these planes, if there is such a kernel."""
    if mean.has_sign(bits):
        return _find_mean(bits, body, planes, place)
    modes = [plane.descriptor.mode for plane in planes]
    if modes[-1] != Mode.CODED or any(mode != Mode.RAW for mode in modes[:-1]):
        return None
    if not bits.contexts:
        layout = _layout(bits, body.dtype)
        return None if layout is None else Decoder(layout, None)
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
    if signs is not None:
        planes = planes[1:]
    raw: list[Bytes] = []
    for plane, width in zip(planes, layout.widths[:-1], strict=False):
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
    coding.
    """
    layout = _layout(bits, body.dtype)
    if layout is None or layout.split is None or not _rest_is_noise(body, layout):
        return None
    if body.size >= SAMPLE_FROM:
        parts = _encode(body, layout, SAMPLE_EVERY)
        if parts is not None:
            return parts
    return _encode(body, layout, 1)


def _encode(body: Units, layout: Layout, every: int) -> list[Part] | None:
    """With the counts of one unit in `every`; None where they do not do."""
    assert layout.split is not None
    width, shift = layout.widths[-1], sum(layout.widths[:-1])
    counts = coded.count_fields(body, 1, shift, width, every)
    window = coded.choose_window(counts)
    symbol_counts = coded.symbol_counts(counts, window)
    if every > 1:
        # What the sample lacks may occur: a slot for each symbol of the window, unless most would be in vain.
        inside = symbol_counts[: window.last - window.base + 1]
        if np.count_nonzero(inside) + UNSEEN < inside.size:
            return None
        np.maximum(inside, 1, out=inside)
    if np.count_nonzero(symbol_counts) < 2:
        return None
    groups = body.size // GROUP
    raw = [work_space(f"raw {i}", packed_length(w, groups), np.uint8) for i, w in enumerate(layout.widths[:-1])]
    symbols = work_space("symbols", body.size, np.uint8)
    split_pieces = [p for packed, w in zip(raw, layout.widths, strict=False) for p in pieces(packed, w, body.size)]
    escaped = layout.split(body, *window, *split_pieces, symbols)
    if escaped * ESCAPE_SHARE > body.size:
        return None
    escapes = coded.find_escapes(body, 1, shift, width, symbols, escaped)
    blocks = coded.block_count(body.size, layout.unit_bytes)
    coded_part = coded.encode_symbols(symbols, symbol_counts, window.base, escapes, blocks)
    if coded_part is None:
        return None
    parts: list[Part] = [(Descriptor(Mode.RAW), [packed.data]) for packed in raw]
    return [*parts, coded_part]


def _rest_is_noise(body: Units, layout: Layout) -> bool:
    """Whether the raw planes' entropy, in a sample, is near their width."""
    step = max(SAMPLE_RUN, body.size // SAMPLE_RUNS // SAMPLE_RUN * SAMPLE_RUN)
    runs = body[: body.size // step * step].reshape(-1, step)[:, :SAMPLE_RUN]
    sample = np.ascontiguousarray(runs).reshape(-1)
    one = sample.dtype.type(1)
    rotated = sample << one | sample >> sample.dtype.type(8 * sample.itemsize - 1)
    shift = 0
    for width in layout.widths[:-1]:
        fields = (rotated >> sample.dtype.type(shift)).astype(np.uint8) & np.uint8((1 << width) - 1)
        counts = np.bincount(fields, minlength=1 << width)
        # A sample of n draws from K symbols shows (K - 1) / (2 n ln 2) bits too little entropy.
        bias = ((1 << width) - 1) / (2 * sample.size * 0.693)
        if cost(counts) / sample.size + bias < RAW_ENOUGH * width:
            return False
        shift += width
    return True
