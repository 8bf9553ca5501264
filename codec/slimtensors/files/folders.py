"""Convert a folder: its weight files, the indexes that name them, and a copy of everything else.

The converted folder is made beside its destination and renamed when it is whole. A converted folder, converted back,
gives every file byte for byte.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slimtensors import stopping
from slimtensors.container.system import (
    file_identity,
    flush,
    flush_folder,
    make_private,
    naming_of,
    permissions,
    remove_abandoned,
    temporary_place,
)
from slimtensors.errors import BaseError, FormatError, NotSlimtensorsError, UsageError
from slimtensors.sources.shards import RANK_FILE, is_index, read_index, weight_map

__all__ = [
    "COMPRESS",
    "DECOMPRESS",
    "PLAIN",
    "REWRITE",
    "SALVAGE",
    "Direction",
    "FolderPlan",
    "carry_out",
    "check_base_stays",
    "check_copies",
    "check_target",
    "plan_folder",
    "walk_folder",
]

NOT_WEIGHTS_HERE = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".npz", ".msgpack")


_LOST = (
    "and would be replaced by differences from it, which nobody could read then: write to another folder, or leave the "
    "base out"
)
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')  # of JSON
PLAIN = (".safetensors", ".gguf")  # what can be compressed
Skip = Callable[[str, "os.DirEntry[str]"], bool]  # of the path within the folder, and what is there


@dataclass(frozen=True)
class Direction:
    """From one kind of weight file to the other, or to the same."""

    before: str
    after: str
    suffix: str = ""  # of the folder made, where no name is given
    made: str | None = None  # the suffix of what is made, where that does not hang on what is in a file

    def takes(self, name: str) -> bool:
        """Whether this is the name of a weight file."""
        return name.endswith(PLAIN if self.before in PLAIN else self.before)

    def renamed(self, name: str) -> str:
        """The name of what a weight file becomes: model.safetensors and model.slimtensors, and back; where that would
        not lead back, as of model.gguf, the whole name is kept: model.gguf.slimtensors.
        """
        if self.before == self.after:
            return name
        stem = name[: -len(self.before)] if name.endswith(self.before) else name
        if self.before in PLAIN:
            return (name if name.endswith(".gguf") or stem.endswith(PLAIN) else stem) + self.after
        return stem if stem.endswith(self.made or PLAIN) and stem != name else stem + self.after

    @property
    def back(self) -> Direction:
        return Direction(self.after, self.before)


COMPRESS = Direction(".safetensors", ".slimtensors", "-slim", ".slimtensors")
DECOMPRESS = Direction(".slimtensors", ".safetensors", "-restored")  # of a file that may have been GGUF
REWRITE = Direction(".slimtensors", ".slimtensors", made=".slimtensors")
SALVAGE = Direction(".slimtensors", ".safetensors", made=".safetensors")


@dataclass
class FolderPlan:
    """What becomes of each file, by path within the folder."""

    source: Path
    weights: list[tuple[str, str]] = field(default_factory=list)
    indexes: list[tuple[str, str, bytes]] = field(default_factory=list)  # (from, to, new content)
    copies: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)

    def leave_out(self, name: str, tensors: Container[str] | None = None) -> None:
        """Make nothing of a weight file, or not these tensors: no index names them then, or says how much is there."""
        made = Path(dict(self.weights)[name])
        if tensors is None:
            self.weights = [each for each in self.weights if each[0] != name]
        for i, (index, to, content) in enumerate(self.indexes):
            held = json.loads(content) if Path(to).parent == made.parent else {"weight_map": {}}
            places = held["weight_map"]
            lost = [each for each in places if places[each] == made.name and (tensors is None or each in tensors)]
            if lost:
                for each in lost:
                    del places[each]
                if isinstance(held.get("metadata"), dict):  # it may be anything
                    for key in ("total_parameters", "total_size"):
                        held["metadata"].pop(key, None)
                self.indexes[i] = index, to, (json.dumps(held, indent=2) + "\n").encode()


def plan_folder(folder: Path, direction: Direction, skip: Skip | None = None) -> FolderPlan:
    """Look through a folder, but for what is skipped, and read the indexes.

    Raises FormatError for a wrong index, UsageError for what could not be given back.
    """
    plan = FolderPlan(folder)
    for name in walk_folder(folder, plan.folders, skip=skip):
        if direction.takes(name):
            if RANK_FILE.fullmatch(Path(name).name):
                convert = f"make a model's files of it with `slimtensors convert --as {direction.after[1:]}`, or "
                raise UsageError(
                    f"{folder / name} is of a checkpoint, whose manifest is of these very files: "
                    f"{'' if direction is SALVAGE else convert}name the one file"
                )
            to = direction.renamed(name)
            if to.endswith(".gguf") and direction.before not in PLAIN and not _is_of_gguf(folder / name):
                to = to.removesuffix(".gguf") + direction.after  # quantised weights, which GGUF's readers do not take
            plan.weights.append((name, to))
        elif is_index(name, direction.before):
            stem, _, ending = name.rpartition(f"{direction.before}.index")
            target = f"{stem}{direction.after}.index{ending}"
            plan.indexes.append((name, target, renamed_index(folder / name, direction)))
        elif direction is COMPRESS and (name.endswith(direction.after) or is_index(name, direction.after)):
            raise UsageError(
                f"{folder / name} is compressed already, and `decompress` could not tell it from what is made of the "
                "others: move it elsewhere or remove it, or name files to compress, and not the folder"
            )
        else:
            plan.copies.append(name)
    if not plan.weights:
        wanted = " or *".join(PLAIN if direction is COMPRESS else (direction.before,))
        raise NotSlimtensorsError(f"{folder} holds no *{wanted} file{_others(plan.copies)}")
    targets = [to for _, to in plan.weights] + [to for _, to, _ in plan.indexes] + plan.copies
    counts = Counter(targets)
    for name in plan.copies:
        if counts[name] > 1:
            raise UsageError(f"{folder / name} has the name that a converted file would get; move it elsewhere")
    for name, count in counts.items():
        if count > 1:
            raise UsageError(f"two files of {folder} would become {name}; convert them apart")
    return plan


def _is_of_gguf(path: Path) -> bool:
    """Whether a compressed file gives a GGUF file back; what is damaged is told of where it is read."""
    from slimtensors.reading.tensors import open_file

    try:
        with open_file(path, verify="none") as file:
            return file.header.image is not None and file.header.image.format == "gguf"
    except FormatError:
        return True


def walk_folder(
    folder: Path,
    folders: list[str] | None = None,
    under: str = "",
    skip: Skip | None = None,
    wrong: Callable[[OSError | UsageError], object] | None = None,
) -> Iterator[str]:
    """Files by path within the folder, sorted; adds the folders that it meets to `folders`. skip: what is passed over.
    wrong: is told of what cannot be looked at, which is raised otherwise.

    Links to files are followed, as the Hub's cache is made of them; see `check_copies`.
    """
    for entry in sorted(os.scandir(folder / under), key=lambda entry: entry.name):
        name = f"{under}/{entry.name}" if under else entry.name
        if skip is not None and skip(name, entry):
            continue
        try:
            if not _is_walked(entry):
                yield name
                continue
            if folders is not None:
                folders.append(name)
            yield from walk_folder(folder, folders, name, skip, wrong)
        except (OSError, UsageError) as error:
            if wrong is None:
                raise
            wrong(error)


def _is_walked(entry: os.DirEntry[str]) -> bool:
    """Whether this is a folder, and not a file. Raises UsageError for what is neither, OSError for broken links."""
    if entry.is_dir():
        if entry.is_symlink():
            raise UsageError(
                f"{entry.path} is a link to a folder, which is not followed; name that folder by itself"
            )
        return True
    if not stat.S_ISREG(entry.stat().st_mode):  # a link that leads nowhere raises here
        raise UsageError(f"{entry.path} is neither a file nor a folder; move it elsewhere")
    return False


def _others(names: list[str]) -> str:
    found = [name for name in names if name.endswith(NOT_WEIGHTS_HERE)]
    if not found:
        return ""
    return (
        f", but {found[0]}: convert it to safetensors first (loading a pickle can run code, so it is not opened here)"
    )


def renamed_index(path: Path, direction: Direction) -> bytes:
    """The index with its shards' new names, all other bytes as they are. Raises FormatError if that has no way back."""
    data, places = read_index(path, direction.before)
    shards = set(places.values())
    made = _replaced(data, shards, direction)
    renamed = {direction.renamed(shard) for shard in shards}
    expected = {tensor: direction.renamed(shard) for tensor, shard in places.items()}
    if _replaced(made, renamed, direction.back) != data or weight_map(made, str(path)) != expected:
        raise FormatError(
            f"{path}: its shards cannot be renamed in a way that can be undone; write the names as plain text"
        )
    return made


def _replaced(data: bytes, shards: set[str], direction: Direction) -> bytes:
    names = {b'"%b"' % shard.encode(): b'"%b"' % direction.renamed(shard).encode() for shard in shards}
    return _STRING.sub(lambda found: names.get(found[0], found[0]), data)


def carry_out(plan: FolderPlan, target: Path, convert: Callable[[Path, Path], object], *, force: bool = False) -> None:
    """Make the converted folder. `convert(source, target)` makes a weight file, or has the plan leave it out.

    force: into a folder that is not empty, whose files of the same names are replaced; the others stay. What a run that
    was killed has left beside the target is removed.
    """
    target = Path(os.path.realpath(target))
    check_copies(plan.source, plan.copies)
    check_target(plan.source, target, force=force)
    remove_abandoned(target)
    made = temporary_place(target)
    try:
        make_private(made)
        for name in plan.folders:
            (made / name).mkdir(mode=(plan.source / name).stat().st_mode & 0o777 | stat.S_IRWXU)
        for name in plan.copies:
            _copy(plan.source / name, made / name)
        for name, to in list(plan.weights):
            _check_new(plan, made, to)
            convert(plan.source / name, made / to)
        for _, name, content in plan.indexes:
            _check_new(plan, made, name)
            _write(made / name, content)
        _put_in_place(plan, made, target)
    except OSError as error:
        if isinstance(error.filename, str):  # what is made has a name of its own only until it is whole
            error.filename = error.filename.replace(str(made), str(target))
        raise
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _check_new(plan: FolderPlan, made: Path, name: str) -> None:
    """Raises UsageError if what is made already has this name, as `plan_folder` cannot see."""
    if (made / name).exists():
        raise UsageError(
            f"two files of {plan.source} would become {name} here, where upper and lower case are the same: convert "
            "them apart, or on another file system"
        )


def check_copies(folder: Path, names: Iterable[str]) -> None:
    """Raises UsageError for files to copy that are links out of the folder: a folder of others could have anything that
    its reader may read handed on. Links into the blobs of the Hub's cache, which make up its snapshots, are no such.

    Weights are followed wherever they lie, as people keep them elsewhere: they are converted, and nothing else is.
    """
    inside = Path(os.path.realpath(folder))
    for name in names:
        found = Path(os.path.realpath(folder / name))
        blobs = found.parent
        if inside in found.parents or (blobs.name == "blobs" and (blobs.parent / "snapshots").is_dir()):
            continue
        raise UsageError(
            f"{folder / name} leads to {found}, out of the folder, and is not copied: put a copy there if that is "
            "meant, or take the link away"
        )


def check_target(source: Path, target: Path, *, force: bool) -> None:
    """Raises UsageError if the converted folder cannot or should not be put there."""
    here, there = Path(os.path.realpath(source)), Path(os.path.realpath(target))
    if here == there or here in there.parents or there in here.parents:
        raise UsageError(f"{target} and {source} contain each other; name another folder")
    if there.exists() and not there.is_dir():
        raise UsageError(f"{target} is there already and is no folder; name another folder")
    if there.is_dir() and any(there.iterdir()) and not force:
        raise UsageError(
            f"{target} is there already and not empty; --force replaces files in it, or name another folder"
        )
    if not there.parent.is_dir():
        raise UsageError(f"there is no folder {there.parent}; make it first")


def check_base_stays(base: Any, going: Iterable[Path], base_dirs: Sequence[Any] = ()) -> None:
    """Raises UsageError if a base, or a weight file of one, or what that is itself made from, is among the files that
    are to be replaced or removed: what is stored as differences from it could then not be read, and it would be gone
    as well. base, base_dirs: as for `compress`, but for "auto".
    """
    gone = {file_identity(path): path for path in going if path.is_file()}
    given = base if isinstance(base, list) else [base]
    paths = [Path(each) for each in given if isinstance(each, (str, os.PathLike)) and Path(each).exists()]
    if not gone or not paths:
        return
    for path in paths:
        for file in path.iterdir() if path.is_dir() else [path]:
            if file.is_file() and file_identity(file) in gone:
                raise UsageError(f"{file} is of the base, {_LOST}")
    from slimtensors.bases.resolving import BaseDir, Resolver
    from slimtensors.bases.tensors import open_base

    others = [each for each in given if isinstance(each, BaseDir) or callable(each)]
    with closing(Resolver([*others, *base_dirs])) as resolver:
        for path in paths:
            with closing(open_base(path, resolver)) as model:
                for tensor in model.tensors.values():
                    try:
                        resolver.check_depth(tensor)
                        lost = gone.keys() & resolver.files_of(tensor)
                    except BaseError:  # it cannot be a base; where that matters, it is said before anything is replaced
                        continue
                    if lost:
                        raise UsageError(f"{gone[lost.pop()]} is what the base {path} is made from, {_LOST}")


def _write(target: Path, content: bytes) -> None:
    with naming_of(target), target.open("xb") as writer:
        writer.write(content)
        writer.flush()
        flush(writer.fileno())


def _copy(source: Path, target: Path) -> None:
    def read() -> bytes:
        with naming_of(source):
            return reader.read(1 << 20)

    with naming_of(target), source.open("rb") as reader, target.open("xb") as writer:
        for piece in iter(read, b""):
            writer.write(piece)
        writer.flush()
        flush(writer.fileno())
    target.chmod(permissions(source.stat().st_mode))


def _put_in_place(plan: FolderPlan, made: Path, target: Path) -> None:
    """One rename, where there is nothing yet; else file by file."""
    stopping.end_if_asked()
    if target.is_dir() and any(target.iterdir()):
        for name in plan.folders:
            (target / name).mkdir(mode=(made / name).stat().st_mode & 0o777, exist_ok=True)
        for name in [*plan.copies, *(to for _, to, _ in plan.indexes), *(to for _, to in plan.weights)]:
            (made / name).replace(target / name)
        return
    for name in (*plan.folders, ""):
        flush_folder(made / name)
    handed_on = made.stat().st_mode & stat.S_ISGID  # by the folder around it, so that a group's files stay its own
    made.chmod(permissions(plan.source.stat().st_mode) | stat.S_IRWXU | handed_on)
    if target.is_dir():
        target.rmdir()
    made.rename(target)
    flush_folder(target.parent)
