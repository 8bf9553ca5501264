"""`slimtensors inspect`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from slimtensors.cli import options

if TYPE_CHECKING:
    from slimtensors.cli.alike import Reason
    from slimtensors.files.inspecting import FileReport

__all__ = ["command"]

COLUMNS = ["tensor", "dtype", "shape", "planes", "stored as", "size", "stored", "bits/weight", "NMSE"]
WIDE = {"planes": 140, "stored as": 110}  # shown where so many characters fit
TEXTS = 5  # columns, before those of numbers


@click.command("inspect", short_help="Show what is in files or folders, and why.")
@options.path("paths", many=True)
@click.option("--why", is_flag=True, help="Say why each tensor is stored as it is; of like ones together, unless -v.")
@options.as_json
@options.max_bytes
@options.verbose
def command(paths: tuple[str, ...], why: bool, as_json: bool, max_bytes: int | None, verbose: int) -> None:
    """Show what is in .slimtensors files, or in all files of folders, tensor by tensor, without decoding them.

    The index of a folder's shards stands for the folder. Each of several PATHS is shown, whatever is wrong with others;
    the exit code is the highest of theirs. --json prints a list of all, or nothing.
    """
    from slimtensors.cli.output import print_json

    if as_json:
        each = [_json_of(path, *_look(path, why, max_bytes)) for path in paths]
        print_json(each[0] if len(each) == 1 else each)
        return
    worst = max([_show(path, why, max_bytes, verbose, alone=len(paths) == 1) for path in paths])
    if worst:
        raise click.exceptions.Exit(worst)


def _show(path: str, why: bool, max_bytes: int | None, verbose: int, *, alone: bool) -> int:
    """Print what a path has, or what is wrong with it; gives the exit code. alone: raise what is wrong."""
    from slimtensors.cli.exits import judge, printable
    from slimtensors.errors import SlimtensorsError

    try:
        looked = _look(path, why, max_bytes)
    except (SlimtensorsError, OSError) as error:
        if alone:
            raise
        code, line = judge(error, click.get_current_context().command)
        click.echo(f"slimtensors: {printable(line)}", file=sys.stderr)
        return code
    _print(path, *looked, verbose)
    return 0


def _look(path: str, why: bool, max_bytes: int | None) -> tuple[dict[str, FileReport], dict[str, dict[str, Reason]]]:
    """What is in each file, and if asked for why."""
    from slimtensors.cli.exits import naming
    from slimtensors.cli.files import stored_files
    from slimtensors.files.inspecting import inspect

    stored = stored_files(path)
    reports: dict[str, FileReport] = {}
    reasons: dict[str, dict[str, Reason]] = {}
    for name, file in stored.files.items():
        with naming(file):
            reports[name] = inspect(file, max_bytes=max_bytes)
            reasons[name] = _reasons(file, max_bytes) if why else {}
    return reports, reasons


def _json_of(path: str, reports: dict[str, FileReport], reasons: dict[str, dict[str, Reason]]) -> dict[str, Any]:
    each = [_as_json(report, reasons[name]) for name, report in reports.items()]
    return each[0] if len(each) == 1 else {"folder": path, **_totals(reports), "files": each}


def _reasons(file: Any, max_bytes: int | None) -> dict[str, Reason]:
    from slimtensors.cli.why import explain

    return explain(file, max_bytes)


def _totals(reports: dict[str, FileReport]) -> dict[str, Any]:
    stored = sum(each.file_bytes for each in reports.values())
    decoded = sum(each.decoded_bytes for each in reports.values())
    return {"file_bytes": stored, "decoded_bytes": decoded, "ratio": round(stored / decoded, 6) if decoded else 1.0}


def _print(path: str, reports: dict[str, FileReport], reasons: dict[str, dict[str, Reason]], verbose: int) -> None:
    from slimtensors.cli.alike import grouped, names_together
    from slimtensors.cli.output import columns, percent, say, size, table

    lossy = any(t.lossy for report in reports.values() for t in report.tensors)
    # Names that are cut up are hard to read; how a tensor is stored is for those who look closely.
    wide = WIDE | {"size": 100 if lossy else 0}
    left_out = {head for head, least in wide.items() if columns() < least} | (set() if lossy else {"NMSE"})
    shown = [i for i, head in enumerate(COLUMNS) if head not in left_out]
    for file, report in reports.items():
        rows = []
        for t in report.tensors:
            shape, bits = "x".join(map(str, t.shape)) or "scalar", f"{t.bits_per_weight:.2f}"
            kind = t.encoding or t.dtype
            row = [t.name, kind if t.lossy is None else f"{kind} ~ {t.lossy.recipe}", shape, t.expression]
            nmse = "" if t.lossy is None else f"{t.lossy.nmse:.3g}"
            rows.append([*row, t.storage or "?", size(t.decoded_bytes), size(t.stored_bytes), bits, nmse])
        if len(reports) > 1:
            say(f"{file}:")
        texts = sum(i < TEXTS for i in shown)
        table([COLUMNS[i] for i in shown], [[row[i] for i in shown] for row in rows], left=texts)
        if len(reports) > 1:
            say("")
    said = [each for found in reasons.values() for each in found.items()]
    for names, reason in grouped(said) if not verbose else [([name], str(reason)) for name, reason in said]:
        say(", ".join(names_together(names)))
        say(f"  {reason}")
    if said:
        say("")
    for report in reports.values():
        _say_file(report, verbose, alone=len(reports) == 1)
    if len(reports) > 1:
        tensors, all_of = sum(len(each.tensors) for each in reports.values()), _totals(reports)
        say(
            f"{path}: {len(reports)} files, {tensors} tensors, {size(all_of['decoded_bytes'])} of weights in "
            f"{size(all_of['file_bytes'])} ({percent(all_of['file_bytes'], all_of['decoded_bytes'])})"
        )


def _say_file(report: FileReport, verbose: int, *, alone: bool) -> None:
    """Of one among several, what not all files have; with -v everything."""
    from slimtensors.cli.output import lossy_summary, percent, say, size

    ratio = percent(report.file_bytes, report.decoded_bytes)
    say(
        f"{report.label}: {len(report.tensors)} tensors in {report.chunks} chunks, "
        f"{size(report.decoded_bytes)} of weights in a file of {size(report.file_bytes)} ({ratio})"
    )
    whole = alone or bool(verbose)
    if whole:
        say(f"format version {report.format_version}, file id {report.file_id}")
    needed = {t.base.identity: t.base for t in report.tensors if t.base is not None}
    if needed:
        files = sorted({base.hints.get("file", "?") for base in needed.values()})
        say(f"needs {len(needed)} base tensors (from {', '.join(files)}): `slimtensors deps` tells of them")
    if report.lossy_source:
        say(f"lossy: {lossy_summary(report)}; its source has SHA-256 {report.lossy_source}")
        say("does not give back its source; `decompress` makes a plain safetensors file of the quantised weights")
    elif not whole:
        return
    elif report.source:
        say(f"gives back its {report.source} file byte for byte")
    else:
        say("was saved from arrays; `decompress` makes a plain safetensors file of it")
    if report.metadata and not verbose:
        say(f"metadata: {', '.join(report.metadata)} (-v shows them)")
    for key, value in report.metadata.items() if verbose else ():
        say(f"metadata {key}: {value}")


def _as_json(report: FileReport, reasons: dict[str, Reason]) -> dict[str, Any]:
    tensors = []
    for t in report.tensors:
        entry: dict[str, Any] = {
            "name": t.name,
            "dtype": t.dtype,
            "shape": list(t.shape),
            "expression": t.expression,
            "storage": t.storage,
            "chunks": t.chunks,
            "decoded_bytes": t.decoded_bytes,
            "stored_bytes": round(t.stored_bytes),
            "bits_per_weight": round(t.bits_per_weight, 4),
        }
        if t.encoding is not None:
            entry["encoding"] = t.encoding
        if t.lossy is not None:
            entry["lossy"] = t.lossy._asdict()
        if t.base is not None:
            entry["base"] = {"identity": t.base.identity.hex(), "hints": dict(t.base.hints)}
        if reasons:
            entry["why"] = str(reasons[t.name])
        tensors.append(entry)
    return {
        "file": report.label,
        "file_id": report.file_id,
        "format_version": report.format_version,
        "file_bytes": report.file_bytes,
        "decoded_bytes": report.decoded_bytes,
        "ratio": round(report.ratio, 6),
        "chunks": report.chunks,
        "source_format": report.source,
        "lossy_source_sha256": report.lossy_source,
        "metadata": report.metadata,
        # header, tables, the source's own header: what the file has beside its tensors
        "overhead_bytes": report.file_bytes - sum(each["stored_bytes"] for each in tensors),
        "tensors": tensors,
    }
