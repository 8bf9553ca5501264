"""How coarse a grid must be for a file, or its quantised weights, to have the size asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from slimtensors.codecs import layouts
from slimtensors.codecs.chunk import encode_chunk
from slimtensors.codecs.place import Place
from slimtensors.dtypes import DTYPES
from slimtensors.errors import UsageError
from slimtensors.expression import Trellis
from slimtensors.inputs import Input, unit_count
from slimtensors.quantise.choosing import Quantise, chosen
from slimtensors.quantise.grid import Grid, chunk_of, quantised_part
from slimtensors.quantise.quantiser import floats_of

__all__ = ["CLOSE", "with_bits", "with_size"]

MOST_LOOKED_AT = 1 << 25  # weights that are encoded to learn what a step costs; of more, as many chunks of each tensor
CLOSE = 0.0005  # of the size asked for
ROUNDS = 12  # of steps tried
ATTEMPTS = 4  # of whole files

Measure = Callable[[Grid], int]


def with_bits(inputs: Sequence[Input], asked: Quantise, grid: Grid, bits: float) -> Grid:
    """The grid with the step that takes so many bits for each quantised weight."""
    tensors = chosen(inputs, asked)
    return _fit(tensors, grid, bits * sum(map(unit_count, tensors)) / 8)


def with_size(inputs: Sequence[Input], asked: Quantise, grid: Grid, size: int, measure: Measure) -> Grid:
    """The grid with which the whole file has at most `size` bytes, and hardly less. measure: writes a file to nowhere,
    and says how long it is. Raises UsageError if there is no such grid.
    """
    tensors = chosen(inputs, asked)
    weights = sum(map(unit_count, tensors))
    found = _fit(tensors, grid, 4 * weights / 8)
    aim = size * (1 - 2 * CLOSE)
    for _ in range(ATTEMPTS):
        made = measure(found)
        if abs(made - aim) <= 2 * CLOSE * size:
            return found
        rest = made - _bytes(tensors, found)  # what is not quantised, and what surrounds it all
        if aim <= rest + weights / 64:
            raise UsageError(
                f"a file of {size} bytes cannot be had: what is not quantised takes {rest:.0f} of them; quantise "
                "embeddings too (--embeddings, embeddings=True), or ask for more"
            )
        found = _fit(tensors, grid, aim - rest)
    made = measure(found)
    if abs(made - size) > 0.005 * size:
        raise UsageError(f"a file of {size} bytes cannot be had; the nearest has {made}")
    return found


def _fit(tensors: Sequence[Input], grid: Grid, wanted: float) -> Grid:
    """By the secant method on logarithms: halving a step costs about one bit of each weight."""
    weights = sum(map(unit_count, tensors))
    if not 0 < 8 * wanted / weights < 14:
        raise UsageError(f"{8 * wanted / weights:.2f} bits for each weight; from 0 to 14 can be asked for")
    # The entropy of a Gaussian on steps of s is log2(4.13 sigma / s).
    bits = 8 * wanted / weights
    deviations = sum(unit_count(each) * math.log2(_deviation(each)) for each in tensors) / weights
    low: tuple[float, float] | None = None
    high: tuple[float, float] | None = None  # logarithms of steps, and bits: too many, and too few
    log = deviations + 2.05 - bits
    found = grid
    for _ in range(ROUNDS):
        found = replace(grid, step=2.0**log, error=0.0)
        made = 8 * _bytes(tensors, found) / weights
        if abs(made - bits) <= CLOSE * bits:
            break
        if made > bits:
            low = log, made
        else:
            high = log, made
        if low is None or high is None:
            log += made - bits
        else:
            share = (low[1] - bits) / (low[1] - high[1])
            log = low[0] + min(max(share, 0.05), 0.95) * (high[0] - low[0])
    return found


def _deviation(tensor: Input) -> float:
    found = float(np.sqrt(np.square(floats_of(tensor), dtype=np.float64).mean()))
    return found if 0 < found < math.inf else 1.0


def _bytes(tensors: Sequence[Input], grid: Grid) -> float:
    """What quantised tensors take, by some of their chunks if there are many."""
    share = min(1.0, MOST_LOOKED_AT / sum(map(unit_count, tensors)))
    return sum(_bytes_of(tensor, grid, share) for tensor in tensors)


def _bytes_of(tensor: Input, grid: Grid, share: float) -> float:
    structure, units = grid.structure(tensor), unit_count(tensor)
    if structure is None:
        return tensor.dtype.bytes_of(tensor.shape)
    assert isinstance(structure.expression, Trellis)
    sides = grid.sides(tensor)
    size = sum(
        len(encode_chunk(each, layouts.floats(DTYPES["F32"], "balanced", table.tail)))
        for each, table in zip(sides, structure.tables, strict=True)
    )
    chunk = chunk_of(units)
    chunks = -(-units // chunk)
    some = max(1, round(share * chunks))
    made, seen = 0, 0
    for k in range(some):
        first = k * chunks // some * chunk
        part = quantised_part(structure.expression, tensor, first, min(chunk, units - first), sides)
        made += len(encode_chunk(part, structure.expression, Place(units, first, sides, tensor.dtype)))
        seen += part.size
    return size + made * units / seen
