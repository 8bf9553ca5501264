"""How much errors in a tensor's weights count, as a file says, and what that makes of its steps.

Of a weight `w` of shape [R, C] a file may hold

    w                     [R, C]      of each weight the mean squared gradient, the diagonal of Fisher's matrix
    w.rows, w.columns     [R], [C]    the means of that over each row and each column
    w                     [C]         of each column the mean square of what it is multiplied by
    w.in_sum2, w.counts   [1, C], [1] sums of such squares and what they are divided by, as llama.cpp's imatrix has them

in F16, BF16, F32 or F64, in any unit. Of a stack of E matrices [E, R, C] rows are E * R, the whole is [E, R, C], sums
are [E, C]. An error e of a weight is taken to cost importance * e^2.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slimtensors.codecs.casts import cast_units
from slimtensors.codecs.environment import as_usual
from slimtensors.dtypes import CASTABLE, DTYPES
from slimtensors.errors import UsageError
from slimtensors.quantise.choosing import Quantise, chosen
from slimtensors.quantise.grid import Steps
from slimtensors.quantise.recipes import grid_of, quantisers_of, with_grid
from slimtensors.quantise.stacks import Stack
from slimtensors.sources.inputs import Input, unit_count

__all__ = ["Importance", "importances", "stray", "weighed"]

ROWS, COLUMNS, SUMS, COUNTS = ".rows", ".columns", ".in_sum2", ".counts"
# If importances were known, and errors independent, a step would be importance^(-1/2).
OF_TENSORS = 0.5
OF_ROWS_AND_COLUMNS = 0.25
LEAST = 2.0**-6  # of the mean: rows and columns that no text touched may yet be used
FARTHEST = 8.0  # binades of a tensor's step from the middle

Numbers = npt.NDArray[np.float64]


class Importance(NamedTuple):
    """Means over each row and each column. absolute: whether those of one tensor may be compared with another's."""

    rows: Numbers
    columns: Numbers
    absolute: bool


@as_usual
def weighed(
    asked: Quantise, inputs: Sequence[Input], told: Sequence[Input], ties: Mapping[str, str] | None = None
) -> Quantise:
    """Steps that follow importances. told: what a file, or a mapping, of importances holds. ties: of names of tensors
    that are there already under another, that one, to which importance of either is importance.

    Raises UsageError for other quantisers than ours, and for importances that cannot be meant.
    """
    own = (quantisers_of(asked.recipe) if isinstance(asked.recipe, str) else [asked.recipe])[0]
    grid = grid_of(own)
    if grid is None:
        raise UsageError(f"{own.name} has steps of its own; importance is for slim, slim-fast and lqer")
    weights = chosen(inputs, asked)
    found = importances(weights, told)
    if not found:
        raise UsageError(
            f"there is importance of no tensor that is quantised: it is of {_some(each.name for each in told)}, and "
            f"quantised are {_some(each.name for each in weights)}"
        )
    sizes = {each.name: unit_count(each) for each in weights}
    for name, first in (ties or {}).items():
        if name in found and first in sizes:
            found.setdefault(first, found.pop(name))
    return replace(asked, recipe=with_grid(own, replace(grid, steps=_steps(found, sizes))))


def _some(names: Iterable[str]) -> str:
    found = list(names)
    return ", ".join(map(repr, found[:2])) + (", ..." if len(found) > 2 else "") if found else "nothing"


def stray(names: Iterable[str], weights: Iterable[str]) -> list[str]:
    """Which names of a file of importances are of none of these weights."""
    known = set(weights)
    return [name for name in names if not {name, *(name.removesuffix(end) for end in _ENDS)} & known]


_ENDS = (ROWS, COLUMNS, SUMS, COUNTS)


def importances(weights: Iterable[Input], told: Sequence[Input]) -> dict[str, Importance]:
    """By name, of the weights that there are some of. Zeros alone count as none."""
    by_name = {each.name: each for each in told}
    found = {}
    for weight in weights:
        each = _of_one(weight, by_name)
        if each is not None and each.rows.any() and each.columns.any():
            found[weight.name] = each
    return found


def _of_one(weight: Input, told: Mapping[str, Input]) -> Importance | None:
    name, (rows, columns) = weight.name, weight.shape
    stack = weight.stacked if isinstance(weight, Stack) else (1, rows, columns)
    parts = [told.get(name + end) for end in (ROWS, COLUMNS)]
    if name in told:
        numbers = _read(told[name], [stack if isinstance(weight, Stack) else (rows, columns), (columns,)])
        if numbers.ndim > 1:
            numbers = numbers.reshape(rows, columns)
            return Importance(numbers.mean(1), numbers.mean(0), absolute=True)
        return Importance(np.ones(rows), numbers, absolute=False)
    if parts[0] is not None and parts[1] is not None:
        return Importance(_read(parts[0], [(rows,)]), _read(parts[1], [(columns,)]), absolute=True)
    for part, end, other in zip(parts, (ROWS, COLUMNS), (COLUMNS, ROWS), strict=True):
        if part is not None:
            raise UsageError(f"importance of {name!r}: there is {name + end!r} without {name + other!r}")
    if name + SUMS in told:
        # Of one matrix the count is a common factor; of a stack experts that were asked more often count for more.
        sums = _read(told[name + SUMS], [(columns,), (stack[0], columns)]).reshape(-1, columns)
        return Importance(np.repeat(sums.mean(1), rows // len(sums)), sums.mean(0), absolute=False)
    return None


def _read(told: Input, shapes: list[tuple[int, ...]]) -> Numbers:
    """As float64. Raises UsageError for other shapes and dtypes, and for what is no mean of squares."""
    what = f"importance {told.name!r}"
    if tuple(told.shape) not in shapes:
        raise UsageError(f"{what} has the shape {list(told.shape)}, not {' or '.join(str(list(s)) for s in shapes)}")
    if told.dtype.name not in CASTABLE:
        raise UsageError(f"{what} is of {told.dtype.name}; F16, BF16, F32 and F64 can be read")
    numbers = cast_units(told.read(0, unit_count(told)), told.dtype, DTYPES["F64"]).view("<f8").reshape(told.shape)
    if not np.isfinite(numbers).all():
        raise UsageError(f"{what} has numbers that are not finite")
    if numbers.min(initial=0) < 0:
        raise UsageError(f"{what} has negative numbers; it is to be means of squares")
    return numbers


def _steps(found: Mapping[str, Importance], sizes: Mapping[str, int]) -> dict[str, Steps]:
    """The middle of the tensors' steps, by weights, is 1, which is also that of tensors that nothing is known of."""
    made = {name: _of_lines(each) for name, each in found.items()}
    logs = {name: -OF_TENSORS * math.log2(cost) for name, (_, _, cost) in made.items() if found[name].absolute}
    total = sum(sizes[name] for name in logs)
    middle = sum(sizes[name] * log for name, log in logs.items()) / total if total else 0.0
    steps = {}
    for name, (rows, columns, _) in made.items():
        log = logs.get(name, middle) - middle
        steps[name] = Steps(2.0 ** min(max(log, -FARTHEST), FARTHEST), rows, columns)
    return steps


def _of_lines(importance: Importance) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], float]:
    """Factors of the steps of rows and of columns, and the mean of importance * factors^2, as if importance were a
    product of one of the row and one of the column.
    """
    mean = float(importance.rows.mean())
    rows, columns = _factors(importance.rows), _factors(importance.columns)
    cost = float((importance.rows * np.square(rows)).mean() * (importance.columns * np.square(columns)).mean()) / mean
    return rows, columns, cost


def _factors(importance: Numbers) -> npt.NDArray[np.float32]:
    """Powers of two times 1, 1.25, 1.5 or 1.75, whose mantissas take two bits; about 1 in the middle."""
    logs = -OF_ROWS_AND_COLUMNS * np.log2(np.maximum(importance, LEAST * importance.mean()))
    logs -= logs.mean()
    mantissa, exponent = np.frexp(np.exp2(logs))
    found: npt.NDArray[Any] = np.ldexp(np.rint(mantissa * 8) / 8, exponent).astype(np.float32)
    return found
