"""Which file or folder becomes which, settled for all paths before the first is touched."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from slimtensors.container.remote import is_remote, last_part
from slimtensors.errors import UsageError
from slimtensors.files.folders import PLAIN, Direction, FolderPlan, check_copies, check_target, plan_folder
from slimtensors.sources.shards import is_index
from slimtensors.writing.destinations import check_destination

__all__ = ["Conversion", "is_taken", "settle"]


OPENED = re.compile(r"/dev/(stdin|fd/\d+)|/proc/(\w+)/fd/\d+")  # names of files that a process has open


class Conversion(NamedTuple):
    """A file or a folder, and what it becomes. A folder has a plan."""

    source: Any  # a path; a name, if it lies elsewhere
    target: Path
    plan: FolderPlan | None = None

    @property
    def files(self) -> list[tuple[Any, Path]]:
        """The weight files, and what they become."""
        if self.plan is None:
            return [(self.source, self.target)]
        return [(self.source / name, self.target / to) for name, to in self.plan.weights]


def settle(paths: Sequence[str], out: str | None, direction: Direction, *, force: bool) -> list[Conversion]:
    """Raises UsageError for what would overwrite something, OSError for what is not there."""
    _check_out(out)
    _check_last(paths, out, direction)
    if direction.before not in PLAIN and any(map(is_remote, paths)):
        return [_elsewhere(paths, out, direction, force=force)]
    into = out is not None and (len(paths) > 1 or out.endswith(("/", os.sep)) or _is_folder(out, paths[0]))
    made = [_conversion(path, out, into, direction) for path in paths]
    seen: dict[Path, Path] = {}
    for source, target, plan in made:
        other = seen.setdefault(Path(os.path.realpath(target)), source)
        if other is not source:
            raise UsageError(f"{other} and {source} would both become {target}; convert them apart")
        if plan is not None:
            check_target(source, target, force=force)
        else:
            _check_file(source, target, direction.made, force=force, make_parent=into)
    return made


def _elsewhere(paths: Sequence[str], out: str | None, direction: Direction, *, force: bool) -> Conversion:
    if len(paths) > 1:
        raise UsageError("files elsewhere are converted one at a time")
    (name,) = paths
    if out is not None and not (out.endswith("/") or Path(out).is_dir()):
        target = Path(out)
    elif last_part(name).endswith(direction.before):
        target = Path(out or "", direction.renamed(last_part(name)))
    else:
        raise UsageError(f"{name} does not end in {direction.before}, so what is made has no name: name it")
    _check_file(name, target, direction.made, force=force)
    return Conversion(name, target)


def is_taken(target: Path) -> bool:
    """Whether something is there that only --force replaces."""
    return any(target.iterdir()) if target.is_dir() else target.exists()


def _check_last(paths: Sequence[str], out: str | None, direction: Direction) -> None:
    """Raises UsageError for the name of an output among the paths, where many commands have it."""
    made = PLAIN if direction.made is None else (direction.made,)
    if out is None and len(paths) > 1 and paths[-1].endswith(made) and not os.path.lexists(paths[-1]):
        raise UsageError(f"there is no file {paths[-1]}: name the output with -o {paths[-1]}")


def _check_out(out: str | None) -> None:
    if out == "-":
        raise UsageError("-: files are read back before they count, so none is written to a pipe; name a file")
    if is_remote(out):
        raise UsageError(f"{out}: nothing can be saved there; name a local file, then `slimtensors push` its folder")


def _is_folder(out: str, path: str) -> bool:
    """Whether one file goes into this folder; one folder becomes it."""
    return Path(out).is_dir() and not Path(path).is_dir()


def _conversion(path: str, out: str | None, into: bool, direction: Direction) -> Conversion:
    if is_remote(path):
        raise UsageError(f"{path} lies elsewhere: download it first")
    source = Path(path)
    if path == "-" and not source.exists():
        raise UsageError("-: files are read more than once, so none is read from a pipe; name a file")
    source.stat()  # raises for a path that leads nowhere
    if is_index(source.name, direction.before):  # it stands for its folder
        source = source.parent
    if not source.is_dir():
        if out is None and OPENED.fullmatch(os.path.abspath(source)):  # noqa: PTH100 # not where a link leads
            raise UsageError(f"{source} has no place of its own for what is made of it: name one with -o")
        name = direction.renamed(source.name)
        return Conversion(source, _target(source.with_name(name), out, into))
    whole = Path(os.path.abspath(source))  # noqa: PTH100 # resolve() would follow a link and write elsewhere
    if not whole.name:
        raise UsageError("the root folder cannot be converted")
    target = _target(whole.with_name(whole.name + direction.suffix), out, into and Path(path).is_dir())
    plan = plan_folder(source, direction)
    check_copies(source, plan.copies)
    return Conversion(source, target, plan)


def _target(beside: Path, out: str | None, into: bool) -> Path:
    if out is None:
        return beside
    return Path(out) / beside.name if into else Path(out)


def _check_file(
    source: Path | str, target: Path, suffix: str | None, *, force: bool, make_parent: bool = False
) -> None:
    """Raises UsageError for what would overwrite something. source: a name if it lies elsewhere. suffix: of files of
    the kind that is made, if that is known.
    """
    if target.is_dir():
        raise UsageError(f"{target} is a folder; name a file")
    if target.exists() and not target.is_file():  # /dev/stdout, say
        raise UsageError(f"{target} is not a regular file; name another one")
    check_destination(target, source, suffix)
    if is_taken(target) and not force:
        raise UsageError(f"{target} is there already; --force replaces it, or name another file")
    if not make_parent and not target.parent.is_dir():
        raise UsageError(f"there is no folder {target.parent}; make it first")
