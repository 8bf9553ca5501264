"""Check a whole file: every digest, every tensor's identity, the source image."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import groupby, takewhile
from typing import Any, NamedTuple, cast

from slimtensors.bases.resolving import open_with
from slimtensors.container.digest import new_identity
from slimtensors.container.header import Image
from slimtensors.errors import BaseError, ChecksumError, FormatError, LimitError, check_callable
from slimtensors.reading.tensors import TensorFile
from slimtensors.reading.walking import LiteralBytes, Run, image_tensors, walk
from slimtensors.sources.safetensors_file import LENGTH_BYTES, MAX_HEADER_BYTES, parse_header
from slimtensors.threads import pool_of, thread_count

__all__ = [
    "Verified", "checked", "damage", "is_damage", "source_pieces", "take", "telling_of_all", "verify", "verify_opened",
]  # fmt: skip

NAMED = 5  # tensors, in an error

Progress = Callable[[int], object]  # called with decoded bytes done since the last call


class Verified(NamedTuple):
    """What `verify` found sound."""

    file_id: str  # hex
    tensors: int
    chunks: int
    decoded_bytes: int
    source_sha256: str | None  # hex, of the source file that the file gives back


def verify(
    target: Any,
    *,
    base: Any = None,
    threads: int | None = None,
    max_bytes: int | None = None,
    progress: Progress | None = None,
) -> Verified:
    """Decode everything and check it against every digest. Raises FormatError, naming all tensors that are damaged.

    target, base, max_bytes: as for `safe_open`. progress: called with decoded bytes checked since the last call.
    Memory: a few chunks per thread, and up to 256 MiB of packs whose tensors take turns.
    """
    check_callable("numbers of bytes", progress=progress)
    with open_with(target, base, verify="full", max_bytes=max_bytes) as file:
        count = thread_count(threads)
        with telling_of_all(file, count):
            return verify_opened(file, count, progress)


@contextmanager
def telling_of_all(file: TensorFile, count: int) -> Iterator[None]:
    """To an error about the first damaged chunk, add which tensors cannot be had and how to save the others."""
    try:
        yield
    except (BaseError, LimitError):
        raise  # the file may be sound
    except FormatError as error:
        if file.reader.source.remote:
            raise  # all of it would have to come once more
        with pool_of(count) as pool:
            lost = [file.header.tensors[index].name for index in damage(file, count, pool)]
        total = len(file.header.tensors)
        if not lost:
            raise type(error)(f"{error}. All {total} tensors are whole: `slimtensors salvage` writes them") from None
        named = ", ".join(map(repr, lost[:NAMED])) + (f" and {len(lost) - NAMED} more" if len(lost) > NAMED else "")
        said = f"{error}. Of {total} tensors {len(lost)} cannot be had: {named}"
        saved = "; `slimtensors salvage` writes the others" if len(lost) < total else ""
        raise type(error)(said + saved) from None


def damage(
    file: TensorFile, threads: int, pool: ThreadPoolExecutor | None, progress: Progress | None = None
) -> dict[int, Exception]:
    """Tensors that cannot be had whole, and why; each stream is decoded by itself, and each tensor checked."""
    faults: dict[int, Exception] = {}
    tensors = file.header.tensors
    for _, some in groupby(_by_stream(file, range(len(tensors))), lambda index: _stream(file, index)):
        group, done = list(some), 0
        try:
            for (visit, index), runs in groupby(walk(file, group, threads, pool), _visited):
                hasher = new_identity()
                for run in runs:
                    hasher.update(run.data)
                wrong = _wrong(file, index, hasher)
                if wrong is not None:
                    faults[index] = wrong
                done = visit + 1
                if progress is not None:
                    progress(tensors[index].nbytes)
        except (FormatError, OSError) as error:
            if not is_damage(error):
                raise
            faults |= dict.fromkeys(group[done:], error)
            if progress is not None:
                progress(sum(tensors[index].nbytes for index in group[done:]))
    return dict(sorted(faults.items()))


def is_damage(error: Exception) -> bool:
    """Whether an error is about a part of the file: that is wrong, needs a base that is not to be had, or the disk
    lost it. It is not where the file itself is out of reach: a network that fails, a folder that is taken away.
    """
    return isinstance(error, FormatError) or (isinstance(error, OSError) and error.errno == errno.EIO)


def verify_opened(file: TensorFile, count: int, progress: Progress | None = None) -> Verified:
    """Check an open file in `count` threads; stops at the first fault."""
    with pool_of(count) as pool:
        header = file.header
        sha256, seen = None, set()
        if header.image is not None:
            sha256 = LiteralBytes(file).sha256.hex()
            seen = set(image_tensors(header.image))
            for piece in source_pieces(file, header.image, count, pool):
                if progress is not None:
                    progress(len(piece))
        rest = [i for i in range(len(header.tensors)) if header.target(i) == i and i not in seen]
        for data in checked(file, walk(file, _by_stream(file, rest), count, pool)):
            if progress is not None:
                progress(len(data))
        return Verified(file.reader.file_id.hex(), len(header.tensors), header.chunks, header.decoded_bytes, sha256)


def checked(file: TensorFile, runs: Iterable[Run]) -> Iterator[memoryview]:
    """The runs' bytes; after a tensor's last one its identity has been checked. Raises ChecksumError."""
    for (_visit, index), group in groupby(runs, _visited):
        hasher = new_identity()
        for run in group:
            hasher.update(run.data)
            yield run.data
        wrong = _wrong(file, index, hasher)
        if wrong is not None:
            raise wrong


def _visited(run: Run) -> tuple[int, int]:
    return run.visit, run.tensor


def _wrong(file: TensorFile, index: int, hasher: Any) -> ChecksumError | None:
    """What is wrong with a tensor whose bytes were hashed."""
    if hasher.digest() == file.reader.identities[index]:
        return None
    return ChecksumError(
        f"tensor {file.header.tensors[index].name!r}: its decoded bytes have BLAKE3 {hasher.hexdigest()}, "
        f"the file says {file.reader.identities[index].hex()}"
    )


def _by_stream(file: TensorFile, tensors: Iterable[int]) -> list[int]:
    """Tensors in the order of what they are decoded from: those of a pack one after another."""
    return sorted(tensors, key=lambda index: _stream(file, index))


def _stream(file: TensorFile, index: int) -> int:
    """What a tensor is decoded from; -1 if it has no elements."""
    number = file.header.tensor_stream[file.header.holder(index)]
    return -1 if number is None else number


def source_pieces(
    file: TensorFile, image: Image, threads: int, pool: ThreadPoolExecutor | None
) -> Iterator[memoryview]:
    """The source file's bytes in order, every tensor checked; after the last one its SHA-256 has been checked.

    Raises ChecksumError; FormatError, before the first, if what the source file says of its tensors is something else.
    """
    literal = LiteralBytes(file)
    if image.format == "safetensors":
        _check_header(file, image, literal)
    hasher = hashlib.sha256()
    runs = checked(file, walk(file, image_tensors(image), threads, pool))
    for segment in image.segments:
        if isinstance(segment, int):
            pieces: Iterable[memoryview] = literal.take(segment)
        else:
            tensors = file.header.tensors[segment[0] : segment[0] + segment[1]]
            pieces = take(runs, sum(tensor.nbytes for tensor in tensors))
        for piece in pieces:
            hasher.update(piece)
            yield piece
    for _ in runs:  # lets the last tensor's identity be checked
        raise AssertionError("the segments leave bytes of their tensors over")
    if hasher.digest() != literal.sha256:
        raise ChecksumError(
            f"{file.reader.source.label}: the source file that it holds has SHA-256 {hasher.hexdigest()}, "
            f"the file says {literal.sha256.hex()}"
        )


def _check_header(file: TensorFile, image: Image, literal: LiteralBytes) -> None:
    """That the safetensors file that is given back has the tensors that are loaded (container.md, section 8)."""
    label = f"{file.reader.source.label}, the source file that it gives back"
    room = sum(cast(int, s) for s in takewhile(lambda segment: isinstance(segment, int), image.segments))
    length = int.from_bytes(literal.look(LENGTH_BYTES), "little") if room >= LENGTH_BYTES else room
    if length > min(room - LENGTH_BYTES, MAX_HEADER_BYTES):
        raise FormatError(f"{label}: not a safetensors file (its header is not before its tensors)")
    _, found = parse_header(literal.look(LENGTH_BYTES + length)[LENGTH_BYTES:], label)
    places, at = dict[int, int](), 0
    for segment in image.segments:
        if isinstance(segment, int):
            at += segment
            continue
        for index in range(segment[0], sum(segment)):
            places[index] = at
            at += file.header.tensors[index].nbytes
    ours = {t.name: (t.dtype, t.shape, places[i] if t.nbytes else None) for i, t in enumerate(file.header.tensors)}
    theirs = {t.name: (t.dtype, t.shape, t.at if t.at < t.end else None) for t in found}
    for name in ours | theirs:
        if ours.get(name) != theirs.get(name):
            raise FormatError(
                f"{label}: it has another tensor {name!r} than what is loaded; its writer is at fault: do not use it"
            )


def take(pieces: Iterator[memoryview], length: int) -> Iterator[memoryview]:
    """Pieces of this many bytes in all; pieces end where tensors end, so none is cut."""
    while length:
        piece = next(pieces)
        length -= len(piece)
        yield piece
