"""One plane of a chunk, in any mode: fields from its payload, a payload from its fields (format_spec/coder.md)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import zstandard

from slimtensors.codecs import coded
from slimtensors.codecs import contexts as context_coded
from slimtensors.codecs.contexts import Contexts
from slimtensors.codecs.head import GROUP, Buffer, Bytes, Descriptor, Mode, Part, Plane
from slimtensors.codecs.place import Counted
from slimtensors.codecs.workspace import own
from slimtensors.entropy.tables import cost, normalise, table_bytes
from slimtensors.errors import FormatError
from slimtensors.expression import Bits
from slimtensors.kernels.cpu import bypass, decode_kernels
from slimtensors.kernels.cpu import planes as kernels
from slimtensors.kernels.status import OK
from slimtensors.limits import ESCAPE_SHARE

__all__ = ["Fields", "bits_lengths", "decode_plane", "decompress", "encode_plane", "packed_length", "plane_length"]

Fields = npt.NDArray[Any]  # uint8 for widths up to 8, else uint16

WORTH = 0.99  # what a mode that takes longer to decode must get a plane down to, against raw
MAX_WINDOW = 16 * 1024 * 1024  # of a Zstandard frame
TABLE_BYTES = 200  # a guess, for choosing
STATE_BYTES = 68  # of a block: its states less what they carry, and its count of words
ZSTD_LEVEL = 3
ZSTD_SAMPLE = 1 << 15  # bytes of a plane of four times as many or more, which are compressed first
ZSTD_HOPELESS = 1.25  # times what the coder takes


@lru_cache(1024)
def packed_length(width: int, groups: int) -> int:
    """Bytes of a plane in mode raw: 32 for each 8 / p steps of each piece of p bits."""
    steps = 4 * groups
    return sum(32 * -(-steps // (8 // piece)) for piece in (8, 4, 2, 1) if width & piece)


def field_dtype(width: int) -> np.dtype[Any]:
    return np.dtype(np.uint8 if width <= 8 else np.uint16)


def decode_plane(
    plane: Plane, width: int, groups: int, contexts: Contexts | None = None, into: Fields | None = None
) -> Fields | int:
    """The plane's 128 * groups fields, or the one value that they all have. Raises FormatError.

    into: where they may be put, if they are coded; what is returned says whether they were.
    """
    descriptor = plane.descriptor
    if groups == 0 and descriptor != Descriptor(Mode.CONSTANT):
        raise FormatError("a plane without fields is not constant 0")
    match descriptor.mode:
        case Mode.CONSTANT:
            _nothing_else(descriptor, descriptor._replace(mode=0, base=0))
            if descriptor.base >= 1 << width:
                raise FormatError(f"a constant of more than {width} bits")
            return descriptor.base
        case Mode.RAW:
            return _unpack(raw_payload(plane, width, groups), width, groups)
        case Mode.ZSTD:
            _nothing_else(descriptor, descriptor._replace(mode=0, length=0))
            packed = decompress(plane.payload[: descriptor.length], packed_length(_narrow(width), groups))
            return _unpack(packed, width, groups)
    if descriptor.mode == Mode.BYPASS and width <= 8:
        raise FormatError(f"mode bypass for a plane of {width} bits")
    out = np.empty(GROUP * groups, field_dtype(width)) if into is None else into
    if contexts is not None:
        context_coded.decode(plane, width, groups, contexts, out)
        return out
    parts = coded.read_coded(plane, width, groups)
    stream = (parts.states, parts.words, parts.starts)
    if descriptor.mode == Mode.BYPASS:
        status = bypass.decode_bypass(parts.table, *stream, out)
    elif width <= 8:
        status = decode_kernels.decode_fields_u8(parts.table, parts.base, *stream, out)
    else:
        status = decode_kernels.decode_fields_u16(parts.table, parts.base, *stream, out)
    check_status(status)
    coded.put_escapes(out, 0, width, parts.escapes)
    return out


def check_status(status: int) -> None:
    """Turn a kernel's status into an error."""
    if status != OK:
        raise FormatError("the coded stream does not end as it began: its words or states are damaged")


def raw_payload(plane: Plane, width: int, groups: int) -> Bytes:
    """The packed bytes of a plane in mode raw, its descriptor checked."""
    _mode, precision, base, length, blocks, escapes = plane.descriptor
    _nothing_else(plane.descriptor, (precision, base, blocks, escapes))
    if length != packed_length(_narrow(width), groups):
        raise FormatError(f"{length} packed bytes for {groups} groups of {width} bits")
    return plane.payload[:length]


def _narrow(width: int) -> int:
    if width > 8:
        raise FormatError(f"packed bits for a plane of {width} bits; 8 is the most")
    return width


def _nothing_else(descriptor: Descriptor, rest: tuple[int, ...]) -> None:
    """`rest` is what must be zero of a descriptor."""
    if any(rest):
        raise FormatError(f"mode {Mode.NAMES[descriptor.mode]} does not use all that its descriptor states")


def _unpack(packed: Bytes, width: int, groups: int) -> Fields:
    if width == 8:
        return packed
    out = np.empty(GROUP * groups, np.uint8)
    if kernels.unpack(width, packed, out) != OK:
        raise FormatError("unused bits of packed fields are not zero")
    return out


def decompress(frame: Bytes, length: int) -> Bytes:
    """What one Zstandard frame holds, that states its size and needs no dictionary. Raises FormatError."""
    try:
        view = frame.data
        parameters = zstandard.get_frame_parameters(view)
        if parameters.content_size != length or parameters.dict_id or parameters.window_size > MAX_WINDOW:
            raise FormatError(f"a Zstandard frame of {parameters.content_size} bytes where {length} are needed")
        decompressor = own("decompressor", zstandard.ZstdDecompressor)
        data = decompressor.decompress(view, max_output_size=length, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise FormatError(f"a Zstandard frame is damaged: {error}") from None
    if len(data) != length:
        raise FormatError(f"a Zstandard frame gave {len(data)} bytes where {length} are needed")
    return np.frombuffer(bytearray(data), np.uint8)


# ---- encoding


def encode_plane(
    fields: Fields,
    width: int,
    unit_bytes: int,
    *,
    try_zstd: bool,
    contexts: Contexts | None = None,
    codes: bool = False,
    slow: bool = False,
    every: int = 1,
    counted: Counted | None = None,
) -> Part | None:
    """The smallest of the modes, with a bias for those that decode fast. None if no mode can hold the plane.

    fields: uint8[n] for widths up to 8, else uint16[n]; n is a multiple of 128. unit_bytes: of what they are cut from.
    codes: of quantised weights, whose planes have fewer blocks. slow: whether any gain is worth a slower mode. every:
    one field in so many may tell that the plane is noise. counted: its symbols, where they are known.
    """
    worth = 1 if slow else WORTH
    groups = fields.size // GROUP
    if _all_one(fields):
        return Descriptor(Mode.CONSTANT, base=int(fields[0]) if fields.size else 0), []
    best: Part | None = None
    size = float(packed_length(width, groups)) if width <= 8 else np.inf
    if width <= 8:
        packed = fields.tobytes() if width == 8 else _pack(fields, width)
        best = Descriptor(Mode.RAW), [packed]
    blocks = coded.code_blocks(fields.size) if codes else coded.block_count(fields.size, unit_bytes)
    given, least = None, 0.0
    if contexts is not None:
        given = context_coded.encode(fields, width, contexts, _context_blocks(contexts, blocks), counted)
        least = 0.0 if given is None else sum(map(len, given[1]))
    if best is not None and try_zstd:
        frame = _compress(best[1][0], least)
        if frame is not None and len(frame) < size * worth:
            best, size = (Descriptor(Mode.ZSTD), [frame]), len(frame)
    if contexts is not None:
        return _kept(given) if given is not None and least < size * worth else best
    if every > 1 and best is not None and _is_noise(fields, width, every, size * worth):
        return best
    counts = coded.count_plane(fields, width)
    window, symbols, escaped = coded.through_window(counts)
    if escaped * ESCAPE_SHARE <= fields.size:
        estimate = cost(symbols) / 8 + coded.ESCAPE_BYTES * escaped + overhead(blocks)
        if estimate < size * worth:
            best, size = _kept(coded.encode_fields(fields, symbols, window, blocks)), estimate
    if width > 8:
        buckets, extra_bits = coded.bypass_counts(counts)
        if (cost(buckets) + extra_bits) / 8 + overhead(blocks) < size * worth:
            best = _kept(coded.encode_bypass(fields, buckets, blocks))
    return best


def _compress(packed: Buffer, other: float) -> bytes | None:
    """One Zstandard frame; or None where the beginning says that it would take far more than `other` bytes."""
    compressor = own("compressor", _compressor)
    if len(packed) >= 4 * ZSTD_SAMPLE and other:
        sample = len(compressor.compress(packed[:ZSTD_SAMPLE]))
        if sample * len(packed) > ZSTD_SAMPLE * ZSTD_HOPELESS * other:
            return None
    return compressor.compress(packed)


def _compressor() -> zstandard.ZstdCompressor:
    return zstandard.ZstdCompressor(ZSTD_LEVEL, write_content_size=True, write_checksum=False)


def _is_noise(fields: Fields, width: int, every: int, size: float) -> bool:
    """Whether a sample says that no table gets the plane below this size."""
    counts = coded.count_fields(fields, 0, 0, width, every)
    return cost(counts) / 8 * fields.size / int(counts.sum()) >= size


def _all_one(fields: Fields) -> bool:
    """Whether there is only one of them. Most planes are seen to have more by the first few."""
    first = fields[:1]
    return not (fields[:GROUP] != first).any() and not (fields != first).any()


def _context_blocks(contexts: Contexts, blocks: int) -> int:
    """Four blocks are decoded at once with classes, else two; above that, half as many as usual cost no time."""
    return min(4, blocks) if contexts.octave or contexts.signs else max(min(2, blocks), blocks // 2)


def plane_length(
    fields: Fields, width: int, unit_bytes: int, contexts: Contexts | None = None, *, every: int = 1
) -> tuple[float, Counted | None]:
    """About what `encode_plane` makes of a float's plane, by counts: raw or coded; and what was counted with contexts.
    every: one field in so many counts.

    fields: at least one group.
    """
    raw = float(packed_length(width, fields.size // GROUP)) if width <= 8 else np.inf
    blocks, kept = coded.block_count(fields.size, unit_bytes), None
    if contexts is None:
        counts = coded.count_fields(fields, 0, 0, width, every)
        found = coded.through_window(counts)
        taken = context_coded.tables_length(found.symbols.reshape(1, -1)) + coded.ESCAPE_BYTES * found.escaped
        size = taken * fields.size / int(counts.sum()) + STATE_BYTES * blocks
    else:
        size, kept = context_coded.coded_length(fields, width, contexts)
        size += STATE_BYTES * _context_blocks(contexts, blocks)
    return (size if size < raw * WORTH else raw), kept


def bits_lengths(units: npt.NDArray[Any], some: Sequence[Bits]) -> list[float]:
    """About what floats' planes take without contexts, cut in each of these ways, by counts.

    In the modes constant, raw, coded and bypass. units: whole groups, perhaps none.
    """
    known: dict[tuple[int, int, int], float] = {}  # most ways share their lowest planes
    sizes = []
    for bits in some:
        shift, size = 0, 0.0
        for width in bits.widths if units.size else ():
            plane = bits.rotate, shift, width
            if plane not in known:
                known[plane] = _counted_length(coded.count_fields(units, *plane), width, units)
            size += known[plane]
            shift += width
        sizes.append(size)
    return sizes


def _counted_length(counts: npt.NDArray[np.uint32], width: int, units: npt.NDArray[Any]) -> float:
    """Of one plane that is cut from units. counts: of its fields."""
    if np.count_nonzero(counts) <= 1:
        return 0
    least = float(packed_length(width, units.size // GROUP)) if width <= 8 else np.inf
    if cost(counts) / 8 > least * WORTH:
        return least
    blocks = coded.block_count(units.size, units.itemsize)
    _window, symbols, escaped = coded.through_window(counts)
    if escaped * ESCAPE_SHARE <= units.size:
        frequencies = normalise(symbols, coded.PRECISION)
        # A symbol takes precision - log2 frequency bits.
        taken = float((symbols * (coded.PRECISION - np.log2(np.maximum(frequencies, 1)))).sum()) / 8
        above = coded.ESCAPE_BYTES * escaped + len(table_bytes(frequencies)) + STATE_BYTES * blocks
        least = min(least, taken + above)
    if width > 8 and escaped:
        buckets, bits = coded.bypass_counts(counts)
        least = min(least, (cost(buckets) + bits) / 8 + overhead(blocks))
    return least


def _kept(part: Part) -> Part:
    """A copy of what lies in work space, which the next plane of the chunk uses again."""
    return part[0], [b"".join(part[1])]


def overhead(blocks: int) -> int:
    """Bytes that a coded plane takes besides its symbols: table, states less what they carry, word counts."""
    return TABLE_BYTES + STATE_BYTES * blocks


def _pack(fields: Fields, width: int) -> bytes:
    out = np.empty(packed_length(width, fields.size // GROUP), np.uint8)
    kernels.pack(width, fields, out)
    return out.tobytes()
