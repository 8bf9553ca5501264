"""Values of the header's JSON, checked."""

from __future__ import annotations

from typing import Any

from slimtensors.errors import FormatError, NewerFormatError
from slimtensors.limits import MAX_SIDES

__all__ = ["DRAFT", "integer", "keys_of", "pair", "side_plane"]

# Names that the format keeps for later (`matmul` but for where `add` has it); a file that uses one is sound but not
# for this reader.
DRAFT = frozenset({"hadamard", "matmul", "rand", "view"})


def keys_of(value: Any, what: str) -> set[str]:
    """The keys of an object. Raises FormatError, NewerFormatError for a name that is kept for later."""
    if not isinstance(value, dict):
        raise FormatError(f"{what} is not a JSON object")
    if not DRAFT.isdisjoint(value):
        words = ", ".join(sorted(DRAFT & value.keys()))
        raise NewerFormatError(f"{what} uses {words}, which needs a newer reader; update slimtensors")
    return set(value)


def integer(value: Any, low: int, high: int, what: str) -> int:
    """An integer from low to high. Raises FormatError."""
    if type(value) is not int or not low <= value <= high:
        raise FormatError(f"{what} is {value!r}, not an integer from {low} to {high}")
    return value


def side_plane(value: Any, what: str) -> int:
    """The position of a side plane, which a tensor may have, whether this one has it or not. Raises FormatError."""
    return integer(value, 0, MAX_SIDES - 1, what)


def pair(value: Any, what: str) -> tuple[Any, Any]:
    """A list of two. Raises FormatError."""
    if not isinstance(value, list) or len(value) != 2:
        raise FormatError(f"{what} has two arguments")
    return value[0], value[1]
