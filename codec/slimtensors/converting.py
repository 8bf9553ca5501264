"""`compress` and `decompress`: one file into another."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

from slimtensors.container.reader import Verify
from slimtensors.container.source import ByteSource, open_source
from slimtensors.container.writer import Output
from slimtensors.destinations import write_to
from slimtensors.errors import NotSlimtensorsError, UsageError
from slimtensors.reading import TensorFile, open_file
from slimtensors.recognise import what_is
from slimtensors.safetensors_file import SafetensorsFile, plain_header, read_safetensors
from slimtensors.saving import Progress, SourceImage
from slimtensors.store import store
from slimtensors.threads import thread_count
from slimtensors.verifying import checked, source_pieces
from slimtensors.walking import walk

__all__ = ["compress", "decompress", "open_safetensors"]


def compress(
    src: Any,
    dst: Any,
    *,
    preset: str = "balanced",
    threads: int | None = None,
    self_check: bool = True,
    durable: bool = True,
    progress: Progress | None = None,
) -> None:
    """Compress a .safetensors file; `decompress` gives the identical file back.

    src: a path, bytes, a binary file object, or an object with ranged reads. dst: a path, or a binary file object. An
    existing file keeps its place until the new one is complete and checked; a symbolic link is followed. Raises
    NotSlimtensorsError for a source of another kind, FormatError for a damaged one, SelfCheckError if this machine or
    library is faulty.
    """
    source = open_source(src)
    try:
        found = open_safetensors(source)
        image = SourceImage(source, found.segments)
        store(found.inputs, dst, found.metadata, preset, threads, self_check, durable, image, progress)
    finally:
        source.close()


def open_safetensors(source: ByteSource) -> SafetensorsFile:
    """The tensors of a safetensors source. Raises NotSlimtensorsError for one of another kind, with advice."""
    kind, advice = what_is(source)
    if kind == "slimtensors":
        raise UsageError(f"{source.label} is compressed already")
    if kind not in ("safetensors", "of an unknown kind"):
        raise NotSlimtensorsError(
            f"{source.label} is not a safetensors file but {kind}" + (f"; {advice}" if advice else "")
        )
    return read_safetensors(source)


def decompress(
    src: Any,
    dst: Any,
    *,
    threads: int | None = None,
    durable: bool = True,
    max_bytes: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Give back the file that was compressed, byte for byte, its SHA-256 checked before `dst` changes.

    A slimtensors file that was saved from arrays, and so has no source file, becomes a plain .safetensors file.
    """
    count = thread_count(threads)
    verify: Verify = "full"
    with open_file(src, verify=verify, max_bytes=max_bytes) as file:

        def write(output: Output) -> None:
            with ThreadPoolExecutor(count, "slimtensors") if count > 1 else nullcontext() as pool:
                for piece in _pieces(file, count, pool):
                    output.write(piece)
                    if progress is not None:
                        progress(len(piece))

        write_to(dst, write, durable=durable)


def _pieces(file: TensorFile, threads: int, pool: ThreadPoolExecutor | None) -> Iterator[bytes | memoryview]:
    header = file.header
    if header.image is not None:
        yield from source_pieces(file, header.image, threads, pool)
        return
    yield plain_header([(t.name, t.dtype.name, t.shape, t.nbytes) for t in header.tensors], header.metadata)
    yield from checked(file, walk(file, range(len(header.tensors)), threads, pool))


