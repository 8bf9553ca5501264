"""A uniform grid beside a product of two small matrices: lqer.

Source: C. Zhang and others, LQER: Low-Rank Quantization Error Reconstruction for LLMs (2024), which quantises weights
and then takes a product of low rank from its error. Here the product is taken from the weights, and the grid has what
it leaves, the product's own rounding too: the same sum, but an entropy-coded grid leaves an error that no product tells
anything of, and weights that are smaller take fewer bits. With importance rows and columns count as much as their steps
are fine, as L2QER has it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slimtensors.codecs import delta
from slimtensors.codecs.chunk import encode_chunk
from slimtensors.codecs.place import NOWHERE, Place
from slimtensors.codecs.sums import added
from slimtensors.container.lossy import Lossy
from slimtensors.detect.codes import Structure, Table
from slimtensors.detect.subspace import (
    DEAD,
    ERROR,
    form_of,
    picked_rows,
    runs_of,
    squares,
    subspace,
    times,
    worthy_rank,
)
from slimtensors.dtypes import DTYPES, DType
from slimtensors.expression import MAX_PRODUCT_SHIFT, Bits, LowRank, Part, Sum, Trellis
from slimtensors.kernels.cpu import directions, fit
from slimtensors.kernels.status import must
from slimtensors.quantise.grid import CELL, Grid, Seen, quantised_part
from slimtensors.quantise.quantiser import Floats, Quantised, floats_of
from slimtensors.sources.inputs import ArrayInput, Input, unit_count

__all__ = ["LQER", "Product", "Rest", "find_product"]

F32, I16 = DTYPES["F32"], DTYPES["I16"]
FACTORS = Bits((Part(8), Part(8)))  # the upper half has their signs once more

SMALLEST = 64  # rows and columns
SAMPLED, ROUNDS = 4096, 4  # rows from which directions are taken, and rounds of the subspace's iteration
FAR = 6.0  # of a weight, in about the root mean square: what lies beyond counts as that
FARTHEST = 2047  # factor
PIECE = 1 << 18  # units
TRIED = 1 << 20  # units that are coded to see whether a product pays
TINY = 2.0**-126  # weights, whose reciprocals may be no F32; a product's steps are larger than they
HEADER = 256  # bytes that two side planes take in headers and tables, about
TINY = 2.0**-100  # root mean square; products are of whole numbers over 2^shift, and none is so small
SIGN = 1.0  # bits that a factor's sign takes more than it tells
WORTH, WORTH_CLASSED = 0.997, 0.985  # of the bytes without it: decoding takes a product, and such codes have no classes
ROUNDING = {"F32": 0.0, "F16": 2.0**-22, "BF16": 2.0**-18}  # of sums, the largest squared error

Units = npt.NDArray[Any]
Numbers = npt.NDArray[np.float64]
Scales = tuple[Floats, Floats] | None


class Product(NamedTuple):
    """Units of I16: [rows, rank] and [rank, columns]; over 2^shift."""

    left: Units
    right: Units
    shift: int

    @property
    def rank(self) -> int:
        return int(self.right.shape[0])

    def numbers(self, first: int, count: int) -> Units:
        """Units of F32 [first, first + count) of it. Valid until this thread asks for others."""
        place = Place(self.left.shape[0] * self.right.shape[1], first, (self.left, self.right), F32)
        return delta.moved_units(np.zeros(count, F32.unit), LowRank(0, 1, self.shift), place)

    def size(self) -> int:
        """Bytes of its side planes, about."""
        return HEADER + sum(len(encode_chunk(each.reshape(-1), FACTORS, NOWHERE)) for each in (self.left, self.right))


class Rest:
    """What a product leaves of a tensor, F32(tensor) - F32(product), rounded to F32, as an input."""

    dtype: DType = F32
    encoding: str | None = None
    lossy: Lossy | None = None
    place = None

    def __init__(self, tensor: Input, product: Product) -> None:
        self.name: str = tensor.name
        self.shape: tuple[int, ...] = tuple(tensor.shape)
        self._tensor, self._product = tensor, product

    def read(self, start: int, count: int) -> Units:
        with np.errstate(all="ignore"):  # what is not finite is found by its error
            left: Floats = floats_of(self._tensor, start, count) - self._product.numbers(start, count).view("<f4")
        return left.view(F32.unit)


@dataclass(frozen=True)
class LQER:
    """Levels of a grid, plus a product of low rank for each tensor of which that makes less.

    grid: as for `slim`. products: those that are known, by the tensors' names; None: for this tensor none pays.
    """

    grid: Grid
    products: Mapping[str, Product | None] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.grid.name

    def known(self, tensor: Input, seen: Seen) -> Product | None:
        """The product that pays, of a tensor that was looked at."""
        return self.products[tensor.name] if tensor.name in self.products else find_product(tensor, seen, self.grid)

    def structure(self, tensor: Input) -> Structure | None:
        """Raises UsageError for floats that are not finite."""
        seen = self.grid.look(tensor)
        product = self.known(tensor, seen)
        found = None if product is None else self._summed(tensor, seen, product)
        return found or self.grid.laid_over(tensor, seen)

    def _summed(self, tensor: Input, seen: Seen, product: Product) -> Structure | None:
        rest = Rest(tensor, product)
        left = self.grid.look(rest)
        # The error asked for is the tensor's. What its dtype rounds comes on top.
        error = (self.grid.error - ROUNDING[tensor.dtype.name]) * seen.power / max(left.power, 1e-300)
        if self.grid.error and not 0 < error < 1:
            return None
        found = replace(self.grid, error=error if self.grid.error else 0.0, classes=False).laid_over(rest, left)
        if found is None:
            return None
        assert isinstance(found.expression, Trellis)
        at = len(found.tables)
        return found._replace(
            expression=Sum(found.expression, LowRank(at, at + 1, product.shift)),
            tables=(*found.tables, *(_table(each) for each in (product.left, product.right))),
            why=f"{found.why}, of what a product of rank {product.rank} leaves",
        )

    def quantise(self, tensor: Input, structure: Structure) -> Quantised:
        expression = structure.expression
        if not isinstance(expression, Sum):
            return self.grid.quantise(tensor, structure)
        assert isinstance(expression.plus, LowRank)
        tables = structure.tables[-2:]
        left, right = (table.make(tensor, 0, math.prod(table.shape)).reshape(table.shape) for table in tables)
        product = Product(left, right, expression.plus.shift)
        found = structure._replace(expression=expression.values)
        made = self.grid.quantise(Rest(tensor, product), found)
        units = added(product.numbers(0, unit_count(tensor)), made.units, tensor.dtype)
        return Quantised(made.sides, units, made.units)


def _table(factors: Units) -> Table:
    return Table(I16, factors.shape, partial(_part, factors.reshape(-1)), bits=FACTORS)


def _part(units: Units, _tensor: Input, low: int, high: int) -> Units:
    return units[low:high]


def find_product(tensor: Input, seen: Seen, grid: Grid) -> Product | None:
    """A product with which the tensor takes less on the grid than without; None if a trial finds none.

    seen: by the grid. What is tried is the step that the grid's error asks for, its trellis left out; where a product
    pays it does so on about any step.
    """
    if seen.mean < TINY or min(tensor.shape) < SMALLEST:
        return None
    scales, unit = grid.scales(tensor), 2.0 ** math.frexp(seen.mean)[1]
    if unit * (1.0 if scales is None else float(scales[0].min())) < TINY:
        return None
    matrix = _Matrix(tensor, scales, unit)
    product = _product(matrix)
    if product is None:
        return None
    picked = picked_rows(matrix.rows, max(SMALLEST, TRIED // matrix.columns))
    rest = Rest(tensor, product)
    # Over the numbers of row and column the step is one for all.
    step = math.sqrt(max(grid.error, 1e-9) / CELL[1]) * seen.mean
    before, after = (_coded(matrix.plain(each, picked), step) for each in (tensor, rest))
    beside = product.size() * picked.size / matrix.rows
    return product if after + beside < (WORTH_CLASSED if grid.classes else WORTH) * before else None


def _coded(numbers: Floats, step: float) -> int:
    """Bytes of numbers on a grid without a trellis."""
    tensor = ArrayInput("", numbers)
    found = Grid("", 1, step=step).structure(tensor)
    if found is None or not isinstance(found.expression, Trellis):
        return numbers.nbytes
    units = unit_count(tensor)
    made = quantised_part(found.expression, tensor, 0, units, ())
    return len(encode_chunk(made, found.expression, Place(units, 0, (), F32)))


class _Matrix:
    """A tensor over the numbers of its rows and columns, and over a unit of about its root mean square."""

    def __init__(self, tensor: Input, scales: Scales, unit: float) -> None:
        self.tensor, self.unit = tensor, unit
        self.rows, self.columns = tensor.shape
        ones = np.ones(self.rows, np.float32), np.ones(self.columns, np.float32)
        self.of_rows, self.of_columns = ones if scales is None else scales
        self._form = form_of(tensor.dtype)

    def part(self, low: int, high: int) -> Floats:
        """Rows [low, high); what lies far out counts as FAR."""
        units = self.tensor.read(low * self.columns, (high - low) * self.columns)
        out = np.empty((high - low, self.columns), np.float32)
        rows, columns = 1 / (self.of_rows[low:high] * np.float32(self.unit)), (1 / self.of_columns).view(np.uint32)
        far, bits = int(np.float32(FAR).view(np.uint32)), out.reshape(-1).view(np.uint32)
        must(directions.over_scales(units, *self._form, rows, columns, far, bits))
        return out

    def plain(self, tensor: Input, picked: npt.NDArray[np.int64]) -> Floats:
        """Some rows of this one, or of what is left of it, over the numbers of rows and columns alone."""
        rows = np.concatenate([floats_of(tensor, low * self.columns, n * self.columns) for low, n in runs_of(picked)])
        with np.errstate(all="ignore"):
            steps: Floats = np.multiply.outer(self.of_rows[picked], self.of_columns)
            found: Floats = np.divide(rows.reshape(-1, self.columns), steps)
        return found


def _product(matrix: _Matrix) -> Product | None:
    """That of the directions which are worth their factors, in whole numbers."""
    picked = picked_rows(matrix.rows, SAMPLED)
    sample = np.concatenate([matrix.part(low, low + count) for low, count in runs_of(picked)])
    right = subspace(sample, None, ROUNDS)
    energies = squares(times(sample, right)) / picked.size
    whole = float(np.cumsum(squares(sample))[-1]) / picked.size
    order = np.argsort(-energies, kind="stable")
    rank = worthy_rank(energies[order].tolist(), whole, matrix.rows, matrix.columns, SIGN)
    if not rank:
        return None
    along, energies = right[:, order[:rank]].astype(np.float64), energies[order[:rank]]
    # As for means: a step of `left` moves a row by step^2 / 12, one of `right` by step^2 / 12 * energy * rows in all.
    rest = max(whole - float(np.cumsum(energies)[-1]), whole * 1e-3) / matrix.columns
    left_step = math.sqrt(12 * ERROR * rest)
    right_steps = np.sqrt(12 * ERROR * rest / (matrix.rows * energies))
    # Their product is 2^-shift for all, by the middle of what is asked for.
    wanted = left_step * matrix.unit * math.sqrt(float(right_steps.min() * right_steps.max()))
    shift = min(max(-math.frexp(wanted * math.sqrt(0.5))[1], 0), MAX_PRODUCT_SHIFT)
    stretched = np.sqrt(2.0**-shift / (left_step * matrix.unit * right_steps))
    whole_right = _whole(along * matrix.of_columns[:, None] / (right_steps * stretched), 0.5)
    kept = whole_right.any(0)
    whole_right, right_steps, stretched = whole_right[:, kept], right_steps[kept], stretched[kept]
    if not kept.any():
        return None
    rounded = whole_right * (right_steps * stretched) / matrix.of_columns[:, None]
    solver = (_fitted(rounded) / (left_step * stretched)).astype(np.float32)
    left, step = np.empty((matrix.rows, solver.shape[1]), "<i2"), max(1, PIECE // matrix.columns)
    for low in range(0, matrix.rows, step):
        high = min(low + step, matrix.rows)
        found = times(matrix.part(low, high), solver) * matrix.of_rows[low:high, None]
        left[low:high] = _whole(found, DEAD)
    return Product(left.view(I16.unit), np.ascontiguousarray(whole_right.T).astype("<i2").view(I16.unit), shift)


def _whole(numbers: Any, up: float) -> Any:
    """Magnitudes rounded up from 1 - `up` on."""
    return np.clip(np.sign(numbers) * np.floor(np.abs(numbers) + up), -FARTHEST, FARTHEST)


def _fitted(right: Numbers) -> Numbers:
    """[columns, rank]: a row times it is the left side that is best with this right side."""
    columns, rank = right.shape
    flat, flipped = (np.ascontiguousarray(each).reshape(-1) for each in (right, right.T))
    products, inverse, out = np.zeros(rank * rank), np.eye(rank).reshape(-1), np.zeros(columns * rank)
    must(fit.add_product(flipped, flat, rank, products))
    must(fit.solve(np.tile(products, rank), inverse, rank))
    must(fit.add_product(flat, inverse, rank, out))
    return out.reshape(columns, rank)
