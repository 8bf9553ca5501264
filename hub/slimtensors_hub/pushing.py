"""`push`: a folder or a model into a repository, its weights compressed, all in one commit."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slimtensors.bases.matching import MatchReport
from slimtensors.container.system import lend
from slimtensors.errors import FormatError, SlimtensorsError, UsageError
from slimtensors.files.converting import compress, maps_of_each
from slimtensors.files.folders import COMPRESS, check_copies, plan_folder, walk_folder
from slimtensors.planning.planner import check_preset
from slimtensors.reading.tensors import open_file
from slimtensors.reading.walking import image_tensors
from slimtensors_hub.bases import access_to, named_base, origin_of
from slimtensors_hub.card import CARD, Facts, Needed, Weights, extend_card
from slimtensors_hub.errors import HubError, told
from slimtensors_hub.fetching import Place, fetch, matches
from slimtensors_hub.listing import Listing, api, is_plain, list_repository, parse_name, selected
from slimtensors_hub.marks import add_attributes
from slimtensors_hub.progress import bar
from slimtensors_hub.pulling import ATTRIBUTES

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

__all__ = ["check_destination", "push", "push_folder"]

NEVER = [".git", "*/.git", ".cache/huggingface", "*/.cache/huggingface"]  # as huggingface_hub


@dataclass
class Cargo:
    """What a repository will hold: by path in it, a file on disk or bytes; and paths that go."""

    files: dict[str, Path | bytes] = field(default_factory=dict)
    weights: list[Weights] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)


def push(
    folder_or_model: Any,
    repo_id: str,
    *,
    base: Any = None,
    base_map: Mapping[str, str] | None = None,
    preset: str = "balanced",
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    token: str | bool | None = None,
    commit_message: str | None = None,
    allow_patterns: Sequence[str] | str | None = None,
    ignore_patterns: Sequence[str] | str | None = None,
    verify: bool = True,
    threads: int | None = None,
    tqdm_class: Any = None,
    on_match: Callable[[Path, MatchReport], object] | None = None,
) -> CommitInfo:
    """Compress a model's weights and upload all of it in one commit; gives huggingface_hub's `CommitInfo`.

    folder_or_model: a folder, a weight file, or an object with `save_pretrained` or `state_dict`. `.safetensors` files
    become `.slimtensors`, with their index; files that are compressed already go as they are; everything else travels
    unchanged. README.md and .gitattributes get marked lines of ours, which `pull(decompress=True)` takes out again. A
    plain weight file of the same name that the repository holds goes away in the same commit.

    base: store differences from this model: a repository ("OWNER/NAME", also "OWNER/NAME@REVISION"), whose commit is
    then pinned in the files, or what `slimtensors.compress` takes. A warning says if not everybody can read it.
    revision: the branch to commit to; it must exist. create_pr: open a pull request instead. private: of a repository
    that is made. verify: download what was uploaded and compare it, byte for byte.

    Raises
    UsageError, before anything is uploaded; HubError (an OSError) if the hub refuses or cannot be reached, or somebody
    else commits meanwhile. The repository has the whole commit, or is as it was.
    """
    repo_id, revision = parse_name(repo_id, revision)
    check_preset(preset)
    check_destination(repo_id, revision, token)
    with tempfile.TemporaryDirectory(prefix="slimtensors-") as work:
        folder = _as_folder(folder_or_model, Path(work) / "model")
        return push_folder(
            folder, repo_id, Path(work), base=base, base_map=base_map, preset=preset, private=private,
            revision=revision, create_pr=create_pr, token=token, commit_message=commit_message,
            allow_patterns=allow_patterns, ignore_patterns=ignore_patterns, verify=verify, threads=threads,
            tqdm_class=tqdm_class, on_match=on_match,
        )  # fmt: skip


def push_folder(
    folder: Path,
    repo_id: str,
    work: Path,
    *,
    base: Any,
    base_map: Mapping[str, str] | None,
    preset: str,
    private: bool | None,
    revision: str | None,
    create_pr: bool,
    token: str | bool | None,
    commit_message: str | None,
    allow_patterns: Sequence[str] | str | None,
    ignore_patterns: Sequence[str] | str | None,
    verify: bool,
    threads: int | None,
    tqdm_class: Any,
    on_match: Callable[[Path, MatchReport], object] | None,
    converted_from: str | None = None,
) -> CommitInfo:
    """`push` of a folder; `work` is an empty place on the disk for what is made."""
    client = api(token)
    with told(repo_id):
        who = client.whoami()  # before the work
    if who.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise HubError(f"{repo_id}: your token may only read; make one that may write, and set HF_TOKEN to it")
    place = Place(token=token, tqdm_class=tqdm_class)
    found, listing = named_base(base, place)

    def make(pairs: Sequence[tuple[Path, Path]]) -> None:
        maps = maps_of_each([source for source, _ in pairs], lambda _: found, base_map or {})
        for source, target in pairs:
            # Each file is encoded, then decoded to check it.
            with bar(source.stat().st_size, f"Compressing {source.name}", tqdm_class, passes=2) as advance:
                try:
                    compress(
                        source, target, preset=preset, threads=threads, base=found, base_map=maps[source],
                        progress=advance, on_match=None if on_match is None else partial(on_match, source),
                    )  # fmt: skip
                except FormatError as error:
                    raise type(error)(f"{source.relative_to(folder)}: {error}") from error

    cargo = _load(folder, work / "weights", make, allow_patterns, ignore_patterns)
    with told(repo_id):
        repo_id = client.create_repo(repo_id, private=private, exist_ok=True).repo_id
    there = list_repository(repo_id, revision, token)
    _dress(cargo, there, _needs(cargo, listing, token), converted_from, token)
    info: CommitInfo = _commit(client, cargo, there, revision, create_pr, commit_message)
    if verify:
        _compare(cargo, repo_id, info.oid, token, work / "back")
    return info


def check_destination(repo_id: str, revision: str | None, token: str | bool | None) -> None:
    """Raises HubError where nothing can be uploaded, and for a branch that is not there: a new repository, which would
    be made for it, has none but main.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise HubError(f"{repo_id}: nothing can be uploaded while HF_HUB_OFFLINE is set: unset it to push")
    if revision in (None, "main"):
        return
    with told(repo_id):
        there = api(token).repo_exists(repo_id)
    if not there:
        raise HubError(
            f"{repo_id} is not there yet, or not yours to see, so it has no revision {revision}: push to it without "
            "one first"
        )
    list_repository(repo_id, revision, token)


def _as_folder(given: Any, made: Path) -> Path:
    """A folder with the model's files; `made` is where one may be made."""
    if isinstance(given, (str, os.PathLike)):
        path = Path(given)
        path.stat()  # raises for a path that leads nowhere
        if path.is_dir():
            return path
        if not COMPRESS.takes(path.name) and path.suffix != COMPRESS.after:
            raise UsageError(f"{path} is neither a folder nor a weight file (.safetensors, .gguf or .slimtensors)")
        made.mkdir()
        lend(path.resolve(), made / path.name)
        return made
    made.mkdir()
    if hasattr(given, "save_pretrained"):
        given.save_pretrained(made)
    elif hasattr(given, "state_dict"):
        from slimtensors.torch import save_model

        save_model(given, made / "model.slimtensors")
    else:
        raise UsageError(f"a {type(given).__name__} is neither a path nor a model with save_pretrained or state_dict")
    return made


def _load(
    folder: Path,
    made: Path,
    make: Callable[[Sequence[tuple[Path, Path]]], object],
    allow_patterns: Sequence[str] | str | None,
    ignore_patterns: Sequence[str] | str | None,
) -> Cargo:
    """Compress what is to be compressed; everything else is named where it lies.

    make: makes weight files, of (source, target) each.
    """
    cargo = Cargo()

    def wanted(names: Sequence[str]) -> list[str]:
        return selected(names, allow_patterns, ignore_patterns)

    def skip(name: str, entry: os.DirEntry[str]) -> bool:
        if not selected([name], None, NEVER):
            return True
        usual = entry.is_file() or (entry.is_dir() and not entry.is_symlink())
        return not usual and not wanted([name])  # what leads nowhere is in nobody's way if it is left out

    names = wanted(list(walk_folder(folder, skip=skip)))
    for name in names:
        if not is_plain(name):
            raise UsageError(
                f"{str(folder / name)!r} has a name that not every system can have, so it could not be pulled: rename "
                "it, or leave it out with ignore_patterns"
            )
    stored = sorted(name for name in names if name.endswith(COMPRESS.after))
    if stored and not any(map(COMPRESS.takes, names)):
        check_copies(folder, (name for name in names if name not in stored))
        cargo.files = {name: folder / name for name in names}
        cargo.weights = [_stored(folder, name) for name in stored]
        return cargo
    plan = plan_folder(folder, COMPRESS, skip)
    copies = wanted(plan.copies)
    check_copies(folder, copies)
    cargo.files = {name: folder / name for name in copies}
    for name, to, content in plan.indexes:
        if wanted([name]):
            cargo.files[to] = content
            cargo.replaced.append(name)
    weights = [(name, to) for name, to in plan.weights if wanted([name])]
    for _, to in weights:
        (made / to).parent.mkdir(parents=True, exist_ok=True)
    make([(folder / name, made / to) for name, to in weights])
    for name, to in weights:
        cargo.files[to] = made / to
        cargo.weights.append(Weights(to, (folder / name).stat().st_size, (made / to).stat().st_size))
        cargo.replaced.append(name)
    return cargo


def _stored(folder: Path, name: str) -> Weights:
    """A file that is compressed already. Raises FormatError if its header is not sound."""
    with open_file(folder / name, verify="none") as file:
        header, image = file.header, file.header.image
    before = header.decoded_bytes
    if image is not None:
        before = image.literal_bytes + sum(header.tensors[i].nbytes for i in image_tensors(image))
    return Weights(name, before, (folder / name).stat().st_size)


def _needs(cargo: Cargo, known: Listing | None, token: str | bool | None) -> list[Needed]:
    """The bases that the weights turned out to need; warns of those that not everybody can read."""
    bases: dict[tuple[str, str], str] = {}
    for each in cargo.weights:
        with open_file(cargo.files[each.path], verify="none") as file:
            for base in file.header.bases:
                origin = origin_of(base)
                bases.setdefault((origin.repo_id, origin.commit) if origin else ("", ""), "")
    needed = []
    for repo_id, commit in bases:
        access = ""
        if repo_id:
            same = known is not None and known.repo_id == repo_id
            access = access_to(known if same else None, repo_id, token)
        needed.append(Needed(repo_id, commit, access))
    return needed


def _dress(
    cargo: Cargo, there: Listing, needed: list[Needed], converted_from: str | None, token: str | bool | None
) -> None:
    """The two files that say what the repository is: extended from the folder's, else from the repository's."""

    def text_of(name: str) -> bytes | None:
        found = cargo.files.get(name)
        if found is None and name in there.files:
            with tempfile.TemporaryDirectory() as cache:
                folder = fetch(there.repo_id, there.commit, [name], Place(cache_dir=cache, token=token), there)
                return (folder / name).read_bytes()
        return found.read_bytes() if isinstance(found, Path) else found

    rules = (text_of(ATTRIBUTES) or b"").decode("utf-8", "surrogateescape")
    cargo.files[ATTRIBUTES] = add_attributes(rules).encode("utf-8", "surrogateescape")
    cargo.files[CARD] = extend_card(text_of(CARD), Facts(there.repo_id, cargo.weights, needed, converted_from))


def _commit(
    client: Any, cargo: Cargo, there: Listing, revision: str | None, create_pr: bool, message: str | None
) -> Any:
    """One commit on top of what was listed; it fails if somebody else has committed since."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    operations: list[Any] = [
        CommitOperationAdd(path_in_repo=name, path_or_fileobj=data if isinstance(data, bytes) else str(data))
        for name, data in sorted(cargo.files.items())
    ]
    gone = [name for name in cargo.replaced if name in there.files and name not in cargo.files]
    operations += [CommitOperationDelete(path_in_repo=name) for name in gone]
    with told(there.repo_id, revision):
        return client.create_commit(
            there.repo_id,
            operations,
            commit_message=message or "Compressed weights, with slimtensors",
            revision=revision,
            create_pr=create_pr,
            parent_commit=there.commit,
        )


def _compare(cargo: Cargo, repo_id: str, commit: str, token: str | bool | None, back: Path) -> None:
    """Download the commit, past the cache, and compare. Raises HubError."""
    try:
        there = list_repository(repo_id, commit, token)
        large = [each.path for each in cargo.weights]
        fetch(repo_id, commit, [*large, CARD, ATTRIBUTES], Place(cache_dir=back, token=token), there)
        for name, data in cargo.files.items():
            known = there.files.get(name)
            path = data if isinstance(data, Path) else back / "bytes"
            if isinstance(data, bytes):
                path.write_bytes(data)
            if known is None or not matches(path, known):
                raise HubError(f"{repo_id}: {name} is not there as it was sent")
    except SlimtensorsError as error:
        raise HubError(f"commit {commit} is made, but what it holds could not be verified: {error}") from error
