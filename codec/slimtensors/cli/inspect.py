"""`slimtensors inspect`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from slimtensors.cli import options

if TYPE_CHECKING:
    from slimtensors.cli.alike import Reason
    from slimtensors.inspecting import FileReport

__all__ = ["command"]

COLUMNS = ["tensor", "dtype", "shape", "planes", "stored as", "size", "stored", "bits/weight"]
WIDE = [0, 0, 0, 140, 110, 0, 0, 0]  # shown where so many characters fit
TEXTS = 5  # columns, before those of numbers


@click.command("inspect", short_help="Show what is in a file, and why.")
@options.path("file")
@click.option("--why", is_flag=True, help="Say why each tensor is stored as it is; of like ones together, unless -v.")
@options.as_json
@options.max_bytes
@options.verbose
def command(file: str, why: bool, as_json: bool, max_bytes: int | None, verbose: int) -> None:
    """Show what is in a .slimtensors file, tensor by tensor, without decoding it."""
    from slimtensors.cli.output import print_json
    from slimtensors.inspecting import inspect

    report = inspect(file, max_bytes=max_bytes)
    reasons: dict[str, Reason] = {}
    if why:
        from slimtensors.cli.why import explain

        reasons = explain(file, max_bytes)
    if as_json:
        print_json(_as_json(report, reasons))
    else:
        _print(report, reasons, verbose)


def _print(report: FileReport, reasons: dict[str, Reason], verbose: int) -> None:
    from slimtensors.cli.alike import grouped, names_together
    from slimtensors.cli.output import columns, lossy_summary, percent, say, size, table

    rows = []
    for t in report.tensors:
        shape, bits = "x".join(map(str, t.shape)) or "scalar", f"{t.bits_per_weight:.2f}"
        kind = t.encoding or t.dtype
        row = [t.name, kind if t.lossy is None else f"{kind} ~ {t.lossy.recipe}", shape, t.expression, t.storage or "?"]
        row += [size(t.decoded_bytes), size(t.stored_bytes), bits]
        rows.append(row)
    # Names that are cut up are hard to read; how a tensor is stored is for those who look closely.
    shown = [i for i, wide in enumerate(WIDE) if columns() >= wide]
    table([COLUMNS[i] for i in shown], [[row[i] for i in shown] for row in rows], left=sum(i < TEXTS for i in shown))
    for names, reason in grouped(reasons) if not verbose else [([name], reason) for name, reason in reasons.items()]:
        say(", ".join(names_together(names)))
        say(f"  {reason}")
    if reasons:
        say("")
    ratio = percent(report.file_bytes, report.decoded_bytes)
    say(
        f"{report.label}: {len(report.tensors)} tensors in {report.chunks} chunks, "
        f"{size(report.decoded_bytes)} of weights in a file of {size(report.file_bytes)} ({ratio})"
    )
    say(f"format version {report.format_version}, file id {report.file_id}")
    needed = {t.base.identity: t.base for t in report.tensors if t.base is not None}
    if needed:
        files = sorted({base.hints.get("file", "?") for base in needed.values()})
        say(f"needs {len(needed)} base tensors (from {', '.join(files)}): `slimtensors deps` tells of them")
    if report.lossy_source:
        say(f"lossy: {lossy_summary(report)}; its source has SHA-256 {report.lossy_source}")
        say("does not give back its source; `decompress` makes a plain safetensors file of the quantised weights")
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
