"""Where a model's compressed weights are: in a folder, or in a repository, from which they are downloaded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers.utils.hub import cached_file, cached_files

from slimtensors.sources.shards import SUFFIX, shard_names

__all__ = ["HUB_ARGUMENTS", "find_weights"]

HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
_VARIANT = re.compile(r"[A-Za-z0-9_-]+")


def find_weights(
    name: Any, *, stem: str = "model", variant: str | None = None, hub: Mapping[str, Any], tqdm_class: Any = None
) -> Path | None:
    """The compressed weights of a model: a file, or an index beside its shards; None if it has none.

    name: a folder or a repository. hub: transformers' arguments about repositories. What is not there yet is downloaded
    by transformers' own functions, so errors about repositories, tokens and connections are theirs.
    """
    if variant is not None and not _VARIANT.fullmatch(variant):
        return None
    dot = "" if variant is None else f".{variant}"
    arguments = {**hub, "_raise_exceptions_for_missing_entries": False, "tqdm_class": tqdm_class}
    found = cached_file(name, f"{stem}{dot}{SUFFIX}", **arguments)
    if found is not None:
        return Path(found)
    index = cached_file(name, f"{stem}{SUFFIX}.index{dot}.json", **arguments)
    if index is None:
        return None
    if not Path(str(name)).is_dir():
        cached_files(name, shard_names(Path(index), SUFFIX), **{**hub, "tqdm_class": tqdm_class})
    return Path(index)
