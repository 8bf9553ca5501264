"""Tensors out of an open file: whole, in part, or all of them (DESIGN.md, "A tensor's walk")."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from slimtensors.codecs.casts import cast_units
from slimtensors.codecs.head import PLANES
from slimtensors.codecs.place import Place
from slimtensors.container.digest import decoded_digest
from slimtensors.container.header import Base, Stream, Tensor
from slimtensors.container.hints import pinned_name
from slimtensors.container.reader import Reader, Verify
from slimtensors.container.source import Bytes, ByteSource, aligned_empty, lasting_empty, open_source
from slimtensors.dtypes import DType, bytes_of
from slimtensors.errors import (
    BaseError,
    ChecksumError,
    FormatError,
    LimitError,
    TensorNotFoundError,
    UsageError,
    note,
)
from slimtensors.expression import bases_of
from slimtensors.limits import EXPANSION, EXPANSION_SLACK, FETCHED_BYTES, MAX_FETCHERS
from slimtensors.reading.base_units import Work, base_units, chunk_work, decoded_there, kept_work
from slimtensors.reading.scheduling import Destination, Job, Piece, Places, schedule
from slimtensors.reading.side_contents import check_contents
from slimtensors.sources.shards import weight_files
from slimtensors.threads import Pipeline

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "BaseSource", "Load", "TensorFile", "all_pieces", "first_threads", "load_all", "most_threads", "open_each",
    "open_file",
]  # fmt: skip

Units = npt.NDArray[Any]

BASE_ADVICE = (
    "give the base with --base or base=, or name a folder that holds it in SLIMTENSORS_BASE_DIR or with --base-dir"
)
VERIFY = ("none", "stored", "full")
MANY = 8  # ranges, from where on the whole table is read at once
KEPT_SIDES = 128 << 20  # bytes
MAX_COMPARED = 100_000  # characters, for a hint at what name was meant


class BaseSource(Protocol):
    """Where a file's bases are found. Used from several threads."""

    def read(self, index: int, base: Base, start: int, count: int) -> Units:
        """Units [start, start + count) of base `index` of the header, in the base's dtype. Raises BaseError."""

    def stored(self, base: Base) -> tuple[TensorFile, int] | None:
        """The slimtensors file that has a base, and its position there; None if it is elsewhere. Raises BaseError."""

    def settle(self, base: Base) -> bool:
        """Look again for a base, in all that claims to be it, since what was given did not do. Whether there is one
        whose bytes have its identity, which is given from now on.
        """

    def counted(self, base: Base) -> tuple[Hashable, int] | None:
        """Bytes that a base counts towards what a file may decode to, and under what, once: of a slimtensors file its
        length, of others those whose identity is as stated. None if it is not to be had.
        """

    def keeps(self, nbytes: int) -> bool:
        """Whether so many bytes more of decoded packs may be kept, of all files that have bases."""

    def close(self) -> None:
        """Called when the file that needs the bases is closed."""


class _Own(threading.local):
    """What a thread keeps from one chunk to the next."""

    last: tuple[int, int, Units] | None = None  # a chunk that was not decoded straight to its place: stream, number
    buffer: Bytes = np.empty(0, np.uint8)  # for stored bytes


class Load(NamedTuple):
    """A chunk to read and decode, of which file, and where to put its cuts."""

    file: TensorFile
    job: Job
    places: Places


def open_file(
    target: Any,
    *,
    verify: Verify = "full",
    mmap: bool = False,
    max_bytes: int | None = None,
    bases: BaseSource | None = None,
    partial: bool = False,
) -> TensorFile:
    """Open a slimtensors file: a path, bytes, a binary file object, or an object with ranged reads."""
    if verify not in VERIFY:
        raise UsageError(f"verify is {verify!r}; it can be {', '.join(map(repr, VERIFY))}")
    if max_bytes is not None and not isinstance(max_bytes, (int, np.integer)):
        raise UsageError(f"max_bytes is {max_bytes!r:.60}; a whole number of bytes is needed")
    source = open_source(target, use_mmap=mmap)
    return open_from(source, verify=verify, max_bytes=max_bytes, bases=bases, partial=partial)


def open_from(
    source: ByteSource,
    *,
    verify: Verify = "full",
    max_bytes: int | None = None,
    bases: BaseSource | None = None,
    partial: bool = False,
) -> TensorFile:
    """Open what a source holds, which is closed with the file, or now if this raises."""
    try:
        return TensorFile(Reader(source, verify=verify, max_bytes=max_bytes, partial=partial), bases)
    except FormatError as error:
        from slimtensors.sources.recognise import explain

        better = explain(source, error)
        source.close()
        raise better from None
    except BaseException:
        source.close()
        raise


def open_each(target: Any, stack: ExitStack, open_one: Callable[[Any], TensorFile]) -> list[TensorFile]:
    """Open the files of a model (see `shards.weight_files`), until the stack is closed.

    Raises FormatError if an index and its shards do not agree, or two files have a tensor of the same name.
    """
    files, seen = [], dict[str, str]()
    for one, expected in weight_files(target):
        file = stack.enter_context(open_one(one))
        label = file.reader.source.label
        missing = sorted(expected - file.index.keys())
        if missing:
            raise FormatError(f"{label} lacks {len(missing)} tensors that its index names, such as {missing[0]!r}")
        for name in file.index:
            if name in seen:
                raise FormatError(f"both {seen[name]} and {label} have a tensor {name!r}: name the files of one model")
            seen[name] = label
        files.append(file)
    return files


class TensorFile:
    """The tensors of an open file. Safe to use from several threads."""

    def __init__(self, reader: Reader, bases: BaseSource | None = None) -> None:
        self.reader = reader
        self.bases = bases
        self.header = reader.header
        self.index = {tensor.name: i for i, tensor in enumerate(self.header.tensors)}
        self._own = _Own()
        self._sides: dict[int, tuple[Units, ...]] = {}  # by stream: its side planes; those that were read last
        self._sides_bytes = 0
        self._last_pack: tuple[int, Units] = (-1, np.empty(0, np.uint8))  # by stream
        self._kept: dict[int, Units | None] = {}  # by stream: packs that tensors of others are made from, once decoded
        self._sides_lock = threading.RLock()  # the tensor that is a side plane may have some, too
        self.work: dict[int, Work] = {}  # by stream: as `chunk_work` keeps it
        self._worked: set[int] = set()  # streams whose bases are counted
        self._worked_files: frozenset[TensorFile] = frozenset()
        self._worked_packs: set[tuple[TensorFile, int]] = set()
        self._work_bytes = 0
        if reader.header.bases:
            reader.check_budget(self._base_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close what was opened for this file; an object that the caller gave stays open."""
        self.reader.close()
        self._own, self._last_pack = _Own(), (-1, np.empty(0, np.uint8))  # nothing is given from memory any more
        self._kept = {}
        if self.bases is not None:
            self.bases.close()

    def _base_bytes(self) -> int:
        """Of the bases that are to be had, or of the slimtensors files that have them."""
        each = {base.identity: base for base in self.header.bases}
        counted = [] if self.bases is None else map(self.bases.counted, each.values())
        return sum(dict(each for each in counted if each is not None).values())

    def find(self, name: str) -> int:
        """The tensor's position. Raises TensorNotFoundError."""
        try:
            return self.index[name]
        except KeyError:
            from difflib import get_close_matches

            few = len(self.index) * len(name) < MAX_COMPARED  # comparing takes a while
            close = get_close_matches(name, self.index, 1) if few else []
            hint = f"; did you mean {close[0]!r}?" if close else f" among {len(self.index)}"
            raise TensorNotFoundError(f"{self.reader.source.label}: there is no tensor {name!r}{hint}") from None

    def tensor(self, name: str) -> Tensor:
        return self.header.tensors[self.find(name)]

    def read(self, index: int, threads: int) -> Units:
        """A whole tensor's units."""
        tensor = self.header.tensors[index]
        out = aligned_empty(tensor.nbytes).view(tensor.dtype.unit)
        self.fill([Piece(index, 0, out)], threads)
        return out

    def fill(self, pieces: Sequence[Destination], threads: int) -> None:
        """Decode pieces into their places, each chunk once, in file order, in threads."""
        loads = self.loads(pieces)  # drawn as they are needed: the source is not kept waiting for the whole list
        begin = first_threads([self], threads)
        first = list(islice(loads, max(2, begin)))
        if len(first) == 1:  # most tensors of one chunk: there is nothing to do meanwhile
            self.decode(first[0].job, self.fetch(first[0].job), first[0].places)
        elif first:
            begin = min(begin, len(first))
            load_all(chain(first, loads), min(threads, begin), [self], begin=begin)

    def loads(self, places: Sequence[Destination]) -> Iterator[Load]:
        """What filling these places takes, in file order."""
        if len(places) >= MANY:
            self.reader.read_table()
        if self.reader.source.remote:
            jobs = schedule(self.header, [place.wanted for place in places], self.reader.records)
            self.expect((job.stream, job.chunk) for job in jobs if self._kept.get(job.stream) is None)
        for job in schedule(self.header, [place.wanted for place in places], self.reader.records):
            yield Load(self, job, places)

    def expect(self, chunks: Iterable[tuple[int, int]]) -> None:
        """Tell a source that answers requests which chunks of which streams will be read soon, in this order."""
        self.reader.source.expect(self._with_sides(chunks))

    def _with_sides(self, chunks: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """Offsets and lengths, the side planes' before the first chunk that needs them."""
        seen = set()
        for stream, chunk in chunks:
            wanted = [(stream, chunk)]
            if stream not in seen:
                seen.add(stream)
                needed = self.header.needed_streams.get(stream, []) if stream not in self._sides else []
                wanted[:0] = [(each, i) for each in needed for i in range(self.header.streams[each].chunks)]
            for number, i in wanted:
                records, positions = self.reader.records(number)
                yield positions[i], records[i].stored_length

    def fetch(self, job: Job) -> Bytes | None:
        """A chunk's stored bytes; None if it is decoded still. Side planes are seen to on the way."""
        if self._last(job) is not None:
            return None
        if job.stream in self.header.steered:
            self._sides_for(job.stream)
        return self._read(job.stream, job.chunk, job.offset, job.length)

    def decode(self, job: Job, data: Bytes | None, places: Places) -> None:
        """Decode a chunk that this thread has fetched, and put its cuts into their places."""
        whole, direct = self._last(job), None
        if whole is None:
            assert data is not None
            for cut in job.cuts:
                if cut.units == job.units and cut.tensor not in self.header.casts and job.stream not in self._kept:
                    direct, whole = cut, places[cut.wanted].memory(cut.start, cut.units)
                    break
            if whole is not None:  # the whole chunk, straight to its place
                self.decode_stored(job.stream, job.chunk, data, whole)
            else:
                direct, whole = None, np.empty(job.units, self.header.streams[job.stream].dtype.unit)
                self.decode_stored(job.stream, job.chunk, data, whole)
                self._own.last = (job.stream, job.chunk, whole)  # the next part of it is often wanted next
                if job.stream in self._kept:
                    self._kept[job.stream] = whole
        for cut in job.cuts:
            if cut is not direct:
                found = whole[cut.first : cut.first + cut.units]
                if cut.tensor in self.header.casts:
                    have, want = self.header.streams[job.stream].dtype, self.header.tensors[cut.tensor].dtype
                    found = cast_units(found, have, want)
                places[cut.wanted].put(cut.start, found)

    def _last(self, job: Job) -> Units | None:
        """The chunk, if it is a pack that is kept, or what this thread decoded last and not straight to its place."""
        kept, last = self._kept.get(job.stream), self._own.last
        if kept is not None:
            return kept
        return last[2] if last is not None and last[0] == job.stream and last[1] == job.chunk else None

    def keeps(self, number: int) -> bool:
        """Whether a stream is a pack that is kept once it is decoded, as of a base; asking makes it one, while there is
        room.
        """
        stream = self.header.streams[number]
        if number not in self._kept:
            nbytes = stream.units * stream.dtype.unit_bytes
            if not stream.members or self.bases is None or not self.bases.keeps(nbytes):
                return False
            self._kept.setdefault(number)
        return True

    def decode_chunk(self, number: int, chunk: int, out: Units) -> None:
        """Read one chunk, decode it into `out` and check it."""
        self.decode_stored(number, chunk, self.fetch_chunk(number, chunk), out)

    def fetch_chunk(self, number: int, chunk: int) -> Bytes:
        """A chunk's stored bytes, unchecked, in this thread's buffer: good until the thread fetches again."""
        records, positions = self.reader.records(number)
        return self._read(number, chunk, positions[chunk], records[chunk].stored_length)

    def _read(self, number: int, chunk: int, offset: int, length: int) -> Bytes:
        try:
            return self.reader.source.read(offset, length, self._scratch(length))
        except FormatError as error:
            raise type(error)(f"{self.header.streams[number].label}, chunk {chunk}: {error}") from None
        except Exception as error:  # of the system, or of whoever gave the source: it stays what it is
            note(error, f"while reading {self.header.streams[number].label}, chunk {chunk}")
            raise

    def stored_chunk(self, number: int, chunk: int) -> bytes:
        """A chunk's stored bytes, checked."""
        data = self.fetch_chunk(number, chunk)
        self.reader.check(number, chunk, data)
        return data.tobytes()

    def decode_stored(
        self, number: int, chunk: int, data: Bytes, out: Units, sides: tuple[Units, ...] | None = None
    ) -> None:
        """Check a chunk's stored bytes, decode them into `out`, and check that. On an error `out` holds noise.

        sides: of a side plane, those before it.
        """
        from slimtensors.codecs.chunk import (
            decode_chunk,  # loads Numba, which those who only look at a file can do without
        )

        stream = self.header.streams[number]
        record = self.reader.check(number, chunk, data)
        first = chunk * stream.chunk

        def decode() -> None:
            # A chunk that is no difference states 0, and needs no base even where its tensor has one.
            base = self._base(number, first, out.size) if data[0] == PLANES else None
            found = sides
            if found is None:
                found = self._sides_for(number, fetched=True) if number in self.header.steered else ()
            decode_chunk(data, stream.expression, out, Place(stream.units, first, found, stream.dtype, base))

        try:
            try:
                decode()
            except BaseError:
                if not self._settled(stream):
                    raise
                decode()
        except BaseError as error:
            where = f"{self.reader.source.label}: {stream.label}, chunk {chunk}"
            raise BaseError(f"{where}: {error}{self._needed(stream, str(error))}") from None
        except FormatError as error:
            raise type(error)(f"{stream.label}, chunk {chunk}: {error}") from None
        if self.reader.verify == "full":
            found = decoded_digest(bytes_of(out))
            if found != record.decoded_digest:
                raise ChecksumError(
                    f"{stream.label}, chunk {chunk}: decoded to bytes with digest {found:016x}, the file says "
                    f"{record.decoded_digest:016x}. The stored bytes are as they were written: "
                    "the writer or this machine is faulty"
                )

    def _needed(self, stream: Stream, said: str) -> str:
        """Which base, and what to do, as far as an error does not say it yet."""
        needed = [self.header.bases[number] for number in bases_of(stream.expression)]
        if not needed:
            return ""
        others = f" and {len(needed) - 1} more for the tensors that share its chunk" if len(needed) > 1 else ""
        known = any(base.identity.hex() in said for base in needed)
        named = "" if known else f". Needed is {needed[0]}{others}"
        if BASE_ADVICE in said:
            return named
        place = pinned_name(needed[0].hints)
        there = "" if place is None else f"--base {place}, or base={place!r}, reads it from the hub; or "
        return f"{named}; {there}{BASE_ADVICE}"

    def _base(self, number: int, first: int, count: int) -> Units | None:
        """The base's units in the range of a stream's chunk, if its tensor has a base. Raises BaseError, LimitError."""
        stream, source = self.header.streams[number], self.bases
        bases = bases_of(stream.expression)
        if not bases:
            return None
        if source is None:
            raise BaseError("a difference from a base, which was not given")
        self._check_work(number)
        try:
            with self._other_buffer():  # where this file is a base itself, a base of its own may be found in it
                if not stream.members:
                    return self._base_units(bases[0], stream.dtype, first, count)
                held = list(zip(bases, stream.members, strict=True))  # a pack is one chunk
                there = decoded_there(source, self.header.bases, held)
                return np.concatenate([self._base_units(each, stream.dtype, 0, n, there.get(each)) for each, n in held])
        except BaseError:
            raise
        except FormatError as error:  # the base's file, not this one
            raise BaseError(f"its base cannot be read: {error}") from None

    def _base_units(
        self, number: int, dtype: DType, first: int, count: int, decoded: Units | None = None
    ) -> Units:
        """decoded: the base's first units, if they are at hand."""
        base, source = self.header.bases[number], self.bases
        assert source is not None

        def read(start: int, n: int) -> Units:
            return source.read(number, base, start, n) if decoded is None else decoded[start : start + n]

        return base_units(base, read, dtype, first, count)

    def _check_work(self, number: int) -> None:
        """Raises LimitError if the bases of the streams that were read take more, each time, than files of this and
        their length may decode to: a pack of differences from packs of differences, and so on, takes any time.
        """
        if number in self._worked:  # asked for at every chunk: without the lock
            return
        work = chunk_work(self, number)
        with self._sides_lock:
            if number in self._worked:
                return
            packs = kept_work(work.kept, self._worked_packs)
            files = self._worked_files | work.files | packs.files
            length = self.reader.prefix.file_length + sum(file.reader.prefix.file_length for file in files)
            allowed = max(EXPANSION * length + EXPANSION_SLACK, self.reader.allowed_bytes)
            taken = self._work_bytes + work.decoded * self.header.streams[number].chunks + packs.decoded
            if taken > allowed:
                raise LimitError(
                    f"{taken} bytes would be decoded of bases and theirs; {allowed} are allowed for files of {length} "
                    "bytes. `flatten` a base; or if you trust the files, pass max_bytes"
                )
            self._work_bytes, self._worked_files = taken, files
            self._worked_packs.update(packs.kept)
            self._worked.add(number)

    def _settled(self, stream: Stream) -> bool:
        """Whether all bases of a stream are to be had, each with the bytes that it should have."""
        source = self.bases
        if source is None:
            return False
        with self._other_buffer():
            return all(source.settle(self.header.bases[number]) for number in bases_of(stream.expression))

    def base_of(self, number: int, chunk: int) -> Units | None:
        """What a chunk of a stream is a difference from, if it is one. Raises BaseError."""
        stream = self.header.streams[number]
        return self._base(number, chunk * stream.chunk, stream.chunk_units(chunk))

    def sides_of(self, index: int) -> tuple[Units, ...]:
        """A tensor's side planes, checked."""
        number = self.header.tensor_stream[index]
        return () if number is None else self._sides_for(number)

    def _sides_for(self, number: int, *, fetched: bool = False) -> tuple[Units, ...]:
        """Side planes of a stream's tensor. All of a file may be too much to keep: then they are decoded again.

        fetched: this thread's buffer holds a chunk that is still needed.
        """
        index = self.header.steered.get(number)
        if index is None:
            return ()
        known = self._sides.get(number)
        if known is not None:  # asked for at every chunk: without the lock
            return known
        with self._sides_lock:
            known = self._sides.get(number)
            if known is not None:
                return known
            with self._other_buffer() if fetched else nullcontext():
                found = self._load_sides(index)
            check_contents(self.header.streams[number], found)
            self._sides[number] = found
            self._sides_bytes += sum(side.nbytes for side in found)
            # Of a walk, threads are in two tensors where one ends.
            while self._sides_bytes > KEPT_SIDES and len(self._sides) > 2:
                oldest = next(iter(self._sides))
                self._sides_bytes -= sum(side.nbytes for side in self._sides.pop(oldest))
            return found

    def _load_sides(self, index: int) -> tuple[Units, ...]:
        found: tuple[Units, ...] = ()
        for side in self.header.side_streams.get(index, ()):
            found += (self._side(side, found),)
        scale = self.header.tensors[index].scale
        return found if scale is None else (*found, self._whole(scale))

    def _side(self, side: int, earlier: tuple[Units, ...]) -> Units:
        stream = self.header.streams[side]
        out = np.empty(stream.units, stream.dtype.unit)
        for chunk in range(stream.chunks):
            low = chunk * stream.chunk
            data = self.fetch_chunk(side, chunk)
            self.decode_stored(side, chunk, data, out[low : low + stream.chunk_units(chunk)], earlier)
        return out.reshape(stream.shape)

    def _whole(self, index: int) -> Units:
        """A tensor that is a side plane, in this thread: others may wait for it."""
        self.sides_of(index)  # which its chunks need
        number, tensor = self.header.tensor_stream[index], self.header.tensors[index]
        assert number is not None  # the schema sees to it
        stream = self.header.streams[number]
        if tensor.pack is None or self._last_pack[0] != number:
            # All of the stream: a pack is one chunk, and what is no pack is all the tensor's.
            out = np.empty(stream.units, stream.dtype.unit)
            for chunk in range(stream.chunks):
                low = chunk * stream.chunk
                self.decode_chunk(number, chunk, out[low : low + stream.chunk_units(chunk)])
            if tensor.pack is None:
                return out
            self._last_pack = number, out  # the next tensor's scales are often in it, too
        begin, pack = self.header.pack_offset[index], self._last_pack[1]
        units: Units = pack[begin : begin + tensor.units].copy()
        return units

    @contextmanager
    def _other_buffer(self) -> Iterator[None]:
        """What this thread has fetched stays, while it fetches something else."""
        fetched, self._own.buffer = self._own.buffer, np.empty(0, np.uint8)
        try:
            yield
        finally:
            self._own.buffer = fetched

    def _scratch(self, length: int) -> Bytes:
        """This thread's buffer for stored bytes, so that not every chunk touches fresh memory."""
        buffer = self._own.buffer
        if buffer.size < length:
            buffer = self._own.buffer = aligned_empty(length + length // 4)
        return buffer


def load_all(
    loads: Iterable[Load],
    threads: int,
    files: Sequence[TensorFile],
    *,
    begin: int = 0,
    done: Callable[[Load], object] | None = None,
) -> None:
    """Read and decode chunks of these files, in order, in threads. The first error stops the rest and is raised.

    begin: threads to begin with, if they are more. done: called after each chunk, from several threads.
    """

    def decode(load: Load, data: Bytes | None) -> None:
        load.file.decode(load.job, data, load.places)
        if done is not None:
            done(load)

    most = most_threads(files, threads)
    pipeline = Pipeline(
        loads, lambda load: load.file.fetch(load.job), decode, threads, most=most, begin=begin,
        waits=lambda load: load.file.reader.source.waited,
    )  # fmt: skip
    pipeline.run()


def most_threads(files: Iterable[TensorFile], threads: int) -> int:
    """With those that only wait for a slow source: no more than their buffers may take memory."""
    largest = max((file.header.largest_chunk for file in files if file.reader.source.waits), default=0)
    return threads + (min(MAX_FETCHERS, FETCHED_BYTES // largest) if largest else 0)


def first_threads(files: Iterable[TensorFile], threads: int) -> int:
    """How many to begin with: all that there may be, where every read is a request."""
    files = list(files)
    return most_threads(files, threads) if any(file.reader.source.remote for file in files) else threads


def all_pieces(file: TensorFile, names: Iterable[str]) -> dict[str, tuple[int, Units]]:
    """Fresh memory for whole tensors: name -> (position, units)."""
    found = {}
    for name in names:
        index = file.find(name)
        unit, nbytes = file.header.tensors[index].dtype.unit, file.header.nbytes[index]
        if index in file.header.pack_offset:  # small, and nothing is decoded straight into it
            found[name] = index, np.empty(nbytes // unit.itemsize, unit)
        else:
            found[name] = index, lasting_empty(nbytes).view(unit)
    return found
