"""`slimtensors verify`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slimtensors import stopping
from slimtensors.cli import options

if TYPE_CHECKING:
    from slimtensors.checkpoint.checking import Seen
    from slimtensors.cli.files import Stored

__all__ = ["command"]


@click.command("verify", short_help="Check every byte of files or folders.")
@options.path("paths", many=True)
@click.option(
    "--against",
    metavar="SOURCE",
    callback=options.no_empty,
    help="Compare with the file or folder that it was made from: equal tensors, and the errors stated of lossy ones.",
)
@options.as_json
@options.threads
@options.base
@options.base_dirs
@options.max_bytes
@options.progress
@options.quiet
@options.verbose
def command(
    paths: tuple[str, ...],
    against: str | None,
    as_json: bool,
    base: str | None,
    base_dirs: list[Any],
    quiet: bool,
    verbose: int,
    **settings: Any,
) -> None:
    """Decode .slimtensors files, or all of a folder, and check every byte against its digests.

    Of a folder, every file is looked at, also after a damaged one; the indexes of shards, whose tensors must be where
    they say; manifests of checkpoints, whose files must be the ones that were committed; and latest.json beside
    checkpoints: the one it names must be there. What is wrong is listed, files that cannot be read and links that lead
    nowhere too, and the exit code is 1 then; of a single file that cannot be read it is 3.

    A lossy file is sound if it is what its writer wrote. With --against, its source's SHA-256 is compared with the one
    stated, and every tensor's error is computed again. A folder's files are compared with those that `compress` makes
    them of, in the folder SOURCE.

    Of several PATHS each is looked at, whatever is wrong with others; the exit code is the highest of theirs, and
    --json prints a list.
    """
    from slimtensors.cli.bases import bases_of
    from slimtensors.cli.exits import judge, printable
    from slimtensors.cli.output import print_json
    from slimtensors.errors import SlimtensorsError, UsageError

    alone = len(paths) == 1
    if against is not None and not alone:
        raise UsageError("--against compares one file or folder with its source: name one PATH")
    bases_of(base, base_dirs)  # raises, if it is no name of a base
    settings = {**settings, "quiet": quiet}
    every, worst = list[dict[str, Any]](), 0
    for path in paths:
        try:
            found, removed, lines = _check(path, against, base, base_dirs, settings, raising=alone and not as_json)
            code = int(not found["sound"])
        except (SlimtensorsError, OSError) as error:
            if alone:
                raise
            code, line = judge(error, click.get_current_context().command)
            found, removed, lines = {"sound": False, "files": [], "problems": [line]}, [], [line]
        worst = max(worst, code)
        every.append({"path": path, **found})
        if as_json and alone:
            print_json(found)
        elif not (as_json or quiet):
            _say(found, removed, against, verbose=bool(verbose))
        for line in lines:
            click.echo(f"slimtensors: {printable(line)}", file=sys.stderr)
    if as_json and not alone:
        print_json(every)
    if worst:
        raise click.exceptions.Exit(worst)


def _check(
    path: str, against: str | None, base: str | None, base_dirs: list[Any], settings: dict[str, Any], *, raising: bool
) -> tuple[dict[str, Any], list[str], list[str]]:
    """What --json prints of a file or folder; folders of checkpoints that went, or came, meanwhile; and what is wrong,
    as lines to print. raising: of a file that is damaged, raise its error.
    """
    from slimtensors.checkpoint.checking import check_folder
    from slimtensors.cli.bases import bases_of
    from slimtensors.cli.files import stored_files
    from slimtensors.errors import FormatError, RemoteError

    problems, begins = list[str](), dict[str, str]()

    def add(found: list[str], error: Exception, file: object = "") -> None:
        found.append(_words(error, file))
        begins[found[-1]] = _begin(error)

    stored = stored_files(path, lambda error: None if _is_gone(error) else add(problems, error))
    seen: dict[Path | None, Seen] = {}
    of_checkpoints: dict[Path | None, list[str]] = {}
    if stored.folder is not None:
        problems += _check_indexes(stored.folder, stored.names)
        seen = _checkpoints(stored.folder, stored.names)
        of_checkpoints = {folder: check_folder(each.folder, each.names) for folder, each in seen.items()}
    sources = _sources(stored, path, against, problems)
    results: list[dict[str, Any]] = []
    for name, file in stored.files.items():
        stopping.end_if_asked()
        folder = Path(file).parent if stored.folder is not None else None
        try:
            needed = bases_of(base, base_dirs, file)
            results.append(_verify(file, needed, sources.get(name), **settings))
        except (FormatError, OSError) as error:
            alone = len(stored.files) == 1 and raising and not problems and not any(of_checkpoints.values())
            ends = alone if isinstance(error, FormatError) else stored.folder is None or isinstance(error, RemoteError)
            if ends and not (folder in seen and seen[folder].changed()):
                raise
            add(of_checkpoints.get(folder, problems), error, file)
    removed = [folder for folder, found in of_checkpoints.items() if found and seen[folder].changed()]
    problems += [each for folder, found in of_checkpoints.items() if folder not in removed for each in found]
    if stored.folder is not None:
        problems += _check_lists(stored.folder, stored.names, seen.values())
    lines = [begins.get(each, "wrong file: ") + each for each in problems]
    return {"sound": not problems, "files": results, "problems": problems}, [f"{folder}" for folder in removed], lines


def _say(found: dict[str, Any], removed: list[str], against: str | None, *, verbose: bool) -> None:
    from slimtensors.cli.output import say, size

    for each in found["files"]:
        source = f", source SHA-256 {each['source_sha256']}" if each["source_sha256"] and verbose else ""
        count = f"{each['tensors']} tensors, {size(each['decoded_bytes'])}"
        say(f"{each['file']}: sound, {count}, file id {each['file_id']}{source}")
        if each["lossy"] and not against:
            say(f"  lossy: {each['lossy']} tensors are not their source's; --against SOURCE compares them with it")
        if against:
            compared = each["against"]
            say(f"  against {compared['source']}: {compared['equal']} tensors are equal" + _errors(compared))
    for folder in removed:
        say(f"{folder}: removed, replaced or committed meanwhile")


def _words(error: Exception, file: object = "") -> str:
    """What is wrong, as `reported` says it, with the file's name."""
    from slimtensors.cli.exits import in_options, system_error

    command = click.get_current_context().command
    words = system_error(error) if isinstance(error, OSError) else in_options(error, command)
    return words if str(file) in words else f"{file}: {words}"


def _begin(error: Exception) -> str:
    """Whose fault it is, as `judge` says it: the file may be right if a base is missing."""
    from slimtensors.errors import BaseError, RemoteError

    if isinstance(error, (BaseError, RemoteError)):
        return ""
    return "the system refused: " if isinstance(error, OSError) else "wrong file: "


def _errors(found: dict[str, Any]) -> str:
    if not found["lossy"]:
        return ""
    return (
        f", {found['lossy']} are quantised with the errors stated: NMSE {found['nmse']:.3g} of all, "
        f"largest {found['max']:.3g}"
    )


def _sources(stored: Stored, path: str, against: str | None, problems: list[str]) -> dict[str, Any]:
    """What each file is compared with; adds sources of which there is no file to the problems.

    Raises UsageError where a file has no source.
    """
    from slimtensors.cli.files import sources_of
    from slimtensors.errors import UsageError

    if against is None:
        return {}
    sources = sources_of(against)
    if sources is None:
        if len(stored.files) > 1:
            raise UsageError(f"{path} has {len(stored.files)} files: name the folder that they were made from")
        return dict.fromkeys(stored.files, against)
    for name in stored.files.keys() - sources.keys():
        raise UsageError(f"{against} holds no file of which {name} would be made; name the folder that {path} is from")
    if stored.folder is None and len(stored.files) == 1:
        return sources
    problems += [f"{path} lacks {name}, of {sources[name]}" for name in sorted(sources.keys() - stored.files.keys())]
    return sources


def _is_gone(error: Exception) -> bool:
    """Whether something was removed since its folder was listed; of a link that leads nowhere, the link is there."""
    return isinstance(error, FileNotFoundError) and not os.path.lexists(error.filename)


def _check_indexes(path: Path, names: Sequence[str]) -> list[str]:
    from slimtensors.files.folders import DECOMPRESS
    from slimtensors.sources.shards import is_index

    return [each for name in names if is_index(name, DECOMPRESS.before) for each in _check_index(path / name)]


def _by_folder(path: Path, names: Sequence[str]) -> dict[Path, list[str]]:
    folders: dict[Path, list[str]] = {}
    for name in names:
        place = path / name
        folders.setdefault(place.parent, []).append(place.name)
    return folders


def _checkpoints(path: Path, names: Sequence[str]) -> dict[Path | None, Seen]:
    """The folders in `path` that hold a checkpoint, or files of one."""
    from slimtensors.checkpoint.checking import Seen
    from slimtensors.checkpoint.manifest import MANIFEST, run_of

    return {
        folder: Seen.now(folder, there)
        for folder, there in _by_folder(path, names).items()
        if MANIFEST in there or any(run_of(name) is not None for name in there)
    }


def _check_lists(path: Path, names: Sequence[str], seen: Iterable[Seen]) -> list[str]:
    """What is wrong with the lists of checkpoints beside these."""
    from slimtensors.checkpoint.checking import check_latest
    from slimtensors.checkpoint.ledger import LATEST

    above = {each.folder.parent for each in seen}
    listed = [folder for folder, there in _by_folder(path, names).items() if folder in above and LATEST in there]
    return [each for folder in listed for each in check_latest(folder)]


def _check_index(index: Path) -> list[str]:
    """Every shard is there, and has the tensors that the index says it has."""
    from slimtensors.errors import FormatError
    from slimtensors.files.folders import DECOMPRESS
    from slimtensors.reading.tensors import open_file
    from slimtensors.sources.shards import read_index

    try:
        _, places = read_index(index, DECOMPRESS.before)
    except (FormatError, OSError) as error:
        return [_words(error, index)]
    problems = []
    for shard in sorted(set(places.values())):
        try:
            with open_file(index.parent / shard, verify="none") as file:
                missing = [name for name, place in places.items() if place == shard and name not in file.index]
        except (FormatError, OSError):
            continue  # the file itself is looked at too
        if missing:
            problems.append(
                f"{index}: {shard} lacks {len(missing)} of the tensors it should have, such as {missing[0]!r}"
            )
    return problems


def _verify(
    file: Any,
    bases: list[Any],
    against: Any,
    *,
    threads: int | None,
    max_bytes: int | None,
    quiet: bool,
    progress: bool | None,
) -> dict[str, Any]:
    from slimtensors.bases.resolving import open_with
    from slimtensors.cli.exits import naming
    from slimtensors.cli.progress import bar
    from slimtensors.container.remote import last_part
    from slimtensors.reading.verifying import telling_of_all, verify_opened
    from slimtensors.threads import thread_count

    with naming(file), open_with(file, bases, max_bytes=max_bytes) as opened:
        total, passes = opened.header.decoded_bytes, 1 if against is None else 2
        with bar(total, last_part(str(file)), quiet=quiet, asked=progress, passes=passes) as advance:
            count = thread_count(threads)
            with telling_of_all(opened, count):
                found = verify_opened(opened, count, advance)
            if against is not None:
                from slimtensors.files.comparing import compare_opened

                compared = {"source": str(against), **compare_opened(opened, against, advance)._asdict()}
        lossy = sum(tensor.lossy is not None for tensor in opened.header.tensors)
    result = {"file": str(file), **found._asdict(), "lossy": lossy}
    return result if against is None else {**result, "against": compared}
