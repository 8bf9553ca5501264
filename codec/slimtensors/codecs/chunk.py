"""A chunk from its units, and back (format_spec/container.md, section 6)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.codecs import (
    classes,
    delta,
    fused,
    head,
    lookup,
    mean,
    records,
    scattered,
    sparse,
    straight,
    straight_delta,
    sums,
    trellis,
)
from slimtensors.codecs.contexts import Contexts, contexts_of
from slimtensors.codecs.environment import as_usual
from slimtensors.codecs.head import GROUP, Buffer, Bytes, Mode, Part, Plane
from slimtensors.codecs.place import NOWHERE, Counted, Place
from slimtensors.codecs.planes import Fields, decode_plane, encode_plane, field_dtype, plane_length
from slimtensors.codecs.workspace import work_space
from slimtensors.dtypes import bytes_of
from slimtensors.errors import FormatError
from slimtensors.expression import (
    Bits,
    ClassContext,
    Decimal,
    Delta,
    Gather,
    Mul,
    Record,
    SignContext,
    Sparse,
    Stored,
    Sum,
    Trellis,
    bases_of,
)
from slimtensors.expression import Part as PlanePart
from slimtensors.kernels.cpu import planes as kernels

__all__ = ["chunk_length", "chunk_lengths", "decode_chunk", "encode_chunk", "find_affine"]

Units = npt.NDArray[Any]  # uint8, 16, 32 or 64
Cuts = dict[tuple[int, int], Fields]  # by shift and width

COUNTED = 1 << 16  # units at least, of planes that need not be counted whole

_AFFINE = struct.Struct("<QQ")


@as_usual
def decode_chunk(data: Bytes, expression: Stored, out: Units, place: Place = NOWHERE) -> None:
    """Fill `out` from a chunk's stored bytes. Raises FormatError; `out` then holds noise.

    data: uint8[stored length], aligned to 16 bytes; not written to. out: contiguous, as many units as the chunk has.
    """
    if isinstance(expression, Bits):
        if expression.contexts:
            if classes.decode(data, expression, out, place):
                return
        elif straight.decode(data, expression, out):
            return
    elif isinstance(expression, Sparse):
        if scattered.decode(data, expression, out):
            return
    elif isinstance(expression, Delta):
        if straight_delta.decode(data, expression, out, place):
            return
    elif isinstance(expression, (Gather, Mul, Decimal, Trellis)):
        codes = straight.open_codes(data, expression.bits, out)
        if codes is not None:
            _decode_codes(codes, expression, place)
            return
    try:
        parts = len(expression.bits.parts)
        kind, base_digest = head.read_head(data, out.size, parts, bool(bases_of(expression)))
        if kind == head.LITERAL:
            _decode_literal(data, out)
        elif kind == head.AFFINE:
            _decode_affine(data, out)
        else:
            if bases_of(expression):
                delta.check_base(place, base_digest)
            _decode_planes(data, expression, out, place)
            if isinstance(expression, Delta):
                delta.add_base(out[: out.size - out.size % GROUP], place, expression.moved)
    except struct.error:
        raise FormatError(f"a chunk of {data.size} bytes is too short") from None


def _decode_codes(codes: straight.Codes, expression: Gather | Mul | Decimal | Trellis, place: Place) -> None:
    body = codes.body
    if isinstance(expression, Trellis) and trellis.decode_straight(expression, codes, place):
        return
    fields = work_space("codes", body.size, np.uint8)
    codes.decode(fields)
    sums.decode_codes(expression, fields, body, place)


def _decode_literal(data: Bytes, out: Units) -> None:
    end = head.HEAD_BYTES + out.nbytes
    if end > data.size:
        raise FormatError(f"a literal chunk of {data.size} bytes for {out.nbytes} bytes decoded")
    head.check_padding(data, end)
    out[:] = data[head.HEAD_BYTES : end].view(out.dtype)


def _decode_affine(data: Bytes, out: Units) -> None:
    start, step = _AFFINE.unpack_from(data.data, head.HEAD_BYTES)
    if max(start, step) >> 8 * out.itemsize:
        raise FormatError("an affine chunk's numbers do not fit its unit")
    head.check_padding(data, head.HEAD_BYTES + _AFFINE.size)
    # unit[i] = start + i * step, modulo the unit
    if step:
        np.multiply(np.arange(out.size, dtype=out.dtype), out.dtype.type(step), out=out)
        out += out.dtype.type(start)
    else:
        out[:] = out.dtype.type(start)


def _decode_planes(data: Bytes, expression: Stored, out: Units, place: Place) -> None:
    if out.size < GROUP:
        raise FormatError(f"planes for a chunk of {out.size} units; {GROUP} are needed")
    if isinstance(expression, Record):
        planes, _none = head.read_planes(data, len(expression.fields), 0)
        records.decode(planes, expression, out, place)
        return
    tail_units = out.size % GROUP
    body = out[: out.size - tail_units]
    planes, tail = head.read_planes(data, len(expression.bits.parts), tail_units * out.itemsize)
    if tail_units:
        out[body.size :] = tail.view(out.dtype)
    if isinstance(expression, Bits | Delta):
        _decode_bits(planes, expression.bits, body, place)
    elif isinstance(expression, Sparse):
        values, below = expression.values, 1 + len(expression.values.parts)
        decode_sparse = sparse.decode
        if expression.rest is not None:
            _decode_numbers(planes[below:], expression.rest, body, place)
            decode_sparse = sparse.decode_over
        decode_sparse(planes[:below], body, lambda rest, units: _decode_bits(rest, values, units, NOWHERE))
    elif isinstance(expression, Sum):
        numbers = work_space("numbers of a sum", body.size, np.uint32)
        _decode_numbers(planes, expression.values, numbers, place._replace(dtype=sums.F32))
        sums.add(expression, numbers, body, place)
    else:
        _decode_numbers(planes, expression, body, place)


def _decode_numbers(planes: list[Plane], expression: sums.FromCodes, out: Units, place: Place) -> None:
    codes = work_space("codes", out.size, lookup.code_dtype(expression.bits))
    _decode_any(planes, expression.bits, codes, place)
    sums.decode_codes(expression, codes, out, place)


def _decode_bits(planes: list[Plane], bits: Bits, body: Units, place: Place) -> None:
    layout = fused.find(bits, body, planes)
    if layout is not None:
        fused.decode(layout, planes, body)
    else:
        _decode_any(planes, bits, body, place)


def _decode_any(planes: list[Plane], bits: Bits, body: Units, place: Place) -> None:
    """Plane by plane, for what has no kernel of its own."""
    first = bits.parts[0]
    if len(bits.parts) == 1 and body.dtype == field_dtype(first.width) and first.side is None:
        _decode_whole(planes[0], first, body, place)
        if bits.rotate:
            kernels.rotate_right(body, bits.rotate)
        return
    body[:] = 0
    # The first last: it may be the signs, whose contexts need the field on top.
    for i in reversed(range(len(planes))):
        _join(planes[i], bits, i, body, place)
    if bits.rotate:
        kernels.rotate_right(body, bits.rotate)


def _decode_whole(plane: Plane, part: PlanePart, body: Units, place: Place) -> None:
    """The one plane of units as wide as its fields are held needs no joining."""
    try:
        contexts = _contexts(plane, part, place, body.size)
        fields = decode_plane(plane, part.width, body.size // GROUP, contexts, body)
    except FormatError as error:
        raise type(error)(f"plane 0: {error}") from None
    if fields is not body:
        body[:] = fields


def _join(plane: Plane, bits: Bits, number: int, body: Units, place: Place) -> None:
    """Put one plane's fields into the units."""
    try:
        _join_plane(plane, bits, bits.parts[number], sum(bits.widths[:number]), body, place)
    except FormatError as error:
        raise type(error)(f"plane {number}: {error}") from None


def _join_plane(plane: Plane, bits: Bits, part: PlanePart, shift: int, body: Units, place: Place) -> None:
    if part.side is not None:
        some = place.rows(part.side)
        contexts = _contexts(plane, part, place, body.size)
        some.join(_decode_rows(plane, part.width, some.count(body.size), contexts), shift, body)
        return
    contexts = None
    if not isinstance(part.context, SignContext):
        contexts = _contexts(plane, part, place, body.size)
    elif plane.descriptor.mode == Mode.CODED:
        above = _cut(body, 0, sum(bits.widths[:-1]), bits.widths[-1])
        contexts = _sign_contexts(bits, above, _steer(bits, place, body.size))
    fields = decode_plane(plane, part.width, body.size // GROUP, contexts)
    if isinstance(fields, int):
        body |= body.dtype.type(fields << shift)
    else:
        kernels.join_plane(fields, shift, body)


def _contexts(plane: Plane, part: PlanePart, place: Place, count: int) -> Contexts | None:
    """What selects the tables, if the plane's mode has any."""
    if part.context is None or plane.descriptor.mode not in (Mode.CODED, Mode.BYPASS):
        return None
    return contexts_of(part.context, place, count, part.side)


def _steer(bits: Bits, place: Place, count: int) -> mean.Steered:
    """What the mean that the field on top is given says of a chunk's first `count` units."""
    top = bits.parts[-1].context
    assert isinstance(top, ClassContext)
    return mean.steer(top, place, count)


def _sign_contexts(bits: Bits, fields: Fields, steered: mean.Steered) -> Contexts:
    """What selects the tables of the first plane, of signs, given the fields of the last."""
    sign, top = bits.parts[0].context, bits.parts[-1].context
    assert isinstance(sign, SignContext)
    assert isinstance(top, ClassContext)
    values, flips = mean.sign_contexts(sign, top.octave, fields, steered.steers)
    return Contexts(values, sign.tables, 0, flips)


def _decode_rows(plane: Plane, width: int, count: int, contexts: Contexts | None) -> Fields:
    """The `count` fields of a plane that only some rows have; zeros follow them up to whole groups."""
    fields = decode_plane(plane, width, -(-count // GROUP), contexts)
    if isinstance(fields, int):
        if fields and count % GROUP:
            raise FormatError("the fields after the last row are not zero")
        return np.full(count, fields, field_dtype(width))
    if fields[count:].any():
        raise FormatError("the fields after the last row are not zero")
    return fields[:count]


# ---- encoding


def _fresh(length: int) -> Bytes:
    return np.empty(length, np.uint8)


@as_usual
def encode_chunk(
    units: Units,
    expression: Stored,
    place: Place = NOWHERE,
    *,
    try_zstd: bool = False,
    slow: bool = False,
    take: Callable[[int], Bytes] = _fresh,
) -> Buffer:
    """A chunk of these units: planes, or affine, or literal where planes would not be smaller.

    units: contiguous. `expression` is the plan, which a chunk may break: it is then literal, or loses the part of the
    plan that it breaks. try_zstd: whether general compression may help, which it never does for trained floats. slow:
    whether a record may take longer to decode than it gains by the usual measure. take: gives memory for so many bytes,
    of which the chunk may be a part.
    """
    affine = find_affine(units)
    if affine is not None:
        return head.assemble(head.AFFINE, units.size, units.nbytes, [], _AFFINE.pack(*affine))
    if isinstance(expression, Bits):
        straightly = straight.encode(units, expression, take)
        if straightly is not None:
            return straightly
    if units.size >= GROUP:
        tail_units = 0 if isinstance(expression, Record) else units.size % GROUP
        body = units[: units.size - tail_units]
        base_digest = delta.base_digest(place) if bases_of(expression) else 0
        parts = _encode_body(body, expression, place, try_zstd, slow)
        if parts is not None:
            tail = bytes_of(units[body.size :])
            chunk = head.assemble(head.PLANES, units.size, units.nbytes, parts, tail, base_digest)
            if len(chunk) < head.literal_length(units.nbytes):
                return chunk
    return head.assemble(head.LITERAL, units.size, units.nbytes, [], bytes_of(units))


def _encode_body(body: Units, expression: Stored, place: Place, try_zstd: bool, slow: bool) -> list[Part] | None:
    if isinstance(expression, Delta):
        return _encode_any(delta.differences(body, place, expression.moved), expression.bits, place, try_zstd)
    if isinstance(expression, Bits):
        return _encode_bits(body, expression, place, try_zstd)
    if isinstance(expression, Record):
        return records.encode(body, expression, place, try_zstd=try_zstd, slow=slow)
    if isinstance(expression, Sparse):
        return _encode_sparse(body, expression, place, try_zstd)
    if isinstance(expression, Sum):
        # The numbers that codes make were kept by whoever quantised them: sums may tell them no more.
        numbers = place.numbers
        if numbers is None or not sums.adds_up(expression, numbers[: body.size], body, place):
            return None
        return _encode_numbers(numbers[: body.size], expression.values, place._replace(dtype=sums.F32), try_zstd)
    return _encode_numbers(body, expression, place, try_zstd)


def _encode_sparse(body: Units, expression: Sparse, place: Place, try_zstd: bool) -> list[Part] | None:
    values, rest = expression.values, expression.rest

    def encode_bits(units: Units) -> list[Part] | None:
        return _encode_bits(units, values, NOWHERE, try_zstd)

    if rest is None:
        return sparse.encode(body, expression, encode_bits)
    if place.numbers is None:
        return None
    numbers = place.numbers[: body.size]
    codes = _encode_numbers(numbers, rest, place, try_zstd)
    apart = sparse.encode_over(body, numbers, expression, encode_bits)
    return None if codes is None or apart is None else [*apart, *codes]


def _encode_numbers(units: Units, expression: sums.FromCodes, place: Place, try_zstd: bool) -> list[Part] | None:
    codes = sums.find_codes(expression, units, place)
    few = isinstance(expression, Trellis)
    return None if codes is None else _encode_any(codes, expression.bits, place, try_zstd, few)


def find_affine(units: Units) -> tuple[int, int] | None:
    """(start, step), if the units are that; a constant has step 0."""
    start = int(units[0])
    if units.size == 1:
        return start, 0
    if units.size > 2 and (int(units[1]) - start - int(units[2]) + int(units[1])) % (1 << 8 * units.itemsize):
        return None  # nearly all chunks
    for count in (min(units.size, 64), units.size):  # most chunks are seen not to be affine by the first few
        differences = units[1:count] - units[: count - 1]
        if (differences != differences[0]).any():
            return None
    return start, int(differences[0])


def _encode_bits(body: Units, bits: Bits, place: Place, try_zstd: bool) -> list[Part] | None:
    return fused.encode(body, bits) or _encode_any(body, bits, place, try_zstd)


def _encode_any(body: Units, bits: Bits, place: Place, try_zstd: bool, few: bool = False) -> list[Part] | None:
    """Plane by plane. None if the units do not fit the plan: bits above the last plane, or rows that have what they
    should lack. few: whether planes have as few blocks as codes.
    """
    total = sum(bits.widths)
    if total < 8 * body.itemsize and _cut(body, bits.rotate, total, 8 * body.itemsize - total).any():
        return None
    parts = []
    for part, fields, contexts in _planes(body, bits, place):
        if part.side is not None:
            compact = place.rows(part.side).compact(fields)
            if np.count_nonzero(compact) != np.count_nonzero(fields):
                return None
            fields = compact
        every = 1 if part is bits.parts[-1] or try_zstd or few else _every(body)
        encoded = encode_plane(
            fields, part.width, body.itemsize, try_zstd=try_zstd, contexts=contexts, codes=few, every=every,
            counted=place.counted if part is bits.parts[-1] else None,
        )  # fmt: skip
        if encoded is None:
            return None
        parts.append(encoded)
    return parts


def _planes(
    body: Units, bits: Bits, place: Place, cuts: Cuts | None = None
) -> Iterator[tuple[PlanePart, Fields, Contexts | None]]:
    """Each plane's fields, and what selects their tables. cuts: fields that were cut already; added to."""

    def cut(shift: int, width: int) -> Fields:
        if cuts is None:
            return _cut(body, bits.rotate, shift, width)
        if (shift, width) not in cuts:
            cuts[shift, width] = _cut(body, bits.rotate, shift, width)
        return cuts[shift, width]

    whole = None
    if mean.has_sign(bits):  # signs and the field on top share a product
        whole = cut(sum(bits.widths[:-1]), bits.widths[-1]), _steer(bits, place, body.size)
    shift = 0
    for part in bits.parts:
        contexts = None
        if whole is not None and part is bits.parts[-1]:
            fields, steered = whole
            assert isinstance(part.context, ClassContext)
            contexts = Contexts(steered.classes, part.context.all_tables, part.context.octave)
        else:
            fields = cut(shift, part.width)
            if whole is not None and isinstance(part.context, SignContext):
                contexts = _joined_signs(bits, fields, *whole)
            elif part.context is not None:
                contexts = contexts_of(part.context, place, body.size, part.side)
        yield part, fields, contexts
        shift += part.width


def _joined_signs(bits: Bits, signs: Fields, fields: Fields, steered: mean.Steered) -> Contexts:
    """What selects the tables of the signs, and the signs, given the fields of the last plane."""
    sign, top = bits.parts[0].context, bits.parts[-1].context
    assert isinstance(sign, SignContext)
    assert isinstance(top, ClassContext)
    joined = mean.joined_signs(sign, top.octave, signs, fields, steered.steers)
    return Contexts(joined, sign.tables, signs=True)


def chunk_length(units: Units, bits: Bits, place: Place) -> float:
    """About what a chunk of floats takes, by counts and without coding. Planes have all rows."""
    return chunk_lengths(units, [bits], place)[0][0]


def chunk_lengths(units: Units, tried: Sequence[Bits], place: Place) -> list[tuple[float, Counted | None]]:
    """The same, with each of some planes that are rotated alike, and what was counted with the contexts of the last."""
    body = units[: units.size - units.size % GROUP]
    most = head.literal_length(units.nbytes)
    if not body.size:
        return [(most, None) for _ in tried]
    cuts: Cuts = {}
    plain: dict[int, float] = {}  # of cut planes, what they take without contexts
    found = []
    for bits in tried:
        kept: Counted | None = None
        length = float(head.HEAD_BYTES + head.DESCRIPTOR_BYTES * len(bits.parts))
        for part, fields, contexts in _planes(body, bits, place, cuts):
            taken = plain.get(id(fields)) if contexts is None else None
            if taken is None:
                every = 1 if part is bits.parts[-1] else _every(body)
                taken, kept = plane_length(fields, part.width, body.itemsize, contexts, every=every)
            if contexts is None:
                plain[id(fields)] = taken
            length += taken
        found.append((min(length + units.nbytes - body.nbytes, most), kept))
    return found


def _every(body: Units) -> int:
    """Only the field on top is worth an exact count: what is below it is noise, or plainly not."""
    return 1 + body.size // COUNTED


def _cut(body: Units, rotate: int, shift: int, width: int) -> Fields:
    """A field of the rotated units: uint8[n] for widths up to 8, else uint16[n]. Wider ones are only asked whether
    they are zero.
    """
    if width > 16:
        low = _cut(body, rotate, shift, 16)
        return low | _cut(body, rotate, shift + 16, width - 16)
    out = np.empty(body.size, field_dtype(width))
    kernels.cut_plane(body, rotate, shift, width, out)
    return out
