"""Fields of integers, and units that are zero, by what a sample takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.codecs import coded, layouts, sparse
from slimtensors.codecs.chunk import encode_chunk, find_affine
from slimtensors.codecs.head import GROUP
from slimtensors.codecs.planes import bits_lengths
from slimtensors.dtypes import DType
from slimtensors.entropy.tables import cost
from slimtensors.expression import Bits, Sparse, Stored

__all__ = ["integer_fields", "is_plain", "zeros_left_out"]

MIN_ZEROS = 0.01  # share of a sample's units from which leaving zeros out is tried
# From here on it always pays for floats of several planes: each plane tells of each unit whether it is zero, or takes
# as many bits for a zero as for any other; a mask tells it once.
MANY_ZEROS = 0.05
FEW = 64  # units, of which some end in 1 unless there is a reason
SPARSE_WORTH = 0.98  # what leaving zeros out must get the sample down to

Units = npt.NDArray[Any]


def is_plain(sample: Units) -> bool:
    """Whether next to none of these units is zero, nor their last bits: nothing can be left out."""
    odd = int(np.bitwise_or.reduce(sample[:FEW])) & 1
    return odd > 0 and int(np.count_nonzero(sample)) > (1 - MIN_ZEROS) * sample.size


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

    if dtype.is_float:
        sizes, many = _counted(sample, candidates), dtype.unit_bits > 8 and zeros > MANY_ZEROS
        whole = np.inf if many else bits_lengths(_whole_groups(sample), candidates[:1])[0]
    else:
        sizes, whole = _encoded(sample, candidates, plain)
    if min(sizes) < SPARSE_WORTH * whole:
        return Sparse(candidates[sizes.index(min(sizes))]), f"{zeros:.0%} zeros left out"
    return bits, ""


def _encoded(sample: Units, candidates: list[Bits], plain: Bits) -> tuple[list[float], float]:
    """(bytes without the zeros, by candidate, bytes with them)"""
    tried: list[Stored] = [*map(Sparse, candidates), plain]
    sizes = [float(len(encode_chunk(sample, expression, try_zstd=True))) for expression in tried]
    return sizes[:-1], sizes[-1]


def _counted(sample: Units, candidates: list[Bits]) -> list[float]:
    """Bytes without the zeros of floats, by candidate, for a fifth of the time: by counts, but for the mask, which is
    encoded, since general compression may suit it.
    """
    mask, values, count = sparse.squeeze(_whole_groups(sample))
    below = sum(map(len, sparse.encode_mask(mask)[1]))
    return [below + length for length in bits_lengths(_whole_groups(values[:count]), candidates)]


def _whole_groups(units: Units) -> Units:
    return units[: units.size // GROUP * GROUP]


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
