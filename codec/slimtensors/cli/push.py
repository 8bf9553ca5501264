"""`slimtensors push`."""

from __future__ import annotations

from typing import Any

import click

from slimtensors.cli import options

__all__ = ["command"]


@click.command("push", short_help="Compress a folder and upload it to a hub.")
@options.path("source")
@click.argument("repo_id")
@click.option("--revision", metavar="BRANCH", help="Branch to commit to; it must exist.")
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
def command(
    source: str,
    repo_id: str,
    no_verify: bool,
    progress: bool | None,
    quiet: bool,
    verbose: int,
    message: str | None,
    **settings: Any,
) -> None:
    """Compress a model's folder, or one weight file, and upload it to a repository OWNER/NAME, made if need be.

    It is one commit. Files that are no weights go as they are; README.md and .gitattributes get lines of ours, which
    `slimtensors pull --decompress` takes out again. Log in with `hf auth login`, or set HF_TOKEN.
    """
    from slimtensors.cli.hub import matches_said, say_commit, set_bars

    set_bars(quiet, progress)
    from slimtensors_hub import push

    done = push(
        source, repo_id, commit_message=message, verify=not no_verify, on_match=matches_said(quiet, verbose), **settings
    )
    say_commit(done, quiet)
