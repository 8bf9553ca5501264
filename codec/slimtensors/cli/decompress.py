"""`slimtensors decompress`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slimtensors.cli import options

if TYPE_CHECKING:
    from slimtensors.cli.conversions import Advance

__all__ = ["command"]


@click.command("decompress", short_help="Give back the files that were compressed.")
@options.path("paths", many=True)
@options.output
@options.threads
@options.force
@options.dry_run
@options.base
@options.base_dirs
@options.max_bytes
@options.progress
@options.quiet
@options.verbose
def command(
    paths: tuple[str, ...],
    out: str | None,
    threads: int | None,
    force: bool,
    dry_run: bool,
    base: str | None,
    base_dirs: list[Any],
    max_bytes: int | None,
    progress: bool | None,
    quiet: bool,
    verbose: int,
) -> None:
    """Give back the files that were compressed, byte for byte.

    model.slimtensors becomes model.safetensors beside it (model.gguf.slimtensors model.gguf), its SHA-256 checked
    before it takes its name. A folder, or the index of its shards, becomes FOLDER-restored. Of a file elsewhere
    (hf://owner/name/file, https://, s3://) it is written into the current folder. Nothing is deleted.
    """
    from slimtensors.bases.resolving import open_with
    from slimtensors.cli.bases import bases_of, check_bases_stay
    from slimtensors.cli.conversions import Settings, run
    from slimtensors.cli.targets import settle
    from slimtensors.files.converting import decompress
    from slimtensors.files.folders import DECOMPRESS

    def needed(source: Path | str) -> list[Any]:
        return bases_of(base, base_dirs, source)

    def work(source: Path | str, target: Path, advance: Advance) -> None:
        decompress(source, target, threads=threads, max_bytes=max_bytes, progress=advance, base=needed(source))

    def amount(path: Path | str) -> int:
        with open_with(path, needed(path), max_bytes=max_bytes) as file:
            return file.header.decoded_bytes + (file.header.image.literal_bytes if file.header.image else 0)

    conversions = settle(paths, out, DECOMPRESS, force=force or dry_run)
    check_bases_stay(conversions, needed, max_bytes)
    run(conversions, work, amount, Settings(force, dry_run, quiet, verbose, progress), passes=1)
