"""`slimtensors convert`: a repository of a hub. What else there may be to convert is told apart by `_is_repository`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from slimtensors.cli import options

__all__ = ["command"]


@click.command("convert", short_help="Make a compressed repository of a plain one.")
@click.argument("source")
@click.argument("to", required=False)
@click.option("--revision", metavar="REV", help="Commit, branch or tag of SOURCE; by default the latest commit.")
@options.hub_base
@options.base_map
@options.preset
@options.private
@options.create_pr
@options.message
@options.no_verify
@options.threads
@options.progress
@options.quiet
@options.verbose
def command(source: str, **settings: Any) -> None:
    """Make a compressed repository of a plain one.

    SOURCE is downloaded (OWNER/NAME, or hf://OWNER/NAME@REVISION), its weights are compressed, and all of it is pushed
    to TO, by default a repository of your own, NAME-slim. With --create-pr it becomes a pull request to TO, or to
    SOURCE itself.
    """
    from slimtensors.errors import UsageError

    if _is_repository(source):
        _convert_repository(source, **settings)
    else:
        raise UsageError(f"{source} is here; `slimtensors compress` makes a compressed file or folder of it")


def _is_repository(source: str) -> bool:
    """What is there is a path, whatever it is called."""
    return source.startswith("hf://") or not Path(source).exists()


def _convert_repository(
    source: str,
    to: str | None,
    no_verify: bool,
    progress: bool | None,
    quiet: bool,
    verbose: int,
    message: str | None,
    **settings: Any,
) -> None:
    from slimtensors.cli.hub import matches_said, say_commit, set_bars
    from slimtensors_hub import convert

    set_bars(quiet, progress)
    done = convert(
        source, to, commit_message=message, verify=not no_verify, on_match=matches_said(quiet, verbose), **settings
    )
    say_commit(done, quiet)
