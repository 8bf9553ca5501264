"""What matched a base, as a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from slimtensors.cli.output import say, table

if TYPE_CHECKING:
    from slimtensors.bases.matching import MatchReport

__all__ = ["say_matches"]

PLAIN = ("same name", "no elements")


def say_matches(source: Path | str, report: MatchReport, *, whole: bool) -> None:
    """A line of numbers; the tensors that did not simply match by name; all of them if `whole`."""
    if report.base is None:
        say(f"{source}: no base: {report.note}")
        return
    note = f" ({report.note})" if report.note else ""
    say(f"{source}: {report.matched} of {len(report.matches)} tensors match the base {report.base}{note}")
    rows = [[m.tensor, m.base or "-", m.how] for m in report.matches if whole or m.how not in PLAIN]
    if rows:
        table(["tensor", "base", "how"], rows, left=3)
