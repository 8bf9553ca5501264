"""JSON in the one form that the format accepts (format_spec/container.md, section 3)."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from slimtensors.errors import FormatError, LimitError

__all__ = ["dumps", "loads"]


# Nothing here holds itself: that need not be looked for.
_ENCODER = json.JSONEncoder(
    ensure_ascii=False, check_circular=False, allow_nan=False, sort_keys=True, separators=(",", ":")
)


def dumps(value: Any) -> bytes:
    """Keys by code point, no white space, shortest escapes, UTF-8. Raises FormatError for text that is not Unicode."""
    try:
        return _ENCODER.encode(value).encode()
    except UnicodeEncodeError as error:
        odd = error.object[error.start]
        raise FormatError(f"a string of the header holds half a surrogate pair: {odd!r}") from None


def loads(data: bytes) -> Any:
    """Parse, then insist that writing it again gives the same bytes.

    That one rule refuses duplicate keys, other escapes, other orders, white space and other forms of numbers.
    """
    try:
        value = json.loads(data.decode("utf-8"), parse_float=_no_float, parse_constant=_no_float)
        same = dumps(value) == data
    except FormatError:
        raise
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, too deep, integers of thousands of digits
        raise FormatError(f"the header is not JSON: {error}") from None
    except MemoryError:
        raise LimitError("the header does not fit into memory") from None
    if not same:
        raise FormatError("the header is not in canonical form (keys sorted, no white space, no duplicates)")
    return value


def _no_float(text: str) -> NoReturn:
    raise FormatError(f"the header has the number {text[:40]}; only integers are allowed")
