"""One rank's file: planned, encoded, looked at, and only then put where it belongs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from slimtensors.checkpoint.manifest import File
from slimtensors.checkpoint.places import Finishable, StorePlace
from slimtensors.container.writer import front_length
from slimtensors.planning.differing import MatchedBase
from slimtensors.planning.planner import make_plan
from slimtensors.sources.inputs import Input
from slimtensors.writing.saving import write_plan
from slimtensors.writing.store import check_written

__all__ = ["write_file"]


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
