"""Tensors out of an open file: whole, in part, or all of them (DESIGN.md, "A tensor's walk")."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from slimtensors.base_units import base_units
from slimtensors.codecs.casts import cast_units
from slimtensors.codecs.head import PLANES
from slimtensors.codecs.place import Place
from slimtensors.container.digest import decoded_digest
from slimtensors.container.header import Base, Stream, Tensor
from slimtensors.container.reader import Reader, Verify
from slimtensors.container.source import Bytes, aligned_empty, open_source
from slimtensors.dtypes import DType, bytes_of
from slimtensors.errors import BaseError, ChecksumError, FormatError, TensorNotFoundError, UsageError
from slimtensors.expression import BaseContext, ClassContext, Delta, Mul
from slimtensors.threads import run_all

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["BaseSource", "Piece", "TensorFile", "open_file"]

Units = npt.NDArray[Any]

BASE_ADVICE = (
    "give the base with --base or base=, or name a folder that holds it in SLIMTENSORS_BASE_DIR or with --base-dir"
)
VERIFY = ("none", "stored", "full")
MAX_CLASS = 255  # of a row and a column together
MAX_COMPARED = 100_000  # characters, for a hint at what name was meant


class BaseSource(Protocol):
    """Where a file's bases are found. Used from several threads."""

    def read(self, index: int, base: Base, start: int, count: int) -> Units:
        """Units [start, start + count) of base `index` of the header, in the base's dtype. Raises BaseError."""

    def close(self) -> None:
        """Called when the file that needs the bases is closed."""


class Piece(NamedTuple):
    """A range of a tensor's units, and where to put it."""

    tensor: int
    start: int
    out: Units


class _Target(NamedTuple):
    """What is wanted of a chunk."""

    first: int  # unit within the chunk
    out: Units
    cast: tuple[DType, DType] | None  # from and to, where the tensor is the cast of the one that has the chunk


class _Task(NamedTuple):
    """One chunk, and the pieces that are cut from it."""

    stream: int
    chunk: int
    targets: list[_Target]


def open_file(
    target: Any,
    *,
    verify: Verify = "full",
    mmap: bool = False,
    max_bytes: int | None = None,
    bases: BaseSource | None = None,
) -> TensorFile:
    """Open a slimtensors file: a path, bytes, a binary file object, or an object with ranged reads."""
    if verify not in VERIFY:
        raise UsageError(f"verify is {verify!r}; it can be {', '.join(VERIFY)}")
    source = open_source(target, use_mmap=mmap)
    try:
        return TensorFile(Reader(source, verify=verify, max_bytes=max_bytes), bases)
    except FormatError as error:
        from slimtensors.recognise import explain

        better = explain(source, error)
        source.close()
        raise better from None
    except BaseException:
        source.close()
        raise


class TensorFile:
    """The tensors of an open file. Safe to use from several threads."""

    def __init__(self, reader: Reader, bases: BaseSource | None = None) -> None:
        self.reader = reader
        self.bases = bases
        self.header = reader.header
        self.index = {tensor.name: i for i, tensor in enumerate(self.header.tensors)}
        self._local = threading.local()
        self._sides: dict[int, tuple[Units, ...]] = {}  # by stream: its side planes
        self._sides_lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close what was opened for this file; an object that the caller gave stays open."""
        self.reader.close()
        if self.bases is not None:
            self.bases.close()

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

    def fill(self, pieces: Sequence[Piece], threads: int) -> None:
        """Decode pieces into their places, each chunk once, in file order, in threads."""
        tasks: dict[tuple[int, int], _Task] = {}
        for piece in pieces:
            self._cut(piece, tasks)
        for index in {piece.tensor for piece in pieces}:
            self.load_sides(self.header.holder(index))
        run_all(self._decode, [tasks[key] for key in sorted(tasks)], min(threads, max(1, len(tasks))))

    def _cut(self, piece: Piece, tasks: dict[tuple[int, int], _Task]) -> None:
        """Add a piece to the tasks of the chunks that it touches."""
        index = self.header.holder(piece.tensor)
        have, want = self.header.tensors[index].dtype, self.header.tensors[piece.tensor].dtype
        cast = None if have == want else (have, want)
        number = self.header.tensor_stream[index]
        if number is None or piece.out.size == 0:
            return
        stream = self.header.streams[number]
        start = piece.start + self.header.pack_offset.get(index, 0)
        end = start + piece.out.size
        for chunk in range(start // stream.chunk, -(-end // stream.chunk)):
            low, high = chunk * stream.chunk, chunk * stream.chunk + stream.chunk_units(chunk)
            a, b = max(low, start), min(high, end)
            task = tasks.setdefault((number, chunk), _Task(number, chunk, []))
            task.targets.append(_Target(a - low, piece.out[a - start : b - start], cast))

    def _decode(self, task: _Task) -> None:
        stream = self.header.streams[task.stream]
        units = stream.chunk_units(task.chunk)
        for target in task.targets:
            if target.first == 0 and target.out.size == units and target.cast is None:
                out = target.out  # the whole chunk, straight to its place
                self.decode_chunk(task.stream, task.chunk, out)
                break
        else:
            out = self._whole_chunk(task.stream, task.chunk)
        for target in task.targets:
            if target.out is not out:
                found = out[target.first : target.first + target.out.size]
                target.out[:] = found if target.cast is None else cast_units(found, *target.cast)

    def _whole_chunk(self, number: int, chunk: int) -> Units:
        """A decoded chunk of which only parts are wanted; kept, since the next part is often wanted next."""
        last: tuple[int, int, Units] | None = getattr(self._local, "last", None)
        if last is None or last[:2] != (number, chunk):
            stream = self.header.streams[number]
            out = np.empty(stream.chunk_units(chunk), stream.dtype.unit)
            self.decode_chunk(number, chunk, out)
            last = self._local.last = (number, chunk, out)
        return last[2]

    def decode_chunk(self, number: int, chunk: int, out: Units) -> None:
        """Decode one chunk into `out` and check it."""
        from slimtensors.codecs.chunk import (
            decode_chunk,  # loads Numba, which those who only look at a file can do without
        )

        stream = self.header.streams[number]
        stored = self.reader.records(number)[0][chunk].stored_length
        data, record = self.reader.stored(number, chunk, self._scratch(stored))
        first = chunk * stream.chunk
        try:
            # A chunk that is no difference states 0, and needs no base even where its tensor has one.
            base = self._base(stream, first, out.size) if data[0] == PLANES else None
            place = Place(stream.units, first, self._sides.get(number, ()), stream.dtype, base)
            decode_chunk(data, stream.expression, out, place)
        except BaseError as error:
            raise BaseError(f"{stream.label}, chunk {chunk}: {error}{self._needed(stream, str(error))}") from None
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
        if not isinstance(stream.expression, Delta):
            return ""
        base = self.header.bases[stream.expression.base]
        named = "" if base.identity.hex() in said else f". Needed is {base}"
        return named if BASE_ADVICE in said else f"{named}; {BASE_ADVICE}"

    def _base(self, stream: Stream, first: int, count: int) -> Units | None:
        """The base's units in the range of a chunk, if its tensor has a base."""
        if not isinstance(stream.expression, Delta):
            return None
        index = stream.expression.base
        base = self.header.bases[index]
        if self.bases is None:
            raise BaseError("a difference from a base, which was not given")
        source = self.bases
        return base_units(base, lambda start, n: source.read(index, base, start, n), stream.dtype, first, count)

    def load_sides(self, index: int) -> None:
        """Decode a tensor's side planes before its data need them."""
        sides = self.header.side_streams.get(index)
        number = self.header.tensor_stream[index]
        if not sides or number is None:
            return
        with self._sides_lock:
            if number not in self._sides:
                self._sides[number] = tuple(self._side(side) for side in sides)
                check_sides(self.header.streams[number], self._sides[number])

    def _side(self, side: int) -> Units:
        stream = self.header.streams[side]
        out = np.empty(stream.units, stream.dtype.unit)
        for chunk in range(stream.chunks):
            low = chunk * stream.chunk
            self.decode_chunk(side, chunk, out[low : low + stream.chunk_units(chunk)])
        return out.reshape(stream.shape)

    def _scratch(self, length: int) -> Bytes:
        """This thread's buffer for stored bytes, so that not every chunk touches fresh memory."""
        buffer: Bytes | None = getattr(self._local, "buffer", None)
        if buffer is None or buffer.size < length:
            buffer = self._local.buffer = aligned_empty(length + length // 4)
        return buffer


def all_pieces(file: TensorFile, names: Iterable[str]) -> dict[str, tuple[int, Units]]:
    """Fresh memory for whole tensors: name -> (position, units)."""
    found = {}
    for name in names:
        index = file.find(name)
        tensor = file.header.tensors[index]
        found[name] = index, aligned_empty(tensor.nbytes).view(tensor.dtype.unit)
    return found


def check_sides(stream: Stream, sides: tuple[Units, ...]) -> None:
    """Refuse side planes that hold what their use does not allow."""
    for side in stream.bits.flags:
        if sides[side].max() > 1:
            raise FormatError(f"{stream.label}: row flags other than 0 and 1 in side plane {side}")
    if isinstance(stream.expression, Mul):
        for side in stream.expression.sides:
            if sides[side].itemsize == 4 and not np.isfinite(sides[side].view("<f4")).all():
                raise FormatError(f"{stream.label}: side plane {side} holds numbers that are not finite")
    for context in stream.bits.contexts:
        if isinstance(context, BaseContext) and context.rows is not None:
            most = int(sides[context.rows].max())
            if most >= context.classes:
                raise FormatError(f"{stream.label}: class {most} of a row, of {context.classes}")
        if (
            isinstance(context, ClassContext)
            and int(sides[context.rows].max()) + int(sides[context.columns].max()) > MAX_CLASS
        ):
            raise FormatError(f"{stream.label}: classes of row and column of more than {MAX_CLASS} together")
