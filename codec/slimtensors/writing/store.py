"""From inputs to a complete, checked file: plan, write, read back, put in place."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from slimtensors.bases.resolving import KnownBases
from slimtensors.codecs.environment import as_usual
from slimtensors.container.system import file_identity
from slimtensors.container.writer import MemoryOutput, Output
from slimtensors.errors import FormatError, LimitError, SelfCheckError, UsageError
from slimtensors.planning.differing import MatchedBase
from slimtensors.planning.plan import Plan
from slimtensors.planning.planner import make_plan
from slimtensors.reading.tensors import open_file
from slimtensors.sources.inputs import Input
from slimtensors.threads import thread_count
from slimtensors.writing.destinations import check_destination, write_to
from slimtensors.writing.saving import Progress, SourceImage, write_plan

__all__ = ["refuse_own_base", "store", "store_bytes", "stored_length"]


@as_usual
def store(
    inputs: Sequence[Input],
    target: Any,
    metadata: Mapping[str, str] | None,
    preset: str,
    threads: int | None,
    self_check: bool,
    durable: bool = True,
    image: SourceImage | None = None,
    progress: Progress | None = None,
    *,
    bases: Sequence[MatchedBase | None] = (),
    near: bytes | None = None,
    like: Any = None,
) -> None:
    """Write a file to a path or file object. bases: of each input, or none at all. near: the SHA-256 of the source file
    whose tensors some inputs are only near to. like: as for `write_to`.
    """
    check_destination(target, like, ".slimtensors")
    _check_metadata(metadata)
    refuse_own_base(
        target, bases,
        "holds what would be the base of the new file, or of that base: in its place the new file could not be read, "
        "and the old one would be gone. Write to another path, or leave the base out",
    )  # fmt: skip
    count = thread_count(threads)
    plan = _plan(inputs, preset, metadata, bases, image, near, progress)

    def write(output: Output) -> None:
        write_plan(plan, inputs, output, threads=count, image=image, progress=progress)

    def check(written: Any) -> None:
        check_written(written, count, progress, bases)

    write_to(target, write, check if self_check else None, durable=durable, like=like)


def _plan(
    inputs: Sequence[Input],
    preset: str,
    metadata: Mapping[str, str] | None,
    bases: Sequence[MatchedBase | None],
    image: SourceImage | None,
    near: bytes | None,
    progress: Progress | None,
) -> Plan:
    segments, source = (None, "") if image is None else (image.segments, image.kind)
    return make_plan(
        inputs, preset=preset, metadata=dict(metadata or {}), segments=segments, bases=bases, progress=progress,
        source=source, near=near,
    )  # fmt: skip


def refuse_own_base(path: Any, bases: Sequence[MatchedBase | None], why: str) -> None:
    """Raises UsageError if a path leads to a file that one of these bases is read from."""
    files = frozenset[tuple[int, int]]().union(*(each.files for each in bases if each is not None))
    if files and isinstance(path, (str, os.PathLike)) and file_identity(path) in files:
        raise UsageError(f"{os.fspath(path)} {why}")


def _check_metadata(metadata: Mapping[str, str] | None) -> None:
    if metadata is not None and not isinstance(metadata, Mapping):
        raise UsageError(f"metadata is {metadata!r:.60}; a mapping from names to texts is needed")


class _Nowhere:
    """An output that only counts."""

    length = 0

    def write(self, data: bytes | memoryview) -> None:
        self.length += len(data)

    def write_at_start(self, data: bytes) -> None:
        """The length was counted before."""


@as_usual
def stored_length(
    inputs: Sequence[Input],
    metadata: Mapping[str, str] | None,
    preset: str,
    threads: int | None,
    *,
    bases: Sequence[MatchedBase | None] = (),
    image: SourceImage | None = None,
    near: bytes | None = None,
    progress: Progress | None = None,
) -> int:
    """The length of the file that `store` would write. Takes as long as to write it."""
    output = _Nowhere()
    plan = _plan(inputs, preset, metadata, bases, image, near, progress)
    write_plan(plan, inputs, output, threads=thread_count(threads), image=image, progress=progress)
    return output.length


@as_usual
def store_bytes(
    inputs: Sequence[Input],
    metadata: Mapping[str, str] | None,
    preset: str,
    threads: int | None,
    self_check: bool,
    *,
    bases: Sequence[MatchedBase | None] = (),
) -> bytes:
    """Write a file to memory."""
    _check_metadata(metadata)
    count = thread_count(threads)
    plan = make_plan(inputs, preset=preset, metadata=dict(metadata or {}), bases=bases)
    output = MemoryOutput(plan.header.decoded_bytes)
    write_plan(plan, inputs, output, threads=count)
    data = output.getvalue()
    if self_check:
        check_written(data, count, bases=bases)
    return data


def check_written(
    written: Any, threads: int, progress: Progress | None = None, bases: Sequence[MatchedBase | None] = ()
) -> None:
    """Decode what was written; its identities were taken from the tensors given. Raises SelfCheckError."""
    from slimtensors.reading.verifying import verify_opened

    known = KnownBases({each.base.identity: each.read for each in bases if each is not None})
    try:
        with open_file(written, bases=known) as file:
            verify_opened(file, threads, progress)
    except LimitError as error:
        raise SelfCheckError(
            f"what was written passes a limit of this library: {error}. That is a fault of slimtensors, not of this "
            "machine: please report it as a bug. The destination was left as it was"
        ) from error
    except FormatError as error:
        raise SelfCheckError(
            f"what was written does not decode to what was given: {error}. The destination was left as it was. "
            "If nothing changed the source meanwhile, test this machine's memory and processor; if they are sound, "
            "please report this as a bug"
        ) from error
