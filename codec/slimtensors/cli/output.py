"""What commands print: lines, tables and JSON, readable in any encoding and without a terminal."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import click

from slimtensors.cli.exits import printable

if TYPE_CHECKING:
    from slimtensors.files.inspecting import FileReport

__all__ = [
    "columns", "lossy_summary", "percent", "print_json", "say", "seconds", "size", "speed", "table", "under_target",
]  # fmt: skip

UNLIMITED = 100_000  # columns where there is no terminal, so that nothing is cut
LEAST = 16  # columns of text that can be read


def say(text: str) -> None:
    """A line on stdout."""
    _print(printable(text) + "\n")


def lossy_summary(report: FileReport) -> str:
    """How many tensors of a lossy file are quantised, how, their worst errors, and what the others take."""
    exact = sum(t.stored_bytes for t in report.tensors if t.lossy is None)
    lossy = [t.lossy for t in report.tensors if t.lossy is not None]
    recipes = ", ".join(sorted({each.recipe for each in lossy}))
    worst, largest = max(each.nmse for each in lossy), max(each.max for each in lossy)
    return (
        f"{len(lossy)} of {len(report.tensors)} tensors are quantised ({recipes}), NMSE at most {worst:.3g}, "
        f"largest error {largest:.3g}; exact ones take {percent(exact, report.file_bytes)} of the file"
    )


def under_target(length: int, size: int) -> str:
    """How a file's length compares with the size asked for, in bytes."""
    return f"{length} bytes, {100 * (size - length) / size:.2f} % less than asked for"


def print_json(value: Any) -> None:
    """ASCII only, so that any encoding carries it."""
    _print(json.dumps(value, indent=2) + "\n")


def columns() -> int:
    """What fits in a line; without a terminal nothing is cut."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else UNLIMITED


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> None:
    """A table; the first `left` columns are text, which may go on in the next line, the others numbers, which may not.
    Where it does not fit, each row is a list of its own, with a line for each value.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    _print(_side_by_side(heads, cells, left) or _one_by_one(heads, cells))


def _side_by_side(heads: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    """Nothing if there is too little room."""
    from rich import box
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    wide = [max(map(cell_len, each)) for each in zip(heads, *rows, strict=True)]
    least = [min(each, LEAST) if i < left else each for i, each in enumerate(wide)]
    if sum(least) + 3 * len(least) - 1 > columns():  # with what is between them
        return ""
    # Printed by click in the end: rich would end the process when nobody reads on.
    console = Console(file=sys.stdout, highlight=False, width=columns())
    made = Table(box=box.SIMPLE_HEAD, show_edge=False)
    for i, head in enumerate(heads):
        justify: Literal["left", "right"] = "left" if i < left else "right"
        made.add_column(Text(head), justify=justify, overflow="fold", no_wrap=i >= left, min_width=least[i])
    for row in rows:
        made.add_row(*map(Text, row))
    with console.capture() as captured:
        console.print(made)
    return captured.get()


def _one_by_one(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    wide = max(map(len, heads))
    lists = []
    for first, *rest in rows:
        lines = [f"  {head:{wide}}  {cell}\n" for head, cell in zip(heads[1:], rest, strict=True) if cell]
        lists.append(f"{first}\n" + "".join(lines))
    return "\n".join(lists)


def _print(text: str) -> None:
    """Left to itself, click would turn what the encoding lacks into question marks."""
    click.echo(text, file=sys.stdout, nl=False)


def size(count: float) -> str:
    """Bytes in decimal units, as disks and the Hub count them."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 999.5:
            return f"{count:.0f} B" if unit == "B" else f"{_three_digits(count)} {unit}"
        count /= 1000
    return f"{_three_digits(count)} TB"


def _three_digits(value: float) -> str:
    return f"{value:.{2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0}f}"


def percent(part: float, whole: float) -> str:
    """part / whole."""
    return f"{100 * part / whole:.1f} %" if whole else "-"


def speed(count: float, elapsed: float) -> str:
    """Bytes per second, in one unit, so that they can be compared at sight."""
    if elapsed <= 0:
        return "-"
    rate = count / elapsed / 1e6
    return f"{rate:.{1 if rate < 99.95 else 0}f} MB/s"


def seconds(elapsed: float) -> str:
    return f"{elapsed:.2f} s"
