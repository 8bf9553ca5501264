"""Where commands look for bases."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slimtensors.bases.resolving import LastResort, Resolver
from slimtensors.bases.tensors import SUFFIXES
from slimtensors.container.hints import pinned_name
from slimtensors.container.remote import last_part
from slimtensors.container.system import file_identity
from slimtensors.errors import BaseError, FormatError, SlimtensorsError, UsageError
from slimtensors.reading.tensors import open_file
from slimtensors.sources.shards import RANK_FILE

if TYPE_CHECKING:
    from slimtensors.bases.matching import MatchReport
    from slimtensors.cli.targets import Conversion
    from slimtensors.container.header import Base

__all__ = ["bases_of", "bases_of_each", "check_bases_stay"]


def bases_of(base: str | None, base_dirs: list[Any], file: object = None) -> list[Any]:
    """What the options name, then what the checkpoint that `file` is of needs, by its manifest, then what the hub's
    cache holds already, as after `pull`: nothing is downloaded.

    Raises UsageError for a repository without its hf://, which would be a path.
    """
    if base and re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?", base) and not Path(base).exists():
        raise UsageError(f"there is no file or folder {base}; if a repository is meant, it is --base hf://{base}")
    return [*([base] if base else []), *_of_checkpoint(file), *base_dirs, LastResort(_cached)]


def bases_of_each(
    conversions: Sequence[Conversion],
    base: str | None,
    base_map: Mapping[str, str],
    base_dirs: Sequence[Any],
    match: Callable[..., MatchReport],
) -> dict[Any, dict[str, Any]]:
    """What each file is to be stored as the difference from: `base` and `base_map` of `compress` and `rebase`.

    match: what matches a file and a base, with a map. Raises UsageError for rules that fit nothing, and if files of a
    base would be replaced.
    """
    from slimtensors.files.converting import maps_of_each
    from slimtensors.files.folders import check_base_stays

    roots = [each.source for each in conversions if each.plan is not None]
    found = {source: _inner(base, source, roots) for each in conversions for source, _ in each.files}
    maps = maps_of_each(list(found), found.__getitem__, base_map, match)
    going = [target for each in conversions if each.plan is not None for _, target in each.files]
    named: dict[str | None, None] = {}
    for source, own in found.items() if any(path.is_file() for path in going) else ():
        named[match(source, own, base_map=maps[source]).base if own == "auto" else own] = None
    for each in named:
        check_base_stays(each, going, base_dirs)
    return {source: {"base": found[source], "base_map": maps[source]} for source in found}


def check_bases_stay(
    conversions: Sequence[Conversion], bases: Callable[[Any], list[Any]], max_bytes: int | None
) -> None:
    """Raises UsageError if a file that would be replaced is one that a source is read from: one of its bases, or of
    theirs. bases: where those of a source are looked for. What is not found is told of where it is read.
    """
    going = [target for each in conversions for _, target in each.files if target.is_file()]
    gone = {file_identity(target): target for target in going}
    for source, _ in [pair for each in conversions for pair in each.files] if gone else ():
        with (
            suppress(FormatError, OSError),
            closing(Resolver(bases(source))) as resolver,
            open_file(source, verify="none", max_bytes=max_bytes, partial=True) as file,
        ):
            for base in file.header.bases:
                with suppress(BaseError):
                    for lost in gone.keys() & resolver.files_of(resolver.find(base).tensor):
                        raise UsageError(
                            f"{gone[lost]} is of a base of {source}, which nobody could read without it: write to "
                            "another place"
                        )


def _inner(base: str | None, source: Any, roots: list[Path]) -> str | None:
    """The base's folder of the same name, for a file in a folder within the folder given; else the base itself."""
    if base is None or base == "auto":
        return base
    for root in roots:
        if root in source.parents and source.parent != root:
            inner = Path(base) / source.parent.relative_to(root)
            if inner.is_dir() and any(each.suffix in SUFFIXES for each in inner.iterdir()):
                return str(inner)
    return base


def _of_checkpoint(file: object) -> list[Any]:
    if not isinstance(file, (str, os.PathLike)) or RANK_FILE.fullmatch(last_part(os.fspath(file))) is None:
        return []
    from slimtensors.checkpoint.opening import bases_beside

    return bases_beside(os.fspath(file))


def _cached(base: Base) -> Path | None:
    if pinned_name(base.hints) is None:
        return None
    try:
        return _finder()(base)
    except SlimtensorsError:  # not in the cache; what could be done is said where no place has it
        return None


@cache
def _finder() -> Callable[[Base], Path | None]:
    from slimtensors_hub import hub_base

    return hub_base(local_files_only=True)
