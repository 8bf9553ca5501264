"""Options that several commands have."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from slimtensors.cli.exits import VERBOSITY

__all__ = [
    "as_json",
    "base",
    "base_dirs",
    "base_map",
    "create_pr",
    "dry_run",
    "force",
    "hub_base",
    "max_bytes",
    "message",
    "no_verify",
    "output",
    "path",
    "preset",
    "private",
    "progress",
    "quiet",
    "quiet_but_result",
    "size",
    "threads",
    "verbose",
]

F = TypeVar("F", bound=Callable[..., Any])


def _note_verbosity(ctx: click.Context, _parameter: click.Parameter, value: int) -> int:
    ctx.meta[VERBOSITY] = value
    return value


def path(name: str, *, many: bool = False) -> Callable[[F], F]:
    """A path that is looked at by the command, which has better words for what is wrong with it."""
    return click.argument(name, nargs=-1 if many else 1, required=True, type=click.Path(), callback=no_empty)


def no_empty(_ctx: click.Context, _parameter: click.Parameter, value: Any) -> Any:
    """Refuses what would be the folder that one is in: a script's variable that is not set."""
    if value == "" or (isinstance(value, tuple) and "" in value):
        raise click.BadParameter("the path is empty; the folder that you are in is '.'")
    return value


def _pairs(_ctx: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for value in values:
        old, equals, new = value.partition("=")
        if not equals:
            raise click.BadParameter(f"{value!r} is not of the form OLD=NEW")
        if old in found:
            raise click.BadParameter(f"{old!r} is mapped to {found[old]!r} and to {new!r}; one can be said")
        found[old] = new
    return found


SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([KMGT]?)(I?)B?")


def size(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> int | None:
    """A number of bytes: 4GB, 3.5 GiB, 700MB, 4000000000."""
    if value is None:
        return None
    found = SIZE.fullmatch(value.strip().upper())
    if found is None or (found[3] and not found[2]):
        raise click.BadParameter(f"{value!r:.40} is not a size, such as 4GB, 3.5GiB or 700MB")
    power: int = (1024 if found[3] else 1000) ** " KMGT".index(found[2] or " ")
    return round(float(found[1]) * power)


def _folders(_ctx: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> list[Any]:
    from slimtensors.bases.resolving import BaseDir

    for value in values:
        if not Path(value).is_dir():
            raise click.BadParameter(f"{value} is no folder")
    return [BaseDir(value) for value in values]


base = click.option(
    "--base",
    metavar="BASE",
    callback=no_empty,
    help="File, folder or repository (hf://OWNER/NAME@REVISION) that tensors are differences from; else looked for in "
    "the hub's cache, and searched for by digest.",
)
base_dirs = click.option(
    "--base-dir",
    "base_dirs",
    multiple=True,
    callback=_folders,
    metavar="DIR",
    help="Folder to search for bases, as well as those in SLIMTENSORS_BASE_DIR; may be repeated.",
)
base_map = click.option(
    "--map",
    "base_map",
    multiple=True,
    callback=_pairs,
    metavar="OLD=NEW",
    help="A tensor, or prefix that ends in a dot, is OLD in the base and NEW here; may be repeated.",
)
hub_base = click.option(
    "--base",
    metavar="BASE",
    callback=no_empty,
    help="Store differences from this model: OWNER/NAME, also with @REVISION, a file, a folder, or auto.",
)
private = click.option(
    "--private/--public", "private", default=None, help="Of a repository that is made; by default as your account's."
)
create_pr = click.option("--create-pr", is_flag=True, help="Open a pull request instead of committing.")
message = click.option("-m", "--message", metavar="TEXT", help="The commit's message.")
no_verify = click.option("--no-verify", is_flag=True, help="Do not download what was uploaded to compare it.")
quiet = click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
quiet_but_result = click.option("-q", "--quiet", is_flag=True, help="Print the result and errors only.")
verbose = click.option(
    "-v", "--verbose", count=True, callback=_note_verbosity, help="Say more; -vv also shows tracebacks."
)
threads = click.option(
    "-j", "--threads", type=click.IntRange(1), metavar="N", help="Threads; by default one per usable core, at most 16."
)
force = click.option("--force", is_flag=True, help="Replace what is there; other files in a folder stay.")
dry_run = click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
output = click.option(
    "-o", "--output", "out", type=click.Path(), callback=no_empty, metavar="OUT", help="File or folder to write."
)
preset = click.option(
    "--preset", default="balanced", show_default=True, metavar="NAME", help="fast, balanced or small."
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, whose keys do not change.")
max_bytes = click.option(
    "--max-bytes",
    type=click.IntRange(0),
    metavar="N",
    help="Decoded bytes to allow, for a small file that you trust to hold very much.",
)
progress = click.option(
    "--progress/--no-progress",
    "progress",
    default=None,
    help="Progress on stderr; by default where that is a terminal.",
)
