"""What is in a file, tensor by tensor, without decoding a weight."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

from slimtensors.bases.tensors import delta_base
from slimtensors.codecs.head import AFFINE, HEAD_BYTES, LITERAL, Mode
from slimtensors.container.header import Base
from slimtensors.container.layout import CHUNK_RECORD_BYTES
from slimtensors.container.lossy import Lossy
from slimtensors.gguf.blocks import block_of
from slimtensors.reading.tensors import TensorFile, open_file

__all__ = ["FileReport", "TensorReport", "inspect"]


@dataclass(frozen=True)
class TensorReport:
    """One tensor. Of a pack, the stored bytes are a share by size."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    expression: str
    decoded_bytes: int
    stored_bytes: float
    chunks: int
    storage: str  # what its chunks and planes came to, most frequent first; "" of a remote file, which is not asked
    base: Base | None = None  # what it is a difference from
    encoding: str | None = None  # what the elements are, where the dtype does not tell
    lossy: Lossy | None = None  # recipe and errors, if the elements are not the source's

    @property
    def bits_per_weight(self) -> float:
        """Stored bits per element; per weight where the elements are bytes of blocks."""
        block = block_of(self.encoding, self.dtype, self.shape)
        count = math.prod(self.shape if block is None else block.shape(self.shape))
        return 8 * self.stored_bytes / count if count else 0.0


@dataclass(frozen=True)
class FileReport:
    """A file: sizes in bytes, format version, identity, tensors in stored order."""

    label: str
    file_id: str
    format_version: int
    file_bytes: int
    decoded_bytes: int
    chunks: int
    metadata: dict[str, str]
    source: str | None  # the format of the source file that it gives back
    tensors: list[TensorReport]
    lossy_source: str | None = None  # hex, of a lossy file: the SHA-256 of the file that its weights are near to

    @property
    def ratio(self) -> float:
        """File bytes / decoded bytes."""
        return self.file_bytes / self.decoded_bytes if self.decoded_bytes else 1.0

    def __repr__(self) -> str:
        sizes = f"{_size(self.file_bytes)} of {_size(self.decoded_bytes)}"
        return f"FileReport({self.label!r}, {len(self.tensors)} tensors, {sizes})"


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count} bytes"


def inspect(target: Any, *, max_bytes: int | None = None) -> FileReport:
    """Read header, table and the chunks' heads; of a file elsewhere header and table only, since every head would be a
    request. Raises FormatError.
    """
    from slimtensors.container.layout import FORMAT_VERSION

    # Nothing is decoded, so nothing needs a digest; header, index and table are always checked.
    with open_file(target, verify="none", max_bytes=max_bytes) as file:
        header = file.header
        tensors = [_tensor(file, i) for i in range(len(header.tensors))]
        return FileReport(
            file.reader.source.label,
            file.reader.file_id.hex(),
            FORMAT_VERSION,
            file.reader.prefix.file_length,
            header.decoded_bytes,
            header.chunks,
            dict(header.metadata),
            header.image.format if header.image is not None else None,
            tensors,
            header.source.hex() if header.source is not None else None,
        )


def _tensor(file: TensorFile, index: int) -> TensorReport:
    header = file.header
    tensor, number = header.tensors[index], header.tensor_stream[index]
    target = header.target(index)
    if target != index:
        expression, stored, chunks, storage = f"= {header.tensors[target].name}", 0.0, 0, "ref"
    elif header.holder(index) != index:
        expression, stored, chunks, storage = f"cast of {header.tensors[header.holder(index)].name}", 0.0, 0, "cast"
    elif number is None:
        expression, stored, chunks, storage = "", 0.0, 0, "empty"
    else:
        stream = header.streams[number]
        share = tensor.nbytes / (stream.units * stream.dtype.unit_bytes)
        streams = [number, *header.side_streams.get(index, [])]
        stored = share * sum(
            header.streams[s].chunks * CHUNK_RECORD_BYTES + file.reader.stream_records[s].stored_length for s in streams
        )
        expression = str(stream.expression) + (f" in pack {tensor.pack}" if tensor.pack is not None else "")
        if tensor.scale is not None:
            expression += f" of {header.tensors[tensor.scale].name}"
        chunks, storage = stream.chunks, "" if file.reader.source.remote else _storage(file, number)
    return TensorReport(
        tensor.name, tensor.dtype.name, tensor.shape, expression, tensor.nbytes, stored, chunks, storage,
        delta_base(file, index), tensor.encoding, tensor.lossy,
    )  # fmt: skip


def _storage(file: TensorFile, number: int) -> str:
    """Kinds of chunks and modes of planes, such as "raw+coded" or "affine"."""
    seen: Counter[str] = Counter()
    stream = file.header.streams[number]
    planes = len(stream.bits.parts)
    for chunk in range(stream.chunks):
        head = file.reader.front_of(number, chunk, HEAD_BYTES * (1 + planes)).tobytes()
        if head[0] == LITERAL:
            seen["literal"] += 1
        elif head[0] == AFFINE:
            seen["affine"] += 1
        elif len(head) < HEAD_BYTES * (1 + planes):
            seen["?"] += 1  # it is damaged
        else:
            modes = [head[HEAD_BYTES * (1 + i)] for i in range(planes)]
            names = [Mode.NAMES[mode] if mode < len(Mode.NAMES) else "?" for mode in modes]
            seen["+".join(names)] += 1
    return ", ".join(name if count == stream.chunks else f"{count}x {name}" for name, count in seen.most_common())
