"""`slimtensors convert`: a repository of a hub; or, with --as, a checkpoint of a training job, or model files, here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from slimtensors.cli import options

__all__ = ["command"]


@click.command("convert", short_help="Make a compressed repository of a plain one; convert checkpoints (--as).")
@click.argument("source", callback=options.no_empty)
@click.argument("to", required=False, callback=options.no_empty)
@click.option("--revision", metavar="REV", help="Commit, branch or tag of SOURCE; by default the latest commit.")
@click.option(
    "--as",
    "kind",
    type=click.Choice(["checkpoint", "dcp", "safetensors", "slimtensors"]),
    help="What to make of SOURCE, which is here: a checkpoint of ours, one for PyTorch's own reader, model files.",
)
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
def command(source: str, kind: str | None, **settings: Any) -> None:
    """Make a compressed repository of a plain one.

    SOURCE is downloaded (OWNER/NAME, or hf://OWNER/NAME@REVISION), its weights are compressed, and all of it is pushed
    to TO, by default a repository of your own, NAME-slim. With --create-pr it becomes a pull request to TO, or to
    SOURCE itself.

    With --as, SOURCE is a folder here: a checkpoint of torch.distributed.checkpoint, compressed or not, or model files
    of either kind; TO is a folder that is not there yet. One tensor is in memory at a time.
    """
    from slimtensors.errors import UsageError

    if kind is not None:
        _convert_here(source, kind, **settings)
    elif _is_repository(source):
        _convert_repository(source, **settings)
    else:
        raise UsageError(
            f"{source} is here; `slimtensors compress` makes a compressed file or folder of it, --as other things of "
            "checkpoints"
        )


def _convert_here(
    source: str, kind: str, to: str | None, preset: str, threads: int | None, quiet: bool, **_: Any
) -> None:
    from slimtensors.cli.exits import naming
    from slimtensors.cli.output import say, size
    from slimtensors.errors import UsageError

    if to is None:
        raise UsageError("name the folder to make, after SOURCE")
    try:
        from slimtensors.torch.distributed import convert_checkpoint
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise UsageError('--as needs PyTorch: pip install "slimtensors[torch]"') from error

    with naming(Path(source)):
        convert_checkpoint(source, to, kind, preset=preset, threads=threads)  # type: ignore[arg-type] # one of a list
    if not quiet:
        say(f"{source} -> {to}: {size(sum(each.stat().st_size for each in Path(to).iterdir()))}")


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

    set_bars(quiet, progress)
    from slimtensors_hub import convert

    done = convert(
        source, to, commit_message=message, verify=not no_verify, on_match=matches_said(quiet, verbose), **settings
    )
    say_commit(done, quiet)
