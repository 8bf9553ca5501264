"""`slimtensors salvage`."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slimtensors.cli import options
from slimtensors.cli.exits import WRONG_FILE

if TYPE_CHECKING:
    from slimtensors.files.salvaging import Lost

__all__ = ["command"]


@click.command("salvage", short_help="Write what is whole of a damaged file.")
@options.path("file")
@options.path("out")
@click.option("--zeros", is_flag=True, help="Of tensors that are partly whole write that part, and zeros for the rest.")
@options.base
@options.base_dirs
@options.threads
@options.force
@options.max_bytes
@options.progress
@options.quiet
@options.verbose
def command(
    file: str,
    out: str,
    zeros: bool,
    base: str | None,
    base_dirs: list[Any],
    threads: int | None,
    force: bool,
    max_bytes: int | None,
    progress: bool | None,
    quiet: bool,
    verbose: int,
) -> None:
    """Write to OUT, a .safetensors file, the tensors of FILE that are whole: all whose every byte is as its digests
    say. FILE may be damaged, cut off, or on a disk that no longer reads all of it.

    What is lost is listed, and named in OUT's metadata; the exit code is 1 then. A file whose first part, the header,
    is damaged cannot be salvaged.
    """
    del verbose  # has done its work when it was parsed
    from slimtensors.bases.resolving import open_with
    from slimtensors.cli.bases import bases_of
    from slimtensors.cli.exits import naming
    from slimtensors.cli.output import say, size, table
    from slimtensors.cli.progress import bar
    from slimtensors.cli.targets import check_file
    from slimtensors.container.remote import is_remote, last_part
    from slimtensors.files.salvaging import salvage

    source, target = file if is_remote(file) else Path(file), Path(out)
    check_file(source, target, ".safetensors", force=force)
    with naming(source), open_with(source, None, verify="none", max_bytes=max_bytes, partial=True) as opened:
        total = 2 * opened.header.decoded_bytes
    with naming(source), bar(total, last_part(file), quiet=quiet, asked=progress) as advance:
        found = salvage(
            source, target, base=bases_of(base, base_dirs, file), zeros=zeros, threads=threads,
            max_bytes=max_bytes, progress=advance,
        )  # fmt: skip
    if found.lost:
        rows = [
            [each.name, each.dtype, "x".join(map(str, each.shape)) or "scalar", _extent(each), each.why]
            for each in found.lost
        ]
        table(["tensor", "dtype", "shape", "lost", "why"], rows, left=5)
    if not quiet:
        parts = sum(bool(each.zeros) for each in found.lost)
        absent = len(found.lost) - parts
        rest = f"; {absent} are lost" if absent else ""
        rest += f"; of {parts} parts are zeros" if parts else ""
        rest = rest or ", all that there are; if `slimtensors verify` finds no fault, decompress gives back the file"
        say(f"{source} -> {target}: {found.tensors} tensors, {size(found.decoded_bytes)}{rest}")
    if found.lost:
        raise click.exceptions.Exit(WRONG_FILE)


def _extent(lost: Lost) -> str:
    """What of a tensor is lost: rows, where it has any."""
    if not lost.zeros:
        return "all"
    width = prod(lost.shape[1:])
    if len(lost.shape) < 2:
        return "elements " + ", ".join(f"{first} to {end - 1}" for first, end in lost.zeros)
    return "rows " + ", ".join(f"{first // width} to {(end - 1) // width}" for first, end in lost.zeros)
