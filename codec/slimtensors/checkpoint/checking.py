"""Whether a folder holds the files that its manifest says, and the checkpoint that its list calls the latest."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from slimtensors.checkpoint.commit import missing_ranks
from slimtensors.checkpoint.ledger import LATEST, Ledger, read_ledger, read_manifest
from slimtensors.checkpoint.manifest import MANIFEST, Manifest, file_name, run_of
from slimtensors.checkpoint.opening import check_parts, parts_by_file
from slimtensors.checkpoint.places import LocalPlace
from slimtensors.errors import FormatError
from slimtensors.reading.tensors import open_file

__all__ = ["Seen", "check_folder", "check_latest"]

MISSING = "the save did not finish, or has not yet, or the manifest was removed. They are no checkpoint without it"
SEAL_BYTES = 75  # the start of a manifest, up to its digest's end


class Seen(NamedTuple):
    """A checkpoint as it was when its folder was listed: a job that goes on saving may remove it, or replace it."""

    folder: Path
    names: Collection[str]
    seal: bytes | None  # the start of its manifest; empty if that was not there, None if it could not be read

    @classmethod
    def now(cls, folder: Path, names: Collection[str]) -> Seen:
        """names: of the folder's files."""
        return cls(folder, names, _seal(folder) if MANIFEST in names else b"")

    def changed(self) -> bool:
        """Whether it has been removed, replaced or committed since: what was found then is not wrong with it. It has
        not, as far as is known, if its manifest cannot be read.
        """
        now, ranks = _seal(self.folder), [name for name in self.names if run_of(name) is not None]
        if now is None or self.seal is None:
            return False
        gone = [name for name in ranks if not (self.folder / name).exists()]
        if now != self.seal or not now:
            return now != self.seal or len(gone) == len(ranks)
        try:
            manifest = read_manifest(LocalPlace(self.folder))
        except (FormatError, OSError):
            return False
        return manifest is None or (bool(gone) and manifest.run not in map(run_of, ranks))


def _seal(folder: Path) -> bytes | None:
    try:
        with (folder / MANIFEST).open("rb") as file:
            return file.read(SEAL_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return b""
    except OSError:
        return None


def check_folder(folder: Path, names: Collection[str]) -> list[str]:
    """What is wrong with a checkpoint; nothing if the folder is none. names: of the folder's files.

    Files of ranks are told by their names, a manifest that has none beside it by being one. Files that are damaged in
    themselves are not said, nor are those of another run, which a save that did not finish leaves.
    """
    ranks = [name for name in names if run_of(name) is not None and not name.startswith(".")]
    if MANIFEST not in names:
        return [f"{folder} has {len(ranks)} files of ranks and no {MANIFEST}: {MISSING}"] if ranks else []
    try:
        manifest = read_manifest(LocalPlace(folder))
    except FormatError as error:
        return [str(error)] if ranks else []
    except OSError as error:
        return [f"{folder}/{MANIFEST} cannot be read: {error.strerror}"]
    found = []
    for number, parts in enumerate(parts_by_file(manifest) if manifest else []):
        assert manifest is not None
        name = manifest.files[number].name
        problem = _problem(folder, manifest, number, parts) if name in names else "is not there"
        if problem:
            found.append(f"{folder}/{name} {problem}; {MANIFEST} names it")
    return found + (_check_bases(LocalPlace(folder), manifest) if manifest else [])


def check_latest(folder: Path) -> list[str]:
    """What is wrong with the list of the checkpoints in a folder that holds some; nothing if it has no list."""
    before, found = None, list[str]()
    while True:
        try:
            ledger = read_ledger(LocalPlace(folder))
        except FormatError as error:
            return [str(error)]
        if ledger == before:
            return found
        before, found = ledger, _wrong_latest(folder, ledger)
        if not found:
            return []  # else it is looked at once more: the latest may have gone when a new one came


def _wrong_latest(folder: Path, ledger: Ledger) -> list[str]:
    latest = ledger.find(ledger.latest)
    if latest is None:
        return []
    try:
        manifest = read_manifest(LocalPlace(folder / latest.name))
    except FormatError:
        return []  # said by who looks at that folder
    if manifest is None:
        return [f"{folder}/{LATEST} names {latest.name} as the latest checkpoint, which is not there"]
    if manifest.run != latest.run:
        return [f"{folder}/{LATEST} names {latest.name} of run {latest.run}; what is there is of run {manifest.run}"]
    return []


def _check_bases(place: LocalPlace, manifest: Manifest) -> list[str]:
    """A reader refuses a checkpoint unless all of these files are there."""
    above, found = place.parent(), []
    for name, run in manifest.bases:
        lacking = missing_ranks(above.child(name), run, len(manifest.files)) if above else [0]
        if lacking:
            lost = f"{place.path.parent / name}/{file_name(lacking[0], run)}"
            found.append(f"{place.label} is stored as differences from {name} beside it, and {lost} is not there")
    return found


def _problem(folder: Path, manifest: Manifest, number: int, parts: list[tuple[str, list[int]]]) -> str:
    expected = manifest.files[number]
    try:
        opened = open_file(folder / expected.name, verify="none")
    except FileNotFoundError:
        return "is not there"
    except (FormatError, OSError):
        return ""  # said by who looks at the file itself
    with opened as file:
        size, file_id = file.reader.prefix.file_length, file.reader.file_id.hex()
        if (size, file_id) == (expected.size, expected.file_id):
            try:
                check_parts(file, manifest, parts)
            except FormatError as error:
                return f"is not what the manifest says: {error}"
            return ""
    return f"has {size} bytes and id {file_id}, not {expected.size} and {expected.file_id}"
