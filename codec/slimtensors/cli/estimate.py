"""`slimtensors estimate`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from slimtensors.cli import options

__all__ = ["command"]


@click.command("estimate", short_help="Predict how small a file or folder would become.")
@options.path("path")
@options.preset
@click.option(
    "--base",
    metavar="BASE",
    callback=options.no_empty,
    help="As differences from this model: a file, a folder, or auto.",
)
@options.base_map
@options.base_dirs
@options.as_json
@options.threads
@options.progress
@options.quiet_but_result
@options.verbose
def command(
    path: str,
    preset: str,
    base: str | None,
    base_map: dict[str, str],
    base_dirs: list[Any],
    as_json: bool,
    threads: int | None,
    progress: bool | None,
    quiet: bool,
    verbose: int,
) -> None:
    """Predict within seconds how small a .safetensors or .gguf file, or a folder of them, would become.

    Of a repository (hf://owner/name), or a file elsewhere, headers and a few MiB are read.
    """
    del verbose  # has done its work when it was parsed
    from slimtensors.cli.output import percent, print_json, size, table
    from slimtensors.cli.progress import bar
    from slimtensors.container.remote import is_remote
    from slimtensors.errors import UsageError
    from slimtensors.files.converting import maps_of_each, match_base
    from slimtensors.files.estimating import estimate

    if base is None and (base_map or base_dirs):
        raise UsageError("--map and --base-dir need --base (a path, or auto)")
    if is_remote(path) and base is None:
        found, other = _remote(path, preset, threads, quiet=quiet, asked=progress), 0
    else:
        sources, other = _sources(path)
        maps = maps_of_each(sources, lambda _: base, base_map, partial(match_base, base_dirs=base_dirs))
        with bar(sum(map(_size, sources)), "estimate", quiet=quiet, asked=progress) as advance:
            extra: dict[str, Any] = {"base": base, "base_dirs": base_dirs}
            kept: dict[str, Any] = {"preset": preset, "threads": threads, "progress": advance}
            found = [(str(each), estimate(each, **kept, **extra, base_map=maps[each])) for each in sources]
    before = sum(each.source_bytes for _, each in found)
    after = sum(each.compressed_bytes for _, each in found)
    if as_json:
        files = [
            {
                "file": name,
                "source_bytes": each.source_bytes,
                "compressed_bytes": each.compressed_bytes,
                "ratio": each.ratio,
            }
            for name, each in found
        ]
        totals = {"source_bytes": before, "compressed_bytes": after, "ratio": after / before if before else 1.0}
        print_json({"preset": preset, **totals, "other_bytes": other, "files": files})
        return
    rows = [(name, each.source_bytes, each.compressed_bytes) for name, each in found]
    if len(rows) > 1:
        rows.append(("all", before, after))
    cells = [[name, size(a), "about " + size(b), percent(b, a), size(a - b)] for name, a, b in rows]
    table(["file", "size", f"with {preset}", "ratio", "saved"], cells)


def _remote(
    name: str, preset: str, threads: int | None, *, quiet: bool, asked: bool | None
) -> list[tuple[str, Any]]:
    """(name, estimate) of every safetensors file that the name stands for."""
    from slimtensors.cli.progress import bar
    from slimtensors.files.estimating import Estimate
    from slimtensors.files.sampling import SAMPLE_BYTES, sampled_sizes
    from slimtensors.threads import thread_count

    with bar(SAMPLE_BYTES, "estimate", quiet=quiet, asked=asked, passes=2) as advance:
        found = sampled_sizes(name, preset, thread_count(threads), advance)
    return [(each.name, Estimate(each.before, round(each.after))) for each in found]


def _is_compressed(name: str) -> bool:
    from slimtensors.files.folders import DECOMPRESS
    from slimtensors.sources.shards import is_index

    return DECOMPRESS.takes(name) or is_index(name, DECOMPRESS.before)


def _size(source: Any) -> int:
    return source.stat().st_size if isinstance(source, Path) else 0


def _sources(given: str) -> tuple[list[Any], int]:
    """(weight files, bytes of everything else), but for what is compressed already."""
    from slimtensors.container.remote import is_remote
    from slimtensors.files.folders import COMPRESS, plan_folder
    from slimtensors.sources.shards import is_index

    if is_remote(given):
        return [given], 0
    path = Path(given)
    if is_index(path.name, COMPRESS.before):
        path.stat()
        path = path.parent
    if not path.is_dir():
        return [path], 0
    plan = plan_folder(path, COMPRESS, lambda name, entry: entry.is_file() and _is_compressed(name))
    others = [*plan.copies, *(name for name, _, _ in plan.indexes)]
    return [path / name for name, _ in plan.weights], sum((path / name).stat().st_size for name in others)
