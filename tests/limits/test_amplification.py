"""Small files that would cost far more than they hold: each part is decoded once, or the file is refused."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np

import coder
import encode
import slimtensors
from faults import files

ZERO_CODES = [0] * 2048


def coded(units: int, planes: int) -> files.Chunk:
    """Units of zeros in planes of one bit, which two tables code."""
    part = encode.encode_plane(ZERO_CODES, 1, encode.Plane(mode=2), coder.Contexts(2, ZERO_CODES, ZERO_CODES))
    return encode.PlanesChunk(units, 1, [part] * planes, b"", 0).bytes(), bytes(units)


def test_classes_of_scales_are_not_kept() -> None:
    """A header names 65536 of them in a few bytes, for each of 16 fields of each tensor."""
    count, fields, units = 4, 16, 4096
    scale: dict[str, Any] = {"chunk": 1, "dtype": "U8", "expression": 0, "name": "s", "shape": [1]}
    expressions: list[Any] = [files.BYTES]
    tensors = [scale]
    for i in range(count):
        given = [{"scale": [0, 0, i * fields + k, [65535, 0, 1, 1]]} for k in range(fields)]
        spans = [[[16, 16 * k, 1, 1]] for k in range(fields)]
        planes = [{"context": c, "plane": 1, "spans": s} for c, s in zip(given, spans, strict=True)]
        expressions.append({"record": [32, *planes]})
        tensors.append({**scale, "chunk": units, "expression": i + 1, "name": str(i), "shape": [units], "sides": [0]})
    streams = [[files.zeros(1, 64)], *[[coded(units, fields)]] * count]
    head = files.header(tensors, expressions=expressions)
    data = files.build(head, streams, [files.digest(bytes(1)), *[files.digest(bytes(units))] * count])
    slimtensors.verify(data, threads=1)  # kernels and modules are loaded by now
    tracemalloc.start()
    try:
        slimtensors.verify(data, threads=1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20  # 32 MiB if they are
