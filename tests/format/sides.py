"""What the two readers, the reference and the library, make of a file, in one form."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np

import decode
import slimtensors
import slimtensors.numpy
from slimtensors.errors import FormatError, NewerFormatError


@dataclass(frozen=True)
class Content:
    tensors: dict[str, tuple[str, tuple[int, ...], bytes]]
    metadata: dict[str, str]
    image: bytes | None
    file_id: bytes


@dataclass(frozen=True)
class Refusal:
    reason: str
    newer: bool  # "refused as needing a newer reader"


def by_reference(data: bytes) -> Content | Refusal:
    try:
        file = decode.decode_file(data)
    except decode.Refused as refused:
        return Refusal(str(refused), isinstance(refused, decode.NeedsNewerReader))
    return Content(file.tensors, file.metadata, file.image, file.file_id)


def by_library(data: bytes) -> Content | Refusal:
    """Everything the library can check, and everything it can give. Errors that are no FormatError come through."""
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
    return Content(tensors, metadata, image, bytes.fromhex(verified.file_id))
