"""`slimtensors pull`."""

from __future__ import annotations

from typing import Any

import click

from slimtensors.cli import options

__all__ = ["command"]


@click.command("pull", short_help="Download a repository of a hub, compressed or as it was.")
@click.argument("repo_id")
@click.option("--decompress", is_flag=True, help="Give back the plain files, byte for byte.")
@click.option("--revision", metavar="REV", help="Commit, branch or tag; by default the latest commit.")
@click.option(
    "-o", "--output", "out", type=click.Path(), callback=options.no_empty, metavar="DIR",
    help="Folder to write; by default the hub's cache, or with --decompress NAME.",
)  # fmt: skip
@options.base
@options.base_dirs
@options.threads
@options.force
@options.progress
@options.quiet
@options.verbose
def command(
    repo_id: str,
    decompress: bool,
    revision: str | None,
    out: str | None,
    base: str | None,
    base_dirs: list[Any],
    threads: int | None,
    force: bool,
    progress: bool | None,
    quiet: bool,
    verbose: int,
) -> None:
    """Download a repository OWNER/NAME, check the digests of its files, and print the folder in which it is.

    Bases that its weights are differences from are fetched as well. With --decompress the folder holds what the
    repository held before it was compressed, for any tool.
    """
    del verbose  # has done its work when it was parsed
    from slimtensors.cli.hub import set_bars
    from slimtensors.cli.output import say

    set_bars(quiet, progress)
    from slimtensors_hub import pull

    bases = [*([base] if base else []), *base_dirs]
    folder = pull(
        repo_id, revision=revision, decompress=decompress, local_dir=out, base=bases or None, threads=threads,
        overwrite=force,
    )  # fmt: skip
    say(str(folder))
