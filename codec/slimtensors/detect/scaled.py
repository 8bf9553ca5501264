"""Codes of a quantised tensor whose scales are another tensor of the same file: given what their scale tells of them.

A block whose scale is large beside its row's has a weight that stands out, and its other codes are small. What a scale
tells is a list of classes, found in what codes take, as those of rows and columns are; tensors alike share it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from slimtensors.codecs.chunk import encode_chunk
from slimtensors.detect.classes import Classes
from slimtensors.detect.fields import (
    LEAST_RECORD,
    SCALE,
    fields_of,
    in_steps,
    likelihoods,
    middle,
    pieces,
    record_of,
    with_lines,
)
from slimtensors.detect.fitting import Blocks, Fitted, fitted, smooth
from slimtensors.expression import MAX_TABLES, FieldScale, Record
from slimtensors.expression.limits import MAX_RECORD, MAX_RUNS
from slimtensors.sources.inputs import Input, unit_count

__all__ = ["Known", "Scale", "Scaled", "by_module", "find_scaled", "scales_of"]

Numbers = npt.NDArray[np.int64]

# Of a unit's number, the bits that are left out: of floats eight numbers an octave remain.
SHIFTS = {"U8": 0, "I8": 0, "F8_E4M3": 0, "F16": 7, "BF16": 4, "F32": 20}
OCTAVE = 8
FEWEST = 16  # codes of a scale
MOST_SCALES = 8  # tensors that may be the scales, each of which is tried
MOST_UNITS = 1 << 22  # of such a tensor, which is held in memory
TAIL = 0.001  # share of scales that may lie beyond the first or the last of the classes
COVERED = 0.99  # share of the scales that lie between the first and the last of classes that are used again
LARGER = 2  # times the codes that classes were fitted to, from where on they are fitted anew
BACK_FITS = 4  # rounds in which what rows and what scales take is told apart
STEPS = (3, 6)  # of classes, in 1 / LOG bits of what codes take; the first is one number of a float


class Scale(NamedTuple):
    """A tensor that may hold another one's scales, and its position."""

    position: int
    tensor: Input


class Known(NamedTuple):
    """What scales of a dtype tell of codes of some bits: see `FieldScale`."""

    dtype: str
    width: int
    step: int
    first: int
    classes: tuple[int, ...]
    codes: int  # that they were fitted to; 0 if they were not

    def fits(self, numbers: Numbers, codes: int) -> bool:
        """Whether so many codes with these scales are no reason to look for others."""
        inside = (numbers >= self.first) & (numbers < self.first + len(self.classes))
        return int(np.count_nonzero(inside)) >= COVERED * numbers.size and codes < LARGER * (self.codes or codes)


class Scaled(NamedTuple):
    """A record whose codes are given a scale, its other side planes, which tensor has the scale, what a chunk takes."""

    record: Record
    sides: tuple[npt.NDArray[np.uint8], ...]
    scale: int
    chunk: int
    size: float


class _Codes(NamedTuple):
    """A tensor of codes in blocks: in records of one block or parts of one."""

    tensor: Input
    record: Record
    rows: int
    per_row: int  # blocks
    chunk: int  # units

    @property
    def width(self) -> int:
        return self.record.fields[0].width

    @property
    def columns(self) -> int:
        return unit_count(self.tensor) * self.tensor.dtype.unit_bytes // self.rows * 8 // self.width

    @property
    def size(self) -> int:
        return self.rows * self.columns

    @property
    def each(self) -> int:
        """Codes of a block."""
        return self.columns // self.per_row


def by_module(inputs: Sequence[Input]) -> dict[str, list[Scale]]:
    """Tensors that may hold scales, by their name up to the last dot."""
    found: dict[str, list[Scale]] = {}
    for i, tensor in enumerate(inputs):
        if tensor.dtype.name in SHIFTS and unit_count(tensor):
            found.setdefault(tensor.name.rpartition(".")[0], []).append(Scale(i, tensor))
    return found


def scales_of(tensor: Input, modules: Mapping[str, Sequence[Scale]], allowed: Callable[[int], bool]) -> list[Scale]:
    """Tensors of the same module (`m.weight`: of `m`, and of `m.weight`), of which some may have a unit for each block
    of codes. modules: see `by_module`.
    """
    names = tensor.name.rpartition(".")[0], tensor.name
    found = [each for name in names for each in modules.get(name, ()) if each.tensor is not tensor]
    found = [each for each in found if allowed(each.position)]
    return found if len(found) <= MOST_SCALES else []


def find_scaled(
    tensor: Input, width: int, rows: int, least: float, scales: Sequence[Scale], known: list[Known],
    chunk_of: Callable[[int, int], int],
) -> Scaled | None:
    """The smallest way that makes the middle chunk smaller than `least` bytes. known: added to.

    rows: of the tensor. chunk_of: bytes of a chunk, from those of the tensor and of a record.
    """
    nbytes, unit = unit_count(tensor) * tensor.dtype.unit_bytes, tensor.dtype.unit_bytes
    best = None
    for scale in scales:
        count = unit_count(scale.tensor)
        if not rows < count <= MOST_UNITS or nbytes % count or count % rows:
            continue
        block = nbytes // count
        size = max((b for b in range(1, min(block, MAX_RECORD) + 1) if block % b == 0 and b % unit == 0), default=0)
        if size < LEAST_RECORD or block * 8 // width < FEWEST:
            continue
        codes = _Codes(tensor, record_of(size, width), rows, count // rows, chunk_of(nbytes, size) // unit)
        found = _tried(codes, scale, known, least)
        if found is not None:
            best, least = found, found.size
    return best


def _tried(codes: _Codes, scale: Scale, known: list[Known], least: float) -> Scaled | None:
    """Given the scale alone, and row and column, too: with classes that are known, or else with new ones."""
    units, dtype = scale.tensor.read(0, unit_count(scale.tensor)), scale.tensor.dtype.name
    numbers = units.astype(np.int64) >> SHIFTS[dtype]
    if (numbers == numbers[0]).all():
        return None
    alike = [each for each in known if (each.dtype, each.width) == (dtype, codes.width)]
    begin = [each for each in alike if each.fits(numbers, codes.size)][-1:]
    begin = begin or [_new(dtype, codes.width, step, numbers, codes.size) for step in STEPS]
    costs, best, told = _costs_of_blocks(codes), None, None
    for usual in begin:
        at = np.clip(numbers - usual.first, 0, len(usual.classes) - 1)
        keep = any(usual.classes)
        start = _begin(codes, costs, at, usual) if keep else _apart(codes, costs, at, usual)
        found = fitted(
            lambda: pieces(codes.tensor, codes.record, codes.rows), start, Blocks(at, codes.each), 1 << codes.width,
            keep=keep,
        )  # fmt: skip
        if not 0 < int(found.entries.max()) < MAX_TABLES:
            continue
        made = usual if keep else usual._replace(classes=tuple(found.entries.tolist()))
        lines = Classes(found.rows.astype(np.uint8), found.columns.astype(np.uint8))
        for beside in (None, lines):
            given = _given(codes, scale, units, made, beside)
            if given.size < least:
                best, least, told = given, given.size, made
    if told is not None and told not in known:
        known.append(told)
    return best


def _new(dtype: str, width: int, step: int, numbers: Numbers, codes: int) -> Known:
    """Parts of an octave, of floats, the largest first; else classes that are yet to be found."""
    some = np.sort(numbers)
    low, high = (int(some[int(share * (some.size - 1))]) for share in (TAIL, 1 - TAIL))
    if dtype in ("U8", "I8"):
        return Known(dtype, width, step, low, (0,) * min(high + 1 - low, MAX_RUNS), codes)
    # Whole octaves, and one more on either side, so that tensors alike have the same.
    end, each = (high // OCTAVE + 2) * OCTAVE, step // STEPS[0]
    first = max((low // OCTAVE - 1) * OCTAVE, end - each * MAX_TABLES, 0)
    classes = tuple((end - 1 - number) // each for number in range(first, end))
    return Known(dtype, width, step, first, classes, 0)


def _costs_of_blocks(codes: _Codes) -> tuple[Numbers, Numbers]:
    """What codes of each block [rows, per_row] and of each column take, in 1 / (LOG * SCALE) bits."""
    of_blocks, of_columns = np.empty((codes.rows, codes.per_row), np.int64), np.zeros(codes.columns, np.int64)
    units, _place = middle(codes.tensor, codes.chunk, ())
    takes = likelihoods(fields_of(units, codes.record, 0), codes.width)
    for row, some in pieces(codes.tensor, codes.record, codes.rows):
        found = takes[some]
        of_blocks[row : row + len(some)] = found.reshape(len(some), codes.per_row, -1).sum(axis=2, dtype=np.int64)
        of_columns += found.sum(axis=0, dtype=np.int64)
    return SCALE * of_blocks // codes.each, SCALE * of_columns // codes.rows


def _begin(codes: _Codes, costs: tuple[Numbers, Numbers], at: Numbers, known: Known) -> Fitted:
    """Classes to begin with, where those of scales are known: rows' undo what the mean of their scales tells."""
    entries = np.array(known.classes, np.int64)
    rows = in_steps(-SCALE * entries[at].reshape(codes.rows, -1).sum(axis=1) // codes.per_row, 1)
    return Fitted(rows.astype(np.int64), in_steps(costs[1], known.step).astype(np.int64), entries)


def _apart(codes: _Codes, costs: tuple[Numbers, Numbers], at: Numbers, known: Known) -> Fitted:
    """Classes to begin with: of what rows take beside their scales, and scales beside their rows."""
    of_blocks, of_columns = costs
    count, entries = len(known.classes), np.zeros(len(known.classes), np.int64)
    often = smooth(np.bincount(at, minlength=count))
    for _ in range(BACK_FITS):
        of_rows = (of_blocks - entries[at].reshape(of_blocks.shape)).sum(axis=1) // codes.per_row
        # Sums of whole numbers below 2^53, so exact.
        sums = np.bincount(at, (of_blocks - of_rows[:, None]).reshape(-1), count).astype(np.int64)
        entries = smooth(sums) // np.maximum(often, 1)
    return Fitted(*(in_steps(each, known.step).astype(np.int64) for each in (of_rows, of_columns, entries)))


def _given(codes: _Codes, scale: Scale, units: npt.NDArray[np.integer], told: Known, lines: Classes | None) -> Scaled:
    """What the middle chunk takes, with its share of the side plane."""
    runs = tuple((len(list(same)), each) for each, same in groupby(told.classes))
    context = FieldScale(0, SHIFTS[told.dtype], told.first, runs)
    if lines is not None:
        found = with_lines(codes.tensor, codes.record, lines, codes.chunk, slow=True, scale=context, units=units)
        return Scaled(found.record, (found.side,), scale.position, codes.chunk, found.size)
    record = Record(codes.record.size, (replace(codes.record.fields[0], context=context),))
    data, place = middle(codes.tensor, codes.chunk, (units,))
    return Scaled(record, (), scale.position, codes.chunk, len(encode_chunk(data, record, place, slow=True)))
