"""One rank's file: planned, encoded, looked at, and only then put where it belongs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from slimtensors.checkpoint.manifest import OBJECTS, File
from slimtensors.checkpoint.places import Finishable, StorePlace
from slimtensors.checkpoint.plain import dumps
from slimtensors.container.writer import front_length
from slimtensors.errors import UsageError
from slimtensors.limits import MAX_OBJECTS_BYTES
from slimtensors.planning.differing import MatchedBase
from slimtensors.planning.planner import make_plan
from slimtensors.sources.inputs import ArrayInput, Input
from slimtensors.writing.saving import write_plan
from slimtensors.writing.store import check_written

__all__ = ["objects_input", "write_file"]


def objects_input(objects: dict[str, Any]) -> Input:
    """What is no tensor, encoded, as the tensor of a file. Raises UsageError for more than a reader takes."""
    text = dumps(objects)
    if len(text) > MAX_OBJECTS_BYTES:
        largest = max(objects, key=lambda name: len(dumps({name: objects[name]})))
        raise UsageError(
            f"values that are no tensors take {len(text)} bytes of one file; the limit is {MAX_OBJECTS_BYTES}: save "
            f"large ones, such as {largest!r:.200}, as tensors"
        )
    return ArrayInput(OBJECTS, np.frombuffer(text, np.uint8))


def write_file(
    place: StorePlace,
    name: str,
    inputs: Sequence[Input],
    metadata: Mapping[str, str],
    *,
    preset: str,
    threads: int,
    self_check: bool,
    durable: bool,
    bases: Sequence[MatchedBase | None],
) -> File:
    """Write one file of a checkpoint. Nothing is left of it if that fails.

    self_check: read the file back before it counts, or, where a store shows nothing before that, decode each chunk
    before it is sent. Raises SelfCheckError, or what the storage raises.
    """
    plan = make_plan(inputs, preset=preset, metadata=dict(metadata), bases=bases)
    front = front_length(plan.header, plan.text)
    output = _Counted(place.create(name, front, front + plan.header.decoded_bytes))
    try:
        read_back = self_check and place.reads_back
        file_id = write_plan(plan, inputs, output, threads=threads, check=self_check and not read_back)
        if read_back:
            check_written(output.inner.path, threads, bases=bases)  # type: ignore[attr-defined] # what reads back has one
        output.inner.commit(durable=durable)
    except BaseException:
        output.inner.discard()
        raise
    return File(name, output.size, file_id.hex())


class _Counted:
    """An output that knows how much was written."""

    def __init__(self, inner: Finishable) -> None:
        self.inner, self.size = inner, 0

    def write(self, data: bytes | memoryview) -> None:
        self.inner.write(data)
        self.size += len(data)

    def write_at_start(self, data: bytes) -> None:
        self.inner.write_at_start(data)
