"""What the kernels are told that find out, unit by unit, which table a field has: side planes and items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slimtensors.device.chunks import Chunk
from slimtensors.device.items import pieces
from slimtensors.expression import BaseContext, Bits, ClassContext, FieldClass, Mean, SignContext
from slimtensors.kernels.cpu.mean import ZERO
from slimtensors.kernels.cuda import rows

__all__ = ["Places", "Selecting", "selecting"]

Array = npt.NDArray[Any]

MOST_CLASS = 255


class Places(NamedTuple):
    """Of each chunk: the units that have fields, where their contexts are, their bases, and their planes."""

    counts: list[int]
    contexts: list[int]
    bases: list[int]
    planes: list[int]


class Selecting(NamedTuple):
    """Side planes and factors that kernels look at, each once, and items; one array for each part of `bits`."""

    sides: Array
    means: Array  # uint16: factors, of columns times their power of two, and then the steps
    items: list[Array]
    flips: Array  # items for the signs of `flipped`


def selecting(chunks: Sequence[Chunk], places: Places, listed: list[int], flipped: list[int], bits: Bits) -> Selecting:
    """For the chunks listed; those of `flipped` have signs that are coded as whether they are a mean's."""
    sides, side_at = _sides(chunks, bits)
    means, mean_at = _means([chunks[i] for i in listed], bits)
    items = []
    for part in bits.parts:
        made: list[tuple[int, ...]] = []
        for i in [] if part.context is None else listed:
            chunk, context = chunks[i], part.context
            count, to, base, plane = (each[i] for each in places)
            if isinstance(context, SignContext):
                octave = _classes(bits).octave.bit_length() - 1
                numbers = bits.width - bits.parts[-1].width, octave, context.first, context.tables
                made += [(*words, 0, 0, 0, *numbers, *_zeros(12)) for _, words in pieces(count, to, plane)]
                continue
            if isinstance(context, ClassContext):
                columns = chunk.sides[context.columns]
                length, at = columns.size, (side_at[id(chunk.sides[context.rows])], side_at[id(columns)])
                plain = (*at, *_zeros(10)[1:], MOST_CLASS)
                rest = plain if context.mean is None else (*at, *mean_at[id(chunk.sides)], *_zeros(15))
            elif isinstance(context, FieldClass):
                columns = chunk.sides[context.columns]
                length, at = columns.size, (side_at[id(chunk.sides[context.rows])], side_at[id(columns)])
                rest = (*at, *_zeros(10)[1:], context.tables - 1)
            else:
                assert isinstance(context, BaseContext)  # planes_of takes no other
                length, at = max(chunk.units, 1), (rows.NOWHERE, rows.NOWHERE)
                if context.rows is not None:
                    classes = chunk.sides[context.rows]
                    length, at = chunk.units // classes.size, (side_at[id(classes)], rows.NOWHERE)
                rest = (*at, context.first, context.tables, context.shift, *_zeros(13)[1:], MOST_CLASS)
            for done, words in pieces(count, to, base):
                made.append((*words, *divmod(chunk.first + done, length), length, *rest))
        items.append(np.array(made, np.uint32).reshape(-1))
    flips = [
        (*words, *_zeros(5))
        for i in flipped
        for _, words in pieces(places.counts[i], places.planes[i], places.contexts[i])
    ]
    return Selecting(sides, means, items, np.array(flips, np.uint32).reshape(-1))


def _zeros(after: int) -> tuple[int, ...]:
    """The words of an item after so many."""
    return (0,) * (rows.WIDE_ITEM - after)


def _classes(bits: Bits) -> ClassContext:
    found = bits.parts[-1].context
    assert isinstance(found, ClassContext)
    return found


def _sides(chunks: Sequence[Chunk], bits: Bits) -> tuple[Array, dict[int, int]]:
    """The side planes that contexts name, each once, and where they begin, by the array's id."""
    found = {id(chunk.sides[number]): chunk.sides[number] for chunk in chunks for number in sorted(bits.sides)}
    starts, at = {}, 0
    for key, side in found.items():
        starts[key] = at
        at += side.nbytes
    joined = [side.reshape(-1).view(np.uint8) for side in found.values()]
    return np.concatenate(joined) if joined else np.zeros(1, np.uint8), starts


def _means(chunks: Sequence[Chunk], bits: Bits) -> tuple[Array, dict[int, tuple[int, ...]]]:
    """Factors and steps of all tensors, and an item's words for each, by the id of its side planes."""
    context = bits.parts[-1].context
    mean = context.mean if isinstance(context, ClassContext) else None
    words: dict[int, tuple[int, ...]] = {}
    joined, at = [np.zeros(1, np.uint16)], 1
    for chunk in [] if mean is None else chunks:
        assert mean is not None
        assert isinstance(context, ClassContext)
        if id(chunk.sides) in words:
            continue
        factors = _factors(chunk.sides[mean.factors], mean, chunk.sides[context.rows].size)
        rank, stride = factors.shape
        words[id(chunk.sides)] = at, rank, stride, at + factors.size, len(mean.steps)
        joined += [factors.reshape(-1), np.array(mean.steps, np.uint16)]
        at += factors.size + len(mean.steps)
    return np.concatenate(joined), words


def _factors(stored: Array, mean: Mean, rows_: int) -> Array:
    """Those of rows and columns, the latter times the power of two of the factor's group; modulo 2^16."""
    factors = stored.reshape(mean.rank, -1).astype(np.int64) - ZERO
    factors[:, rows_:] <<= np.repeat(np.arange(len(mean.groups)), mean.groups)[:, None]
    return (factors & 0xFFFF).astype(np.uint16)
