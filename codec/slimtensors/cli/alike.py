"""Tensors of which the same is to be said but for numbers, told of together."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

__all__ = ["grouped", "names_together"]

# Costs and errors, and counts of what there is more of in some tensors; "7 mantissa bits" and numbers in names are no
# such numbers: what is said is another thing where these differ.
_NUMBER = re.compile(
    r"(?<![\w.-])\d+(?:\.\d+(?:e[-+]?\d+)?|e[-+]?\d+)(?![\w.])"
    r"|(?<=pack )\d+(?= with)|(?<=with )\d+(?= others\b)|\b\d+(?= of \d+ chunks)|(?<= of )\d+(?= chunks)"
    r"|(?<=each of )\d+(?= rows)|(?<=rank )\d+(?= says)"
)


def grouped(reasons: Mapping[str, str]) -> list[tuple[list[str], str]]:
    """(names, reason) for each reason; numbers that are not all the same become "LEAST to MOST"."""
    alike: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        alike.setdefault(_NUMBER.sub("#", reason), []).append(name)
    return [(names, _said_once([reasons[name] for name in names])) for names in alike.values()]


def _said_once(reasons: Sequence[str]) -> str:
    columns = iter(zip(*(_NUMBER.findall(reason) for reason in reasons), strict=True))

    def spread(_match: re.Match[str]) -> str:
        found = sorted(set(next(columns)), key=float)
        return found[0] if len(found) == 1 else f"{found[0]} to {found[-1]}"

    return _NUMBER.sub(spread, reasons[0])


def names_together(names: Sequence[str]) -> list[str]:
    """Names that differ in numbers only as one, with how many they are: "layers.{0-23,30}.up.weight (25)"."""
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(re.sub(r"\d+", "*", name), []).append(name)
    return [each[0] if len(each) == 1 else f"{_one_name(each)} ({len(each)})" for each in alike.values()]


def _one_name(names: Sequence[str]) -> str:
    places = zip(*(re.findall(r"\d+", name) for name in names), strict=True)
    found = iter([sorted({int(each) for each in column}) for column in places])
    return re.sub(r"\d+", lambda _match: _ranges(next(found)), names[0])


def _ranges(numbers: Sequence[int]) -> str:
    """0, 1, 2, 5 as {0-2,5}."""
    if len(numbers) == 1:
        return str(numbers[0])
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return "{" + ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs) + "}"
