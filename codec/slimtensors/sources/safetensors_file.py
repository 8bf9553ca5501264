"""Where the tensors of a .safetensors file lie, and what else it holds.

The safetensors package reads tensors but does not tell their offsets, which the image of the source file needs.
Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import struct
from typing import Any

from slimtensors.container.source import ByteSource
from slimtensors.dtypes import DTYPES
from slimtensors.errors import FormatError, LimitError, TruncatedError, UsageError
from slimtensors.sources.inputs import Located, SourceFile, lay_open

__all__ = ["LENGTH_BYTES", "MAX_HEADER_BYTES", "parse_header", "plain_header", "read_safetensors"]

MAX_HEADER_BYTES = 100_000_000  # safetensors' own limit
MAX_TOKENS = 1 << 24  # commas, colons, brackets: a parsed JSON text takes up to 50 times their number in memory
LENGTH_BYTES = 8


def read_safetensors(source: ByteSource) -> SourceFile:
    """Tensors in the order of their bytes. Raises FormatError for what is not a sound safetensors file."""
    size = source.size()
    if size < LENGTH_BYTES:
        raise TruncatedError(f"{source.label}: {size} bytes are too few for a safetensors file")
    (length,) = struct.unpack("<Q", source.read(0, LENGTH_BYTES).tobytes())
    if length > MAX_HEADER_BYTES:
        raise FormatError(f"{source.label}: not a safetensors file (its header would have {length} bytes)")
    start = LENGTH_BYTES + length
    if start > size:
        raise TruncatedError(f"{source.label}: the file ends inside its header; it was cut off, download it again")
    metadata, found = parse_header(source.read(LENGTH_BYTES, length).tobytes(), source.label)
    metadata = {} if metadata is None else metadata  # safetensors takes null for none
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise FormatError(f"{source.label}: its metadata are not strings")
    return lay_open(source, "safetensors", metadata, start, found)


def parse_header(data: bytes, label: str) -> tuple[Any, list[Located]]:
    """The metadata, as they stand there, and the tensors. `data`: from its ninth byte on to where the tensors begin."""
    header = _parse(data, label)
    metadata = header.pop("__metadata__", None)
    return metadata, [_entry(name, value, LENGTH_BYTES + len(data), label) for name, value in header.items()]


def _parse(data: bytes, label: str) -> dict[str, Any]:
    if sum(map(data.count, b",:[{")) > MAX_TOKENS:
        raise LimitError(f"{label}: its header has more than {MAX_TOKENS} commas, colons and brackets")
    try:
        header = json.loads(data.decode(), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{label}: not a safetensors file (its header is not JSON: {error})") from None
    if not isinstance(header, dict):
        raise FormatError(f"{label}: not a safetensors file (its header is not a JSON object)")
    return header


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _entry(name: str, value: Any, start: int, label: str) -> Located:
    try:
        dtype = DTYPES.get(value["dtype"])
        shape, offsets = value["shape"], value["data_offsets"]
        if not isinstance(shape, list) or not isinstance(offsets, list):
            raise ValueError("shape or data_offsets are no array")
        begin, stop = offsets
        if any(type(n) is not int or n < 0 for n in (*shape, begin, stop)):
            raise ValueError("a negative or odd number")
    except (TypeError, KeyError, ValueError) as error:
        raise FormatError(f"{label}: the entry of tensor {name!r} is malformed ({error})") from None
    if dtype is None:
        unknown = value["dtype"]
        raise FormatError(f"{label}: tensor {name!r} has the unknown dtype {unknown!r}; update slimtensors")
    try:
        size = dtype.bytes_of(tuple(shape))
    except UsageError as error:
        raise FormatError(f"{label}: tensor {name!r}: {error}") from None
    if stop - begin != size:
        raise FormatError(f"{label}: tensor {name!r} has {stop - begin} bytes; dtype and shape say {size}")
    return Located(start + begin, start + stop, name, dtype, tuple(shape))


def plain_header(tensors: list[tuple[str, str, tuple[int, ...], int]], metadata: dict[str, str]) -> bytes:
    """The front of a safetensors file with these (name, dtype, shape, bytes), in this order."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    at = 0
    for name, dtype, shape, size in tensors:
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # so that the data are aligned
    return struct.pack("<Q", len(text)) + text
