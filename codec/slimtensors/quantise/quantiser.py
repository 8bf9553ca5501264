"""What a quantiser is, and a tensor on its way through one."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from slimtensors.codecs.casts import cast_units
from slimtensors.container.lossy import Lossy
from slimtensors.detect.codes import Structure, Table
from slimtensors.dtypes import DTYPES, DType
from slimtensors.errors import UsageError
from slimtensors.expression import Bits, Sparse, Sum
from slimtensors.quantise.errors import Errors
from slimtensors.sources.inputs import Input, unit_count

__all__ = ["Quantised", "QuantisedInput", "Quantiser", "floats_of", "side"]

Units = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]


class Quantised(NamedTuple):
    """A tensor quantised: its side planes' units, in the order of the structure's tables, and its own.

    numbers: what codes make, where that is not all: of a sum as units of F32, or what outliers are put over.
    """

    sides: tuple[Units, ...]
    units: Units
    numbers: Units | None = None


class Quantiser(Protocol):
    """One way to quantise. The same floats give the same units on every machine.

    `name` is the recipe that the file states.
    """

    @property
    def name(self) -> str: ...

    def structure(self, tensor: Input, /) -> Structure | None:
        """How the tensor will be stored; None if it cannot be, in this way. Side planes are made by `side`."""

    def quantise(self, tensor: Input, structure: Structure, /) -> Quantised:
        """What the file will hold. structure: what was found for this tensor. The units are those that its expression
        makes of the side planes and some codes, bit for bit; a chunk for which it does not is stored as it is, and
        takes as much.
        """


def side(number: int, dtype: str, shape: tuple[int, ...], bits: Bits | None = None, tail: int = 0) -> Table:
    """Table `number` of a structure. bits: its planes, if not the usual ones; tail: last bits that are 0, of F32."""
    return Table(DTYPES[dtype], shape, partial(_made_side, number), 0, bits, tail)


def _made_side(number: int, tensor: Input, low: int, high: int) -> Units:
    assert isinstance(tensor, QuantisedInput)
    return tensor.made.sides[number].reshape(-1)[low:high]


def floats_of(tensor: Input, first: int = 0, count: int | None = None) -> Floats:
    """Elements of an F32, BF16 or F16 tensor, by default all, flat, as float32, which holds them exactly."""
    units = tensor.read(first, unit_count(tensor) if count is None else count)
    wide = units if tensor.dtype.name == "F32" else cast_units(units, tensor.dtype, DTYPES["F32"])
    return wide.view("<f4")


class QuantisedInput:
    """A tensor that is quantised when it is first read, and forgotten once all of it has been read.

    source: as a matrix; shape: the tensor's own.
    """

    encoding: str | None = None

    def __init__(self, source: Input, quantiser: Quantiser, structure: Structure, shape: Sequence[int]) -> None:
        self.source = source
        self.structure = structure
        self.name: str = source.name
        self.dtype: DType = source.dtype
        self.shape: tuple[int, ...] = tuple(shape)
        self.lossy: Lossy | None = Lossy(quantiser.name)  # its errors are known once it has been read
        self.quantiser = quantiser
        self._made: Quantised | None = None

    @property
    def place(self) -> Hashable:
        return None

    @property
    def made(self) -> Quantised:
        """What it was quantised to. Raises UsageError for floats that are not finite."""
        if self._made is None:
            found = self.quantiser.quantise(self.source, self.structure)
            errors = Errors()
            errors.add(self.source.read(0, unit_count(self.source)), found.units, self.dtype)
            if not errors.finite:
                raise UsageError(
                    f"tensor {self.name!r} cannot be quantised to {self.quantiser.name}: it has, or gets, numbers "
                    "that are not finite; keep it as it is with --keep (keep=)"
                )
            self._made, self.lossy = found, Lossy(self.quantiser.name, errors.nmse, errors.max)
        return self._made

    def read(self, start: int, count: int) -> Units:
        """Units [start, start + count) of what it was quantised to."""
        _sides, units, numbers = self.made
        if start + count == units.size and numbers is None:
            self._made = None
        return units[start : start + count]

    def numbers(self, start: int, count: int) -> Units | None:
        """What codes make of them, if that is not all; to be asked for after the units."""
        if not isinstance(self.structure.expression, Sum | Sparse):
            return None
        numbers = self.made.numbers
        assert numbers is not None
        if start + count == numbers.size:
            self._made = None
        return numbers[start : start + count]
