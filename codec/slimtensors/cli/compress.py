"""`slimtensors compress`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from slimtensors.cli import options

__all__ = ["command"]


@click.command("compress", short_help="Compress .safetensors files or folders.")
@options.path("paths", many=True)
@options.output
@options.preset
@options.threads
@options.force
@options.dry_run
@options.progress
@options.quiet
@options.verbose
def command(
    paths: tuple[str, ...],
    out: str | None,
    preset: str,
    threads: int | None,
    force: bool,
    dry_run: bool,
    progress: bool | None,
    quiet: bool,
    verbose: int,
) -> None:
    """Compress .safetensors files, or whole folders of them.

    model.safetensors becomes model.slimtensors beside it, checked by decoding it before it takes its name. A folder,
    or the index of its shards, becomes FOLDER-slim, with all other files copied. Nothing is deleted.
    """
    from slimtensors.cli.convert import Settings, run
    from slimtensors.cli.targets import settle
    from slimtensors.converting import compress
    from slimtensors.folders import COMPRESS
    from slimtensors.planner import check_preset

    check_preset(preset)

    def work(source: Path, target: Path, advance: Callable[[int], object] | None) -> None:
        compress(source, target, preset=preset, threads=threads, progress=advance)

    conversions = settle(paths, out, COMPRESS, force=force)
    run(conversions, work, _amount, Settings(force, dry_run, quiet, verbose, progress))


def _amount(path: Path) -> int:
    """The file is encoded, then decoded to check it."""
    from slimtensors.container.source import open_source
    from slimtensors.converting import open_safetensors

    source = open_source(path)
    try:
        open_safetensors(source)
        return 2 * source.size()
    finally:
        source.close()
