"""`slimtensors salvage`."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slimtensors.cli import options
from slimtensors.cli.exits import WRONG_FILE, in_options
from slimtensors.errors import FormatError

if TYPE_CHECKING:
    from slimtensors.cli.conversions import Advance
    from slimtensors.files.salvaging import Lost

__all__ = ["command"]


@click.command("salvage", short_help="Write what is whole of damaged files.")
@options.path("path")
@options.path("out")
@click.option("--zeros", is_flag=True, help="Of tensors that are partly whole write that part, and zeros for the rest.")
@options.base
@options.base_dirs
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
    zeros: bool,
    base: str | None,
    base_dirs: list[Any],
    threads: int | None,
    force: bool,
    dry_run: bool,
    max_bytes: int | None,
    progress: bool | None,
    quiet: bool,
    verbose: int,
) -> None:
    """Write to OUT, a .safetensors file, the tensors of PATH that are whole: all whose every byte is as its digests
    say. PATH may be damaged, cut off, or on a disk that no longer reads all of it.

    Of a folder, or the index of its shards, OUT is the folder to make, with all other files copied; what is lost of its
    shards, or a whole shard, no index names any more.

    What is lost is listed, and named in the metadata of what is written; the exit code is 1 then. A file whose first
    part, the header, is damaged cannot be salvaged.
    """
    from slimtensors.cli.bases import bases_of, check_bases_stay
    from slimtensors.cli.conversions import Settings, decoded_bytes, run
    from slimtensors.cli.output import say, size, table
    from slimtensors.cli.targets import settle
    from slimtensors.files.folders import SALVAGE
    from slimtensors.files.salvaging import salvage
    from slimtensors.reading.verifying import is_damage

    (conversion,) = conversions = settle([path], out, SALVAGE, force=force or dry_run)
    plan, rows = conversion.plan, list[list[str]]()

    def needed(source: Any) -> list[Any]:
        return bases_of(base, base_dirs, source)

    def amount(source: Any) -> int:
        try:
            return decoded_bytes(source, [], max_bytes, partial=True)
        except (FormatError, OSError) as error:
            if plan is None or not is_damage(error):
                raise
            return 0

    def work(source: Any, target: Path, advance: Advance) -> None:
        name = str(source) if plan is None else source.relative_to(plan.source).as_posix()
        try:
            found = salvage(
                source, target, base=needed(source), zeros=zeros, threads=threads,
                max_bytes=max_bytes, progress=advance,
            )  # fmt: skip
        except (FormatError, OSError) as error:
            if plan is None or len(plan.weights) == 1 or not is_damage(error):
                raise
            plan.leave_out(name)
            rows.append([name, "", "", "", "all", in_options(error, click.get_current_context().command)])
            return
        absent = {each.name for each in found.lost if not each.zeros}
        if plan is not None and absent:
            plan.leave_out(name, absent)
        for each in found.lost:
            shape = "x".join(map(str, each.shape)) or "scalar"
            rows.append([name, each.name, each.dtype, shape, _extent(each), each.why])
        if not quiet:
            parts = len(found.lost) - len(absent)
            rest = f"; {len(absent)} are lost" if absent else ""
            rest += f"; of {parts} parts are zeros" if parts else ""
            sound = ", all that there are; if `slimtensors verify` finds no fault, decompress gives back the file"
            say(f"{source}: {found.tensors} tensors, {size(found.decoded_bytes)}{rest or sound}")

    check_bases_stay(conversions, needed, max_bytes)
    run(conversions, work, amount, Settings(force, dry_run, quiet, verbose, progress))
    if rows:
        shown = slice(0 if plan is not None else 1, None)
        heads = ["file", "tensor", "dtype", "shape", "lost", "why"]
        table(heads[shown], [row[shown] for row in rows], left=len(heads))
        raise click.exceptions.Exit(WRONG_FILE)


def _extent(lost: Lost) -> str:
    """What of a tensor is lost: rows, where it has any."""
    if not lost.zeros:
        return "all"
    width = prod(lost.shape[1:])
    if len(lost.shape) < 2:
        return "elements " + ", ".join(f"{first} to {end - 1}" for first, end in lost.zeros)
    return "rows " + ", ".join(f"{first // width} to {(end - 1) // width}" for first, end in lost.zeros)
