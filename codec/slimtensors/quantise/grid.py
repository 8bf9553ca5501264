"""Our own: levels of one uniform grid, entropy-coded; a step in place of blocks, scales and their overhead.

At equal error an entropy-coded uniform grid takes half a bit to a bit less than codes of fixed width beside scales of
blocks, and a trellis of 8 states 0.16 bit less than that; a grid as fine everywhere is also the best way to share bits
out among weights, if their errors count alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slimtensors.codecs import lookup, trellis
from slimtensors.codecs.casts import cast_units
from slimtensors.codecs.grids import float_step
from slimtensors.codecs.head import GROUP
from slimtensors.codecs.place import Place
from slimtensors.detect.codes import Structure
from slimtensors.dtypes import DTYPES
from slimtensors.errors import UsageError
from slimtensors.expression import Bits, Part, Trellis
from slimtensors.kernels.cpu.blocks import LANES
from slimtensors.kernels.cpu.directions import add_squares
from slimtensors.kernels.status import must
from slimtensors.quantise.classed import class_tables, with_classes
from slimtensors.quantise.quantiser import Floats, Quantised, floats_of, side
from slimtensors.sources.inputs import ArrayInput, Input, unit_count

__all__ = ["Grid", "Seen", "Steps", "chunk_of", "least_step", "power_of", "quantised_part"]

CHUNK_UNITS = 1 << 20  # of a chunk; a table for each, and the first 32 levels of a trellis are even
MAX_CODE = 16  # bits
FARTHEST = 32000  # steps from 0 that codes of MAX_CODE bits surely reach, whatever rounds the step
SMALLEST_STEP = 2.0**-142  # which F32 holds well enough for that
SPREAD = 127  # codes to either side of 0 that symbols can stand for
EXACT = {"F32": 1 << 24, "F16": 1 << 11, "BF16": 1 << 8}  # levels to here have a number of their own
BLURRED = 0.02  # share of levels beyond with which there is no trellis
STRAYS = 1e-4  # share of codes that may lie beyond
NOISE = 5  # so many times below the root mean square, bits of codes are noise: 0.002 bit is lost of the last of them
SAMPLE = 18  # log2 of how many magnitudes are looked at, or up to twice as many
PIECE = 1 << 20  # weights at a time
ROUNDS = 6  # of the search for a step that gives an error
# Of squared errors, in squares of the distance of the levels that a code tells apart: 1/12, less what the trellis gains
CELL = {1: 1 / 12, 8: 0.0661}

Units = npt.NDArray[Any]


class Seen(NamedTuple):
    """What a grid must know of weights: the sum of squares and, of magnitudes over the numbers of row and column, the
    largest, the root of the mean of squares, and those which shares of BLURRED and of STRAYS exceed.
    """

    power: float
    peak: float
    mean: float
    common: float
    rare: float


class Steps(NamedTuple):
    """What a tensor's steps are times the common one: positive, finite; those of rows and columns are stored."""

    tensor: float
    rows: Floats
    columns: Floats


@dataclass(frozen=True)
class Grid:
    """Quantise to levels of a uniform grid.

    step: what a code tells apart, in the tensors' own unit, the same for all tensors that have codes then; where
    `error` is given each tensor has the step that gives it this error (NMSE) instead. states: of the trellis, 8, or 1
    for none. steps: by the tensors' names; where `error` is given only those of rows and columns count. classes:
    whether codes may be given the classes of their row and column, which decodes more slowly.
    """

    name: str
    states: int
    step: float = 0.0
    error: float = 0.0
    steps: Mapping[str, Steps] = field(default_factory=dict)
    classes: bool = False

    def structure(self, tensor: Input) -> Structure | None:
        """Raises UsageError for floats that are not finite."""
        return self.laid_over(tensor, self.look(tensor))

    def look(self, tensor: Input) -> Seen:
        """Piece by piece. Raises UsageError for floats that are not finite."""
        rows, columns = tensor.shape
        scales, stride = self.scales(tensor), max(1, rows * columns >> SAMPLE)
        power, peak, sample = 0.0, 0.0, []
        each = max(1, PIECE // columns)
        for low in range(0, rows, each):
            high = min(low + each, rows)
            weights = floats_of(tensor, low * columns, (high - low) * columns)
            if not np.isfinite(weights).all():
                raise UsageError(
                    f"tensor {tensor.name!r} cannot be quantised to {self.name}: it has numbers that are not finite; "
                    "keep it as it is with --keep (keep=)"
                )
            power += power_of(weights)
            weights = _over(weights, scales, low, high)
            peak = max(peak, float(weights.max()), -float(weights.min()))
            sample.append(np.abs(weights[-low * columns % stride :: stride]))
        some = np.concatenate(sample)
        mean = float(np.sqrt(np.square(some, dtype=np.float64).mean()))
        return Seen(power, peak, mean, *_exceeded(some, (BLURRED, STRAYS)))

    def step_of(self, name: str) -> float:
        """What the common step makes of a tensor's."""
        known = self.steps.get(name)
        return self.step * (1 if known is None else known.tensor)

    def laid_over(self, tensor: Input, seen: Seen) -> Structure | None:
        """What `structure` gives, of a tensor that was looked at.

        Where the common step is too small for the tensor's largest number, the tensor has the least that holds it: left
        exact it would take more than the others together gain by larger steps.
        """
        if not seen.power:
            return None
        scales = self.scales(tensor)
        with np.errstate(all="ignore"):
            cell = max(self.step_of(tensor.name), least_step(seen)) if self.step else 0.0
            cell = cell or _step_for(self, tensor, seen, scales)
            # A step of 0 makes none.
            expression = _expression(self.states, cell, seen, tensor.dtype.name, scaled=scales is not None)
        if expression is None:
            return None
        chunk = chunk_of(unit_count(tensor))
        tables = () if scales is None else tuple(side(k, "F32", each.shape, tail=21) for k, each in enumerate(scales))
        why = f"quantised to {self.name}: steps of {float_step(expression):.4g}"
        if self.classes:
            plain = _over(floats_of(tensor), scales, 0, tensor.shape[0])
            numbers = ArrayInput(tensor.name, plain.reshape(tensor.shape))
            made = partial(quantised_part, expression, tensor, sides=self.sides(tensor))
            found = with_classes(expression, tensor, numbers, chunk, made, self.sides(tensor))
            if found is not None:
                expression, tables = found[0], (*tables, *class_tables(found[1]))
                why += ", codes given the classes of row and column"
        return Structure(expression, tables, why, chunk)

    def quantise(self, tensor: Input, structure: Structure) -> Quantised:
        assert isinstance(structure.expression, Trellis)
        sides = self.sides(tensor)
        return Quantised(sides, _quantised(structure.expression, tensor, sides))

    def sides(self, tensor: Input) -> tuple[Units, ...]:
        """Side planes: numbers of rows and of columns, or none."""
        scales = self.scales(tensor)
        return () if scales is None else tuple(each.view("<u4") for each in scales)

    def scales(self, tensor: Input) -> tuple[Floats, Floats] | None:
        """Of rows and of columns, if not all are alike."""
        known = self.steps.get(tensor.name)
        if known is None or all((each == each[0]).all() for each in (known.rows, known.columns)):
            return None
        return known.rows, known.columns


def least_step(seen: Seen) -> float:
    """With which all weights have codes."""
    return max(seen.peak / FARTHEST, SMALLEST_STEP)


def chunk_of(units: int) -> int:
    """Units of a chunk."""
    chunks = -(-units // CHUNK_UNITS)
    return -(-units // chunks // GROUP) * GROUP if chunks > 1 else units


def _over(weights: Floats, scales: tuple[Floats, Floats] | None, low: int, high: int) -> Floats:
    """Rows [low, high) over the numbers of rows and columns."""
    if scales is None:
        return weights
    with np.errstate(all="ignore"):
        return weights / np.outer(scales[0][low:high], scales[1]).reshape(-1)


def _exceeded(sample: Floats, shares: tuple[float, ...]) -> list[float]:
    """A number for each share, which is above any t if, and only if, more than that share of the sample is."""
    order = [sample.size - 1 - int(share * sample.size) for share in shares]
    return [float(number) for number in np.partition(sample, order)[order]]


def _expression(states: int, cell: float, seen: Seen, dtype: str, *, scaled: bool) -> Trellis | None:
    """A grid on which all weights have codes; None if it would take codes of more than 16 bits."""
    if states > 1 and seen.common > EXACT[dtype] * cell / 2:
        states = 1  # no trellis can be read from numbers that the dtype holds more coarsely than the grid
    twice = 2 if states > 1 else 1
    step = np.float32(cell / twice)
    if not (np.isfinite(step) and step > 0):
        return None
    reach = seen.peak / float(step) / twice + 2
    if not reach < 1 << MAX_CODE - 1:
        return None
    width = int(reach).bit_length() + 1
    low = 0
    if width > 8:  # fewer symbols need a shorter table, which the precision rounds less
        usual = min(seen.mean, seen.common or seen.mean)  # of which few numbers far out make nothing else
        low = max(0, math.frexp(usual / cell / NOISE)[1] - 1)
    while width - low > 8 and seen.rare > (SPREAD << low) * cell:
        low += 1
    parts = (Part(low), Part(width - low)) if low else (Part(width),)
    scales = (0, 1) if scaled else ()
    return Trellis(states, int(step.view(np.uint32)), 1 << width - 1, Bits(parts), *scales)


def _quantised(expression: Trellis, tensor: Input, sides: tuple[Units, ...]) -> Units:
    """Chunk by chunk, since lanes begin anew."""
    units = unit_count(tensor)
    chunk = chunk_of(units)
    parts = [quantised_part(expression, tensor, at, min(chunk, units - at), sides) for at in range(0, units, chunk)]
    return np.concatenate(parts)


def quantised_part(expression: Trellis, tensor: Input, first: int, count: int, sides: tuple[Units, ...]) -> Units:
    """The units of a chunk; those of no whole group stay as they are."""
    source = tensor.read(first, count)
    out: Units = source.copy()
    body = count - count % GROUP
    place = Place(unit_count(tensor), first, sides, tensor.dtype)
    floats = cast_units(source[:body], tensor.dtype, DTYPES["F32"]).view("<f4")
    codes = trellis.codes_near(expression, floats, place).astype(lookup.code_dtype(expression.bits))
    trellis.decode(expression, codes, out[:body], place)
    return out


def power_of(numbers: Floats) -> float:
    """The sum of squares; those of 32 lanes first."""
    whole, sums = numbers.size - numbers.size % LANES, np.zeros(LANES)
    must(add_squares(numbers[:whole], sums))
    rest = np.square(numbers[whole:], dtype=np.float64)
    return float(np.cumsum(np.concatenate([sums, rest]))[-1])


def _step_for(grid: Grid, tensor: Input, seen: Seen, scales: tuple[Floats, Floats] | None) -> float:
    """The largest step found whose error is not above what was asked for; 0 if codes reach none that is so small."""
    weights = floats_of(tensor)
    power = power_of(weights)
    # of a step of 1
    each = weights.size if scales is None else np.square(scales[0]).sum() * np.square(scales[1]).sum()
    cell = math.sqrt(grid.error * power / (CELL[grid.states] * float(each)))
    sides = () if scales is None else tuple(scale.view("<u4") for scale in scales)
    good, share, k = 0.0, 0.99, 0
    while True:
        expression = _expression(grid.states, cell, seen, tensor.dtype.name, scaled=scales is not None)
        if expression is None:
            return good
        made = _quantised(expression, tensor, sides)
        wide = made if tensor.dtype.name == "F32" else cast_units(made, tensor.dtype, DTYPES["F32"])
        error = power_of(wide.view("<f4") - weights) / power
        if error <= grid.error:
            good = max(good, cell)
            if error > 0.998 * grid.error:
                return good
        k += 1
        if k < ROUNDS:
            # a little less than what would give the error itself
            cell *= math.sqrt(0.9995 * grid.error / error) if error else 2
        elif good:
            return good
        else:  # rounding to the tensor's dtype makes errors jump
            cell, share = cell * share, max(share**2, 0.5)
