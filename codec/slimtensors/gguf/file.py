"""Where the tensors of a GGUF file lie. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md

Read piece by piece, so that a header of hostile numbers asks for no memory; nothing of it but names, types and
single values is kept, for the file's image has every byte.
"""

from __future__ import annotations

import struct
from typing import Any

from slimtensors.container.source import ByteSource
from slimtensors.dtypes import DTYPES, DType
from slimtensors.errors import FormatError, LimitError, TruncatedError
from slimtensors.gguf.blocks import BLOCKS, PREFIX
from slimtensors.limits import MAX_ELEMENTS, MAX_NAME_BYTES, MAX_TENSORS
from slimtensors.sources.inputs import Located, SourceFile, lay_open

__all__ = ["read_gguf"]

MAGIC = b"GGUF"
VERSIONS = (2, 3)
PIECE = 1 << 16  # read at once
MAX_ENTRIES = 1 << 20  # of the metadata; models have some dozens
MAX_ITEMS = 1 << 22  # strings in arrays of the metadata: vocabularies have some hundred thousand
MAX_DEPTH = 4  # of arrays in arrays
MAX_DIMENSIONS = 8  # llama.cpp has 4
MAX_ALIGNMENT = 1 << 20
KEPT_TEXT, KEPT_IN_ALL = 4096, 1 << 20  # bytes of metadata that are handed on
# Tensors that are not made of blocks.
PLAIN = {0: "F32", 1: "F16", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 30: "BF16"}

STRING, ARRAY = 8, 9
_VALUES = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRUCTS = {kind: struct.Struct(form) for kind, form in _VALUES.items()}
U32, I32, U64 = _STRUCTS[4], _STRUCTS[5], _STRUCTS[10]


def read_gguf(source: ByteSource) -> SourceFile:
    """Tensors in the order of their bytes; blocks are U8, a row of them the last dimension.

    Raises FormatError for what is not a sound GGUF file, LimitError for one with more than a model has.
    """
    reader = _Reader(source)
    if reader.take(4) != MAGIC:
        raise FormatError(f"{source.label}: not a GGUF file")
    version = reader.number(U32)
    if version not in VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        what = "big-endian" if swapped in VERSIONS else f"of version {version}"
        raise FormatError(f"{source.label}: a GGUF file {what}; versions 2 and 3, little-endian, can be read")
    tensors, entries = reader.number(U64), reader.number(U64)
    if tensors > MAX_TENSORS or entries > MAX_ENTRIES:
        raise LimitError(
            f"{source.label}: {tensors} tensors and {entries} entries of metadata; "
            f"{MAX_TENSORS} and {MAX_ENTRIES} can be read"
        )
    metadata, alignment = _metadata(reader, entries)
    found = [_tensor(reader) for _ in range(tensors)]
    begin = -(-reader.at // alignment) * alignment
    placed: list[Located] = []
    for name, kind, shape, offset in found:
        if offset % alignment:
            raise FormatError(f"{source.label}: tensor {name!r} is not aligned to {alignment} bytes")
        placed.append(_located(source.label, name, kind, shape, begin + offset))
    names = {tensor.name for tensor in placed}
    if len(names) != len(placed):
        raise FormatError(f"{source.label}: two tensors have the same name")
    return lay_open(source, "gguf", metadata, min(begin, max(reader.at, source.size())), placed)


def _metadata(reader: _Reader, entries: int) -> tuple[dict[str, str], int]:
    """Single values as strings, as far as they are short, and the alignment."""
    kept: dict[str, str] = {}
    seen: set[str] = set()
    alignment, room = 32, KEPT_IN_ALL
    for _ in range(entries):
        key = reader.text(MAX_NAME_BYTES, "a key of the metadata")
        if key in seen:
            raise FormatError(f"{reader.label}: its metadata have {key!r:.80} twice")
        seen.add(key)
        kind = reader.number(U32)
        value = reader.value(kind, key)
        if key == "general.alignment":
            if kind != 4 or not 1 <= value <= MAX_ALIGNMENT or value % 8:
                raise FormatError(f"{reader.label}: general.alignment is {value!r:.40}, not a multiple of 8 in 32 bits")
            alignment = value
        size = len(key) + len(str(value))
        if value is not None and size <= room:
            kept[key] = str(value)
            room -= size
    return kept, alignment


def _tensor(reader: _Reader) -> tuple[str, int, tuple[int, ...], int]:
    """(name, type, shape with the row last, offset)."""
    name = reader.text(MAX_NAME_BYTES, "the name of a tensor")
    dimensions = reader.number(U32)
    if dimensions > MAX_DIMENSIONS:
        raise FormatError(f"{reader.label}: tensor {name!r} has {dimensions} dimensions")
    shape = tuple(reader.number(U64) for _ in range(dimensions))[::-1]
    return name, reader.number(U32), shape, reader.number(U64)


def _located(label: str, name: str, kind: int, shape: tuple[int, ...], at: int) -> Located:
    elements = 1
    for dimension in shape:
        elements *= max(1, dimension)
        if elements > MAX_ELEMENTS:
            raise LimitError(f"{label}: tensor {name!r} has more than 2^48 elements")
    dtype: DType | None = DTYPES.get(PLAIN.get(kind, ""))
    encoding = None
    if dtype is None:
        block = BLOCKS.get(kind)
        if block is None:
            raise FormatError(
                f"{label}: tensor {name!r} is of GGUF's type {kind}, which this version does not know; "
                "update slimtensors"
            )
        if not shape or shape[-1] % block.weights:
            raise FormatError(
                f"{label}: tensor {name!r} has the shape {list(shape)}; rows of {block.name} are multiples of "
                f"{block.weights} weights"
            )
        dtype, encoding = DTYPES["U8"], PREFIX + block.name
        shape = (*shape[:-1], shape[-1] // block.weights * block.size)
    return Located(at, at + dtype.bytes_of(shape), name, dtype, shape, encoding)


class _Reader:
    """Reads a header from front to back, a piece at a time."""

    def __init__(self, source: ByteSource) -> None:
        self.label = source.label
        self.at = 0
        self._source = source
        self._size = source.size()
        self._piece = b""
        self._begin = 0  # of the piece
        self._items = 0

    def take(self, count: int) -> bytes:
        if self.at + count > self._size:
            raise TruncatedError(f"{self.label}: the file ends inside its header; it was cut off, download it again")
        low = self.at - self._begin
        if low + count > len(self._piece):
            self._begin, low = self.at, 0
            length = min(max(PIECE, count), self._size - self.at)
            self._piece = self._source.read(self.at, length).tobytes()
        self.at += count
        return self._piece[low : low + count]

    def skip(self, count: int) -> None:
        if count > self._size - self.at:
            raise TruncatedError(f"{self.label}: the file ends inside its header; it was cut off, download it again")
        self.at += count
        if self.at > self._begin + len(self._piece):
            self._begin, self._piece = self.at, b""

    def number(self, form: struct.Struct) -> Any:
        return form.unpack(self.take(form.size))[0]

    def text(self, limit: int, what: str) -> str:
        length = self.number(U64)
        if length > limit:
            raise LimitError(f"{self.label}: {what} has {length} bytes; {limit} can be read")
        try:
            return self.take(length).decode()
        except UnicodeDecodeError:
            raise FormatError(f"{self.label}: {what} is not UTF-8") from None

    def value(self, kind: int, key: str, depth: int = 0) -> Any:
        """A single value, or None for an array or a long text, which are passed over."""
        if kind in _STRUCTS:
            return self.number(_STRUCTS[kind])
        if kind == STRING:
            length = self.number(U64)
            if length > KEPT_TEXT:
                self.skip(length)
                return None
            return self.take(length).decode(errors="replace")
        if kind != ARRAY or depth >= MAX_DEPTH:
            raise FormatError(f"{self.label}: the metadata {key!r:.80} are of type {kind} in {depth} arrays")
        inner, count = self.number(U32), self.number(U64)
        if inner in _STRUCTS:
            self.skip(count * _STRUCTS[inner].size)
            return None
        self._items += count
        if self._items > MAX_ITEMS:
            raise LimitError(f"{self.label}: {self._items} strings in its metadata; {MAX_ITEMS} can be read")
        for _ in range(count):
            if inner == STRING:
                self.skip(self.number(U64))
            else:
                self.value(inner, key, depth + 1)
        return None
