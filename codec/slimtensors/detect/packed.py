"""Integers that are the codes of quantised weights: cut into fields of four or eight bits, given row and column.

How likely a code is, depends on how its row and its column are spread beside the scale that it has. That shows in what
codes take: rare codes mean wide rows. Nothing has to be known of what a code stands for, or which nibble comes first.
Whole numbers only, so that the classes, and the file's bytes, are the same on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from slimtensors.codecs.chunk import encode_chunk, find_affine
from slimtensors.detect.classes import Classes
from slimtensors.detect.fields import (
    LEAST_RECORD,
    Lined,
    in_steps,
    likelihoods,
    means,
    middle,
    pieces,
    record_of,
    with_lines,
)
from slimtensors.detect.fitting import Blocks, Fitted, fitted
from slimtensors.detect.scaled import Known, Scale, find_scaled
from slimtensors.expression import MAX_TABLES, Bits, Record
from slimtensors.expression.limits import MAX_RECORD
from slimtensors.limits import CHUNK_BYTES
from slimtensors.sources.inputs import Input

__all__ = ["Packed", "find_packed"]

Numbers = npt.NDArray[np.int64]

WIDTHS = {"I8": (8,), "U8": (4, 8), "I32": (4, 8)}  # of the codes that a tensor may hold
FEWEST = 1 << 15  # bytes
SHORTEST, LONGEST = 32, 1 << 15  # bytes of a row that is looked for; and fewest rows
STEPS = {4: (6, 12, 20), 8: (12, 20)}  # of classes, in such parts of a bit: coarser ones have fewer tables
PERIOD_SAMPLE = 1 << 18  # bytes in which a row's length is looked for
NEARLY = 0.9  # of the best length's variance: its multiples show it, too
WORTH = 0.998  # what a chunk must come down to, side planes paid


class Packed(NamedTuple):
    """A record whose last field has classes, the side planes with these, and units of a chunk."""

    record: Record
    sides: tuple[npt.NDArray[np.uint8], ...]
    chunk: int
    why: str
    scale: int | None = None  # the tensor whose units select tables, too


def find_packed(
    tensor: Input,
    plain: Bits,
    *,
    small: bool = False,
    scales: Sequence[Scale] = (),
    known: list[Known] | None = None,
) -> Packed | None:
    """How to store codes in less room than the plain planes take, if the tensor seems to hold such.

    small: classes may take their time, and chunks theirs to decode. scales: tensors that may hold the codes' scales.
    known: what such tell, of tensors before; added to.
    """
    nbytes = tensor.dtype.bytes_of(tensor.shape)
    if tensor.dtype.name not in WIDTHS or nbytes < FEWEST:
        return None
    length = _row_bytes(tensor, nbytes)
    size = max((b for b in range(1, min(length, MAX_RECORD) + 1) if length % b == 0), default=0)
    if size < LEAST_RECORD or size % tensor.dtype.unit_bytes:
        return None
    chunk = _chunk(nbytes, size) // tensor.dtype.unit_bytes
    units, place = middle(tensor, chunk, ())
    if find_affine(units) is not None:
        return None
    worth = 1 if small else WORTH
    least = worth * len(encode_chunk(units, plain, place, try_zstd=True))
    best = None
    for width in WIDTHS[tensor.dtype.name]:
        record = record_of(size, width)
        if width < 8:
            found = len(encode_chunk(units, record, place, slow=small))
            if found < least:
                least, best = worth * found, Packed(record, (), chunk, f"codes of {width} bits")
        by_scale = None
        if known is not None and (best is None or best.record.fields[-1].width == width):
            by_scale = find_scaled(tensor, width, nbytes // length, least, scales, known, _chunk)
        if by_scale is not None:
            least, why = by_scale.size, f"codes of {width} bits, given their scale"
            why += ", row and column" if by_scale.sides else ""
            best = Packed(by_scale.record, by_scale.sides, by_scale.chunk, why, by_scale.scale)
            if by_scale.sides:
                break  # what rows and columns tell is in that
        given = _classed(tensor, record, nbytes // length, chunk, least, small=small)
        if given is not None:
            least, why = given.size, f"codes of {width} bits, given the classes of row and column"
            best = Packed(given.record, (given.side,), chunk, why)
    return best


def _classed(
    tensor: Input, record: Record, rows: int, chunk: int, least: float, *, small: bool = False
) -> Lined | None:
    """The record with classes for its last field, where the middle chunk then takes less than `least` bytes with its
    share of the side plane.

    rows: of the tensor, each of whole records. chunk: units. small: see `find_packed`.
    """
    field = record.fields[-1]
    of_rows, of_columns = means(tensor, record, rows)
    tried = []
    for step in STEPS[8 if field.width > 4 else 4]:
        classes = Classes(in_steps(of_rows, step), in_steps(of_columns, step))
        if not classes.rows.any() and not classes.columns.any():
            break
        tried.append((with_lines(tensor, record, classes, chunk, slow=small), classes))
    if not tried:
        return None
    best, classes = min(tried, key=lambda found: found[0].size)
    if small and field.width <= 4:  # of int8 this gains 0.001 b
        closer = _fitted(tensor, record, classes)
        if closer is not None:
            best = min(best, with_lines(tensor, record, closer, chunk, slow=True), key=lambda found: found.size)
    return best if best.size < least else None


def _chunk(nbytes: int, size: int) -> int:
    """Bytes of a chunk, whole records: as few chunks as can be, all of about one length."""
    records = nbytes // size
    chunks = -(-nbytes // CHUNK_BYTES)
    return -(-records // chunks) * size


def _fitted(tensor: Input, record: Record, classes: Classes) -> Classes | None:
    """Classes that make codes take less; None if they are too many."""
    none = np.zeros(1, np.int64)
    first = Fitted(classes.rows.astype(np.int64), classes.columns.astype(np.int64), none)
    if int(first.rows.max()) + int(first.columns.max()) >= MAX_TABLES:
        return None
    values = 1 << record.fields[-1].width
    found = fitted(lambda: pieces(tensor, record, classes.rows.size), first, Blocks(none, 1), values)
    return Classes(found.rows.astype(np.uint8), found.columns.astype(np.uint8))


def _row_bytes(tensor: Input, nbytes: int) -> int:
    """Of a row; where the shape does not tell, as codes lie in one long column or row, the period of columns."""
    length = tensor.shape[-1] * tensor.dtype.unit_bytes if tensor.shape else 0
    if length >= SHORTEST and nbytes // length >= SHORTEST:
        return length
    lengths = [n for n in range(SHORTEST, min(LONGEST, nbytes // SHORTEST) + 1) if nbytes % n == 0]
    unit = tensor.dtype.unit_bytes
    sample = tensor.read(0, min(PERIOD_SAMPLE, nbytes) // unit).view(np.uint8)
    takes = likelihoods(sample, 8)[sample].astype(np.int64)
    scores = {n: _spread(takes, n) for n in lengths}
    best = max(scores.values(), default=0)
    return next((n for n in lengths if scores[n] >= NEARLY * best), 0) if best > 0 else 0


def _spread(takes: Numbers, length: int) -> float:
    """The variance of the columns' means beyond what chance gives them, if rows have this length."""
    rows = takes.size // length
    if rows < 8:
        return 0
    used = takes[: rows * length]
    sums = used.reshape(rows, length).sum(axis=0)
    mean_square = math.fsum((int(sums @ sums) / rows**2 / length, -((int(sums.sum()) / used.size) ** 2)))
    noise = (int(used @ used) / used.size - (int(used.sum()) / used.size) ** 2) / rows
    return mean_square - noise
