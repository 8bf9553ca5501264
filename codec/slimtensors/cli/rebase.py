"""`slimtensors rebase`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slimtensors.cli import options

if TYPE_CHECKING:
    from slimtensors.bases.matching import MatchReport
    from slimtensors.cli.conversions import Advance

__all__ = ["command"]


@click.command("rebase", short_help="Store files as differences from another base.")
@options.path("path")
@options.path("out")
@click.option(
    "--base",
    required=True,
    metavar="NEW",
    callback=options.no_empty,
    help="File or folder to store differences from, or auto.",
)
@click.option(
    "--old-base", metavar="OLD", callback=options.no_empty, help="The base that PATH needs now, if it needs one."
)
@options.base_map
@options.base_dirs
@options.preset
@options.threads
@options.force
@options.dry_run
@options.max_bytes
@options.progress
@options.quiet
@options.verbose
def command(
    path: str,
    out: str,
    base: str,
    old_base: str | None,
    base_map: dict[str, str],
    base_dirs: list[Any],
    preset: str,
    threads: int | None,
    force: bool,
    dry_run: bool,
    max_bytes: int | None,
    progress: bool | None,
    quiet: bool,
    verbose: int,
) -> None:
    """Write to OUT the tensors of PATH as differences from NEW. OUT gives back the same source file.

    Of a folder, or the index of its shards, OUT is the folder to make, with all other files copied. How many tensors
    match is said, with a table of those that do not by their own name (with -v of all); --dry-run says so of all, and
    writes nothing.
    """
    from slimtensors.cli.bases import bases_of, bases_of_each, check_bases_stay
    from slimtensors.cli.conversions import Settings, decoded_bytes, run
    from slimtensors.cli.matches import say_matches
    from slimtensors.cli.targets import settle
    from slimtensors.files.converting import match_base
    from slimtensors.files.flattening import rebase
    from slimtensors.files.folders import REWRITE

    def old(source: Any) -> list[Any]:
        return [*([old_base] if old_base else []), *bases_of(None, base_dirs, source)]

    def match(source: Any, base: str, **rules: Any) -> MatchReport:
        return match_base(
            source, base, base_dirs=base_dirs, old_base=old(source), max_bytes=max_bytes, **rules
        )

    def work(source: Any, target: Path, advance: Advance) -> None:
        rebase(
            source, target, **against[source], old_base=old(source), base_dirs=base_dirs, preset=preset,
            threads=threads, max_bytes=max_bytes, progress=advance,
            on_match=None if quiet else lambda report: say_matches(source, report, whole=bool(verbose)),
        )  # fmt: skip

    conversions = settle([path], out, REWRITE, force=force or dry_run)
    check_bases_stay(conversions, old, max_bytes)
    against = bases_of_each(conversions, base, base_map, base_dirs, match)
    settings = Settings(force, dry_run, quiet, verbose, progress)
    run(conversions, work, lambda source: decoded_bytes(source, old(source), max_bytes), settings)
    for source in against if dry_run else ():
        say_matches(source, match(source, **against[source]), whole=True)
