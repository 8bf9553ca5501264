"""Tensors in the order of a plan, decoded ahead in threads; what waits to be taken is bounded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy.typing as npt

from slimtensors.container.source import Bytes
from slimtensors.errors import UsageError
from slimtensors.reading.scheduling import Destination, Job, jobs_of
from slimtensors.reading.tensors import TensorFile, first_threads, most_threads
from slimtensors.stream.plan import Wanted
from slimtensors.threads import Pipeline

__all__ = ["AHEAD_BYTES", "Ordered"]

Units = npt.NDArray[Any]

AHEAD_BYTES = 256 << 20  # decoded, that nobody has taken yet
TAIL = 3  # chunks, about one request: how much of the first is left where requests for the next ones begin


class _Load(NamedTuple):
    """A chunk to decode, and the first of the tensors that want something of it."""

    item: int
    job: Job


class Ordered:
    """Decodes what is wanted, in order, ahead of whoever takes it.

    At most `ahead` bytes are decoded and not yet taken, except for what is asked for next. Whoever asks for a later
    one first has all before it decoded and held. Use `close` in the end, which stops everything.
    """

    def __init__(self, wanted: Sequence[Wanted], threads: int, ahead: int = AHEAD_BYTES) -> None:
        self.wanted = wanted
        self._ahead = ahead
        self._asked = 0  # the item that is asked for, or was last
        self._held = 0
        self._units: dict[int, Units] = {}  # begun and not taken
        self._places: dict[int, Destination] = {}  # begun and not whole
        self._left: dict[int, int] = {}  # cuts to come, of what is not whole
        self._whole: set[int] = set()
        self._taken: set[int] = set()
        files = {id(each.file): each.file for each in wanted}.values()
        self._hold = any(file.reader.source.remote for file in files)
        for file in files:
            file.reader.read_table()
            if file.reader.source.remote:
                file.expect(self._chunks(file))
        most, begin = most_threads(files, threads), first_threads(files, threads)
        self._work = Pipeline(
            self._loads(), self._fetch, self._decode, threads, most=most, begin=begin, admit=self._admit,
            waits=lambda load: self.wanted[load.item].file.reader.source.waited,
        )  # fmt: skip
        self._work.start()

    def take(self, item: int) -> Units:
        """An item's units, once; waits until they are whole. Raises the first error of all that was to be decoded."""
        work = self._work
        if work.left_behind:
            raise UsageError(
                f"tensor {self.wanted[item].name!r}: the loader was made before this process was forked, and its "
                "threads are not here; make it in the process that takes from it"
            )
        with work.lock:
            if item in self._taken:
                raise UsageError(f"tensor {self.wanted[item].name!r} has been taken already")
            self._asked = item
            work.changed.notify_all()
            while item not in self._whole and not work.errors:
                if work.stopped:
                    raise UsageError(f"tensor {self.wanted[item].name!r}: the loader has been closed")
                work.changed.wait()
            if item in self._whole and not work.errors:
                self._taken.add(item)
                self._whole.discard(item)
                self._held -= self.wanted[item].nbytes
                work.changed.notify_all()
                return self._units.pop(item)
        self.close()
        raise work.errors[0]

    def left(self) -> Iterator[int]:
        """Items not taken, in order."""
        return (item for item in range(len(self.wanted)) if item not in self._taken)

    def stop(self) -> None:
        """Stop without waiting."""
        self._work.stop()

    def close(self) -> None:
        """Stop, and let go of what was not taken. What is in hand is brought to its end first."""
        self._work.stop()
        try:
            self._work.wait()
        finally:
            self._units.clear()
            self._places.clear()

    def _loads(self) -> Iterator[_Load]:
        """Chunks in order. A pack is decoded for all its tensors at once, since they are small; a tensor that refers to
        another one is decoded again, so that nothing large waits for its turn.
        """
        packs: dict[tuple[int, int], list[int]] = {}
        for item, each in enumerate(self.wanted):
            pack = self._pack(each)
            if pack is not None:
                packs.setdefault(pack, []).append(item)
        for item, each in enumerate(self.wanted):
            pack = self._pack(each)
            if pack is None:
                yield from (_Load(item, job) for job in self._begin([item]))
            elif pack in packs:
                jobs = self._begin(packs.pop(pack))
                if jobs:
                    yield _Load(item, jobs[0]._replace(cuts=[cut for job in jobs for cut in job.cuts]))

    def _chunks(self, file: TensorFile) -> Iterator[tuple[int, int]]:
        """Streams and chunks of a file that will be read, in order; a pack's once."""
        packs = set()
        for item, each in enumerate(self.wanted):
            if each.file is file:
                pack = self._pack(each)
                if pack is None or pack not in packs:
                    packs.add(pack)
                    for job in jobs_of(file.header, [(item, each.range)], file.reader.records):
                        yield job.stream, job.chunk

    @staticmethod
    def _pack(wanted: Wanted) -> tuple[int, int] | None:
        header = wanted.file.header
        holder = header.holder(wanted.tensor)
        stream = header.tensor_stream[holder]
        return (id(wanted.file), stream) if stream is not None and header.tensors[holder].pack is not None else None

    def _begin(self, items: list[int]) -> list[Job]:
        """The chunks of these, which are now to come. Called under the lock."""
        jobs: list[Job] = []
        for item in items:
            each = self.wanted[item]
            units, place = each.place()
            self._held += each.nbytes
            self._units[item] = units
            found = jobs_of(each.file.header, [(item, place.wanted)], each.file.reader.records) if units.size else []
            self._places[item], self._left[item] = place, len(found)
            if not found:
                self._finish(item)
            jobs += found
        return jobs

    def _finish(self, item: int) -> None:
        del self._left[item], self._places[item]
        self._whole.add(item)
        self._work.changed.notify_all()

    def _admit(self, load: _Load) -> bool:
        return load.item <= self._asked or (self._held <= self._ahead and not self._waits_for_first())

    def _waits_for_first(self) -> bool:
        """Requests share a link: those for later items would hold up the first that is handed out, by what is under way
        of them when it ends. Once only, so that it costs at most one latency.
        """
        if self._hold and (self._whole or self._taken or self._left.get(self._asked, 0) <= TAIL):
            self._hold = False
        return self._hold

    def _fetch(self, load: _Load) -> Bytes | None:
        return self.wanted[load.item].file.fetch(load.job)

    def _decode(self, load: _Load, data: Bytes | None) -> None:
        self.wanted[load.item].file.decode(load.job, data, self._places)
        with self._work.lock:
            for cut in load.job.cuts:
                self._left[cut.wanted] -= 1
                if self._left[cut.wanted] == 0:
                    self._finish(cut.wanted)
                elif self._hold and self._left[cut.wanted] == TAIL:
                    self._work.changed.notify_all()
