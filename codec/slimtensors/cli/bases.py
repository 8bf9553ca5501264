"""Where commands look for bases."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slimtensors.bases.resolving import LastResort
from slimtensors.container.hints import pinned_name
from slimtensors.container.remote import last_part
from slimtensors.errors import SlimtensorsError, UsageError
from slimtensors.sources.shards import RANK_FILE

if TYPE_CHECKING:
    from slimtensors.container.header import Base

__all__ = ["bases_of"]


def bases_of(base: str | None, base_dirs: list[Any], file: object = None) -> list[Any]:
    """What the options name, then what the checkpoint that `file` is of needs, by its manifest, then what the hub's
    cache holds already, as after `pull`: nothing is downloaded.

    Raises UsageError for a repository without its hf://, which would be a path.
    """
    if base and re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?", base) and not Path(base).exists():
        raise UsageError(f"there is no file or folder {base}; if a repository is meant, it is --base hf://{base}")
    return [*([base] if base else []), *_of_checkpoint(file), *base_dirs, LastResort(_cached)]


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
