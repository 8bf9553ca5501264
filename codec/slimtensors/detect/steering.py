"""What steers the coder of a matrix of floats: scales of rows and columns, and a mean, where they pay in a trial."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from slimtensors.codecs import layouts
from slimtensors.codecs.chunk import chunk_length, chunk_lengths
from slimtensors.codecs.place import Counted, Place
from slimtensors.detect.classes import MANTISSA, Classes, fit_classes, with_classes
from slimtensors.detect.means import Means, fit_means, with_mean
from slimtensors.dtypes import DType
from slimtensors.expression import MAX_FACTOR_CLASSES, Bits, FactorContext, Part
from slimtensors.sources.inputs import ArrayInput, Input, unit_count

__all__ = ["Steering", "find_steering", "in_memory"]

SidePlane = npt.NDArray[np.uint8]

HELD = 32 << 20  # bytes of a tensor that is kept in memory as long as it is looked at: it is read ten times
TRIALS = 3  # chunks of a large tensor whose bytes are counted each way; one of a tensor of few chunks
CLASSES_WORTH = 0.001  # of the field's bytes, for what decodes with four tables and not one
MEAN_WORTH = 0.001  # of all bytes, for a product and signs that are coded


class Steering(NamedTuple):
    """Side planes and what they bought."""

    classes: Classes
    means: Means | None = None
    factors: Bits | None = None  # of the means' factors
    why: str = ""
    counted: Counted | None = None  # of the last plane's symbols, where the tensor is one chunk

    @property
    def sides(self) -> tuple[SidePlane, ...]:
        return (*self.classes, *(() if self.means is None else (self.means.factors,)))

    def side_bits(self, first_side: int) -> list[Bits]:
        """The planes of each side plane, the first of which is `first_side`."""
        found = [layouts.BYTES, layouts.BYTES]
        if self.factors is not None:
            [part] = self.factors.parts
            if isinstance(part.context, FactorContext):
                part = part._replace(context=replace(part.context, rows=first_side, columns=first_side + 1))
            found.append(Bits((part,)))
        return found

    def steer(self, bits: Bits, dtype: DType, first_side: int) -> Bits:
        """These planes given the side planes, the first of which is `first_side`."""
        if self.means is None:
            return with_classes(bits, dtype, first_side)
        return with_mean(bits, dtype, first_side, self.means)


def find_steering(tensor: Input, preset: str, chunk: int) -> Steering | None:
    """What makes some of the tensor's chunks (of `chunk` units) smaller, by more than it takes."""
    if tensor.dtype.name not in MANTISSA:
        return None
    classes = fit_classes(tensor)
    if classes is None:
        return None
    plain = layouts.floats(tensor.dtype, preset)
    given = Steering(classes)
    tried = plain, given.steer(plain, tensor.dtype, 0)
    ((before, _), (size, counted)), seen = _trial(tensor, chunk, tried, given.sides)
    size += _share(tensor, seen, given)
    best = before
    found = None
    field = before - sum(plain.widths[:-1]) * seen / 8
    if size <= best - CLASSES_WORTH * field:
        why = f"exponents given the scales of row and column: {_bits(before - size, seen)} saved in a sample"
        best, found = size, given._replace(why=why, counted=counted)
    means = fit_means(tensor, classes)
    if means is not None:
        factors, taken = _factor_bits(means)
        given = Steering(means.classes, means, factors)
        [(size, counted)], seen = _trial(tensor, chunk, [given.steer(plain, tensor.dtype, 0)], given.sides)
        size += _share(tensor, seen, given, taken)
        if size <= best - MEAN_WORTH * before:
            why = "" if found is None else f"{found.why}; "
            why += f"signs and exponents given a mean of rank {len(means.factors)}: {_bits(best - size, seen)} more"
            found = given._replace(why=why, counted=counted)
    return found


def in_memory(tensor: Input) -> Input:
    """The tensor in memory, if it is of floats that can be steered and not too large."""
    if tensor.dtype.name not in MANTISSA or tensor.dtype.bytes_of(tensor.shape) > HELD:
        return tensor
    return ArrayInput(tensor.name, tensor.read(0, unit_count(tensor)), tensor.dtype, tuple(tensor.shape))


def _bits(size: float, units: int) -> str:
    return f"{8 * size / units:.3f} bit per weight"


def _share(tensor: Input, seen: int, given: Steering, factors: float = 0.0) -> float:
    """What `seen` units take of the side planes, which serve all chunks; factors: what theirs takes."""
    sides = factors + sum(_side(side, layouts.BYTES, ()) for side in given.classes)
    return seen / unit_count(tensor) * sides


def _factor_bits(means: Means) -> tuple[Bits, float]:
    """(planes, about what they take). The first factors are larger, those of rows larger than those of columns, and
    those of rows that were hardly trained larger or smaller than others: tables for what pays.
    """
    low, high = int(means.classes.rows.min()), int(means.classes.rows.max())
    every = (1, min(high - low + 1, MAX_FACTOR_CLASSES))
    contexts = [FactorContext(0, 1, low, classes) for classes in every]
    planes = [layouts.BYTES, *(Bits((Part(8, None, context),)) for context in contexts)]
    sizes = [_side(means.factors, bits, means.classes) for bits in planes]
    size = min(sizes)
    return planes[sizes.index(size)], size


def _side(side: SidePlane, bits: Bits, earlier: tuple[SidePlane, ...]) -> float:
    """About what a side plane takes: of a long one, by a sample."""
    units = side.reshape(-1)
    some = units[: 1 << 20]
    return chunk_length(some, bits, Place(units.size, 0, earlier)) * units.size / some.size


def _trial(
    tensor: Input, chunk: int, tried: Sequence[Bits], sides: tuple[SidePlane, ...]
) -> tuple[list[tuple[float, Counted | None]], int]:
    """About what some chunks take with each of these planes, and what was counted of the only one; how many units they
    have.
    """
    units, sizes, seen = unit_count(tensor), [0.0 for _ in tried], 0
    chunks = -(-units // chunk)
    counted: list[Counted | None] = [None for _ in tried]
    for k in _looked_at(chunks):
        first = k * chunk
        sample = tensor.read(first, min(chunk, units - first))
        taken = chunk_lengths(sample, tried, Place(units, first, sides, tensor.dtype))
        sizes = [size + more for size, (more, _) in zip(sizes, taken, strict=True)]
        seen += sample.size
        if chunks == 1:
            counted = [kept for _, kept in taken]
    return list(zip(sizes, counted, strict=True)), seen


def _looked_at(chunks: int) -> list[int]:
    """The first and the last among them: vocabularies begin and end with tokens that were hardly trained."""
    return [k * (chunks - 1) // (TRIALS - 1) for k in range(TRIALS)] if chunks > TRIALS else [chunks // 2]
