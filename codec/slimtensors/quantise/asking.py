"""What size or error is asked for."""

from __future__ import annotations

from numbers import Real
from typing import NamedTuple

from slimtensors.errors import UsageError

__all__ = ["NO_BASE", "NoneFitsError", "Target"]

NO_BASE = (
    "bitdelta is of differences, and no tensor has a base: name the model that this one was made from with --base "
    "(base=)"
)


class NoneFitsError(UsageError):
    """No tensor of a file is quantised; of one shard of a model that may well be so."""


class Target(NamedTuple):
    """size: bytes of the file; bits: of a quantised weight; error: of a tensor (NMSE). One of them, or none."""

    size: int | None = None
    bits: float | None = None
    error: float | None = None

    @property
    def asked(self) -> bool:
        return any(each is not None for each in self)

    def check(self) -> None:
        """Raises UsageError for more than one, and for numbers that cannot be meant."""
        for name, value in zip(("target_size", "target_bpw", "target_error"), self, strict=True):
            if value is not None and not isinstance(value, Real):
                of = " of bytes" if name == "target_size" else ""
                raise UsageError(f"{name} is {value!r:.60}; a number{of} is needed")
        if sum(each is not None for each in self) > 1:
            raise UsageError("a target is a size, a number of bits or an error; only one of them can be asked for")
        if self.size is not None and self.size <= 0:
            raise UsageError(f"a target size of {self.size} bytes")
        if self.bits is not None and not 0.1 <= self.bits <= 12:
            raise UsageError(f"a target of {self.bits} bits for each weight; from 0.1 to 12 can be asked for")
        if self.error is not None and not 1e-9 <= self.error < 1:
            raise UsageError(f"a target error (NMSE) of {self.error}; from 1e-9 to below 1 can be asked for")
