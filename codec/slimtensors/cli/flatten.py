"""`slimtensors flatten`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slimtensors.cli import options

if TYPE_CHECKING:
    from slimtensors.cli.conversions import Advance

__all__ = ["command"]


@click.command("flatten", short_help="Make files that need no base of those that do.")
@options.path("path")
@options.path("out")
@options.base
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
    base: str | None,
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
    """Write to OUT the tensors of PATH without bases. OUT gives back the same source file.

    Of a folder, or the index of its shards, OUT is the folder to make, with all other files copied.
    """
    from slimtensors.cli.bases import bases_of, check_bases_stay
    from slimtensors.cli.conversions import Settings, decoded_bytes, run
    from slimtensors.cli.targets import settle
    from slimtensors.files.flattening import flatten
    from slimtensors.files.folders import REWRITE

    def needed(source: Any) -> list[Any]:
        return bases_of(base, base_dirs, source)

    def work(source: Any, target: Path, advance: Advance) -> None:
        flatten(
            source, target, base=needed(source), preset=preset, threads=threads, max_bytes=max_bytes, progress=advance
        )

    def amount(source: Any) -> int:
        return decoded_bytes(source, needed(source), max_bytes)

    conversions = settle([path], out, REWRITE, force=force or dry_run)
    check_bases_stay(conversions, needed, max_bytes)
    run(conversions, work, amount, Settings(force, dry_run, quiet, verbose, progress))
