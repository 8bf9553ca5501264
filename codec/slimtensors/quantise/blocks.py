"""Formats in which a run of weights shares a scale, and a code picks a number that is multiplied by it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.codecs import lookup
from slimtensors.detect.codes import Structure, codes
from slimtensors.dtypes import DType
from slimtensors.expression import Gather, Mul
from slimtensors.inputs import Input, unit_count
from slimtensors.kernels.cpu import quantise as kernels
from slimtensors.kernels.status import OK
from slimtensors.limits import MIN_RUN
from slimtensors.quantise.quantiser import Floats, Quantised, floats_of, side

__all__ = ["Blocks", "half", "inverse", "q8_0"]

Codes = npt.NDArray[np.uint8]
Rule = Callable[[Floats, int], tuple[Floats, Codes]]


@dataclass(frozen=True)
class Blocks:
    """A code for each weight, a scale for each `length` of them; 0: for each row.

    palette: int8 or float32, the number of each code. rule: scales and codes of runs of such a length, from the floats.
    tail: last bits of the scales that are always zero, as F32.
    """

    name: str
    length: int
    palette: npt.NDArray[Any]
    rule: Rule
    tail: int = 0

    def _run(self, tensor: Input) -> int:
        return self.length or tensor.shape[-1]

    def structure(self, tensor: Input) -> Structure | None:
        length, units = self._run(tensor), unit_count(tensor)
        if tensor.shape[-1] % length or length < MIN_RUN:
            return None
        palette = side(0, "I8" if self.palette.itemsize == 1 else "F32", self.palette.shape)
        scales = side(1, "F32", (units // length,), tail=self.tail)
        expression = Mul(Gather(0, codes(self.palette.size)), 1)
        return Structure(expression, (palette, scales), f"quantised to {self.name}: a scale for each {length}")

    def quantise(self, tensor: Input) -> Quantised:
        length = self._run(tensor)
        with np.errstate(all="ignore"):  # what is not finite is found by its error
            scales, found = self.rule(floats_of(tensor), length)
        sides = (self.palette.view(f"<u{self.palette.itemsize}"), scales.view("<u4"))
        return Quantised(sides, _units(self.palette, scales, found, length, tensor.dtype))


def _units(palette: npt.NDArray[Any], scales: Floats, found: Codes, length: int, dtype: DType) -> npt.NDArray[Any]:
    """What a reader makes of codes and scales."""
    short = -found.size % kernels.LANES
    padded = np.concatenate([found, np.zeros(short, np.uint8)]) if short else found
    runs = np.concatenate([scales, np.zeros(-(-short // length), np.float32)]) if short else scales
    out = np.empty(padded.size, dtype.unit)
    lookup.scaled(palette.astype(np.float32), runs, length, 0, padded, out, dtype)
    return out[: found.size]


def half(numbers: Floats) -> Floats:
    """Rounded to F16."""
    return numbers.astype(np.float16).astype(np.float32)


def inverse(numbers: Floats) -> Floats:
    """One over each, but 0 of 0."""
    found: Floats = np.where(numbers == 0, np.float32(0), np.float32(1) / numbers)
    return found


def peaks(weights: Floats, length: int) -> Floats:
    """Of each run the number of the largest magnitude, with its sign; of several the first."""
    out = np.empty(weights.size // length, np.float32)
    assert kernels.peaks(weights, length, out) == OK
    return out


def q8_0(weights: Floats, length: int) -> tuple[Floats, Codes]:
    """d = peak / 127, in F16; codes rounded from weight * (1 / d) before d is, halves away from zero."""
    d = abs(peaks(weights, length)) / np.float32(127)
    found = np.empty(weights.size, np.uint8)
    assert kernels.round_away(weights, inverse(d), length, 127, found) == OK
    return half(d), found
