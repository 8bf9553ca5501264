"""The tensors of a base: of a file, of a folder, sharded or not, or of arrays in memory."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slimtensors.container.digest import new_identity
from slimtensors.container.header import Base
from slimtensors.container.remote import is_remote, last_part, list_remote
from slimtensors.container.source import ByteSource, aligned_empty, open_source
from slimtensors.container.system import file_identity
from slimtensors.dtypes import DType, bytes_of
from slimtensors.errors import NotSlimtensorsError, UsageError
from slimtensors.expression import bases_of
from slimtensors.limits import CHUNK_BYTES, EXPANSION, EXPANSION_SLACK, MAX_HINT_BYTES
from slimtensors.reading.scheduling import Piece
from slimtensors.reading.tensors import BaseSource, TensorFile, open_from
from slimtensors.sources.inputs import ArrayInput, Input, unit_count
from slimtensors.sources.recognise import what_is
from slimtensors.sources.safetensors_file import read_safetensors
from slimtensors.sources.shards import is_index, remote_shards

__all__ = ["BaseModel", "BaseTensor", "StoredInput", "base_files", "delta_base", "open_base"]

Units = npt.NDArray[Any]

SUFFIXES = (".safetensors", ".slimtensors")
# The Hub's cache: models--OWNER--NAME/snapshots/REVISION/FILE.
_CACHED = re.compile(r"models--([^/]+)/snapshots/([0-9a-f]{40})/(.+)$")

_PINNED = re.compile(r"hf://([^/@]+/[^/@]+)@([0-9a-f]{40})/(.+)")

SETTLED = 5_000_000_000  # nanoseconds since a file was written, from when on its times tell that it is as it was
_hashes: dict[Hashable, bytes] = {}  # identities taken by this process, by file, its state and the range
_hashes_lock = threading.Lock()


class StoredInput:
    """A tensor of a slimtensors file, as an input of another file."""

    def __init__(self, file: TensorFile, index: int) -> None:
        tensor = file.header.tensors[index]
        self.name, self.dtype, self.shape = tensor.name, tensor.dtype, tensor.shape
        self.encoding, self.lossy = tensor.encoding, tensor.lossy
        self._file, self._index = file, index

    @property
    def place(self) -> Hashable:
        return id(self._file), self._file.header.target(self._index)

    @property
    def where(self) -> tuple[TensorFile, int]:
        """The file, and the position there."""
        return self._file, self._index

    def read(self, start: int, count: int) -> Units:
        """Units [start, start + count), decoded in the caller's thread."""
        out = aligned_empty(count * self.dtype.unit_bytes).view(self.dtype.unit)
        held = self._file.header.tensor_stream[self._file.header.holder(self._index)]
        if held is not None:
            self._file.keeps(held)  # others of the pack are read from it, too
        self._file.fill([Piece(self._index, start, out)], 1)
        return out


class BaseTensor(NamedTuple):
    """A tensor that a delta may be taken from. `stored`: its identity, where a file states it. `bases`: what must be
    had to read it. `key`: under which a computed identity is kept; None if it is not. `file`: the local file that it is
    read from, as `file_identity` tells it. `hashes`: where identities are kept: for ever, if the bytes cannot change
    unseen, or by the model.
    """

    tensor: Input
    where: str
    hints: dict[str, str]
    stored: bytes | None = None
    bases: tuple[Base, ...] = ()
    key: Hashable = None
    file: tuple[int, int] | None = None
    hashes: dict[Hashable, bytes] = _hashes

    @property
    def name(self) -> str:
        return self.tensor.name

    @property
    def dtype(self) -> DType:
        return self.tensor.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    def identity(self) -> bytes:
        """BLAKE3 of its bytes: as stated, or taken now."""
        if self.stored is not None:
            return self.stored
        if self.key is None:
            return self.taken()
        with _hashes_lock:
            found = self.hashes.get(self.key)
        if found is None:
            found = self.taken()
            with _hashes_lock:
                self.hashes[self.key] = found
        return found

    def taken(self) -> bytes:
        """BLAKE3 of its bytes, taken now. Raises FormatError where they cannot be read."""
        return _hash(self.tensor)

    def as_base(self) -> Base:
        """What a header says of it; not what is too long for that, as hints are for people."""
        hints = {"tensor": self.name, **self.hints}
        fitting = {key: text for key, text in hints.items() if len(text.encode("utf-8", "ignore")) <= MAX_HINT_BYTES}
        return Base(self.dtype, self.shape, self.identity(), fitting)


class BaseModel:
    """Tensors by name, and the files that they are read from."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.tensors: dict[str, BaseTensor] = {}
        self.namesakes: list[BaseTensor] = []  # of other files, as where a folder has a model in two dtypes
        self.stating: dict[bytes, list[BaseTensor]] = {}  # those whose file states their identity, by it
        self.plain: dict[tuple[DType, tuple[int, ...]], list[BaseTensor]] = {}  # the others, namesakes too
        self._close: list[Callable[[], None]] = []
        self._hashes: dict[Hashable, bytes] = {}

    def add(self, tensor: BaseTensor) -> None:
        """The first tensor of a name is the one of that name; the others are found by what they hold."""
        if tensor.key is None:  # its bytes may change once it is closed; until then one look is enough
            tensor = tensor._replace(key=id(tensor.tensor), hashes=self._hashes)
        if tensor.stored is None:
            self.plain.setdefault((tensor.dtype, tensor.shape), []).append(tensor)
        if tensor.name in self.tensors:
            self.namesakes.append(tensor)
            return
        self.tensors[tensor.name] = tensor
        if tensor.stored is not None:
            self.stating.setdefault(tensor.stored, []).append(tensor)

    def on_close(self, close: Callable[[], None]) -> None:
        self._close.append(close)

    def close(self) -> None:
        """Close what was opened for it."""
        while self._close:
            self._close.pop()()


def open_base(target: Any, bases: BaseSource | None, max_bytes: int | None = None) -> BaseModel:
    """Open what a caller names as base: a file or folder (or the index of its shards), bytes, a file object, an object
    with ranged reads, a mapping from names to arrays. bases: where the base's own bases come from. max_bytes: decoded
    bytes that are allowed of a file, if more than without it.

    Raises UsageError for anything else, NotSlimtensorsError for a file of another kind.
    """
    if isinstance(target, str) and not target:
        raise UsageError("the base's path is empty")
    if hasattr(target, "state_dict"):
        raise UsageError(
            f"the base is a {type(target).__name__}, which verbs of slimtensors.torch take; here give its file, or "
            "{name: tensor.numpy()} of its state_dict()"
        )
    if isinstance(target, Mapping):
        model = BaseModel("the arrays given as base")
        for name, array in target.items():
            if not isinstance(array, (np.ndarray, np.generic)):
                raise UsageError(
                    f"base tensor {name!r} is a {type(array).__name__}, not a NumPy array; those of torch are for "
                    "verbs of slimtensors.torch"
                )
            model.add(BaseTensor(ArrayInput(name, np.asarray(array)), model.label, {}))
        return model
    if isinstance(target, tuple) and all(isinstance(item, ArrayInput) for item in target):
        model = BaseModel("the arrays given as base")
        for item in target:
            model.add(BaseTensor(item, model.label, {}))
        return model
    model = BaseModel(os.fspath(target) if isinstance(target, (str, os.PathLike)) else "the base")
    try:
        if is_remote(target):
            for name in _remote_weights(target):
                _add_file(model, name, name, bases, max_bytes)
        elif isinstance(target, (str, os.PathLike)):
            for path in base_files(Path(target)):
                _add_file(model, path, path, bases, max_bytes)
        else:
            _add_file(model, target, None, bases, max_bytes)
    except BaseException:
        model.close()
        raise
    return model


def base_files(path: Path) -> list[Path]:
    """The weight files that a path stands for; those of a folder's top level, or if it has none those below it.

    Where both kinds hold a model, .safetensors come first: no decoding.
    """
    if any(is_index(path.name, suffix) for suffix in SUFFIXES):
        path.stat()  # raises for a path that leads nowhere
        path = path.parent
    if not path.is_dir():
        return [path]
    for names in (path.iterdir(), path.rglob("*")):
        found = sorted(each for each in names if each.suffix in SUFFIXES and each.is_file())
        if found:
            return sorted(found, key=lambda each: SUFFIXES.index(each.suffix))
    raise NotSlimtensorsError(f"{path} holds no *.safetensors or *.slimtensors file, so it is no base")


def _remote_weights(name: str) -> list[str]:
    """As `base_files`, of a name elsewhere."""
    suffix = next((each for each in SUFFIXES if is_index(last_part(name), each)), None)
    if suffix is not None:
        return list(remote_shards(name, suffix))
    for inner in (False, True):
        found = list_remote(name, inner=inner)
        if found is None:
            return [name]
        weights = [path for path in found if path.endswith(SUFFIXES)]
        if weights:
            return [found[path] for path in sorted(weights, key=lambda each: SUFFIXES.index(Path(each).suffix))]
    raise NotSlimtensorsError(f"{name} holds no *.safetensors or *.slimtensors file, so it is no base")


def _add_file(
    model: BaseModel, target: Any, path: Path | str | None, bases: BaseSource | None, max_bytes: int | None
) -> None:
    source: ByteSource = open_source(target)
    try:
        kind, advice = what_is(source)
    except BaseException:
        source.close()
        raise
    # A source elsewhere knows by now which commit it reads.
    hints = {} if path is None else _hints(getattr(source, "name", path))
    local = file_identity(path) if isinstance(path, Path) else None
    if kind == "slimtensors":
        if max_bytes is not None:  # what is meant for the file that needs this one takes nothing from it
            max_bytes = max(max_bytes, EXPANSION * source.size() + EXPANSION_SLACK)
        file = open_from(source, max_bytes=max_bytes, bases=None if bases is None else _Borrowed(bases))
        model.on_close(file.close)
        needed = _needed(file)
        for i, tensor in enumerate(file.header.tensors):
            if tensor.units:
                stream = file.header.tensor_stream[file.header.holder(i)]
                assert stream is not None
                held = StoredInput(file, i)
                model.add(BaseTensor(held, source.label, hints, file.reader.identities[i], needed[stream], file=local))
        return
    model.on_close(source.close)
    if kind == "gguf":
        kind = "a GGUF file"
    if kind not in ("safetensors", "of an unknown kind"):
        raise NotSlimtensorsError(
            f"the base {source.label} is neither safetensors nor slimtensors but {kind}"
            + (f"; {advice}" if advice else "")
        )
    state = _state(path)
    for each in read_safetensors(source).inputs:
        if unit_count(each):
            key = None if state is None else (*state, each.offset, each.dtype.name, each.shape)
            model.add(BaseTensor(each, source.label, hints, key=key, file=local))


class _Borrowed:
    """A source of bases that does not end with the file that it is lent to."""

    def __init__(self, bases: BaseSource) -> None:
        self.read, self.stored, self.settle, self.keeps = bases.read, bases.stored, bases.settle, bases.keeps

    def counted(self, _base: Base) -> None:
        """It is asked of a candidate that is being opened, and looking for bases of that would have no end."""

    def close(self) -> None:
        """Its owner closes it."""


def delta_base(file: TensorFile, index: int) -> Base | None:
    """What a tensor of a slimtensors file is a delta from."""
    holder = file.header.holder(index)
    number = file.header.tensor_stream[holder]
    bases = () if number is None else bases_of(file.header.streams[number].expression)
    return file.header.bases[bases[file.header.pack_member.get(holder, 0)]] if bases else None


def _needed(file: TensorFile) -> list[tuple[Base, ...]]:
    """By stream, what must be had to read it: the tensors of a pack need the bases of all of them."""
    header = file.header
    return [tuple(header.bases[base] for base in bases_of(stream.expression)) for stream in header.streams]


def _state(path: Path | str | None) -> tuple[Hashable, ...] | None:
    """What changes when a file does; None if it may change unseen, as what lies elsewhere, or what was written just
    now: file systems count time in steps, some of two seconds.
    """
    if path is None or isinstance(path, str):
        return None
    found = path.stat()
    if time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) < SETTLED:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _hints(path: Path | str) -> dict[str, str]:
    """For people: where the base came from. Nothing here is ever opened."""
    if isinstance(path, str):
        pinned = _PINNED.match(path)
        if pinned is None:
            return {"file": last_part(path)}
        return {"file": pinned[3], "repository": pinned[1], "revision": pinned[2]}
    hints = {"file": path.name}
    cached = _CACHED.search(Path(os.path.abspath(path)).as_posix())  # noqa: PTH100 # not through the cache's links
    if cached:
        hints = {"file": cached[3], "repository": cached[1].replace("--", "/"), "revision": cached[2]}
    return hints


def _hash(tensor: Input) -> bytes:
    hasher, units = new_identity(), unit_count(tensor)
    step = CHUNK_BYTES // tensor.dtype.unit_bytes
    for start in range(0, units, step):
        hasher.update(bytes_of(tensor.read(start, min(step, units - start))))
    return bytes(hasher.digest())
