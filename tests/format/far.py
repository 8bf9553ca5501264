"""Files at limits that are too far for vectors."""

from __future__ import annotations

import decode
from writer import BYTES, Source, Writer, literal

MEBIBYTE = 1 << 20


def empties(count: int) -> bytes:
    writer = Writer()
    for i in range(count):
        writer.empty(f"{i}", "U8", (0,))
    return writer.parts().join()


def with_expressions(count: int) -> bytes:
    writer = Writer()
    writer.tensor("t", Source("U8", (1,), b"x", BYTES))
    writer.header["expressions"] += [{"ref": 0}] * (count - 1)
    return writer.parts().join()


def with_metadata(length: int) -> bytes:
    """Control characters take six bytes of JSON each; the limit is on what they are."""
    return Writer({"k": "\1" * (MEBIBYTE // 2) + "x" * (length - MEBIBYTE // 2 - 1)}).parts().join()


def with_segments(count: int) -> bytes:
    writer = Writer()
    writer.image([b"x"] * count, BYTES, literal, kind="gguf")
    return writer.parts().join()


def with_header(length: int) -> bytes:
    writer = Writer({"": ""})
    for i in range(20_000):
        writer.empty(f"{i:0500}", "U8", (0,))
    writer.header["metadata"][""] = "x" * (length - len(writer.parts().header))
    return writer.parts().join()


LIMITS = [
    (with_header, decode.MAX_HEADER),
    (empties, decode.MAX_TENSORS),
    (with_expressions, decode.MAX_EXPRESSIONS),
    (with_metadata, decode.MAX_METADATA),
    (with_segments, decode.MAX_SEGMENTS),
]
