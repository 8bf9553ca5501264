"""Files that lie elsewhere, by name: hf://, https://, s3://.

The only place where the library asks `slimtensors_hub`, which comes in the same package and knows the protocols; by
name, when a name with a scheme is first met, so that whoever reads local files loads none of it.
"""

from __future__ import annotations

import importlib
import os
import re
from typing import TYPE_CHECKING, Any, TypeGuard

from slimtensors.errors import UsageError

if TYPE_CHECKING:
    from slimtensors.container.source import NamedSource

__all__ = ["is_remote", "last_part", "list_remote", "open_remote", "sibling"]

SCHEMES = ("hf", "https", "http", "s3")
_OF_A_PATH = re.compile(r"(hf|https?|s3):[/\\]")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")


def is_remote(target: Any) -> TypeGuard[str]:
    """Whether this is the name of a file elsewhere. Raises UsageError for a scheme that is not understood, and for a
    Path, which has one slash where such a name has two.
    """
    if isinstance(target, os.PathLike) and (lost := _OF_A_PATH.match(str(target))) is not None:
        raise UsageError(f"{target} is a path: write {lost[1]}:// for what lies elsewhere, and give a str, not a Path")
    scheme = _SCHEME.match(target) if isinstance(target, str) else None
    if scheme is None:
        return False
    if scheme[1] not in SCHEMES:
        known = ", ".join(f"{each}://" for each in SCHEMES)
        raise UsageError(
            f"cannot read from {scheme[1]}://, only from {known}, and nothing is saved to any of them; open it "
            "yourself and give a file object"
        )
    return True


def open_remote(name: str) -> NamedSource:
    """A source that reads by range. Raises RemoteError."""
    source: NamedSource = importlib.import_module("slimtensors_hub.remote").open_remote(name)
    return source


def list_remote(name: str, *, inner: bool = False) -> dict[str, str] | None:
    """Names of the files right in a folder elsewhere, by path within it, sorted, all of one state of it; None if `name`
    is a file's. inner: also those of the folders in it.
    """
    names: dict[str, str] | None = importlib.import_module("slimtensors_hub.remote").list_remote(name, inner=inner)
    return names


def last_part(name: str) -> str:
    """A file's name without its folder."""
    return name.partition("?")[0].rpartition("/")[2]


def sibling(name: str, other: str) -> str:
    """The name of a file in the same folder."""
    return f"{name.partition('?')[0].rpartition('/')[0]}/{other}"
