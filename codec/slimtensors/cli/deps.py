"""`slimtensors deps`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from slimtensors.cli import options
from slimtensors.cli.exits import WRONG_FILE

__all__ = ["command"]


@click.command("deps", short_help="List the bases that a file needs, and where they are.")
@options.path("file")
@options.base
@options.base_dirs
@options.as_json
@options.max_bytes
@options.verbose
def command(
    file: str, base: str | None, base_dirs: list[Any], as_json: bool, max_bytes: int | None, verbose: int
) -> None:
    """List every base tensor that a .slimtensors file needs: its digest, where it came from, and whether it is found.

    Bases are looked for in --base, then by digest in --base-dir and in the folders of SLIMTENSORS_BASE_DIR. Exits with
    1 if one is not found: the file cannot be read then.
    """
    from slimtensors.cli.output import print_json, say, table
    from slimtensors.depending import dependencies

    found = dependencies(file, base=[*([base] if base else []), *base_dirs], max_bytes=max_bytes)
    missing = [each for each in found if each.found is None]
    if as_json:
        print_json({"file": file, "missing": len(missing), "bases": [asdict(each) for each in found]})
        _leave(missing)
        return
    if not found:
        say(f"{file} needs no base")
        return
    rows = []
    for each in found:
        shape = "x".join(map(str, each.shape)) or "scalar"
        origin = ", ".join(each.hints[key] for key in ("repository", "revision", "file") if key in each.hints)
        identity = each.identity if verbose else each.identity[:16]
        rows.append(
            [each.hints.get("tensor", "?"), each.dtype, shape, origin, identity, each.found or "not found"]
        )
    table(["base tensor", "dtype", "shape", "from", "identity", "found"], rows, left=6)
    for problem in dict.fromkeys(each.problem for each in missing):
        if verbose:
            say(problem)
    say(f"{file}: {len(found)} base tensors, {len(missing)} not found" + _advice(missing))
    _leave(missing)


def _leave(missing: list[Any]) -> None:
    if missing:
        raise click.exceptions.Exit(WRONG_FILE)


def _advice(missing: list[Any]) -> str:
    return "; name the base with --base, or a folder that holds it with --base-dir" if missing else ""
