"""Single values of a header's JSON, each checked or refused (format_spec/container.md, section 3)."""

from __future__ import annotations

import math
import re
from typing import Any

from slimtensors.dtypes import DTYPES, DType
from slimtensors.errors import FormatError, LimitError
from slimtensors.expression.values import integer
from slimtensors.limits import MAX_DIMENSIONS, MAX_ELEMENTS, MAX_METADATA_BYTES, MAX_NAME_BYTES

__all__ = [
    "array_of", "check_metadata", "check_name", "dtype_of", "encoding_of", "object_of", "shape_of",
]  # fmt: skip

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ENCODING = re.compile("[A-Z0-9_]{1,64}", re.ASCII)


def check_name(name: object) -> None:
    """Names are 1 to 512 bytes of UTF-8 without control characters."""
    if not isinstance(name, str):
        raise FormatError(f"the name {name!r} is not a string")
    length = len(name) if name.isascii() else len(name.encode("utf-8", "surrogatepass"))
    if not 1 <= length <= MAX_NAME_BYTES:
        raise LimitError(f"the name {name[:40]!r} has {length} bytes; 1 to {MAX_NAME_BYTES} are allowed")
    if not name.isprintable() and _CONTROL.search(name):
        raise FormatError(f"the name {name[:80]!r} has control characters")
    if name == "__metadata__":
        raise FormatError("the name '__metadata__' is kept by safetensors for something else")


def check_metadata(metadata: dict[str, Any]) -> None:
    """Strings only, and not too many."""
    size = 0
    for key, text in metadata.items():
        if not isinstance(key, str) or not isinstance(text, str):
            raise FormatError(f"metadata {key!r} is not a string; both keys and values must be")
        size += len(key.encode("utf-8", "surrogatepass")) + len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_METADATA_BYTES:
        raise LimitError(f"the metadata has {size} bytes; the limit is {MAX_METADATA_BYTES}")


def encoding_of(value: Any) -> str:
    if not isinstance(value, str) or not _ENCODING.fullmatch(value):
        raise FormatError(f"the encoding {value!r:.80} is not 1 to 64 capital letters, digits and underlines")
    return value


def dtype_of(value: Any) -> DType:
    found = DTYPES.get(value) if isinstance(value, str) else None
    if found is None:
        raise FormatError(f"unknown dtype {value!r}")
    return found


def shape_of(value: Any, dimensions: int = MAX_DIMENSIONS) -> tuple[int, ...]:
    shape = tuple(array_of(value, "the shape", dimensions))
    for n in shape:
        if type(n) is not int or not 0 <= n <= MAX_ELEMENTS:
            integer(n, 0, MAX_ELEMENTS, "a dimension")
    if math.prod(shape if 0 not in shape else filter(None, shape)) > MAX_ELEMENTS:
        raise LimitError(f"the shape {list(shape)} has more than 2^48 elements")
    return shape


def object_of(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise FormatError(f"{what} is not a JSON object")
    return value


def array_of(value: Any, what: str, limit: int) -> list[Any]:
    if not isinstance(value, list):
        raise FormatError(f"{what} is not a JSON array")
    if len(value) > limit:
        raise LimitError(f"{what}: {len(value)} entries; the limit is {limit}")
    return value
