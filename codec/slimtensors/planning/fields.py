"""The fields of a tensor's units, by what a sample of them shows."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy.typing as npt

from slimtensors.codecs import layouts
from slimtensors.detect.tails import trailing_zeros
from slimtensors.detect.zeros import integer_fields, is_plain
from slimtensors.expression import Bits
from slimtensors.sources.inputs import Input, sample_units, unit_count

__all__ = ["Fields", "choose_fields"]

GLANCE = 512  # units of each run that are looked at first; most floats need no more

Units = npt.NDArray[Any]


class Fields(NamedTuple):
    """The planes of a tensor.

    sample: units that were looked at. row_tail: last bits that are zero in the rows that a side plane of flags names; 0
    if there is none, and all rows have the same planes.
    """

    sample: Units
    bits: Bits
    why: str = ""
    row_tail: int = 0


def choose_fields(tensor: Input, preset: str) -> Fields:
    """What the units are cut into."""
    dtype = tensor.dtype
    sample = sample_units(tensor, GLANCE)
    if not dtype.is_float or not is_plain(sample):
        sample = sample_units(tensor)
    if not dtype.is_float:
        if dtype.unit_bits == 16 or dtype.unit_bits == 32:
            return Fields(sample, *integer_fields(sample, dtype))
        return Fields(sample, layouts.usual(dtype, preset))
    most = layouts.most_tail(dtype, preset)
    tail, by_row, why = trailing_zeros(tensor, sample, unit_count(tensor), most)
    if not tail and not int(sample.max()) >> (dtype.unit_bits - 1):
        return Fields(sample, layouts.unsigned(dtype, preset), "none is negative")
    return Fields(sample, layouts.floats(dtype, preset, tail, by_row), why, tail if by_row else 0)
