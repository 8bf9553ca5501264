"""Contexts from the header's JSON."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from slimtensors.errors import FormatError
from slimtensors.expression.contexts import BaseContext, ClassContext, Context, FactorContext, Mean, SignContext
from slimtensors.expression.limits import (
    MAX_ALL_TABLES,
    MAX_CLASS,
    MAX_CLASSES,
    MAX_FACTOR_CLASSES,
    MAX_GROUPS,
    MAX_OCTAVE,
    MAX_SHIFT,
    MAX_SIGN_TABLES,
    MAX_STEP,
    MAX_STEPS,
    MAX_TABLES,
    MAX_WIDTH,
)
from slimtensors.expression.planes import Bits
from slimtensors.expression.values import integer, keys_of, pair, side_plane
from slimtensors.limits import MAX_RANK

__all__ = ["check_mean", "parse_context"]


def parse_context(value: Any) -> Context:
    """What selects the tables of a plane. Raises FormatError."""
    keys = keys_of(value, "a context")
    if keys not in ({"base"}, {"base", "rows"}, {"class"}, {"class", "mean"}, {"factor"}, {"sign"}):
        raise FormatError(f"a context has the keys {sorted(keys)}")
    if "sign" in keys:
        first, tables = pair(value["sign"], "the context of a sign")
        return SignContext(
            integer(first, 0, 2**MAX_WIDTH - 1, "the first of a context"),
            integer(tables, 2, MAX_SIGN_TABLES, "the tables of a context"),
        )
    if "factor" in keys:
        return _factor(value["factor"])
    kind = "class" if "class" in keys else "base"
    numbers = value[kind]
    if not isinstance(numbers, list) or len(numbers) != 3:
        raise FormatError("a context has three numbers")
    if kind == "base":
        context = BaseContext(
            integer(numbers[0], 0, MAX_SHIFT, "the shift of a context"),
            integer(numbers[1], 0, 2**MAX_WIDTH - 1, "the first of a context"),
            integer(numbers[2], 2, MAX_TABLES, "the tables of a context"),
        )
        return _with_rows(context, value["rows"]) if "rows" in keys else context
    return ClassContext(
        side_plane(numbers[0], "the row classes of a context"),
        side_plane(numbers[1], "the column classes of a context"),
        integer(numbers[2], 0, MAX_OCTAVE, "the octave of a context"),
        _mean(value["mean"]) if "mean" in keys else None,
    )


def _factor(numbers: Any) -> FactorContext:
    if not isinstance(numbers, list) or len(numbers) != 4:
        raise FormatError("the context of factors has four numbers")
    return FactorContext(
        side_plane(numbers[0], "the row classes of a context"),
        side_plane(numbers[1], "the column classes of a context"),
        integer(numbers[2], 0, MAX_CLASS, "the first of a context"),
        integer(numbers[3], 1, MAX_FACTOR_CLASSES, "the classes of a context"),
    )


def _mean(value: Any) -> Mean:
    if not isinstance(value, list) or len(value) != 3:
        raise FormatError("a mean has three arguments: a side plane, groups of its factors, and steps")
    groups, steps = value[1:]
    if not isinstance(groups, list) or not 1 <= len(groups) <= MAX_GROUPS:
        raise FormatError(f"the factors of a mean are in 1 to {MAX_GROUPS} groups")
    if not isinstance(steps, list) or len(steps) > MAX_STEPS:
        raise FormatError(f"a mean has up to {MAX_STEPS} steps")
    found = Mean(
        side_plane(value[0], "the side plane of a mean"),
        tuple(integer(group, 0, MAX_RANK, "a group of factors") for group in groups),
        tuple(integer(step, 0, MAX_STEP, "a step of a mean") for step in steps),
    )
    if not 1 <= found.rank <= MAX_RANK:
        raise FormatError(f"a mean of rank {found.rank}, not 1 to {MAX_RANK}")
    if list(found.steps) != sorted(found.steps):
        raise FormatError("the steps of a mean do not rise")
    return found


def _with_rows(context: BaseContext, value: Any) -> BaseContext:
    side, classes = pair(value, "the rows of a context")
    found = replace(
        context,
        rows=side_plane(side, "the row classes of a context"),
        classes=integer(classes, 2, MAX_CLASSES, "the number of classes of a context"),
    )
    if found.all_tables > MAX_ALL_TABLES:
        raise FormatError(f"a context has {found.all_tables} tables; {MAX_ALL_TABLES} are the most")
    return found


def check_mean(bits: Bits) -> None:
    """A mean is for the field on top of floats, and a sign for the lowest bit below such a field."""
    *below, top = bits.parts
    mean = top.context.mean if isinstance(top.context, ClassContext) else None
    if any(isinstance(part.context, ClassContext) and part.context.mean is not None for part in below):
        raise FormatError("a mean for a plane that is not the last")
    if mean is not None and (not bits.rotate or top.side is not None):
        raise FormatError("a mean for a plane under scatter, or of units that are not rotated")
    if not any(isinstance(part.context, SignContext) for part in bits.parts):
        return
    if any(isinstance(part.context, SignContext) for part in bits.parts[1:]):
        raise FormatError("the context of a sign for a plane that is not the first")
    first = bits.parts[0]
    if mean is None or first.width != 1 or first.side is not None:
        raise FormatError("the context of a sign for a plane of more than one bit, under scatter, or without a mean")
    assert isinstance(top.context, ClassContext)
    if top.context.octave not in (1, 2, 4, 8, 16):
        raise FormatError(f"the context of a sign beside an octave of {top.context.octave}, not a power of two")
