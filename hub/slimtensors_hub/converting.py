"""`convert`: somebody's plain repository into a compressed one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from slimtensors.bases.matching import MatchReport
from slimtensors.planning.planner import check_preset
from slimtensors_hub.errors import told
from slimtensors_hub.fetching import Place
from slimtensors_hub.listing import api, list_repository, parse_name
from slimtensors_hub.pulling import snapshot
from slimtensors_hub.pushing import push_folder

__all__ = ["convert"]


def convert(
    repo_id: str,
    to: str | None = None,
    *,
    revision: str | None = None,
    base: Any = None,
    base_map: Mapping[str, str] | None = None,
    preset: str = "balanced",
    private: bool | None = None,
    create_pr: bool = False,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    commit_message: str | None = None,
    allow_patterns: Sequence[str] | str | None = None,
    ignore_patterns: Sequence[str] | str | None = None,
    verify: bool = True,
    threads: int | None = None,
    tqdm_class: Any = None,
    on_match: Callable[[Path, MatchReport], object] | None = None,
) -> Any:
    """Download a repository, compress its weights and upload all of it; gives huggingface_hub's `CommitInfo`.

    to: the repository to make; by default one of your own, named as the original with "-slim" at its end. create_pr:
    open a pull request there; without `to` on the original itself. private: by default so if the original is private or
    gated. For the other arguments, and what is raised, see
    `push` and `pull`.
    """
    repo_id, revision = parse_name(repo_id, revision)
    check_preset(preset)
    if to is None and create_pr:
        to = repo_id
    elif to is None:
        with told(repo_id):
            owner = api(token).whoami()["name"]
        to = f"{owner}/{repo_id.rpartition('/')[2]}-slim"
    to, _ = parse_name(to)
    place = Place(cache_dir=cache_dir, token=token, tqdm_class=tqdm_class)
    source = list_repository(repo_id, revision, token)
    if private is None and (source.private or source.gated):
        private = True
    folder = snapshot(repo_id, source.commit, place, allow_patterns, ignore_patterns)
    with tempfile.TemporaryDirectory(prefix="slimtensors-") as work:
        return push_folder(
            folder, to, Path(work), base=base, base_map=base_map, preset=preset, private=private, revision=None,
            create_pr=create_pr, token=token, commit_message=commit_message, allow_patterns=None, ignore_patterns=None,
            verify=verify, threads=threads, tqdm_class=tqdm_class, on_match=on_match,
            converted_from=None if to == repo_id else repo_id,
        )  # fmt: skip
