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
from slimtensors.kernels.cpu.quantise import LANES
from slimtensors.limits import MIN_RUN
from slimtensors.quantise.quantiser import Floats, Quantised, floats_of, side
from slimtensors.sources.inputs import Input, unit_count

__all__ = ["Blocks", "Codes", "units_of_codes"]

Codes = npt.NDArray[np.uint8]
Rule = Callable[[Floats, int, DType], tuple[Floats, Codes]]

# Of scales as F32: last bits that are always zero.
TAILS = {"F16": 13, "BF16": 16, "F32": 0, "E8M0": 22}


@dataclass(frozen=True)
class Blocks:
    """A code for each weight, a scale for each `length` of them; 0: for each row.

    palette: int8 or float32, the number of each code. rule: scales and codes, from the floats, the length of a run and
    the tensor's dtype. scale: what scales are, "" for the tensor's dtype. across: a run may go on in the next row.
    """

    name: str
    length: int
    palette: npt.NDArray[Any]
    rule: Rule
    scale: str = "F32"
    across: bool = False

    def _run(self, tensor: Input) -> int:
        return self.length or tensor.shape[-1]

    def structure(self, tensor: Input) -> Structure | None:
        length, units = self._run(tensor), unit_count(tensor)
        if (units if self.across else tensor.shape[-1]) % length or length < MIN_RUN:
            return None
        palette = side(0, "I8" if self.palette.itemsize == 1 else "F32", self.palette.shape)
        scales = side(1, "F32", (units // length,), tail=TAILS[self.scale or tensor.dtype.name])
        expression = Mul(Gather(0, codes(self.palette.size)), 1)
        return Structure(expression, (palette, scales), f"quantised to {self.name}: a scale for each {length}")

    def quantise(self, tensor: Input, _structure: Structure) -> Quantised:
        length = self._run(tensor)
        with np.errstate(all="ignore"):  # what is not finite is found by its error
            scales, found = self.rule(floats_of(tensor), length, tensor.dtype)
        sides = (self.palette.view(f"<u{self.palette.itemsize}"), scales.view("<u4"))
        return Quantised(sides, units_of_codes(self.palette, scales, found, length, tensor.dtype))


def units_of_codes(
    palette: npt.NDArray[Any], scales: Floats, found: Codes, length: int, dtype: DType
) -> npt.NDArray[Any]:
    """What a reader makes of codes and scales, of any number."""
    short = -found.size % LANES
    padded = np.concatenate([found, np.zeros(short, np.uint8)]) if short else found
    runs = np.concatenate([scales, np.zeros(-(-short // length), np.float32)]) if short else scales
    out = np.empty(padded.size, dtype.unit)
    lookup.scaled(palette.astype(np.float32), runs, length, 0, padded, out, dtype)
    return out[: found.size]
