"""`slimtensors flatten`."""

from __future__ import annotations

from typing import Any

import click

from slimtensors.cli import options

__all__ = ["command"]


@click.command("flatten", short_help="Make a file that needs no base of one that does.")
@options.path("file")
@options.path("out")
@options.base
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
    base: str | None,
    base_dirs: list[Any],
    preset: str,
    threads: int | None,
    force: bool,
    max_bytes: int | None,
    progress: bool | None,
    quiet: bool,
    verbose: int,
) -> None:
    """Write to OUT the tensors of FILE without bases. OUT gives back the same source file."""
    del verbose  # has done its work when it was parsed
    from slimtensors.cli.bases import bases_of
    from slimtensors.cli.conversions import rewrite
    from slimtensors.files.flattening import flatten

    bases = bases_of(base, base_dirs, file)
    rewrite(
        file, out, bases, force, max_bytes, quiet, progress,
        lambda advance: flatten(
            file, out, base=bases, preset=preset, threads=threads,
            max_bytes=max_bytes, progress=advance,
        ),
    )  # fmt: skip
