"""What `compress` and `decompress` have in common."""

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
from slimtensors.cli.targets import Conversion, check_file
from slimtensors.container.remote import is_remote, last_part
from slimtensors.container.system import remove_abandoned
from slimtensors.files.folders import carry_out

__all__ = ["Settings", "rewrite", "run", "run_remote"]

Work = Callable[[Path, Path, Callable[[int], object] | None], object]


class Settings(NamedTuple):
    """Options of both commands."""

    force: bool
    dry_run: bool
    quiet: bool
    verbose: int
    progress: bool | None


def run(conversions: Sequence[Conversion], work: Work, amount: Callable[[Path], int], settings: Settings) -> None:
    """Carry out all conversions.

    amount: bytes of progress that a file will report; it also checks what the file is, before anything is written.
    """
    totals = [sum(amount(source) for source, _ in each.files) for each in conversions]
    if settings.dry_run:
        for each in conversions:
            _say_plan(each)
        return
    for number, (each, total) in enumerate(zip(conversions, totals, strict=True)):
        begin = time.perf_counter()
        with (
            _telling_of_the_rest(each, conversions[number + 1 :]),
            bar(total, each.source.name, quiet=settings.quiet, asked=settings.progress) as advance,
        ):
            _convert(each, work, advance, settings.force)
        if not settings.quiet:
            _say_result(each, time.perf_counter() - begin, settings.verbose)


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


def run_remote(
    source: str,
    target: Path,
    work: Callable[[Callable[[int], object] | None], object],
    amount: Callable[[str], int],
    settings: Settings,
) -> None:
    """Convert a file that lies elsewhere."""
    with naming(source):
        total = amount(source)
    if settings.dry_run:
        say(f"would write {target} from {source}")
        return
    remove_abandoned(target)
    begin = time.perf_counter()
    with naming(source), bar(total, last_part(source), quiet=settings.quiet, asked=settings.progress) as advance:
        work(advance)
    if not settings.quiet:
        say(f"{source} -> {target}: {size(target.stat().st_size)}, {time.perf_counter() - begin:.1f} s")


def _convert(each: Conversion, work: Work, advance: Callable[[int], object] | None, force: bool) -> None:
    def one(source: Path, target: Path) -> None:
        with naming(source):
            work(source, target, advance)

    each.target.parent.mkdir(parents=True, exist_ok=True)
    if each.plan is None:
        remove_abandoned(each.target)
        one(each.source, each.target)
    else:
        carry_out(each.plan, each.target, one, force=force)


def _say_plan(each: Conversion) -> None:
    for source, target in each.files:
        say(f"would write {target} from {source} ({size(source.stat().st_size)})")
    if each.plan is not None:
        for name, to, _ in each.plan.indexes:
            say(f"would write {each.target / to} from {each.source / name}")
        say(f"would copy {len(each.plan.copies)} other files to {each.target}")


def _change(before: int, after: int) -> str:
    """What bytes became; of what grew, such as a small difference from a base, the share says nothing."""
    return f"{size(before)} -> {size(after)}" + (f" ({percent(after, before)})" if after <= before else "")


def _say_result(each: Conversion, elapsed: float, verbose: int) -> None:
    files = [(source.stat().st_size, target.stat().st_size) for source, target in each.files]
    before, after = sum(a for a, _ in files), sum(b for _, b in files)
    if each.plan is not None and verbose:
        for (source, target), (a, b) in zip(each.files, files, strict=True):
            say(f"  {source.name} -> {target.name}: {_change(a, b)}")
    count = f" ({len(files)} weight files)" if each.plan is not None else ""
    say(
        f"{each.source} -> {each.target}{count}: {_change(before, after)}, "
        f"{elapsed:.1f} s, {speed(max(before, after), elapsed)}"
    )


def rewrite(
    given: str,
    out: str,
    bases: list[Any],
    force: bool,
    max_bytes: int | None,
    quiet: bool,
    asked: bool | None,
    work: Callable[[Callable[[int], object] | None], object],
) -> None:
    """One slimtensors file, or one elsewhere, into another: `flatten` and `rebase`. bases: where it finds its own."""
    source, target = given if is_remote(given) else Path(given), Path(out)
    check_file(source, target, ".slimtensors", force=force)
    with naming(source), open_with(source, bases, verify="none", max_bytes=max_bytes) as file:
        total = 2 * file.header.decoded_bytes
    remove_abandoned(target)
    with naming(source), bar(total, last_part(given), quiet=quiet, asked=asked) as advance:
        work(advance)
    if not quiet:
        before = f"{size(source.stat().st_size)} -> " if isinstance(source, Path) else ""
        say(f"{source} -> {target}: {before}{size(target.stat().st_size)}")
