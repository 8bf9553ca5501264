"""Fields of integers, and units that are zero, by what a sample takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.codecs import coded, layouts
from slimtensors.codecs.chunk import encode_chunk, find_affine
from slimtensors.dtypes import DType
from slimtensors.entropy.tables import cost
from slimtensors.expression import Bits, Sparse, Stored

__all__ = ["integer_fields", "zeros_left_out"]

MIN_ZEROS = 0.01  # share of a sample's units from which leaving zeros out is tried
SPARSE_WORTH = 0.98  # what leaving zeros out must get the sample down to

Units = npt.NDArray[Any]


def zeros_left_out(sample: Units, dtype: DType, bits: Bits, preset: str) -> tuple[Stored, str]:
    """(expression, why): the units that are not zero and a mask, where a sample takes less that way."""
    zeros = 1 - np.count_nonzero(sample) / sample.size
    if zeros < MIN_ZEROS or find_affine(sample) is not None:
        return bits, ""
    # Row flags have no place in a sample of runs, and a mask by unit leaves no rows to speak of.
    plain = layouts.floats(dtype, preset) if bits.sides else bits
    candidates = [plain]
    if not dtype.is_float and dtype.unit_bits in (16, 32):
        candidates = [integer_fields(sample[sample != 0], dtype)[0]]
    elif dtype.is_float and dtype.unit_bits > 8 and preset != "fast":
        candidates.append(layouts.finer(dtype))

    def size(expression: Stored) -> int:
        return len(encode_chunk(sample, expression, try_zstd=not dtype.is_float))

    tried = [Sparse(values) for values in candidates]
    sizes = [size(each) for each in tried]
    if min(sizes) < SPARSE_WORTH * size(plain):
        return tried[sizes.index(min(sizes))], f"{zeros:.0%} zeros left out"
    return bits, ""


def integer_fields(sample: Units, dtype: DType) -> tuple[Bits, str]:
    """Bytes, or halves with bypass bits, whichever takes less of the sample."""
    as_bytes = sample.view(np.uint8).reshape(-1, dtype.unit_bytes)
    by_byte = sum(cost(np.bincount(column, minlength=256)) for column in as_bytes.T)
    halves = sample.view("<u2").reshape(-1, dtype.unit_bytes // 2)
    by_half = 0.0
    for column in halves.T:
        buckets, extra = coded.bypass_counts(np.bincount(column, minlength=1 << 16))
        by_half += cost(buckets) + extra
    if by_half < 0.98 * by_byte:
        return layouts.halves(dtype), "16-bit fields by bit length"
    return layouts.whole_bytes(dtype), "bytes"
