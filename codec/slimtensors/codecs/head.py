"""The inside of a chunk: head, descriptors, payloads, tail (format_spec/container.md, section 6)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from slimtensors.errors import FormatError
from slimtensors.limits import EXPANSION

__all__ = [
    "GROUP",
    "Buffer",
    "Descriptor",
    "Mode",
    "Part",
    "Plane",
    "assemble",
    "literal_length",
    "read_descriptor",
    "read_head",
    "read_planes",
]

Bytes = npt.NDArray[np.uint8]

LITERAL, AFFINE, PLANES = 0, 1, 2
GROUP = 128  # units that a body is a multiple of
LANES = 32
HEAD_BYTES = DESCRIPTOR_BYTES = ALIGNMENT = 16
CHUNK_ALIGNMENT = 64
READ_AHEAD = 64  # zero bytes at the end, so that kernels may load whole vectors

_HEAD = struct.Struct("<BBHIQ")
_DESCRIPTOR = struct.Struct("<BBHIII")


class Mode:
    """How a plane is stored."""

    CONSTANT, RAW, CODED, ZSTD, BYPASS = range(5)
    NAMES = ("constant", "raw", "coded", "zstd", "bypass")


class Descriptor(NamedTuple):
    mode: int
    precision: int = 0
    base: int = 0
    length: int = 0
    blocks: int = 0
    escapes: int = 0


Buffer = bytes | memoryview  # of bytes
Part = tuple[Descriptor, list[Buffer]]  # a plane to be stored


class Plane(NamedTuple):
    """One plane as stored. `payload` goes on to the end of the chunk, so that kernels may read ahead."""

    descriptor: Descriptor
    payload: Bytes


def up(length: int, alignment: int = ALIGNMENT) -> int:
    """The next multiple."""
    return -(-length // alignment) * alignment


def is_zero(data: Bytes) -> bool:
    """Whether all bytes are zero; quick for the few that padding has."""
    return data.tobytes().count(0) == data.size


def read_head(data: Bytes, units: int, planes: int, has_base: bool = False) -> tuple[int, int]:
    """(the chunk's kind, the digest that it states of its base), the head checked against what the header implies."""
    kind, count, reserved, stated, base_digest = _HEAD.unpack_from(data.data)
    if kind > PLANES:
        raise FormatError(f"unknown kind of chunk {kind}")
    if reserved or (base_digest and not (has_base and kind == PLANES)):
        raise FormatError("reserved bytes of the chunk's head are not zero")
    if stated != units:
        raise FormatError(f"the chunk says that it has {stated} units; the header implies {units}")
    expected = planes if kind == PLANES else 0
    if count != expected:
        raise FormatError(f"the chunk has {count} planes; the header implies {expected}")
    return int(kind), int(base_digest)


def read_descriptor(data: Bytes, plane: int) -> Descriptor:
    """As it is stored, unchecked."""
    return Descriptor(*_DESCRIPTOR.unpack_from(data.data, HEAD_BYTES + plane * DESCRIPTOR_BYTES))


def read_planes(data: Bytes, planes: int, tail_bytes: int) -> tuple[list[Plane], Bytes]:
    """(planes, tail). Checks descriptors' lengths against the chunk, and that all gaps are zero."""
    at = HEAD_BYTES + planes * DESCRIPTOR_BYTES
    end = data.size
    if at > end:
        raise FormatError(f"a chunk of {end} bytes for {planes} planes")
    found = []
    filled = at  # the end of what is not padding
    for i in range(planes):
        descriptor = read_descriptor(data, i)
        if descriptor.mode > Mode.BYPASS:
            raise FormatError(f"plane {i}: unknown mode {descriptor.mode}")
        if at + descriptor.length > end:
            raise FormatError(f"plane {i}: {descriptor.length} bytes at {at} reach past the chunk's end")
        found.append(Plane(descriptor, data[at:]))
        if descriptor.length:
            if not is_zero(data[filled:at]):
                raise FormatError(f"padding before plane {i} is not zero")
            filled = at + descriptor.length
            at = up(filled)
    if at + tail_bytes > end:
        raise FormatError("the chunk's tail reaches past its end")
    tail = data[at : at + tail_bytes]
    if tail_bytes:
        if not is_zero(data[filled:at]):
            raise FormatError("padding before the tail is not zero")
        filled = at + tail_bytes
    if end - filled < READ_AHEAD:
        raise FormatError(f"only {end - filled} bytes follow the last payload")
    check_padding(data, filled)
    return found, tail


def check_padding(data: Bytes, end: int) -> None:
    """What follows the last byte used is zero."""
    if not is_zero(data[end:]):
        raise FormatError("padding at the chunk's end is not zero")


def assemble(
    kind: int, units: int, decoded_bytes: int, parts: Sequence[Part], rest: Buffer, base_digest: int = 0
) -> bytes:
    """A chunk's bytes from its payloads and what follows them (tail, literal units or affine numbers).

    The buffers are copied once, into the result; they may be work space that is used again.
    """
    lengths = [sum(len(buffer) for buffer in buffers) for _descriptor, buffers in parts]
    pieces: list[Buffer] = [_HEAD.pack(kind, len(parts), 0, units, base_digest)]
    for (descriptor, _buffers), length in zip(parts, lengths, strict=True):
        pieces.append(_DESCRIPTOR.pack(*descriptor._replace(length=length)))
    at = HEAD_BYTES + DESCRIPTOR_BYTES * len(parts)
    for buffers, length in [*((b, n) for (_d, b), n in zip(parts, lengths, strict=True)), ([rest], len(rest))]:
        if length:
            pieces.append(bytes(-at % ALIGNMENT))
            pieces += buffers
            at = up(at) + length
    end = at + (READ_AHEAD if kind == PLANES else 0)
    # A small file must not ask for much memory: at least one stored byte for 1024 decoded.
    end = up(max(end, -(-decoded_bytes // EXPANSION)), CHUNK_ALIGNMENT)
    pieces.append(bytes(end - at))
    return b"".join(pieces)


def literal_length(decoded_bytes: int) -> int:
    """Bytes of a chunk that stores its units as they are: the most that one takes."""
    return up(HEAD_BYTES + decoded_bytes, CHUNK_ALIGNMENT)
