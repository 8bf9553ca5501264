"""Tensors of which the same is to be said but for numbers, told of together."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Reason", "figure", "grouped", "names_together", "reason"]


@dataclass(frozen=True)
class Reason:
    """Text with figures, which may differ among tensors that are alike: text[0], figures[0], text[1], ... text[-1]."""

    text: tuple[str, ...]
    figures: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.text[0] + "".join(map("".join, zip(self.figures, self.text[1:], strict=True)))

    def __add__(self, other: str | Reason) -> Reason:
        more = reason(other)
        text = (*self.text[:-1], self.text[-1] + more.text[0], *more.text[1:])
        return Reason(text, self.figures + more.figures)

    def __radd__(self, other: str) -> Reason:
        return reason(other) + self


def reason(said: str | Reason) -> Reason:
    """Text without figures, if it is no reason yet."""
    return said if isinstance(said, Reason) else Reason((said,))


def figure(value: Any, form: str = "") -> Reason:
    """A figure alone, written as `format` does it."""
    return Reason(("", ""), (format(value, form),))


def grouped(reasons: Iterable[tuple[str, Reason]]) -> list[tuple[list[str], str]]:
    """(names, what is said of them) for each text; figures that are not all the same become "LEAST to MOST".

    reasons: (name, what is said of it).
    """
    alike: dict[tuple[str, ...], list[tuple[str, Reason]]] = {}
    for name, each in reasons:
        alike.setdefault(each.text, []).append((name, each))
    return [([name for name, _ in group], _said_once([each for _, each in group])) for group in alike.values()]


def _said_once(reasons: Sequence[Reason]) -> str:
    columns = zip(*(each.figures for each in reasons), strict=True)
    return str(Reason(reasons[0].text, tuple(map(_spread, columns))))


def _spread(figures: Sequence[str]) -> str:
    found = sorted(set(figures), key=float)
    return found[0] if len(found) == 1 else f"{found[0]} to {found[-1]}"


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
