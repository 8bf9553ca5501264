"""What commands print: lines, tables and JSON, readable in any encoding and without a terminal."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from slimtensors.cli.exits import printable

if TYPE_CHECKING:
    from slimtensors.files.inspecting import FileReport

__all__ = [
    "columns", "lossy_summary", "percent", "print_json", "say", "seconds", "size", "speed", "table", "under_target",
]  # fmt: skip

UNLIMITED = 100_000  # columns where there is no terminal, so that nothing is cut


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
    """A table; the first `left` columns are text, the others numbers."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # Printed by click in the end: rich would end the process when nobody reads on.
    console = Console(file=sys.stdout, highlight=False, width=columns())
    made = Table(box=box.SIMPLE_HEAD, show_edge=False)
    for i, head in enumerate(heads):
        made.add_column(Text(head), justify="left" if i < left else "right", overflow="fold", no_wrap=i >= left)
    for row in rows:
        made.add_row(*[Text(printable(cell)) for cell in row])
    with console.capture() as captured:
        console.print(made)
    _print(captured.get())


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
    """Bytes per second."""
    if elapsed <= 0:
        return "-"
    rate = count / elapsed
    return f"{rate / 1e9:.2f} GB/s" if rate >= 1e8 else f"{rate / 1e6:.1f} MB/s"


def seconds(elapsed: float) -> str:
    return f"{elapsed:.2f} s"
