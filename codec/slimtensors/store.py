"""From inputs to a complete, checked file: plan, write, read back, put in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from slimtensors.container.writer import MemoryOutput, Output
from slimtensors.destinations import write_to
from slimtensors.errors import FormatError, SelfCheckError
from slimtensors.inputs import Input
from slimtensors.planner import make_plan
from slimtensors.saving import Progress, SourceImage, write_plan
from slimtensors.threads import thread_count

__all__ = ["store", "store_bytes"]


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
) -> None:
    """Write a file to a path or file object."""
    count = thread_count(threads)
    segments = None if image is None else image.segments
    plan = make_plan(inputs, preset=preset, metadata=dict(metadata or {}), segments=segments)

    def write(output: Output) -> None:
        write_plan(plan, inputs, output, threads=count, image=image, progress=progress)

    def check(written: Any) -> None:
        check_written(written, count, progress)

    write_to(target, write, check if self_check else None, durable=durable)


def store_bytes(
    inputs: Sequence[Input],
    metadata: Mapping[str, str] | None,
    preset: str,
    threads: int | None,
    self_check: bool,
) -> bytes:
    """Write a file to memory."""
    count = thread_count(threads)
    plan = make_plan(inputs, preset=preset, metadata=dict(metadata or {}))
    output = MemoryOutput(plan.header.decoded_bytes)
    write_plan(plan, inputs, output, threads=count)
    data = output.getvalue()
    if self_check:
        check_written(data, count)
    return data


def check_written(written: Any, threads: int, progress: Progress | None = None) -> None:
    """Decode what was written; its identities were taken from the tensors given. Raises SelfCheckError."""
    from slimtensors.verifying import verify

    try:
        verify(written, threads=threads, progress=progress)
    except FormatError as error:
        raise SelfCheckError(
            f"what was written does not decode to what was given: {error}. The destination was left as it was. "
            "If nothing changed the source meanwhile, test this machine's memory and processor; if they are sound, "
            "please report this as a bug"
        ) from error
