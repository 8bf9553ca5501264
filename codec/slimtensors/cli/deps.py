"""`slimtensors deps`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from slimtensors import stopping
from slimtensors.cli import options
from slimtensors.cli.exits import WRONG_FILE

__all__ = ["command"]


@click.command("deps", short_help="List the bases that a file or folder needs, and where they are.")
@options.path("path")
@options.base
@options.base_dirs
@options.as_json
@options.max_bytes
@options.verbose
def command(
    path: str, base: str | None, base_dirs: list[Any], as_json: bool, max_bytes: int | None, verbose: int
) -> None:
    """List every base tensor that a .slimtensors file needs, or those of a folder: its digest, where it came from, and
    whether it is found. The index of a folder's shards stands for the folder.

    Bases are looked for in --base, at their commit in the hub's cache, then by digest in --base-dir and in the folders
    of SLIMTENSORS_BASE_DIR. Exits with 1 if one is not found: the file cannot be read then.
    """
    from slimtensors.cli.bases import bases_of
    from slimtensors.cli.exits import naming
    from slimtensors.cli.files import stored_files
    from slimtensors.cli.output import print_json, say, table
    from slimtensors.files.depending import dependencies

    needed: list[tuple[str, Any]] = []  # with the file's name
    files: list[dict[str, Any]] = []
    for name, file in stored_files(path).files.items():
        stopping.end_if_asked()
        with naming(file):
            found = dependencies(file, base=bases_of(base, base_dirs, file), max_bytes=max_bytes)
        needed += [(name, each) for each in found]
        lacking = sum(each.found is None for each in found)
        files.append({"file": str(file), "missing": lacking, "bases": [asdict(each) for each in found]})
    missing = [each for _, each in needed if each.found is None]
    if as_json:
        print_json(files[0] if len(files) == 1 else {"folder": path, "missing": len(missing), "files": files})
        _leave(missing)
        return
    if not needed:
        say(f"{path} needs no base")
        return
    rows = []
    for name, each in needed:
        shape = "x".join(map(str, each.shape)) or "scalar"
        origin = ", ".join(each.hints[key] for key in ("repository", "revision", "file") if key in each.hints)
        identity = each.identity if verbose else each.identity[:16]
        row = [each.hints.get("tensor", "?"), each.dtype, shape, origin, identity, each.found or "not found"]
        rows.append(row if len(files) == 1 else [name, *row])
    heads = ["base tensor", "dtype", "shape", "from", "identity", "found"]
    table(heads if len(files) == 1 else ["file", *heads], rows, left=7)
    for problem in dict.fromkeys(each.problem for each in missing):
        if verbose:
            say(problem)
    say(f"{path}: {len(needed)} base tensors, {len(missing)} not found" + _advice(missing))
    _leave(missing)


def _leave(missing: list[Any]) -> None:
    if missing:
        raise click.exceptions.Exit(WRONG_FILE)


def _advice(missing: list[Any]) -> str:
    from slimtensors.container.hints import pinned_name

    if not missing:
        return ""
    place = pinned_name(missing[0].hints)
    there = "" if place is None else f" (--base {place} reads it from the hub)"
    return f"; name the base with --base{there}, or a folder that holds it with --base-dir"
