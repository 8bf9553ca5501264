"""`slimtensors demo`."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from slimtensors.cli import options

__all__ = ["command"]


@click.command("demo", short_help="See it work on a small real model.")
@options.threads
@options.quiet
@options.verbose
def command(threads: int | None, quiet: bool, verbose: int) -> None:
    """Compress a small real model, check it, load a slice, give it back, and show sizes and speeds.

    Works in a temporary folder, which is removed. Needs `pip install "slimtensors[demo]"`.
    """
    del verbose  # has done its work when it was parsed
    from slimtensors.cli.output import percent, say, size, speed, table
    from slimtensors.demo import find_model, play, warm_up, write_bf16

    model = find_model()
    if not quiet:
        click.echo("preparing kernels (only the first run on a machine compiles them) ...", err=True)
    warm_up()
    with tempfile.TemporaryDirectory(prefix="slimtensors-demo-") as made:
        folder = Path(made)
        bf16 = folder / "bf16.safetensors"
        write_bf16(model, bf16)
        rounds = [
            play("as shipped, F32", model, folder, threads=threads),
            play("cast to BF16", bf16, folder, threads=threads),
        ]
    if quiet:
        return
    found = []
    for r in rounds:
        a, b = r.source_bytes, r.compressed_bytes
        times = [speed(a, r.compress), speed(a, r.verify), speed(a, r.decompress), f"{1000 * r.load_slice:.1f} ms"]
        found.append([size(a), size(b), percent(b, a), *times])
    said = ["size", "compressed", "ratio", "compress", "verify", "decompress", "load 10 rows"]
    table(["all-MiniLM-L6-v2", *(r.name for r in rounds)], [list(row) for row in zip(said, *found, strict=True)])
    for r in rounds:
        say(f"{r.name}: given back byte for byte, SHA-256 {r.sha256}")
    say(
        "compress includes decoding what was written, to check it; decompress and compress include flushing to the disk"
    )
