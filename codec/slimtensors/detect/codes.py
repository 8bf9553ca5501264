"""Tensors whose units are best told by codes: few distinct values, numbers times scales, decimals."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slimtensors.codecs.casts import cast_units
from slimtensors.codecs.chunk import encode_chunk
from slimtensors.codecs.place import Place
from slimtensors.detect import lattice
from slimtensors.dtypes import DTYPES, DType
from slimtensors.expression import Bits, Decimal, Gather, Mul, Part, Sparse, Sum, Trellis
from slimtensors.limits import CHUNK_BYTES
from slimtensors.sources.inputs import Input, unit_count

__all__ = ["Structure", "Table", "find_structure"]

Units = npt.NDArray[Any]

PROBE = 2048  # units at the front that must show a structure before more is read
FEW = 256  # distinct values of a palette
WORTH = 0.95  # of the plain size; more is not worth a side plane
RUNS = 24  # looked at before scales are believed in
LONGEST = 1 << 16  # units that share a scale
LENGTHS = (16, 32, 64, 128, 256)  # of blocks that share a scale, besides rows
MAX_INTEGER = 1 << 22  # of a decimal in F32: larger ones say no less than the float does
MAX_WIDTH = 48  # of a decimal's code
PIECE = 1 << 16  # units whose scales are found at once
TENS = np.array([10.0**power for power in range(13)])


class Table(NamedTuple):
    """A side plane, and how to make its units [low, high)."""

    dtype: DType
    shape: tuple[int, ...]
    make: Callable[[Input, int, int], Units]
    each: int = 0  # units of the tensor that a unit of it is for; 0: all
    bits: Bits | None = None
    tail: int = 0  # last bits that are zero, of F32
    try_zstd: bool = False


class Structure(NamedTuple):
    """How a tensor is made from codes."""

    expression: Gather | Mul | Decimal | Sparse | Sum | Trellis
    tables: tuple[Table, ...]
    why: str
    chunk: int = 0  # units of a chunk, if not as many as usual


def find_structure(tensor: Input, plain: Bits) -> Structure | None:
    """What the tensor hides, if telling it takes less than the plain planes."""
    units = unit_count(tensor)
    if tensor.dtype.unit_bits < 16 or tensor.dtype.bits != tensor.dtype.unit_bits or units < 2 * PROBE:
        return None
    probe = tensor.read((units - PROBE) // 2, PROBE)
    distinct = lattice.distinct(probe[: 2 * FEW])
    if distinct <= FEW:
        distinct = lattice.distinct(probe)
    if distinct == 1:
        return None
    if distinct <= FEW:
        found = _palette(tensor, units, plain)
        if found is not None:
            return found
    if tensor.dtype.name in ("F32", "BF16", "F16") and lattice.possible(probe, tensor.dtype):
        found = _lattice(tensor, units, plain)
        if found is not None:
            return found
    if tensor.dtype.name in ("F32", "F64"):
        return _decimal(tensor, probe, units, plain)
    return None


def codes(entries: int) -> Bits:
    """Planes for codes below `entries`: above 8 bits the lowest are noise, and kept apart."""
    width = max(1, (entries - 1).bit_length())
    return Bits((Part(width),) if width <= 8 else (Part(width - 8), Part(8)))


def _size(units: Units, expression: Any, tensor: Input, sides: tuple[Units, ...] = ()) -> int:
    return len(encode_chunk(units, expression, Place(units.size, 0, sides, tensor.dtype)))


def _constant(units: Units) -> Callable[[Input, int, int], Units]:
    return partial(_part, units)


def _part(units: Units, _tensor: Input, low: int, high: int) -> Units:
    return units[low:high]


# ---- palettes


def _palette(tensor: Input, units: int, plain: Bits) -> Structure | None:
    seen = np.empty(0, tensor.dtype.unit)
    step = CHUNK_BYTES // tensor.dtype.unit_bytes
    for start in range(0, units, step):
        piece = tensor.read(start, min(step, units - start))
        if seen.size:
            at = np.minimum(np.searchsorted(seen, piece), seen.size - 1)
            piece = piece[seen[at] != piece]
        if piece.size:
            seen = np.union1d(seen, piece)
            if seen.size > FEW:
                return None
    sample = tensor.read(0, min(step // 4, units))
    expression = Gather(0, codes(seen.size))
    if _size(sample, expression, tensor, (seen,)) > WORTH * _size(sample, plain, tensor):
        return None
    table = Table(tensor.dtype, (seen.size,), _constant(seen))
    return Structure(expression, (table,), f"{seen.size} distinct values")


# ---- numbers times scales


def _lattice(tensor: Input, units: int, plain: Bits) -> Structure | None:
    for length in _lengths(tensor, units):
        sample = _sample_runs(tensor, units, length)
        for family in lattice.FAMILIES:
            fit = lattice.fit(sample, tensor.dtype, family)
            if fit is None:
                continue
            expression = Mul(Gather(0, codes(fit.table.size)), 1)
            flat = sample.reshape(-1)
            plain_size = _size(flat, plain, tensor)
            size = _size(flat, expression, tensor, (fit.table, fit.scales))
            # A scale takes about so many bits, of each `length` units.
            tail = lattice.trailing_zeros(fit.scales)
            size += (28 - tail) * flat.size // (8 * length)
            if size < WORTH * plain_size:
                return _scaled(units, length, fit, expression, tail)  # shorter runs would only have more scales
    return None


def _scaled(units: int, length: int, fit: lattice.Fit, expression: Mul, tail: int) -> Structure:
    palette = Table(fit.dtype, (fit.table.size,), _constant(fit.table))
    make = partial(_make_scales, length=length, numbers=fit.numbers, tops=fit.tops)
    scales = Table(DTYPES["F32"], (units // length,), make, length, tail=tail)
    return Structure(expression, (palette, scales), f"{fit.name} times a scale for each {length}")


def _lengths(tensor: Input, units: int) -> list[int]:
    shape = tensor.shape
    found = [shape[-1], math.prod(shape[1:])] if len(shape) > 1 else []
    last = shape[-1]
    found += [length for length in LENGTHS if last % length == 0]
    return sorted({length for length in found if 16 <= length <= LONGEST and units % length == 0}, reverse=True)


def _sample_runs(tensor: Input, units: int, length: int) -> Units:
    """Some runs: [runs, units of each]."""
    runs = units // length
    wanted = max(RUNS, -(-2048 // length))
    picked = np.unique(np.linspace(0, runs - 1, min(runs, wanted)).astype(np.int64)).tolist()
    return np.stack([tensor.read(run * length, length) for run in picked])


def _make_scales(
    tensor: Input, low: int, high: int, *, length: int, numbers: lattice.Numbers, tops: tuple[float, ...]
) -> Units:
    """The scales of runs [low, high); 0 for a run that has none, whose chunk is then literal."""
    out = np.zeros(high - low, "<u4")
    step = max(1, PIECE // length)
    for run in range(low, high, step):
        count = min(step, high - run)
        block = tensor.read(run * length, count * length).reshape(count, length)
        out[run - low : run - low + count] = lattice.scales_of(block, tensor.dtype, numbers, tops)[0]
    return out


# ---- decimals


def _decimal(tensor: Input, probe: Units, units: int, plain: Bits) -> Structure | None:
    dtype = tensor.dtype
    few = probe[:64]
    magnitudes = few & few.dtype.type((1 << (dtype.bits - 1)) - 1)
    largest = float(magnitudes.max().view(f"<f{few.itemsize}"))  # what it is not, all are not
    most = MAX_INTEGER if dtype.name == "F32" else 2.0**40
    if not largest < most:  # or not a number
        return None
    # Decimals are decimals of more digits, too: of nearly all weights, one of a few numbers is none of the most digits.
    ten = next(ten for ten in TENS.tolist()[::-1] if round(largest * ten) < most)
    if not all(_is_near(number, ten) for number in magnitudes[:8].view(f"<f{few.itemsize}").tolist()):
        return None
    integers = np.rint(largest * TENS)
    fits = (_rounded(integers, TENS, dtype) == largest) & (integers < most)
    some = _magnitudes(few, dtype) if fits.any() else few
    power = next((p for p in np.flatnonzero(fits).tolist() if _are_decimals(some, p, dtype)), None)
    if power is None:
        return None
    numbers = _magnitudes(probe, dtype)
    if not np.isfinite(numbers).all() or not _are_decimals(numbers, power, dtype):
        return None
    whole = np.rint(numbers * TENS[power])
    # Twice for the sign, and four times as much room as the sample needs.
    width = max(16, int(whole.max()).bit_length() + 3)
    if width > min(MAX_WIDTH, tensor.dtype.unit_bits):
        return None
    low = width - 16
    parts = (*[Part(8)] * (low // 8), *([Part(low % 8)] if low % 8 else []), Part(16))
    expression = Decimal(power, Bits(parts))
    sample = tensor.read(0, min(1 << 16, units))
    if _size(sample, expression, tensor) > WORTH * _size(sample, plain, tensor):
        return None
    return Structure(expression, (), f"rounded to {power} decimals")


def _is_near(number: float, ten: float) -> bool:
    """Whether a number may be a decimal of that many digits, to the precision of F32."""
    return abs(round(number * ten) / ten - number) <= number * 2.0**-23


def _magnitudes(units: Units, dtype: DType) -> npt.NDArray[np.float64]:
    found: npt.NDArray[np.float64] = np.abs(cast_units(units, dtype, DTYPES["F64"]).view("<f8"))
    return found


def _are_decimals(numbers: npt.NDArray[np.float64], power: int, dtype: DType) -> bool:
    return np.array_equal(_rounded(np.rint(numbers * TENS[power]), TENS[power], dtype), numbers)


def _rounded(whole: npt.NDArray[np.float64], ten: Any, dtype: DType) -> npt.NDArray[np.float64]:
    """The decimals of these integers, with a power of ten as the divisor, or one for each."""
    exact: npt.NDArray[np.float64] = whole / ten
    return exact.astype(np.float32).astype(np.float64) if dtype.name == "F32" else exact
