"""`compress` and `decompress`: one file into another."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slimtensors.bases.matching import MatchReport, StrayRuleError, check_map, matched_bases
from slimtensors.bases.resolving import BaseDir, also, folders_of, open_with
from slimtensors.bases.tensors import StoredInput
from slimtensors.container.reader import Verify
from slimtensors.container.source import open_source
from slimtensors.container.writer import Output
from slimtensors.errors import UsageError, check_callable
from slimtensors.files.weights import open_weights
from slimtensors.quantise.asking import Target
from slimtensors.reading.tensors import TensorFile
from slimtensors.reading.verifying import checked, source_pieces
from slimtensors.reading.walking import walk
from slimtensors.sources.inputs import Input, sha256_of
from slimtensors.sources.recognise import what_is
from slimtensors.sources.safetensors_file import plain_header
from slimtensors.threads import pool_of, thread_count
from slimtensors.writing.destinations import check_destination, write_to
from slimtensors.writing.saving import Progress, SourceImage
from slimtensors.writing.store import refuse_own_base, store

if TYPE_CHECKING:
    from slimtensors.quantise.quantiser import Quantiser

__all__ = ["compress", "decompress", "maps_of_each", "match_base", "plain_front"]


def compress(
    src: Any,
    dst: Any,
    *,
    preset: str = "balanced",
    threads: int | None = None,
    self_check: bool = True,
    durable: bool = True,
    progress: Progress | None = None,
    base: Any = None,
    base_map: Mapping[str, str] | None = None,
    base_dirs: Sequence[BaseDir | str | os.PathLike[str]] = (),
    on_match: Callable[[MatchReport], object] | None = None,
    quantise: str | Quantiser | None = None,
    keep: str | Sequence[str] = (),
    embeddings: bool = False,
    importance: Any = None,
    target_size: int | None = None,
    target_bpw: float | None = None,
    target_error: float | None = None,
    look: Progress | None = None,
) -> None:
    """Compress a .safetensors or .gguf file; `decompress` gives the identical file back.

    src: a path, bytes, a binary file object, or an object with ranged reads. dst: a path, or a binary file object. An
    existing file is replaced, without asking as the command does: it keeps its place, and its mode, until the new one
    is complete and checked; a symbolic link is followed.
    `src` itself, by whatever path or link, is refused, and so are names of other kinds of file (model.safetensors). A
    new file can be read by those who can read `src`, as far as the umask allows.

    preset: "fast", "balanced" or "small". threads: the processors that this process may use, at most 16, if None.
    self_check: decode what was written and compare, before `dst` changes. durable: flush to the disk. progress: called
    with decoded bytes done since the last call, from several threads; with self_check every byte counts twice, encoded
    and decoded.

    base: store tensors as differences from those of this file, folder or mapping, which readers then need too; or
    "auto", for what the model itself names, found in `base_dirs`, paths of folders, or in those of
    SLIMTENSORS_BASE_DIR. base_map: name in the base -> name in the source, for tensors (or prefixes that end in a dot)
    whose names changed. on_match is told what matched. Where a difference is not smaller the tensor is stored as it is.

    quantise: the name of a format (`slimtensors.quantise.recipes`), in any case, to which matrices are quantised first.
    The file is lossy then: it states each tensor's error and the source's SHA-256, loads as the quantised weights in
    the source's dtypes, and does not give the source back. keep: names or patterns (`*`, `?`) of tensors that stay
    as they are; so do embeddings, unless `embeddings` is set, tensors of one dimension, and small ones. With a base,
    what is quantised of a tensor is its difference from the base; "bitdelta" is for nothing else.

    importance: of slim and slim-fast, how much errors count: a .safetensors file, llama.cpp's imatrix as .gguf, or a
    mapping from names to arrays (`slimtensors.quantise.importance` has the names and shapes; `slimtensors.torch` has
    a function that computes it). With a target size or target bits, steps of tensors, rows and columns follow it; where
    each tensor's error is asked for, those of rows and columns. Tensors that it says nothing of, or only zeros, count
    as the mean of the others; names of other tensors, such as those of other shards, are passed over.

    target_size: the file's length in bytes, never exceeded, and missed by at most 0.5 % where a step is found that does
    so (of small files there may be none: up to 5 % is taken then); target_bpw: bits for each quantised weight, within
    1 %; target_error: of each tensor, the squared differences' sum over the sum of squares (NMSE), at most; with a base
    the squares are those of what differs from it, and 0.1 is usual. One of the three, for quantise="slim" (what is
    meant without `quantise`), "slim-fast" or "lqer". UsageError is raised where it cannot be had, or only by spoiling a
    tensor that has numbers far out (name it in `keep`). look: called with numbers of bytes that were looked at
    to find how they are quantised, before anything is encoded; how many there will be is not known.

    Raises
    NotSlimtensorsError for a source of another kind, FormatError for a damaged one, SelfCheckError if this machine or
    library is faulty.
    """
    check_destination(dst, src, ".slimtensors")
    check_callable("numbers of bytes", progress=progress, look=look)
    check_callable("a MatchReport", on_match=on_match)
    folders, keep = folders_of(base_dirs), [keep] if isinstance(keep, str) else keep
    if not isinstance(keep, Collection) or not all(isinstance(each, str) for each in keep):
        raise UsageError(f"keep is {keep!r:.60}; a name of a tensor or a pattern, or a list of these, is needed")
    target = Target(target_size, target_bpw, target_error)
    target.check()
    if isinstance(quantise, str):
        quantise = quantise.lower()
    if quantise is None and target.asked:
        quantise = "slim"
    if quantise is None and (keep or embeddings or importance is not None):
        raise UsageError("keep, embeddings and importance are for quantise")
    source = open_source(src)
    try:
        found = open_weights(source)
        with matched_bases(
            found.inputs, base, base_map, source=src, metadata=found.metadata, base_dirs=folders
        ) as matched:
            if on_match is not None and matched.report is not None:
                on_match(matched.report)
            refuse_own_base(src, matched.bases, "is itself what it would be the difference from: name another base")
            inputs: Sequence[Input] = found.inputs
            image, near = None, None
            if quantise is None:
                image = SourceImage(source, found.segments, found.kind)
            else:
                from slimtensors.files.quantising import OpenFile, settled
                from slimtensors.quantise.choosing import Quantise, quantised

                near = sha256_of(source)
                asked, files = Quantise(quantise, keep, embeddings), [OpenFile(source, found, matched.bases)]
                asked = settled(files, asked, importance, target, preset, threads, look)
                inputs = quantised(found.inputs, asked, matched.bases, look)
            store(
                inputs, dst, found.metadata, preset, threads, self_check, durable, image, progress,
                bases=matched.bases, near=near, like=src,
            )  # fmt: skip
    finally:
        source.close()


def match_base(
    src: Any,
    base: Any,
    *,
    base_map: Mapping[str, str] | None = None,
    base_dirs: Sequence[BaseDir | str | os.PathLike[str]] = (),
    old_base: Any = None,
    max_bytes: int | None = None,
) -> MatchReport:
    """What `compress` would compare with what, or `rebase` of a slimtensors file. Nothing is written. Arguments as
    there.
    """
    folders = folders_of(base_dirs)
    with (
        _laid_open(src, also(old_base, folders), max_bytes) as (inputs, metadata),
        matched_bases(
            inputs, base, base_map, source=src, metadata=metadata, base_dirs=folders, identify=False
        ) as matched,
    ):
        if matched.report is None:
            raise UsageError("no base to compare with")
        return matched.report


@contextmanager
def _laid_open(
    src: Any, bases: list[Any], max_bytes: int | None
) -> Iterator[tuple[Sequence[Input], Mapping[str, str]]]:
    """Tensors and metadata of a file of any kind. bases: where those of a slimtensors file are."""
    source = open_source(src)
    try:
        if what_is(source)[0] == "slimtensors":
            with open_with(src, bases, max_bytes=max_bytes) as file:
                yield [StoredInput(file, i) for i in range(len(file.header.tensors))], file.header.metadata
        else:
            found = open_weights(source)
            yield found.inputs, found.metadata
    finally:
        source.close()


def maps_of_each(
    sources: Sequence[Path],
    base_of: Callable[[Path], Any],
    base_map: Mapping[str, str],
    match: Callable[..., object] = match_base,
) -> dict[Path, Mapping[str, str]]:
    """The rules of a map that fit each file of a model. base_of: the base of a file. match: what matches these.

    Raises UsageError for a rule that fits none of any, before any of them is compressed.
    """
    check_map(base_map)
    if not base_map or len(sources) == 1:
        return dict.fromkeys(sources, base_map)
    found: dict[Path, Mapping[str, str]] = {}
    strays: dict[str, StrayRuleError] = {}
    for source in sources:
        rules = dict(base_map)
        while rules:
            try:
                match(source, base_of(source), base_map=rules)
                break
            except StrayRuleError as error:
                strays[error.old] = error
                del rules[error.old]
        found[source] = rules
    for old, stray in strays.items():
        if not any(old in rules for rules in found.values()):
            raise stray
    return found


def decompress(
    src: Any,
    dst: Any,
    *,
    threads: int | None = None,
    durable: bool = True,
    max_bytes: int | None = None,
    progress: Progress | None = None,
    base: Any = None,
) -> None:
    """Give back the file that was compressed, byte for byte, its SHA-256 checked before `dst` is made, or replaced.

    A slimtensors file that was saved from arrays, and so has no source file, becomes a plain .safetensors file; so does
    a lossy one, and the metadata of what it becomes say so.
    base, max_bytes: as for `safe_open`. threads, durable: as for `compress`. progress: called with bytes written since
    the last call.
    """
    check_callable("numbers of bytes", progress=progress)
    count = thread_count(threads)
    verify: Verify = "full"
    with open_with(src, base, verify=verify, max_bytes=max_bytes) as file:
        image = file.header.image
        check_destination(dst, src, ".safetensors" if image is None else f".{image.format}")

        def write(output: Output) -> None:
            with pool_of(count) as pool:
                for piece in _pieces(file, count, pool):
                    output.write(piece)
                    if progress is not None:
                        progress(len(piece))

        write_to(dst, write, durable=durable, like=src)


def _pieces(file: TensorFile, threads: int, pool: ThreadPoolExecutor | None) -> Iterator[bytes | memoryview]:
    header = file.header
    if header.image is not None:
        yield from source_pieces(file, header.image, threads, pool)
        return
    every = range(len(header.tensors))
    yield plain_front(file, every, header.metadata)
    yield from checked(file, walk(file, every, threads, pool))


def plain_front(file: TensorFile, tensors: Sequence[int], metadata: Mapping[str, str]) -> bytes:
    """The front of a safetensors file of these tensors; of a lossy file the metadata say so."""
    header, metadata = file.header, dict(metadata)
    if header.source is not None:
        recipes = sorted({tensor.lossy.recipe for tensor in header.tensors if tensor.lossy is not None})
        metadata["slimtensors.lossy"] = f"{' '.join(recipes)}; of the file with SHA-256 {header.source.hex()}"
    chosen = [header.tensors[i] for i in tensors]
    return plain_header([(t.name, t.dtype.name, t.shape, t.nbytes) for t in chosen], metadata)
