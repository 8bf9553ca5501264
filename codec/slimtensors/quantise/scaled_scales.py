"""Formats whose scales are small numbers times a scale of many runs: nvfp4, q4_k."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from slimtensors.codecs import lookup
from slimtensors.detect.codes import Structure, codes
from slimtensors.expression import Gather, Mul
from slimtensors.kernels.cpu import quantise as kernels
from slimtensors.kernels.cpu.search_scales import ROOM, RUN, search_scales
from slimtensors.kernels.status import must
from slimtensors.quantise.blocks import units_of_codes
from slimtensors.quantise.quantiser import Floats, Quantised, floats_of, side
from slimtensors.quantise.rules import float_codes, half, inverse, peaks
from slimtensors.sources.inputs import Input, unit_count

__all__ = ["NVFP4", "Q4K"]


@dataclass(frozen=True)
class NVFP4:
    """Numbers of E2M1, a scale of E4M3 for each 16 and one of F32 for the tensor.

    Source: NVIDIA's TensorRT Model Optimizer. The tensor's is its peak / (6 * 448); a run's is its peak / 6, over the
    tensor's, rounded, halves to even; codes are weight / (the two's product), likewise.
    """

    numbers: Floats  # of E2M1
    scales: Floats  # of E4M3
    name: str = "nvfp4"
    length: int = 16

    def structure(self, tensor: Input) -> Structure | None:
        if tensor.shape[-1] % self.length:
            return None
        tables = (
            side(0, "F32", self.numbers.shape),
            side(1, "F32", (unit_count(tensor) // self.length,), tail=20),
            side(2, "F32", (1,)),
        )
        expression = Mul(Gather(0, codes(self.numbers.size)), (1, 2))
        return Structure(expression, tables, "quantised to nvfp4: a scale for each 16, and one for all")

    def quantise(self, tensor: Input, _structure: Structure) -> Quantised:
        weights = floats_of(tensor)
        with np.errstate(all="ignore"):  # what is not finite is found by its error
            of_runs = abs(peaks(weights, self.length))
            whole = (of_runs.max() / np.float32(6 * 448)).astype(np.float32).reshape(1)
            small = float_codes(of_runs / np.float32(6), np.repeat(whole, of_runs.size), 1, 3, 7, self.scales)
            stored = self.scales[small]
            steps = stored * whole
            found = float_codes(weights, steps, self.length, 1, 1, self.numbers)
        sides = (self.numbers.view("<u4"), stored.view("<u4"), whole.view("<u4"))
        return Quantised(sides, units_of_codes(self.numbers, steps, found, self.length, tensor.dtype))


@dataclass(frozen=True)
class Q4K:
    """GGUF's Q4_K: blocks of 256 weights, of each 32 a scale and a minimum of six bits, times F16 numbers of the block.

    gguf-py does not quantise to it. The search for scales is that of llama.cpp's reference (`search_scales`),
    sums in another order; what it finds is stored as there, and gives what gguf-py's `dequantize` gives.
    """

    name: str = "q4_k"

    def structure(self, tensor: Input) -> Structure | None:
        if tensor.shape[-1] % BLOCK:
            return None
        runs, blocks = unit_count(tensor) // RUN, unit_count(tensor) // BLOCK
        tables = (
            side(0, "I8", (16,)),
            *(side(k, "F32", (runs if k % 2 else blocks,), tail=18 if k % 2 else 13) for k in range(1, 5)),
        )
        expression = Mul(Gather(0, codes(16)), (1, 2), (3, 4))
        why = "quantised to q4_k: a scale and a minimum for each 32, times those of each 256"
        return Structure(expression, tables, why)

    def quantise(self, tensor: Input, _structure: Structure) -> Quantised:
        weights = floats_of(tensor)
        scales, minima = (np.empty(weights.size // RUN, np.float32) for _ in range(2))
        found = np.empty(weights.size, np.uint8)
        with np.errstate(all="ignore"):  # what is not finite is found by its error
            must(search_scales(weights, np.empty(ROOM, np.float32), scales, minima))
            (six, d), (less, m) = _six_bits(scales), _six_bits(minima)
            steps, offsets = six * np.repeat(d, BLOCK // RUN), less * np.repeat(-m, BLOCK // RUN)
            must(kernels.round_shifted(weights, steps, offsets, RUN, 15, found))
        out = np.empty(weights.size, tensor.dtype.unit)
        lookup.scaled(PALETTE.astype(np.float32), steps, RUN, 0, found, out, tensor.dtype, offsets)
        return Quantised((PALETTE.view(np.uint8), *(each.view("<u4") for each in (six, d, less, -m))), out)


BLOCK = 256
PALETTE = np.arange(16).astype(np.int8)


def _six_bits(numbers: Floats) -> tuple[Floats, Floats]:
    """(from 0 to 63 for each number, the F16 of each block that they are times)."""
    most = np.maximum(numbers.reshape(-1, BLOCK // RUN).max(-1), np.float32(0))
    factor = np.float32(63) * inverse(most)
    factor[np.isinf(factor)] = 0  # of numbers below F16's least by far: `half` makes them 0, and inf * 0 is no number
    factor = np.repeat(factor, BLOCK // RUN)
    whole: Floats = np.minimum(np.rint(np.maximum(factor * numbers, np.float32(0))), np.float32(63))
    return whole, half(most / np.float32(63))
