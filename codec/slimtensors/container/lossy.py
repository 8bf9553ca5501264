"""What a file says of tensors that are not their source's (format_spec/lossy.md, section 1)."""

from __future__ import annotations

import re
import struct
from typing import Any, NamedTuple

from slimtensors.errors import FormatError

__all__ = ["Lossy", "is_digest"]

_RECIPE = re.compile("[a-z0-9_.,=-]{1,64}", re.ASCII)
_DIGEST = re.compile("[0-9a-f]{64}", re.ASCII)
_DIGITS = re.compile("[0-9a-f]{16}", re.ASCII)
_INFINITY = 0x7FF << 52


class Lossy(NamedTuple):
    """How a tensor was made, and how far it is from the source's. `nmse`: squared error over squared source."""

    recipe: str
    nmse: float = 0.0
    max: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Its text is of one length, whatever the errors are."""
        return {"max": _digits(self.max), "nmse": _digits(self.nmse), "recipe": self.recipe}

    @classmethod
    def from_json(cls, value: Any) -> Lossy:
        """Raises FormatError."""
        if not isinstance(value, dict) or value.keys() != {"max", "nmse", "recipe"}:
            raise FormatError("`lossy` of a tensor is not max, nmse and recipe")
        recipe = value["recipe"]
        if not isinstance(recipe, str) or not _RECIPE.fullmatch(recipe):
            raise FormatError(f"the recipe {recipe!r:.80} is not 1 to 64 small letters, digits and _ . , = -")
        return cls(recipe, _number(value["nmse"], "nmse"), _number(value["max"], "max"))


def _digits(number: float) -> str:
    return struct.pack(">d", number).hex()


def _number(digits: Any, what: str) -> float:
    if not isinstance(digits, str) or not _DIGITS.fullmatch(digits):
        raise FormatError(f"{what} is {digits!r:.40}, not 16 hexadecimal digits")
    if int(digits, 16) >= _INFINITY:
        raise FormatError(f"{what} is negative, infinite or not a number")
    found: float = struct.unpack(">d", bytes.fromhex(digits))[0]
    return found


def is_digest(value: Any) -> bool:
    """Whether this is 64 lower-case hexadecimal digits."""
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None
