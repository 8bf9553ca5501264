"""What chunks are made of that a device decodes plane by plane, and which of them kernels decode."""

from __future__ import annotations

from typing import NamedTuple

from slimtensors.device.lookups import CODE_BYTES, WIDE_CODE_BYTES
from slimtensors.expression import (
    BaseContext,
    Bits,
    ClassContext,
    Decimal,
    Delta,
    FieldClass,
    Gather,
    LowRank,
    Mul,
    SignContext,
    Sparse,
    Stored,
    Sum,
    Trellis,
)

__all__ = ["Planes", "Stack", "planes_of"]

MOST_UNITS = 1 << 31  # of a tensor whose rows are counted in 32 bits


class Stack(NamedTuple):
    """Planes that are put one above the other: of units, of values beneath a mask, or of codes."""

    bits: Bits
    first: int  # the lowest plane's number in a chunk
    unit_bytes: int  # of what they are put into

    @property
    def order(self) -> list[int]:
        """In which the planes are decoded: signs are known when the last is."""
        numbers = list(range(len(self.bits.parts)))
        return numbers[1:] + numbers[:1] if isinstance(self.bits.parts[0].context, SignContext) else numbers


class Planes(NamedTuple):
    """The planes of chunks, and what becomes of them: they are rotated, or added to a base."""

    unit_bytes: int
    bits: Bits
    has_base: bool = False
    ordered: bool = False  # whether the base is of floats
    codes: Gather | Mul | Decimal | Trellis | None = None  # what the planes are codes of; with a mask, those after them
    dtype: str = ""  # of products and of sums
    masked: bool = False  # whether units are left out: zeros, or those that codes make; the mask is the first plane
    moved: LowRank | None = None  # what the base is moved by, before the planes are added to it
    summed: bool = False  # whether numbers from codes are added to the base, or to the product in `moved`

    @property
    def signed(self) -> bool:
        """Whether the first plane is of signs."""
        return isinstance(self.bits.parts[0].context, SignContext)

    @property
    def stacks(self) -> list[Stack]:
        """Of units or of values first, of codes last."""
        size = WIDE_CODE_BYTES if isinstance(self.codes, Decimal) else CODE_BYTES
        if not self.masked:
            return [Stack(self.bits, 0, self.unit_bytes if self.codes is None else size)]
        values = Stack(self.bits, 1, self.unit_bytes)
        return [values] if self.codes is None else [values, Stack(self.codes.bits, 1 + len(self.bits.parts), size)]

    @property
    def order(self) -> list[tuple[int, int]]:
        """In which planes are decoded: (stack, number in it)."""
        return [(k, number) for k, stack in enumerate(self.stacks) for number in stack.order]

    @property
    def apart(self) -> bool:
        """Whether the planes make something else than units at their places."""
        return self.codes is not None or self.masked


def planes_of(expression: Stored, units: int, unit_bytes: int, is_float: bool, dtype: str = "") -> Planes | None:
    """The layout of a stream of so many units, if kernels decode it."""
    if isinstance(expression, Bits):
        found = Planes(unit_bytes, expression)
    elif isinstance(expression, Delta):
        found = Planes(unit_bytes, expression.bits, True, is_float, dtype=dtype, moved=expression.moved)
    elif isinstance(expression, Gather | Mul | Decimal | Trellis):
        found = Planes(unit_bytes, expression.bits, codes=expression, dtype=dtype)
    elif isinstance(expression, Sum):
        product = None if isinstance(expression.plus, int) else expression.plus
        given = unit_bytes, expression.bits, product is None
        found = Planes(*given, codes=expression.values, dtype=dtype, moved=product, summed=True)
    elif isinstance(expression, Sparse):
        found = Planes(unit_bytes, expression.values, codes=expression.rest, dtype=dtype, masked=True)
    else:
        return None
    known = BaseContext | ClassContext | FieldClass | SignContext
    if not all(isinstance(context, known) for context in found.bits.contexts):
        return None
    by_row = found.codes is not None or found.moved is not None
    by_row = by_row or any(context.sides for context in found.bits.contexts)
    return None if found.bits.flags or (by_row and units >= MOST_UNITS) else found
