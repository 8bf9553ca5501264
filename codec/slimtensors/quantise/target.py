"""How coarse a grid must be for a file, or its quantised weights, to have the size asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from slimtensors.codecs import layouts
from slimtensors.codecs.chunk import encode_chunk
from slimtensors.codecs.environment import as_usual
from slimtensors.codecs.place import Place
from slimtensors.container.layout import ALIGNMENT
from slimtensors.dtypes import DTYPES
from slimtensors.errors import UsageError
from slimtensors.expression import Trellis
from slimtensors.planning.differing import MatchedBase
from slimtensors.quantise.asking import NoneFitsError, Target
from slimtensors.quantise.choosing import Quantise, chosen
from slimtensors.quantise.difference import Difference
from slimtensors.quantise.grid import Grid, Seen, chunk_of, least_step, quantised_part
from slimtensors.quantise.low_rank import LQER, Rest
from slimtensors.quantise.quantiser import Quantiser
from slimtensors.quantise.recipes import grid_of, quantisers_of, with_grid
from slimtensors.sources.inputs import Input, unit_count

__all__ = ["aimed"]

MOST_LOOKED_AT = 1 << 25  # weights that are encoded to learn what a step costs; of more, as many chunks of each tensor
CLOSE = 0.0005  # of the size asked for
MISSED = 0.01  # of the bits asked for, from where on they are not met
COARSER, SPOILT = 4, 1 / 16  # a step spoils a tensor if it is so many times what was asked for, and of common weights
ROUNDS = 12  # of steps tried
ATTEMPTS, PATIENCE = 6, 3  # of whole files, and those of which one must be within 4 * CLOSE below
NEAR, FAR = 0.005, 0.05  # of the size: what is tried for then, and what is not taken even if nothing else is found
LEAST_BITS, MOST_BITS = 0.1, 12.0
COARSE_BITS, COARSE_ERROR = 1.5, 0.2  # from where on a trellis is worse than none: half its subsets have no level 0

Measure = Callable[[Quantise], int]


@as_usual
def aimed(
    inputs: Sequence[Input],
    asked: Quantise,
    target: Target,
    length_with: Measure,
    bases: Sequence[MatchedBase | None] = (),
    look: Callable[[int], object] | None = None,
) -> Quantise:
    """What must be asked for to get the target. length_with: of files that are written to nowhere. look: called with
    numbers of bytes that were encoded to see what they take.

    Raises UsageError if it cannot be had, or the quantiser has no grid.
    """
    own = (quantisers_of(asked.recipe) if isinstance(asked.recipe, str) else [asked.recipe])[0]
    grid = grid_of(own)
    if grid is None:
        raise UsageError(f"{own.name} has a size of its own; a target is for slim, slim-fast and lqer")
    if target.error is not None:
        states = 1 if target.error > COARSE_ERROR else grid.states
        made = with_grid(own, replace(grid, error=target.error, step=0.0, states=states))
        return replace(asked, recipe=made, aimed=True)
    of = {tensor.name: base for tensor, base in zip(inputs, bases, strict=False) if base is not None}
    seen: list[Input] = [
        Difference(each, of[each.name]) if each.name in of else each for each in chosen(inputs, asked)
    ]
    if isinstance(own, LQER):
        own = replace(own, products={each.name: own.known(each, own.grid.look(each)) for each in seen})
    weights = _weights_of(seen, own, grid, look or _unheard)
    if not weights.total:
        raise NoneFitsError("all numbers that could be quantised are zero: leave out the target, and they take nothing")
    if target.bits is not None:
        found, bits = _fit(weights, grid, target.bits * weights.total / 8)
        _check_outliers(weights, found)
        if abs(bits - target.bits) > MISSED * target.bits:
            these = "these, or for " if LEAST_BITS <= bits <= MOST_BITS else ""
            raise UsageError(
                f"{target.bits} bits for each weight cannot be had with one step for all; "
                f"the nearest found are {bits:.2f}: ask for {these}an error (--target-error, target_error=)"
            )
        return replace(asked, recipe=with_grid(own, found), aimed=True)
    assert target.size is not None
    return _with_length(weights, replace(asked, recipe=own), grid, target.size, length_with)


class _Weights(NamedTuple):
    """What is to be quantised. deviation: log2, the mean over weights. beside: bytes that no step changes. look: as for
    `aimed`.
    """

    tensors: list[tuple[Input, Seen]]
    total: int
    deviation: float
    beside: int
    look: Callable[[int], object]


def _unheard(_count: int) -> None:
    """For nobody who looks on."""


def _weights_of(
    tensors: Sequence[Input], own: Quantiser, grid: Grid, look: Callable[[int], object]
) -> _Weights:
    """Without tensors of zeros, which take nothing. Raises UsageError for floats that are not finite."""
    known = own.products if isinstance(own, LQER) else {}
    products = {name: product for name, product in known.items() if product is not None}
    left = [Rest(each, products[each.name]) if each.name in products else each for each in tensors]
    seen = [(tensor, grid.look(tensor)) for tensor in left]
    found = [each for each in seen if each[1].power]
    total = sum(unit_count(tensor) for tensor, _ in found)
    logs = sum(unit_count(tensor) * math.log2(each.power / unit_count(tensor)) / 2 for tensor, each in found)
    beside = sum(product.size() for product in products.values())
    return _Weights(found, total, logs / max(total, 1), beside, look)


def _with_length(weights: _Weights, asked: Quantise, grid: Grid, size: int, length_with: Measure) -> Quantise:
    """Files are written to nowhere until one has at most `size` bytes, and hardly less."""
    own = asked.recipe
    assert not isinstance(own, str)
    grid, _ = _fit(weights, grid, 4 * weights.total / 8)
    aim = size * (1 - 2 * CLOSE)
    lengths: dict[int, Grid] = {}
    for k in range(ATTEMPTS):
        made = length_with(replace(asked, recipe=with_grid(own, grid), aimed=True))
        lengths[made] = grid
        best = max((each for each in lengths if each <= size), default=0)
        if size - best <= (4 * CLOSE if k < PATIENCE else NEAR) * size:
            break
        rest = made - _bytes(weights, grid)  # what is not quantised, and what surrounds it all
        if k and made > size:
            aim -= max(made - size, ALIGNMENT)  # lengths go by so much, and what is sampled may be off
        wanted = aim - rest
        least, most = (rest + bits * weights.total / 8 for bits in (LEAST_BITS, MOST_BITS))
        if not least <= aim <= most:
            if size - best <= FAR * size:
                break
            if aim > most:
                raise UsageError(
                    f"a file of {size} bytes cannot be had: with {MOST_BITS} bits for each weight, the most that there "
                    f"are, it has {most:.0f}; ask for less, or leave out the target, and all is stored exactly"
                )
            raise UsageError(
                f"a file of {size} bytes cannot be had: what is not quantised takes {rest:.0f}, and with "
                f"{weights.total} weights of {LEAST_BITS} to {MOST_BITS} bits there are {least:.0f} to {most:.0f}; "
                "ask for more" + ("" if asked.embeddings else ", or quantise embeddings too")
            )
        grid, _ = _fit(weights, grid, wanted)
    _check_outliers(weights, lengths[best] if best else grid)
    if size - best > FAR * size:
        raise UsageError(
            f"no file of {size} bytes was found, or a little less; the nearest have "
            + " and ".join(str(each) for each in sorted(lengths, key=lambda each: abs(each - size))[:2])
        )
    return replace(asked, recipe=with_grid(own, lengths[best]), aimed=True)


def _fit(weights: _Weights, grid: Grid, wanted: float) -> tuple[Grid, float]:
    """The nearest found to `wanted` bytes, and its bits for each weight; what a step costs falls with it.

    By the secant method on logarithms: halving a step costs about one bit of each weight.
    """
    # The entropy of a Gaussian on steps of s is log2(4.13 sigma / s).
    bits = 8 * wanted / weights.total
    if bits < COARSE_BITS:
        grid = replace(grid, states=1)
    low: tuple[float, float] | None = None
    high: tuple[float, float] | None = None  # logarithms of steps, and bits: too many, and too few
    log = weights.deviation + 2.05 - bits
    nearest = grid, math.inf
    for k in range(ROUNDS):
        found = replace(grid, step=2.0**log, error=0.0)
        made = 8 * _bytes(weights, found) / weights.total
        if abs(made - bits) < abs(nearest[1] - bits):
            nearest = found, made
        if abs(made - bits) <= CLOSE * bits:
            break
        if made > bits:
            low = log, made
        else:
            high = log, made
        if low is None or high is None:
            log += (made - bits) * max(1, k - 1)  # further if little follows: some tensors have their least step
        else:
            share = (low[1] - bits) / (low[1] - high[1])
            log = low[0] + min(max(share, 0.05), 0.95) * (high[0] - low[0])
    return nearest


def _check_outliers(weights: _Weights, grid: Grid) -> None:
    """Raises UsageError for a tensor whose largest number asks for steps that leave little of the others."""
    for tensor, seen in weights.tensors:
        asked, least = grid.step_of(tensor.name), least_step(seen)
        if least > COARSER * asked and 0 < SPOILT * seen.common < least:
            raise UsageError(
                f"tensor {tensor.name!r} has a number so far out that codes of 16 bits hold it with steps of "
                f"{least:.3g} or more, and what was asked for takes {asked:.3g}, as most of its numbers are below "
                f"{seen.common:.3g}; keep it as it is with --keep (keep=)"
            )


def _bytes(weights: _Weights, grid: Grid) -> float:
    """What quantised tensors take, by some of their chunks if there are many."""
    share = min(1.0, MOST_LOOKED_AT / weights.total)
    return weights.beside + sum(_bytes_of(tensor, seen, grid, share, weights.look) for tensor, seen in weights.tensors)


def _bytes_of(tensor: Input, seen: Seen, grid: Grid, share: float, look: Callable[[int], object]) -> float:
    structure, units = grid.laid_over(tensor, seen), unit_count(tensor)
    if structure is None:
        return tensor.dtype.bytes_of(tensor.shape)
    assert isinstance(structure.expression, Trellis)
    sides = grid.sides(tensor)
    size = sum(
        len(encode_chunk(each, layouts.floats(DTYPES["F32"], "balanced", table.tail)))
        for each, table in zip(sides, structure.tables, strict=False)
    )
    classes = tuple(table.make(tensor, 0, math.prod(table.shape)) for table in structure.tables[len(sides) :])
    size += sum(len(encode_chunk(each, layouts.BYTES, try_zstd=True)) for each in classes)
    sides += classes
    chunk = chunk_of(units)
    chunks = -(-units // chunk)
    some = max(1, round(share * chunks))
    made, looked_at = 0, 0
    for k in range(some):
        first = k * chunks // some * chunk
        part = quantised_part(structure.expression, tensor, first, min(chunk, units - first), sides)
        made += len(encode_chunk(part, structure.expression, Place(units, first, sides, tensor.dtype)))
        looked_at += part.size
        look(part.nbytes)
    return size + made * units / looked_at
