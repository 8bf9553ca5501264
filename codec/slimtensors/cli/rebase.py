"""`slimtensors rebase`."""

from __future__ import annotations

from typing import Any

import click

from slimtensors.cli import options

__all__ = ["command"]


@click.command("rebase", short_help="Store a file as differences from another base.")
@options.path("file")
@options.path("out")
@click.option(
    "--base",
    required=True,
    metavar="NEW",
    callback=options.no_empty,
    help="File or folder to store differences from, or auto.",
)
@click.option(
    "--old-base", metavar="OLD", callback=options.no_empty, help="The base that FILE needs now, if it needs one."
)
@options.base_map
@options.base_dirs
@options.preset
@options.threads
@options.force
@options.max_bytes
@options.progress
@options.quiet
@options.verbose
def command(
    file: str,
    out: str,
    base: str,
    old_base: str | None,
    base_map: dict[str, str],
    base_dirs: list[Any],
    preset: str,
    threads: int | None,
    force: bool,
    max_bytes: int | None,
    progress: bool | None,
    quiet: bool,
    verbose: int,
) -> None:
    """Write to OUT the tensors of FILE as differences from NEW. OUT gives back the same source file."""
    from slimtensors.cli.bases import bases_of
    from slimtensors.cli.conversions import rewrite
    from slimtensors.cli.matches import say_matches
    from slimtensors.files.flattening import rebase

    old = [*([old_base] if old_base else []), *bases_of(None, base_dirs, file)]
    rewrite(
        file, out, old, force, max_bytes, quiet, progress,
        lambda advance: rebase(
            file, out, base, old_base=old, base_map=base_map, base_dirs=base_dirs, preset=preset,
            threads=threads, max_bytes=max_bytes, progress=advance,
            on_match=None if quiet else lambda report: say_matches(file, report, whole=bool(verbose)),
        ),
    )  # fmt: skip
