"""`decompressed`: plain files for a while, for whatever reads a model from a folder."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from slimtensors.container.system import lend
from slimtensors.errors import NotSlimtensorsError, UsageError
from slimtensors.files.converting import decompress
from slimtensors.files.folders import DECOMPRESS, plan_folder
from slimtensors.sources.shards import RANK_FILE
from slimtensors_hub.bases import hub_base, named_base
from slimtensors_hub.fetching import Place
from slimtensors_hub.listing import parse_name
from slimtensors_hub.pulling import snapshot

__all__ = ["decompressed"]


@contextmanager
def decompressed(
    name: str | os.PathLike[str],
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
    base: Any = None,
    threads: int | None = None,
    tmpdir: str | os.PathLike[str] | None = None,
) -> Iterator[Path]:
    """A folder with the plain files of a folder or repository, for libraries that know nothing of compressed ones.

        with decompressed("org/pipeline") as folder:
            pipeline = DiffusionPipeline.from_pretrained(folder)

    Weights are decompressed, their SHA-256 checked, into a folder within `tmpdir` (the system's for such, if None),
    which takes their plain size; all other files are links. Weights of checkpoints in folders within are left out. It
    is removed in the end: what reads its files later, such as weights offloaded to the disk, needs `pull(...,
    decompress=True)` instead. A folder without compressed weights is given as it is. base: what differences are from, a
    repository or as for `slimtensors.safe_open`. The other arguments are those of `huggingface_hub.snapshot_download`.

    Raises FormatError for damaged weights, of these BaseError for a base that is missing; HubError; UsageError for a
    file.
    """
    place = Place(cache_dir, None, token, force_download, local_files_only)
    folder = Path(name)
    if folder.is_file():
        raise UsageError(
            f"{folder} is a file, and what is wanted is a folder or a repository: name {folder.parent}, or make the "
            "plain file with slimtensors.decompress"
        )
    if not folder.is_dir():
        repo_id, revision = parse_name(os.fspath(name), revision)
        folder = snapshot(repo_id, revision, place)
    try:
        plan = plan_folder(folder, DECOMPRESS, lambda name, _: "/" in name and _is_of_checkpoint(name))
    except NotSlimtensorsError:
        yield folder
        return
    given, _ = named_base(base, place)
    find = hub_base(cache_dir=cache_dir, token=token, local_files_only=local_files_only)
    bases = [*(given if isinstance(given, list) else [] if given is None else [given]), find]
    with tempfile.TemporaryDirectory(prefix="slimtensors-", dir=tmpdir, ignore_cleanup_errors=True) as made:
        target = Path(made, folder.name)
        for inner in ("", *plan.folders):
            (target / inner).mkdir()
        for copied in plan.copies:
            lend((folder / copied).resolve(), target / copied)
        for _, to, content in plan.indexes:
            (target / to).write_bytes(content)
        for weights, to in plan.weights:
            decompress(folder / weights, target / to, threads=threads, durable=False, base=bases)
        yield target


def _is_of_checkpoint(name: str) -> bool:
    return RANK_FILE.fullmatch(name.rpartition("/")[2]) is not None
