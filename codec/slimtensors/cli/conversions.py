"""What the commands have in common that make files of files, or folders of folders."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import click

from slimtensors.bases.resolving import open_with
from slimtensors.cli.exits import naming, printable
from slimtensors.cli.output import percent, say, size, speed
from slimtensors.cli.progress import bar
from slimtensors.cli.targets import Conversion, is_taken
from slimtensors.container.remote import last_part
from slimtensors.container.system import remove_abandoned
from slimtensors.files.folders import carry_out

__all__ = ["Advance", "Settings", "decoded_bytes", "run"]

Advance = Callable[[int], object] | None
Work = Callable[[Any, Path, Advance], object]


class Settings(NamedTuple):
    """Options of all of them."""

    force: bool
    dry_run: bool
    quiet: bool
    verbose: int
    progress: bool | None


def run(
    conversions: Sequence[Conversion], work: Work, amount: Callable[[Any], int], settings: Settings, *, passes: int = 2
) -> None:
    """Carry out all conversions.

    amount: bytes of a file, as its progress bar shows them; it also checks what the file is, before anything is
    written. passes: how many times the work reports each.
    """
    totals = [sum(_amount(amount, source) for source, _ in each.files) for each in conversions]
    if settings.dry_run:
        for each in conversions:
            _say_plan(each, force=settings.force)
        return
    for number, (each, total) in enumerate(zip(conversions, totals, strict=True)):
        begin = time.perf_counter()
        with (
            _telling_of_the_rest(each, conversions[number + 1 :]),
            bar(
                total, last_part(str(each.source)), quiet=settings.quiet, asked=settings.progress, passes=passes
            ) as advance,
        ):
            _convert(each, work, advance, settings.force)
        if not settings.quiet:
            _say_result(each, time.perf_counter() - begin, settings.verbose)


def decoded_bytes(source: Any, bases: list[Any], max_bytes: int | None, *, partial: bool = False) -> int:
    """What a slimtensors file holds."""
    with open_with(source, bases, verify="none", max_bytes=max_bytes, partial=partial) as file:
        return file.header.decoded_bytes


def _amount(amount: Callable[[Any], int], source: Any) -> int:
    with naming(source):
        return amount(source)


@contextmanager
def _telling_of_the_rest(each: Conversion, rest: Sequence[Conversion]) -> Iterator[None]:
    """An error ends the command: of several sources, which it was, and what is left."""
    try:
        yield
    except Exception:
        if rest:
            names = ", ".join(str(other.source) for other in rest)
            click.echo(f"slimtensors: {printable(f'{each.source} failed; not tried: {names}')}", file=sys.stderr)
        raise


def _convert(each: Conversion, work: Work, advance: Advance, force: bool) -> None:
    def one(source: Any, target: Path) -> None:
        with naming(source):
            work(source, target, advance)

    each.target.parent.mkdir(parents=True, exist_ok=True)
    if each.plan is None:
        remove_abandoned(each.target)
        one(each.source, each.target)
    else:
        carry_out(each.plan, each.target, one, force=force)


def _say_plan(each: Conversion, *, force: bool) -> None:
    for source, target in each.files:
        known = f" ({size(source.stat().st_size)})" if isinstance(source, Path) else ""
        say(f"would write {target} from {source}{known}")
    if each.plan is not None:
        for name, to, _ in each.plan.indexes:
            say(f"would write {each.target / to} from {each.source / name}")
        say(f"would copy {len(each.plan.copies)} other files to {each.target}")
    if not force and is_taken(each.target):
        say(f"{each.target} is there already: needs --force")


def _change(before: int, after: int) -> str:
    """What bytes became, of a file elsewhere from none; of what grew, such as a small difference from a base, the share
    says nothing.
    """
    known, share = f"{size(before)} -> " if before else "", f" ({percent(after, before)})" if after <= before else ""
    return known + size(after) + share


def _say_result(each: Conversion, elapsed: float, verbose: int) -> None:
    files = [
        (source.stat().st_size if isinstance(source, Path) else 0, target.stat().st_size)
        for source, target in each.files
    ]
    before, after = sum(a for a, _ in files), sum(b for _, b in files)
    if each.plan is not None and verbose:
        for (source, target), (a, b) in zip(each.files, files, strict=True):
            say(f"  {source.name} -> {target.name}: {_change(a, b)}")
    count = f" ({len(files)} weight files)" if each.plan is not None else ""
    say(
        f"{each.source} -> {each.target}{count}: {_change(before, after)}, "
        f"{elapsed:.1f} s, {speed(max(before, after), elapsed)}"
    )
