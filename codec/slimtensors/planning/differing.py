"""Whether a tensor is better stored as its difference from a base, and how: a trial on a sample."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from slimtensors.codecs.chunk import encode_chunk
from slimtensors.codecs.place import Place
from slimtensors.container.header import Base
from slimtensors.dtypes import DType
from slimtensors.expression import BaseContext, Bits, Context, Delta, Part
from slimtensors.limits import CHUNK_BYTES
from slimtensors.planning.predicting import Factors, find_factors
from slimtensors.reading.base_units import base_units
from slimtensors.sources.inputs import Input, unit_count

__all__ = ["WORTH", "BaseUnits", "DeltaPlan", "MatchedBase", "best_planes", "equal_rows", "plan_delta", "row_classes"]

Units = npt.NDArray[Any]

WORTH = 0.98  # of the plain sample's size: a difference needs its base at every load
SAMPLE_RUNS, SAMPLE_RUN = 32, 2048  # units
SAMPLE_ROWS = 512
MIN_ROW, MIN_ROWS = 32, 8  # rows shorter or fewer than this are not worth a side plane
SAMPLE_ROW_UNITS = 1 << 18  # in whole rows
CLASSES = 10  # of rows, by the share of units that differ: below 1/256, and each doubling up to all
MIN_EQUAL = 0.05  # rows equal to the base that are worth one
MANTISSA = {"F16": 10, "BF16": 7, "F32": 23, "C64": 23, "F64": 52, "F8_E4M3": 3, "F8_E5M2": 2}
MOST_TABLES = 24
RARE = 0.001  # a share of the units that is not worth a table of its own


@dataclass(frozen=True)
class MatchedBase:
    """The base of one tensor: `read(start, count)` gives units of it, in its own dtype, from any thread.

    files: local ones that it is read from, as `file_identity` tells them.
    """

    base: Base
    read: Callable[[int, int], Units]
    files: frozenset[tuple[int, int]] = frozenset()

    def units(self, dtype: DType, start: int, count: int) -> Units:
        """In a tensor's dtype, with zeros beyond the base's end."""
        return base_units(self.base, self.read, dtype, start, count)


class BaseUnits(Protocol):
    """What a chunk is a difference from."""

    def units(self, dtype: DType, start: int, count: int) -> Units:
        """In a tensor's dtype."""


class DeltaPlan(NamedTuple):
    """The planes of the differences. by_row: side plane 0 says which rows differ at all; classes: the last side plane
    says how much they do. factors: what moves the base first, in two side planes and no others.
    """

    bits: Bits
    by_row: bool
    classes: bool
    why: str
    factors: Factors | None = None


def plan_delta(tensor: Input, plain: Bits, matched: MatchedBase) -> DeltaPlan | None:
    """The best way to store the tensor as a difference, or None where storing it plainly takes less of a sample.

    plain: how it would be stored without a base.
    """
    sample, base = _sample(tensor, matched)
    bits, size = best_planes(sample, base, tensor.dtype)
    if size > WORTH * len(encode_chunk(sample, _without_rows(plain))):
        return None
    equal = _equal_share(tensor, matched)
    by_row = MIN_EQUAL <= equal < 1
    why = f"{equal:.0%} of rows equal it" if by_row else f"{8 * size / sample.size:.1f} bits a unit"
    if not by_row:
        tried = _layouts(tensor.dtype, _context(base, tensor.dtype))
        factors = find_factors(tensor, partial(matched.units, tensor.dtype), tried)
        if factors is not None:
            return DeltaPlan(factors.bits, False, False, f"difference from a base; {factors.why}", factors)
    classed = _with_classes(bits, int(by_row))
    classes = _classes_gain(tensor, matched, bits)
    if classes:
        bits, why = classed, f"{why}; rows differ by more or less"
    if by_row:
        bits = Bits(tuple(Part(part.width, 0, part.context) for part in bits.parts))
    return DeltaPlan(bits, by_row, classes, f"difference from a base; {why}")


def best_planes(units: Units, base: Units, dtype: DType) -> tuple[Bits, int]:
    """The planes that differences take the least in, and how many bytes that is."""
    place = Place(units.size, 0, (), dtype, base)
    tried = _layouts(dtype, _context(base, dtype))
    sizes = [len(encode_chunk(units, Delta(bits, 0), place)) for bits in tried]
    return tried[sizes.index(min(sizes))], min(sizes)


def equal_rows(tensor: Input, low: int, high: int, *, matched: MatchedBase) -> Units:
    """A flag for each of the rows [low, high): whether it differs from the base's."""
    length = unit_count(tensor) // tensor.shape[0]
    flags = np.empty(high - low, np.uint8)
    step = max(1, (1 << 20) // (length * tensor.dtype.unit_bytes))
    for row in range(low, high, step):
        count = min(step, high - row)
        units = tensor.read(row * length, count * length)
        base = matched.units(tensor.dtype, row * length, count * length)
        flags[row - low : row - low + count] = (units != base).reshape(count, length).any(axis=1)
    return flags


def row_classes(tensor: Input, low: int, high: int, *, matched: MatchedBase) -> Units:
    """A class for each of the rows [low, high), by how many of its units differ from the base's."""
    length = unit_count(tensor) // tensor.shape[0]
    classes = np.empty(high - low, np.uint8)
    step = max(1, (1 << 20) // (length * tensor.dtype.unit_bytes))
    for row in range(low, high, step):
        count = min(step, high - row)
        units = tensor.read(row * length, count * length)
        base = matched.units(tensor.dtype, row * length, count * length)
        classes[row - low : row - low + count] = _classes(units, base, count)
    return classes


def _classes(units: Units, base: Units, rows: int) -> Units:
    """0 for rows of which less than one unit in 256 differs, one more for each doubling."""
    differing = np.count_nonzero((units != base).reshape(rows, -1), axis=1)
    shares = differing.astype(np.int64) * 256 // (units.size // rows)
    found: Units = np.searchsorted(1 << np.arange(CLASSES - 1), shares, side="right").astype(np.uint8)
    return found


def _with_classes(bits: Bits, side: int) -> Bits:
    """The same planes, where a base's context has one for each class of rows."""
    parts = []
    for part in bits.parts:
        context = part.context
        if isinstance(context, BaseContext):
            context = replace(context, rows=side, classes=CLASSES)
        parts.append(Part(part.width, part.side, context))
    return Bits(tuple(parts))


def _classes_gain(tensor: Input, matched: MatchedBase, bits: Bits) -> bool:
    """Whether tables for each class of rows are worth their bytes, on whole rows that differ from the base at all."""
    if not any(isinstance(context, BaseContext) for context in bits.contexts) or not _has_rows(tensor):
        return False
    rows = tensor.shape[0]
    length = unit_count(tensor) // rows
    count = min(rows, max(MIN_ROWS, SAMPLE_ROW_UNITS // length))
    picked = [int(row) * length for row in np.unique(np.linspace(0, rows - 1, count).astype(np.int64))]
    if length * len(picked) > CHUNK_BYTES:
        return False
    units = np.concatenate([tensor.read(at, length) for at in picked])
    base = np.concatenate([matched.units(tensor.dtype, at, length) for at in picked])
    differs = (units != base).reshape(len(picked), length).any(axis=1)
    if np.count_nonzero(differs) < MIN_ROWS:
        return False
    units, base = (every.reshape(-1, length)[differs].reshape(-1) for every in (units, base))
    classes = _classes(units, base, int(np.count_nonzero(differs)))
    if classes.min() == classes.max():
        return False
    place = Place(units.size, 0, (classes,), tensor.dtype, base)
    without = len(encode_chunk(units, Delta(bits, 0), place))
    return len(encode_chunk(units, Delta(_with_classes(bits, 0), 0), place)) + len(picked) // 2 < WORTH * without


def _sample(tensor: Input, matched: MatchedBase) -> tuple[Units, Units]:
    """Units of the tensor and of its base at the same places, in runs spread evenly; a multiple of 128 if it is cut."""
    units = unit_count(tensor)
    if units <= SAMPLE_RUNS * SAMPLE_RUN:
        return tensor.read(0, units), matched.units(tensor.dtype, 0, units)
    starts = [i * (units // SAMPLE_RUNS) for i in range(SAMPLE_RUNS)]
    return (
        np.concatenate([tensor.read(start, SAMPLE_RUN) for start in starts]),
        np.concatenate([matched.units(tensor.dtype, start, SAMPLE_RUN) for start in starts]),
    )


def _context(base: Units, dtype: DType) -> Context | None:
    """The base's exponents that occur, the rare ones at both ends taken together with their neighbours."""
    mantissa = MANTISSA.get(dtype.name)
    if mantissa is None:
        return None
    bits = dtype.unit_bits
    exponents = (base & base.dtype.type((1 << bits - 1) - 1)) >> base.dtype.type(mantissa)
    counts = np.bincount(exponents.astype(np.int64))
    common = np.flatnonzero(counts > RARE * base.size)
    first, last = int(common[0]), int(common[-1])
    first = max(first, last + 1 - MOST_TABLES)
    return BaseContext(mantissa + 1, first, max(2, last + 1 - first))


def _layouts(dtype: DType, context: Context | None) -> list[Bits]:
    """The planes to try, lowest first: what lies below 16 bits that vary most is raw, what lies above mostly 0."""
    if dtype.unit_bits == 8:
        return [Bits((Part(8, context=context),))]
    halves = dtype.unit_bits // 16
    low = Part(16, context=context)
    found = [Bits((low, *[Part(16)] * (halves - 1)))]
    if dtype.unit_bits > 16:
        found.append(Bits((Part(8), low, *[Part(16)] * (halves - 2), Part(8))))
        found.append(Bits((Part(8), Part(8), low, *[Part(16)] * (halves - 2))))
    return found


def _without_rows(plain: Bits) -> Bits:
    return Bits(tuple(Part(part.width) for part in plain.parts), plain.rotate)


def _equal_share(tensor: Input, matched: MatchedBase) -> float:
    """The share of rows that equal the base's, of a sample; 0 where rows are not worth a look."""
    shape = tensor.shape
    if not _has_rows(tensor):
        return 0.0
    picked = np.unique(np.linspace(0, shape[0] - 1, min(shape[0], SAMPLE_ROWS)).astype(np.int64))
    return float(np.mean([not equal_rows(tensor, int(r), int(r) + 1, matched=matched)[0] for r in picked]))


def _has_rows(tensor: Input) -> bool:
    """Whether rows are worth a look: long and many, and of whole units."""
    shape = tensor.shape
    if len(shape) < 2 or shape[0] < MIN_ROWS or unit_count(tensor) // shape[0] < MIN_ROW:
        return False
    return not (unit_count(tensor) % shape[0] or math.prod(shape[1:]) * tensor.dtype.bits % tensor.dtype.unit_bits)
