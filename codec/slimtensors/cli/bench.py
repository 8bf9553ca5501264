"""`slimtensors bench`."""

from __future__ import annotations

import importlib
import math
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from slimtensors.cli import options

if TYPE_CHECKING:
    from slimtensors.cli.peers import Block, Peer

__all__ = ["command"]

REPEATS = 3
COPY = "memcpy"


class Result(NamedTuple):
    """What one codec made of the sample; the best of a few runs."""

    codec: str
    stored_bytes: int | None  # None for a plain copy
    encode_seconds: float
    decode_seconds: float


@click.command("bench", short_help="Compare compressors on your own weights.")
@options.path("file")
@click.option(
    "--sample",
    default=128,
    show_default=True,
    type=click.IntRange(1),
    metavar="MB",
    help="Weights to take from the file.",
)
@options.as_json
@options.threads
@options.progress
@options.quiet_but_result
@options.verbose
def command(
    file: str, sample: int, as_json: bool, threads: int | None, progress: bool | None, quiet: bool, verbose: int
) -> None:
    """Compare sizes and speeds on your own weights: a copy, all presets, and other compressors that are installed.

    FILE is a .safetensors, .gguf or .slimtensors file. All work is done in memory. Ours checks every digest when it
    decodes.
    """
    del verbose  # has done its work when it was parsed
    from slimtensors.cli.output import print_json, say
    from slimtensors.cli.peers import PEERS
    from slimtensors.cli.progress import bar
    from slimtensors.threads import thread_count

    count = thread_count(threads)
    blocks = take_sample(file, sample * 1_000_000)
    total = sum(block.units.nbytes for block in blocks)
    absent = {peer.name: why for peer in PEERS if (why := _missing(peer))}
    codecs = [_copy(), *_ours(), *(peer for peer in PEERS if peer.name not in absent)]
    with bar(len(codecs) * (REPEATS + 1), "bench", quiet=quiet, asked=progress, unit="run") as advance:
        results, failed = measure(codecs, blocks, count, advance)
    if as_json:
        found = [result._asdict() for result in results]
        print_json(
            {
                "file": file,
                "sample_bytes": total,
                "threads": count,
                "results": found,
                "missing": absent,
                "failed": failed,
            }
        )
        return
    _print(file, total, count, results)
    if absent:
        say(f"not installed: {', '.join(absent)}")
    for name, why in failed.items():
        say(f"{name} failed: {why}")


def _print(file: str, total: int, threads: int, results: list[Result]) -> None:
    from slimtensors.cli.output import percent, say, size, speed, table

    rows = []
    for name, stored, encode, decode in results:
        sizes = ["", ""] if stored is None else [size(stored), percent(stored, total)]
        rows.append([name, *sizes, speed(total, encode), speed(total, decode)])
    say(f"{file}: {size(total)} of weights, {threads} thread{'s' * (threads != 1)} where a codec has them")
    say("")
    table(["codec", "size", "ratio", "encode", "decode"], rows)
    say("")


def take_sample(file: str, most: int) -> list[Block]:
    """Runs spread evenly over the weights, by dtype. Raises FormatError."""
    import numpy as np

    from slimtensors.cli.peers import Block
    from slimtensors.container.source import open_source
    from slimtensors.dtypes import DTYPES
    from slimtensors.errors import UsageError

    source = open_source(file)
    try:
        inputs = _inputs(file, source)
        whole = sum(tensor.dtype.bytes_of(tensor.shape) for tensor in inputs)
        if not whole:
            raise UsageError(f"{file} holds no weights")
        parts: dict[tuple[str, str | None], list[Any]] = {}
        for tensor in inputs:
            part = _part(tensor, min(1.0, most / whole))
            if part.size:
                parts.setdefault((tensor.dtype.name, tensor.encoding), []).append(part)
        return [
            Block(
                DTYPES[dtype], np.concatenate([part.reshape(-1) for part in found]), [part.shape for part in found],
                encoding,
            )
            for (dtype, encoding), found in parts.items()
        ]
    finally:
        source.close()


def _part(tensor: Any, share: float) -> Any:
    """Rows from a tensor's middle, as units."""
    from slimtensors.sources.inputs import unit_count

    units = unit_count(tensor)
    length = tensor.shape[-1] * tensor.dtype.bits // tensor.dtype.unit_bits if len(tensor.shape) > 1 else 1
    if units == 0 or length == 0 or units % length:
        return tensor.read(0, units)
    rows = units // length
    count = max(1, round(rows * share))
    return tensor.read((rows - count) // 2 * length, count * length).reshape(count, length)


def _inputs(file: str, source: Any) -> list[Any]:
    from slimtensors.bases.resolving import open_with
    from slimtensors.cli.bases import bases_of
    from slimtensors.files.weights import open_weights
    from slimtensors.sources.inputs import ArrayInput
    from slimtensors.sources.recognise import what_is
    from slimtensors.threads import thread_count

    if what_is(source)[0] != "slimtensors":
        return list(open_weights(source).inputs)
    with open_with(file, bases_of(None, [], file)) as opened:
        tensors = opened.header.tensors
        found = []
        for i, tensor in enumerate(tensors):
            if opened.header.target(i) == i:
                found.append(ArrayInput(tensor.name, opened.read(i, thread_count(None)), tensor.dtype, tensor.shape))
                found[-1].encoding = tensor.encoding
        return found


def measure(
    codecs: list[Peer], blocks: list[Block], threads: int, advance: Callable[[int], object] | None = None
) -> tuple[list[Result], dict[str, str]]:
    """(best of a few runs, what failed and why). Codecs take turns, so that a busy machine disturbs all alike."""
    best: dict[str, Result] = {}
    failed: dict[str, str] = {}
    for turn in range(REPEATS + 1):  # the first one warms up and checks
        for codec in codecs:
            if codec.name not in failed:
                try:
                    found = _measure_once(codec, blocks, threads, check=turn == 0)
                except Exception as error:  # a peer's fault is no reason to show nothing
                    if codec.module.startswith("slimtensors"):
                        raise
                    failed[codec.name] = f"{type(error).__name__}: {error}"
                    best.pop(codec.name, None)
                else:
                    before = best[codec.name] if turn > 1 else found
                    encode = min(before.encode_seconds, found.encode_seconds)
                    decode = min(before.decode_seconds, found.decode_seconds)
                    best[codec.name] = found._replace(encode_seconds=encode, decode_seconds=decode)
            if advance is not None:
                advance(1)
    return list(best.values()), failed


def _measure_once(codec: Peer, blocks: list[Block], threads: int, *, check: bool) -> Result:
    import numpy as np

    begin = time.perf_counter()
    blobs = [codec.encode(block, threads) for block in blocks]
    middle = time.perf_counter()
    decoded = [codec.decode(blob, block, threads) for blob, block in zip(blobs, blocks, strict=True)]
    end = time.perf_counter()
    for data, block in zip(decoded, blocks, strict=True) if check else ():
        if not np.array_equal(np.frombuffer(data, np.uint8), block.units.view(np.uint8)):
            raise RuntimeError("it did not give back what it was given")
    stored = None if codec.name == COPY else sum(memoryview(blob).nbytes for blob in blobs)
    return Result(codec.name, stored, middle - begin, end - middle)


def _missing(peer: Peer) -> str | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(peer.module)
    except Exception as error:  # a broken build raises anything
        return f"{type(error).__name__}: {error}"
    return None


def _copy() -> Peer:
    from slimtensors.cli.peers import Peer

    return Peer(COPY, "slimtensors", lambda block, *_: block.units.copy(), lambda blob, *_: blob.copy())


def _ours() -> list[Peer]:
    """Whole files in memory, one for each dtype."""
    import numpy as np

    from slimtensors.cli.peers import Peer
    from slimtensors.planning.planner import PRESETS
    from slimtensors.reading.scheduling import Piece
    from slimtensors.reading.tensors import open_file
    from slimtensors.sources.inputs import ArrayInput
    from slimtensors.writing.store import store_bytes

    def encode(preset: str, block: Block, threads: int) -> bytes:
        inputs, at = [], 0
        for i, shape in enumerate(block.shapes):
            units = block.units[at : at + math.prod(shape)]
            at += units.size
            elements = (*shape[:-1], shape[-1] * block.dtype.unit_bits // block.dtype.bits)
            inputs.append(ArrayInput(str(i), units, block.dtype, elements))
            inputs[-1].encoding = block.encoding
        return store_bytes(inputs, {}, preset, threads, self_check=False)

    def decode(blob: Any, block: Block, threads: int) -> Any:
        out, pieces, at = np.empty_like(block.units), [], 0
        for i, shape in enumerate(block.shapes):
            pieces.append(Piece(i, 0, out[at : at + math.prod(shape)]))
            at += math.prod(shape)
        with open_file(blob) as file:
            file.fill(pieces, threads)
        return out

    return [Peer(f"slimtensors {preset}", "slimtensors", partial(encode, preset), decode) for preset in PRESETS]
