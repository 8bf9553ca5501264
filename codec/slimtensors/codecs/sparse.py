"""Chunks of which only the units that are not zero are stored, and a mask (format_spec/expressions.md, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.codecs import head
from slimtensors.codecs.head import GROUP, LANES, Descriptor, Mode, Part, Plane, up
from slimtensors.codecs.planes import decode_plane, encode_plane
from slimtensors.codecs.workspace import work_space
from slimtensors.errors import FormatError
from slimtensors.expression import MASK_WIDTH, Sparse
from slimtensors.kernels.cpu import sparse as kernels
from slimtensors.kernels.status import must

__all__ = ["decode", "decode_mask", "decode_over", "encode", "encode_mask", "encode_over", "squeeze", "stored_mask"]

Units = npt.NDArray[Any]
DecodeBits = Callable[[list[Plane], Units], None]
EncodeBits = Callable[[Units], list[Part] | None]


def decode(planes: list[Plane], body: Units, decode_bits: DecodeBits) -> None:
    """Fill the body. Raises FormatError. decode_bits: fills whole groups of units from the planes after the mask."""
    mask = _decode_mask(planes[0], body.size)
    count = kernels.count_bits(mask)
    if count == body.size:
        decode_bits(planes[1:], body)
        return
    status = kernels.spread_values(mask, _values(planes[1:], count, body.dtype, decode_bits), body)
    must(status)


def decode_over(planes: list[Plane], body: Units, decode_bits: DecodeBits) -> None:
    """Put the units of the mask over a body that is full."""
    mask = _decode_mask(planes[0], body.size)
    count = kernels.count_bits(mask)
    body[_flags(mask)] = _values(planes[1:], count, body.dtype, decode_bits)[:count]


def _values(planes: list[Plane], count: int, dtype: np.dtype[Any], decode_bits: DecodeBits) -> Units:
    """The units of the mask, and some noise."""
    values = work_space("values", up(count, GROUP) + LANES, dtype)
    decode_bits(planes, values[: up(count, GROUP)])
    if values[count : up(count, GROUP)].any():
        raise FormatError("the units after the last one of the mask are not zero")
    return values[: count + LANES]


def _flags(mask: npt.NDArray[np.uint32]) -> npt.NDArray[np.bool_]:
    """Of each unit, whether the mask has it."""
    return np.unpackbits(mask.view(np.uint8), bitorder="little").view(np.bool_)


def stored_mask(data: head.Bytes, units: int, unit_bytes: int, expression: Sparse) -> npt.NDArray[np.uint32] | None:
    """The mask of a chunk that has one, a bit for each unit of its body. Raises FormatError."""
    if data[0] != head.PLANES or units < GROUP:
        return None
    head.read_head(data, units, len(expression.bits.parts))
    planes, _tail = head.read_planes(data, len(expression.bits.parts), units % GROUP * unit_bytes)
    return _decode_mask(planes[0], units - units % GROUP)


def _decode_mask(plane: Plane, units: int) -> npt.NDArray[np.uint32]:
    """A bit for each unit of the body; what fills up the last group of fields is checked to be zero."""
    used = units // MASK_WIDTH
    fields = decode_mask(plane, used)
    if fields[used:].any():
        raise FormatError("the fields after the mask's last are not zero")
    return fields[:used].view("<u4")


def decode_mask(plane: Plane, used: int) -> npt.NDArray[np.uint8]:
    """The fields of a mask, whole groups of them, of which so many are used."""
    try:
        fields = decode_plane(plane, MASK_WIDTH, -(-used // GROUP))
    except FormatError as error:
        raise type(error)(f"the mask: {error}") from None
    return np.full(up(used, GROUP), fields, np.uint8) if isinstance(fields, int) else fields


def encode(body: Units, expression: Sparse, encode_bits: EncodeBits) -> list[Part] | None:
    """Descriptors and payloads, or None if the units that are not zero do not fit the plan."""
    mask, values, count = squeeze(body)
    return _encode(mask, values, count, expression, encode_bits)


def squeeze(body: Units) -> tuple[npt.NDArray[np.uint8], Units, int]:
    """(mask, the units that are not zero, how many these are); both have room for whole groups, the units in work space
    that the next call uses again. body: whole groups.
    """
    mask = np.zeros(up(body.size // MASK_WIDTH, GROUP), np.uint8)
    values = work_space("values", body.size + GROUP, body.dtype)
    count = kernels.squeeze_values(body, mask[: body.size // MASK_WIDTH].view("<u4"), values)
    assert 0 <= count <= body.size
    return mask, values, count


def encode_mask(mask: npt.NDArray[np.uint8]) -> Part:
    """It is worth a try at general compression whatever the dtype: rows, columns and blocks repeat."""
    part = encode_plane(mask, MASK_WIDTH, 1, try_zstd=True)
    assert part is not None
    return part


def encode_over(body: Units, rest: Units, expression: Sparse, encode_bits: EncodeBits) -> list[Part] | None:
    """The same for the units that are not those of `rest`."""
    apart = body != rest
    mask = np.zeros(up(body.size // MASK_WIDTH, GROUP), np.uint8)
    mask[: body.size // MASK_WIDTH] = np.packbits(apart, bitorder="little")
    values, count = work_space("values", body.size + GROUP, body.dtype), int(np.count_nonzero(apart))
    values[:count] = body[apart]
    return _encode(mask, values, count, expression, encode_bits)


def _encode(
    mask: npt.NDArray[np.uint8], values: Units, count: int, expression: Sparse, encode_bits: EncodeBits
) -> list[Part] | None:
    """values: of the mask, with room for a whole group."""
    whole = up(count, GROUP)
    values[count:whole] = 0
    first = encode_mask(mask)
    if whole == 0:
        return [first, *((Descriptor(Mode.CONSTANT), []) for _ in expression.values.parts)]
    parts = encode_bits(values[:whole])
    return None if parts is None else [first, *parts]
