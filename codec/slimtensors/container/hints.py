"""Hints of bases, of which a header states only what does not follow (format_spec/container.md, section 3)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from slimtensors.expression import Expression, bases_of

if TYPE_CHECKING:
    from slimtensors.container.header import Base, Pack, Tensor

__all__ = ["HINTS", "complete", "first_users", "pinned_name", "shorten"]

INHERITED = ("file", "repository", "revision")  # absent: as of the base before
HINTS = (*INHERITED, "tensor")  # others mean nothing
_PINNED = re.compile(r"hf://[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*@[0-9a-f]{40}")


def first_users(tensors: Sequence[Tensor], packs: Sequence[Pack], expressions: Sequence[Expression]) -> dict[int, str]:
    """By base: the name of the first tensor that is stored as a difference from it."""
    found: dict[int, str] = {}
    seen = [0] * len(packs)  # tensors of each pack
    for tensor in tensors:
        position = tensor.expression if tensor.pack is None else packs[tensor.pack].expression
        bases = () if position is None else bases_of(expressions[position])
        if bases:
            found.setdefault(bases[0 if tensor.pack is None else seen[tensor.pack]], tensor.name)
        if tensor.pack is not None:
            seen[tensor.pack] += 1
    return found


def shorten(bases: Sequence[Base], users: dict[int, str]) -> list[dict[str, str]]:
    """The hints that a header has to state."""
    return [
        {key: text for key, text in _wanted(base).items() if text != known.get(key, "")}
        for base, known in zip(bases, _known(bases, users), strict=True)
    ]


def complete(bases: list[Base], users: dict[int, str]) -> None:
    """Put in place what follows from the bases before, and from the tensors; an empty hint is none."""
    before: dict[str, str] = {}
    for i, base in enumerate(bases):
        named = {"tensor": users[i]} if i in users else {}
        hints = {key: text for key, text in {**before, **named, **base.hints}.items() if text}
        if hints != base.hints:
            bases[i] = base._replace(hints=hints)
        before = {key: hints[key] for key in INHERITED if key in hints}


def pinned_name(hints: Mapping[str, str]) -> str | None:
    """What to call a base's repository by, at its commit; None if the hints, which may say anything, name none."""
    name = f"hf://{hints.get('repository', '')}@{hints.get('revision', '')}"
    return name if _PINNED.fullmatch(name) else None


def _wanted(base: Base) -> dict[str, str]:
    """With an empty text for each hint that would follow and is not so."""
    return {**dict.fromkeys(HINTS, ""), **base.hints}


def _known(bases: Sequence[Base], users: dict[int, str]) -> Iterator[dict[str, str]]:
    before: dict[str, str] = {}
    for i, base in enumerate(bases):
        yield {**before, "tensor": users.get(i, "")}
        before = {key: base.hints[key] for key in INHERITED if key in base.hints}
