"""Classes of rows, of columns and of scales, fitted to what the codes take that are given them.

Whole numbers only, so that the classes, and the file's bytes, are the same on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slimtensors.kernels.cpu import scales
from slimtensors.kernels.status import must

__all__ = ["LOG", "Blocks", "Fitted", "fitted", "logarithm", "smooth"]

Numbers = npt.NDArray[np.int64]
Pieces = Callable[[], Iterator[tuple[int, npt.NDArray[Any]]]]

LOG = 64  # a bit, in the logarithms of likelihoods
ROUNDS = 6
BLOCK_ROUNDS = 9  # with scales, whose classes take turns with the columns'
REACH = 4  # neighbours of a scale on either side that count, and again as many less
PRIOR = 4  # codes that each table has seen before it has seen any, shared out as all codes are


class Blocks(NamedTuple):
    """A number for each `each` codes, of which whole ones make a row: what stands for their scale. Only one number, if
    there are no scales.
    """

    numbers: Numbers
    each: int


class Fitted(NamedTuple):
    """Classes from 0 of rows, of columns, and of the numbers that stand for scales (one, if there are none)."""

    rows: Numbers
    columns: Numbers
    entries: Numbers


def fitted(pieces: Pieces, first: Fitted, blocks: Blocks, values: int, *, keep: bool = False) -> Fitted:
    """Classes that make codes take less: each row's, then each column's (by turns with each scale's) is the one that
    its codes and the class itself take least with; then tables are counted anew.

    pieces: gives codes, [some rows, columns], and the first of these rows. first: what to begin with. keep: the
    classes of scales as they are.
    """
    rows, columns, entries = (each.astype(np.int64) for each in first)
    r, c, e = (int(each.max()) + 1 for each in (rows, columns, entries))
    takes = np.zeros((0, 0), np.int64)
    for turn in range((BLOCK_ROUNDS if e > 1 and not keep else ROUNDS) + 1):
        of_scales = e > 1 and turn % 2 == 1 and not keep
        sums = np.zeros((entries.size, e) if of_scales else (columns.size, c), np.int64)
        for row, codes in pieces() if turn else ():
            some, here = rows[row : row + len(codes)], _here(blocks, row * columns.size, codes.size)
            of_blocks = entries[here.numbers]
            cost = np.zeros((len(codes), r), np.int64)
            lines = (np.arange(len(codes)), 0 * columns, 0 * of_blocks)
            _add_costs(codes, (0 * some, columns, of_blocks), here.each, lines, takes, cost)
            some[:] = (cost + _prices(rows, r)).argmin(axis=1)
            if of_scales:
                lines = (0 * some, 0 * columns, here.numbers)
                _add_costs(codes, (some, columns, 0 * of_blocks), here.each, lines, takes, sums)
            else:
                lines = (0 * some, np.arange(columns.size), 0 * of_blocks)
                _add_costs(codes, (some, 0 * columns, of_blocks), here.each, lines, takes, sums)
        if turn and of_scales:
            # The class itself takes nothing, as all tensors have the same; neighbours tell about the same, and count.
            entries = smooth(sums).argmin(axis=1)
        elif turn:
            columns = (sums + _prices(columns, c)).argmin(axis=1)
        joint = np.zeros((r + c + e - 2, values), np.int64)
        for row, codes in pieces():
            some, here = rows[row : row + len(codes)], _here(blocks, row * columns.size, codes.size)
            numbers = (some, columns, entries[here.numbers])
            must(scales.count_codes(codes.reshape(-1), *numbers, here.each, values, joint.reshape(-1)))
        takes = _table_costs(joint)
    return Fitted(rows - rows.min(), columns - columns.min(), entries if keep else entries - entries.min())


def _add_costs(
    codes: npt.NDArray[Any],
    others: tuple[Numbers, Numbers, Numbers],
    each: int,
    lines: tuple[Numbers, Numbers, Numbers],
    takes: Numbers,
    sums: Numbers,
) -> None:
    """To sums [lines, classes]: what codes take with each of the classes, beside those that rows, columns and blocks
    have. takes: [tables, values].
    """
    by_value = np.ascontiguousarray(takes.T).reshape(-1)
    status = scales.add_costs(
        codes.reshape(-1), *others, each, lines, by_value, len(takes), sums.shape[1], sums.reshape(-1)
    )  # fmt: skip
    must(status)


def _prices(classes: Numbers, number: int) -> Numbers:
    """What each class itself takes, by how often it comes."""
    return _costs(np.bincount(classes, minlength=number) + 1)


def _here(blocks: Blocks, first: int, count: int) -> Blocks:
    """Of the codes from `first`, which begin with a block; all have one, where there is no other."""
    if blocks.numbers.size == 1:
        return Blocks(blocks.numbers, count)
    return Blocks(blocks.numbers[first // blocks.each : -(-(first + count) // blocks.each)], blocks.each)


def smooth(numbers: Numbers) -> Numbers:
    """Sums over neighbours in the first dimension, near ones counted more often."""
    made = numbers
    for _ in range(2):
        sums = np.concatenate([np.zeros_like(made[:1]), np.cumsum(made, axis=0)])
        at = np.arange(len(made))
        made = sums[np.minimum(at + REACH + 1, len(made))] - sums[np.maximum(at - REACH, 0)]
    return made


def _table_costs(joint: Numbers) -> Numbers:
    """What each value takes in each table, in 1 / LOG bits. joint: [tables, values], how often."""
    whole = joint.sum(axis=0)
    return np.stack([_costs(LOG * each + PRIOR * LOG * whole // int(whole.sum()) + 1) for each in joint])


def _costs(counts: Numbers) -> Numbers:
    """What each takes that comes so often (at least once; cut to its first eight bits), in 1 / LOG bits."""
    whole, (parts, powers) = logarithm(int(counts.sum())), np.frexp(counts.astype(np.float64))
    return whole - LOG * (powers.astype(np.int64) - 8) - _of_bytes()[(parts * 256).astype(np.int64)]


def logarithm(number: int) -> int:
    """LOG * log2, rounded down, without a float."""
    return int((number**LOG).bit_length() - 1)


@cache
def _of_bytes() -> Numbers:
    """The logarithms of 1 to 255; of 0 that of 1."""
    return np.array([logarithm(max(number, 1)) for number in range(256)], np.int64)
