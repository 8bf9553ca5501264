"""What the two readers, the reference and the library, make of a file, in one form."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np

import decode
import slimtensors
import slimtensors.numpy
from slimtensors.container.header import Base
from slimtensors.errors import BaseError, FormatError, NewerFormatError
from slimtensors.reading.tensors import open_file


@dataclass(frozen=True)
class Content:
    tensors: dict[str, tuple[str, tuple[int, ...], bytes]]
    metadata: dict[str, str]
    image: bytes | None
    file_id: bytes
    source: str | None = None  # of a lossy file
    lossy: dict[str, tuple[str, float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Refusal:
    reason: str
    newer: bool  # "refused as needing a newer reader"


@cache
def known_bases() -> dict[bytes, bytes]:
    """The decoded bytes of the tensors that are a base of some vector, by identity."""
    found = {}
    for path in sorted((Path(__file__).resolve().parents[2] / "format_spec" / "vectors" / "valid").glob("*.json")):
        for base in json.loads(path.read_text()).get("bases", []):
            file = decode.decode_file(path.with_name(f"{base['vector']}.slimtensors").read_bytes())
            data = file.tensors[base["tensor"]][2]
            found[decode.digest(data)] = data
    return found


class KnownBases:
    """Those, for the library."""

    def read(self, _index: int, base: Base, start: int, count: int) -> np.ndarray:
        data = known_bases().get(base.identity)
        if data is None or len(data) != base.nbytes:
            raise BaseError("no such base")
        return np.frombuffer(data, base.dtype.unit)[start : start + count]

    def settle(self, _base: Base) -> bool:
        return False

    def stored(self, _base: Base) -> None:
        """They are in memory."""

    def counted(self, base: Base) -> tuple[bytes, int] | None:
        had = len(known_bases().get(base.identity, b"")) == base.nbytes
        return (base.identity, base.nbytes) if had else None

    def close(self) -> None:
        """Nothing was opened."""


def with_bases(data: bytes) -> Content | Refusal:
    """`by_library` for a file that has bases: every chunk, every identity."""
    tensors = {}
    try:
        with open_file(data, bases=KnownBases()) as file:
            for i, tensor in enumerate(file.header.tensors):
                content = file.read(i, 1).tobytes()
                if decode.digest(content) != file.reader.identities[i]:
                    raise FormatError(f"identity of {tensor.name}")
                tensors[tensor.name] = (tensor.dtype.name, tensor.shape, content)
            lossy = {tensor.name: tuple(tensor.lossy) for tensor in file.header.tensors if tensor.lossy is not None}
            source = None if file.header.source is None else file.header.source.hex()
            return Content(tensors, file.header.metadata, None, file.reader.file_id, source, lossy)
    except FormatError as error:
        return Refusal(str(error), isinstance(error, NewerFormatError))


def has_bases(data: bytes) -> bool:
    """Whether it is a file that has bases, as far as its header can be read."""
    try:
        return b'"bases":' in data and bool(decode.read_layout(data)[0].bases)
    except decode.Refused:
        return False


def by_reference(data: bytes) -> Content | Refusal:
    try:
        file = decode.decode_file(data, bases=known_bases().get)
    except decode.Refused as refused:
        return Refusal(str(refused), isinstance(refused, decode.NeedsNewerReader))
    return Content(file.tensors, file.metadata, file.image, file.file_id, file.source, file.lossy)


def by_library(data: bytes) -> Content | Refusal:
    """Everything the library can check, and everything it can give. Errors that are no FormatError come through."""
    if has_bases(data):
        return with_bases(data)
    try:
        verified = slimtensors.verify(data, threads=1)
        image = None
        if verified.source_sha256 is not None:
            source = io.BytesIO()
            slimtensors.decompress(data, source, threads=1)
            image = source.getvalue()
    except FormatError as error:
        return Refusal(str(error), isinstance(error, NewerFormatError))
    arrays = slimtensors.numpy.load(data, threads=1)
    tensors = {}
    with slimtensors.safe_open(data) as file:
        metadata = file.metadata() or {}
        for name in file.keys():  # noqa: SIM118 - a safe_open is no dict
            part = file.get_slice(name)
            tensors[name] = (part.get_dtype(), tuple(part.get_shape()), np.ascontiguousarray(arrays[name]).tobytes())
    report = slimtensors.inspect(data)
    lossy = {tensor.name: tuple(tensor.lossy) for tensor in report.tensors if tensor.lossy is not None}
    return Content(tensors, metadata, image, bytes.fromhex(verified.file_id), report.lossy_source, lossy)
