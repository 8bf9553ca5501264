"""`pull`: a repository as it is, or as it was before it was compressed."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slimtensors.errors import FormatError, NotSlimtensorsError, UsageError
from slimtensors.files.converting import decompress as decompress_file
from slimtensors.files.folders import DECOMPRESS, FolderPlan, carry_out, check_target, plan_folder, walk_folder
from slimtensors.reading.tensors import open_file
from slimtensors.sources.shards import is_index
from slimtensors_hub.bases import fetch_bases, hub_base
from slimtensors_hub.card import CARD, restore_card
from slimtensors_hub.fetching import Place, fetch, remember
from slimtensors_hub.listing import LIBRARY, is_commit, list_repository, parse_name, selected
from slimtensors_hub.marks import remove_attributes
from slimtensors_hub.progress import bar

__all__ = ["pinned", "pull", "snapshot"]

ATTRIBUTES, CONFIG = ".gitattributes", "config.json"


def pull(
    repo_id: str,
    *,
    revision: str | None = None,
    decompress: bool = False,
    local_dir: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
    allow_patterns: Sequence[str] | str | None = None,
    ignore_patterns: Sequence[str] | str | None = None,
    max_workers: int = 8,
    tqdm_class: Any = None,
    base: Any = None,
    threads: int | None = None,
    overwrite: bool = False,
) -> Path:
    """Download a repository, and give the folder in which it is. What has not the digest that was committed is refused.

    repo_id: "OWNER/NAME", also "OWNER/NAME@REVISION" and with "hf://" before it. One commit counts for all files.
    Bases of differences are fetched into the cache as well, from the repositories that the files' headers name; base:
    what else to look for them in, as for `slimtensors.safe_open`; it is asked first.

    decompress: give back the repository as it was before it was compressed, every file byte for byte, the SHA-256 of
    weight files checked: `.safetensors` and their index, without our lines in README.md and .gitattributes. Then
    local_dir is the folder to make, by default one of the repository's name in the working directory; overwrite: it may
    hold something, and files of the same names are replaced.

    The other arguments are those of `huggingface_hub.snapshot_download`; its environment variables count.

    Raises
    HubError (an OSError) if the hub refuses, is not reachable or sends damaged files; FormatError for damaged weights,
    of these BaseError if a base cannot be had; UsageError. Nothing half-written is left.
    """
    repo_id, revision = parse_name(repo_id, revision)
    place = Place(cache_dir, None, token, force_download, local_files_only, max_workers, tqdm_class)
    if local_dir is not None and not os.fspath(local_dir):
        raise UsageError("local_dir is empty; the folder that you are in is '.'")
    target = Path(local_dir or repo_id.rpartition("/")[2])
    another = "local_dir= (on the command line -o)"
    if (decompress or local_dir is not None) and target.exists() and not target.is_dir():
        raise UsageError(f"{target} is not a folder; name another one with {another}")
    if decompress:
        check_target(Path(os.devnull), target, force=True)  # before anything is downloaded
        if target.is_dir() and any(target.iterdir()) and not overwrite:
            raise UsageError(
                f"{target} is there already and not empty; overwrite=True (--force) replaces files in it, {another} "
                "names another folder"
            )
    elif local_dir is not None:
        place = place._replace(local_dir=local_dir)
    folder = snapshot(
        repo_id, revision, place, allow_patterns, ignore_patterns, check_cached=True, compressed=decompress
    )
    find = hub_base(cache_dir=cache_dir, token=token, local_files_only=local_files_only)
    bases = [*([] if base is None else base if isinstance(base, list) else [base]), find]
    if base is None:
        fetch_bases(sorted(folder.rglob("*.slimtensors")), find)
    if not decompress:
        return folder
    plan = _plan(folder, repo_id)
    # The cache may hold more than was asked for.
    chosen = set(selected(list(walk_folder(folder)), allow_patterns, ignore_patterns))
    plan.weights = [each for each in plan.weights if each[0] in chosen]
    plan.indexes = [each for each in plan.indexes if each[0] in chosen]
    plan.copies = [each for each in plan.copies if each in chosen]

    def convert(source: Path, to: Path) -> None:
        with open_file(source, verify="none") as file:
            total = file.header.decoded_bytes + (file.header.image.literal_bytes if file.header.image else 0)
        with bar(total, f"Decompressing {source.name}", tqdm_class) as advance:
            try:
                decompress_file(source, to, threads=threads, base=bases, progress=advance)
            except FormatError as error:
                raise type(error)(f"{source.name}: {error}") from error

    carry_out(plan, target, convert, force=overwrite)
    return target


def _none_compressed(repo_id: str, folder: Path) -> UsageError:
    """There is nothing to decompress; or it is the layout "safetensors", whose tensors only transformers decodes."""
    try:
        method = json.loads((folder / CONFIG).read_bytes())["quantization_config"]["quant_method"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        method = None
    if method != LIBRARY:
        return UsageError(f"{repo_id} holds no .slimtensors file; it can be pulled without decompressing")
    return UsageError(
        f'{repo_id} has the layout "safetensors": its tensors are compressed one by one, and nothing is kept of the '
        ".safetensors files that they were in, so that these cannot be given back byte for byte. For plain files of "
        "the same weights, load the model by its class, and save it: `from slimtensors_hub.transformers import "
        f"AutoModelForCausalLM`, AutoModelForCausalLM.from_pretrained({repo_id!r}).save_pretrained('FOLDER')"
    )


def snapshot(
    repo_id: str,
    revision: str | None,
    place: Place,
    allow_patterns: Sequence[str] | str | None = None,
    ignore_patterns: Sequence[str] | str | None = None,
    *,
    check_cached: bool = False,
    compressed: bool = False,
) -> Path:
    """The files of a repository at one commit, downloads checked. compressed: there have to be .slimtensors files among
    them, or none is downloaded. Raises HubError; UsageError where there are none.
    """
    from huggingface_hub import constants

    if not (place.local_files_only or constants.HF_HUB_OFFLINE):
        listing = list_repository(repo_id, revision, place.token)
        names = selected(listing.files, allow_patterns, ignore_patterns)
        if compressed and not any(DECOMPRESS.takes(name) or is_index(name, DECOMPRESS.before) for name in names):
            config = [name for name in listing.files if name == CONFIG]
            raise _none_compressed(repo_id, fetch(repo_id, listing.commit, config, place, listing))
        folder = fetch(repo_id, listing.commit, names, place, listing, check_cached=check_cached)
        if place.local_dir is None and not is_commit(revision):
            remember(repo_id, revision, listing.commit, place.cache_dir)
        return folder
    patterns = {"allow_patterns": allow_patterns, "ignore_patterns": ignore_patterns}
    return fetch(repo_id, revision, None, place, None, check_cached=check_cached, **patterns)


def pinned(repo_id: str, revision: str | None, place: Place) -> str | None:
    """The commit that a revision is, for several downloads; as it is where the hub must not be asked."""
    from huggingface_hub import constants

    if is_commit(revision) or place.local_files_only or constants.HF_HUB_OFFLINE:
        return revision
    commit = list_repository(repo_id, revision, place.token).commit
    remember(repo_id, revision, commit, place.cache_dir)
    return commit


def _plan(folder: Path, repo_id: str) -> FolderPlan:
    """What becomes of each file; the two that hold lines of ours get their old content."""
    try:
        plan = plan_folder(folder, DECOMPRESS)
    except NotSlimtensorsError:
        raise _none_compressed(repo_id, folder) from None
    for name in [name for name in plan.copies if name in (CARD, ATTRIBUTES)]:
        data = (folder / name).read_bytes()
        text = data.decode("utf-8", "surrogateescape")
        restored = restore_card(data) if name == CARD else remove_attributes(text)
        if restored == text:
            continue
        plan.copies.remove(name)
        if restored or (restored == "" and name == CARD):
            plan.indexes.append((name, name, restored.encode("utf-8", "surrogateescape")))
    return plan
