"""Where a file's bases are found: in what the caller names, then in folders searched by digest. No network."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

import numpy.typing as npt

from slimtensors.bases.tensors import SUFFIXES, BaseModel, BaseTensor, StoredInput, open_base
from slimtensors.container.header import Base
from slimtensors.container.reader import Verify
from slimtensors.errors import BaseError, SlimtensorsError, UsageError
from slimtensors.limits import KEPT_PACKS, MAX_BASE_DEPTH, MAX_SEARCHED_FILES, MAX_TRIED_BASES
from slimtensors.reading.tensors import TensorFile, open_file

__all__ = [
    "BASE_DIR_VARIABLE",
    "BaseDir",
    "Found",
    "LastResort",
    "Resolver",
    "also",
    "folders_of",
    "is_function",
    "open_with",
    "search_folders",
]

Units = npt.NDArray[Any]

BASE_DIR_VARIABLE = "SLIMTENSORS_BASE_DIR"

# Resolvers and identities that this thread, or those that wait for it, search for: see `Resolver.settle`.
_searches: ContextVar[frozenset[tuple[int, bytes]]] = ContextVar("searches", default=frozenset())


class BaseDir(NamedTuple):
    """A folder that is searched, at any depth, for tensors with the digests wanted; as one of the bases given."""

    path: str | os.PathLike[str]


class LastResort(NamedTuple):
    """A function from a `Base` to what has it or None, asked if no other place does; as one of the bases given."""

    ask: Callable[[Base], Any]


class Found(NamedTuple):
    """A base that is there. `depth`: how many deltas lead to plain bytes."""

    tensor: BaseTensor
    depth: int


class _Entry(NamedTuple):
    """A tensor seen in a folder, whose file is closed again."""

    path: Path
    tensor: BaseTensor


def search_folders() -> list[BaseDir]:
    """Those of the environment."""
    return [BaseDir(path) for path in os.environ.get(BASE_DIR_VARIABLE, "").split(os.pathsep) if path]


def is_function(base: Any) -> bool:
    """Whether what a caller gives as base is to be called: mappings and modules can be, too."""
    return callable(base) and not isinstance(base, Mapping) and not hasattr(base, "state_dict")


def folders_of(base_dirs: Any) -> list[BaseDir]:
    """Folders to search, as callers give them: `BaseDir`s or paths, or one of these. Raises UsageError for others."""
    given = [base_dirs] if isinstance(base_dirs, (str, os.PathLike, BaseDir)) else base_dirs
    if not isinstance(given, Iterable):
        raise UsageError(f"base_dirs is {given!r:.60}; a list of folders is needed")
    found = []
    for each in given:
        if not isinstance(each, (str, os.PathLike, BaseDir)):
            raise UsageError(f"base_dirs holds {each!r:.60}; paths of folders, or BaseDirs, are needed")
        found.append(each if isinstance(each, BaseDir) else BaseDir(each))
    return found


def also(base: Any, folders: list[BaseDir]) -> list[Any]:
    """What a caller gives as base, if anything, and folders to search."""
    return [*(base if isinstance(base, list) else [] if base is None else [base]), *folders]


def open_with(
    target: Any,
    base: Any,
    *,
    verify: Verify = "full",
    mmap: bool = False,
    max_bytes: int | None = None,
    partial: bool = False,
) -> TensorFile:
    """Open a slimtensors file whose bases come from `base` (see `Resolver`) and from the folders of the environment."""
    resolver = Resolver(base, max_bytes)
    try:
        return open_file(target, verify=verify, mmap=mmap, max_bytes=max_bytes, bases=resolver, partial=partial)
    except BaseException:
        resolver.close()
        raise


class Resolver:
    """Finds bases, and reads them. Safe to use from several threads.

    base: a file or folder of either kind, bytes, a file object, an object with ranged reads, a mapping from names to
    arrays, a `BaseDir`, a function from a `Base` to one of these or None, a `LastResort`; or a list of such, tried in
    order, folders after what was named and last resorts after these.

    What is found by name in a base that was given, or in a file that states its identity, is not hashed as a whole:
    every chunk of a delta states the digest of what it needs. Where that is wrong, `settle` looks on.

    max_bytes: decoded bytes that are allowed of a file, and for what it needs, if more than without it.
    """

    def __init__(self, base: Any = None, max_bytes: int | None = None) -> None:
        given = base if isinstance(base, list) else [] if base is None else [base]
        self._given = [each for each in given if not isinstance(each, (BaseDir, LastResort))]
        self._last = [each.ask for each in given if isinstance(each, LastResort)]
        self._folders = [each for each in given if isinstance(each, BaseDir)] + search_folders()
        self._found: dict[bytes, Found] = {}
        # Open, by path or by the identity of what was given, which is kept: another object could get the same.
        self._models: dict[object, tuple[Any, BaseModel]] = {}
        self._depths: dict[int, tuple[tuple[Base, ...], int]] = {}  # of what shares its bases, by these
        self._files: dict[int, tuple[tuple[Base, ...], frozenset[tuple[int, int]]]] = {}  # likewise
        # By folder; there by identity, or of what does not state it, by dtype and shape.
        self._seen: dict[str, dict[Hashable, list[_Entry]]] = {}
        self._settled: dict[bytes, bool] = {}
        self._max_bytes = max_bytes
        self._lock = threading.RLock()
        self._tried = 0  # in vain, in this search, chains and all
        self._kept_bytes = 0  # of decoded packs

    def read(self, _index: int, base: Base, start: int, count: int) -> Units:
        """Units [start, start + count) of a base. Raises BaseError if it is not to be had."""
        return self.find(base).tensor.tensor.read(start, count)

    def stored(self, base: Base) -> tuple[TensorFile, int] | None:
        """Where a slimtensors file has a base; None if it is elsewhere. Raises BaseError."""
        found = self.find(base).tensor.tensor
        return found.where if isinstance(found, StoredInput) else None

    def counted(self, base: Base) -> tuple[Hashable, int] | None:
        """As `BaseSource`. What a slimtensors file says of a tensor's identity was not checked."""
        try:
            tensor = self.find(base).tensor
        except BaseError:
            return None
        if isinstance(tensor.tensor, StoredInput):
            file, _ = tensor.tensor.where
            return id(file), file.reader.prefix.file_length
        return (base.identity, base.nbytes) if tensor.identity() == base.identity else None

    def keeps(self, nbytes: int) -> bool:
        """As `BaseSource`."""
        with self._lock:
            if self._kept_bytes + nbytes > KEPT_PACKS:
                return False
            self._kept_bytes += nbytes
            return True

    def close(self) -> None:
        """Close what was opened in the search; the resolver can be used again."""
        with self._lock:
            self._kept_bytes = 0
            self._found.clear()
            self._settled.clear()
            self._depths.clear()
            self._files.clear()
            for _, model in self._models.values():
                model.close()
            self._models.clear()

    def find(self, base: Base, above: tuple[bytes, ...] = ()) -> Found:
        """The tensor with this identity. `above`: identities of the deltas that lead here. Raises BaseError."""
        known = self._found.get(base.identity)
        if known is not None:  # asked for at every chunk: without the lock
            return known
        with self._lock:
            if base.identity in self._found:
                return self._found[base.identity]
            notes: list[str] = []
            if not above:
                self._tried = 0
            for tensor in self._candidates(base, notes):
                try:
                    found = self._accept(tensor, (*above, base.identity))
                except BaseError as error:
                    self._tried += 1  # what does is kept, and not looked at again
                    if self._tried > MAX_TRIED_BASES:
                        raise BaseError(f"{base}: too many tensors claim to be it") from None
                    notes.append(str(error))
                    continue
                self._found[base.identity] = found
                return found
            raise BaseError(f"{base} was not found{_join(notes)}")

    def settle(self, base: Base) -> bool:
        """Find it again, but only what has its bytes: a copy may be damaged, and a file may state what is not true.

        Whether there is one; `find` gives it then, and what it gave before if not. Nothing is decoded under the lock:
        other threads need it for what that takes. Several may search at once; none waits for another.
        """
        known, key = self._settled.get(base.identity), (id(self), base.identity)
        if known is not None:
            return known
        if key in _searches.get():  # a base of it is made from it
            return False
        token = _searches.set(_searches.get() | {key})
        try:
            proven = self._proven(base)
        finally:
            _searches.reset(token)
        with self._lock:
            if proven is not None and not self._settled.get(base.identity):
                self._found[base.identity] = proven
                self._settled[base.identity] = True
            return self._settled.setdefault(base.identity, False)

    def _proven(self, base: Base) -> Found | None:
        candidates, tried = self._candidates(base, []), 0
        while tried < MAX_TRIED_BASES:
            try:
                with self._lock:
                    tensor = next(candidates, None)
            except (SlimtensorsError, OSError):  # of what was given besides: what was wrong first is to be told
                return None
            if tensor is None:
                return None
            try:
                with self._lock:
                    self._tried = tried + 1
                    try:
                        found = self._accept(tensor, (base.identity,))
                    finally:
                        tried = self._tried
                if tensor.taken() == base.identity:
                    return found
            except (SlimtensorsError, OSError):
                continue
        return None

    def check_depth(self, tensor: BaseTensor) -> None:
        """Raises BaseError unless a file that is made against this tensor could be read."""
        if any(base.identity == tensor.identity() for base in tensor.bases):
            self.find(tensor.as_base())  # it is what its base was: one further down the chain has to hold it
        elif tensor.bases:
            self._accept(tensor, (tensor.identity(),))

    def files_of(self, tensor: BaseTensor) -> frozenset[tuple[int, int]]:
        """The local files that a tensor is read from, those of its bases among them, as `file_identity` tells them.

        For one that `check_depth` has let pass: there is no cycle.
        """
        own = frozenset() if tensor.file is None else frozenset([tensor.file])
        if not tensor.bases:
            return own
        with self._lock:
            known = self._files.get(id(tensor.bases))
            if known is None:
                below = frozenset().union(*(self.files_of(self.find(base).tensor) for base in tensor.bases))
                known = self._files[id(tensor.bases)] = tensor.bases, below
        return own | known[1]

    def _accept(self, tensor: BaseTensor, above: tuple[bytes, ...]) -> Found:
        """Whether a tensor leads to plain bytes: not by way of itself, and not too deep."""
        if not tensor.bases:
            return Found(tensor, 0)
        known = self._depths.get(id(tensor.bases))
        if known is None:
            if any(base.identity in above for base in tensor.bases):
                raise BaseError(f"{tensor.where} makes it from a base that is made from it: a cycle")
            if len(above) >= MAX_BASE_DEPTH:
                raise BaseError(f"more than {MAX_BASE_DEPTH} deltas on top of each other; `flatten` one of them")
            depth = max(self.find(base, above).depth for base in tensor.bases) + 1
            known = self._depths[id(tensor.bases)] = tensor.bases, depth
        depth = known[1]
        if depth + len(above) > MAX_BASE_DEPTH:
            raise BaseError(f"more than {MAX_BASE_DEPTH} deltas on top of each other; `flatten` one of them")
        return Found(tensor, depth)

    def _candidates(self, base: Base, notes: list[str]) -> Iterator[BaseTensor]:
        for given in self._given:
            try:
                model = self._model_of(given, base)
            except BaseError as error:  # of a function that has no more to say
                notes.append(str(error))
                continue
            if model is not None:
                yield from _in_model(model, base, notes)
        for folder in self._folders:
            yield from self._in_folder(folder, base)
        for ask in self._last:
            try:
                model = self._model_of(ask, base)
            except (SlimtensorsError, OSError) as error:  # nobody named it
                notes.append(str(error))
                continue
            if model is not None:
                yield from _in_model(model, base, notes)

    def _model_of(self, given: Any, base: Base) -> BaseModel | None:
        known = self._models.get(id(given))
        if known is not None:  # opened already, as are arrays and open files for each base but the first
            return known[1]
        if is_function(given):
            given = given(base)
            if given is None:
                return None
        return self._open(given)

    def _open(self, target: Any) -> BaseModel:
        key: object = str(target) if isinstance(target, (str, os.PathLike)) else id(target)
        if key not in self._models:
            self._models[key] = target, open_base(target, self, self._max_bytes)
        return self._models[key][1]

    def _in_folder(self, folder: BaseDir, base: Base) -> Iterator[BaseTensor]:
        """Stated identities first; then tensors of the right dtype and shape, hashed, the likeliest first."""
        entries = self._entries(folder)
        for entry in sorted(entries.get(base.identity, ()), key=lambda entry: bool(entry.tensor.bases)):
            yield self._open(entry.path).tensors[entry.tensor.name]
        alike = entries.get((base.dtype, base.shape), ())
        for entry in sorted(alike, key=lambda entry: (*_unlikely(entry.tensor, base), str(entry.path))):
            fresh = str(entry.path) not in self._models
            tensor = self._open(entry.path).tensors[entry.tensor.name]
            if tensor.identity() == base.identity:
                yield tensor
            elif fresh:  # or a large folder would take all the files that a process may open
                self._models.pop(str(entry.path))[1].close()

    def _entries(self, folder: BaseDir) -> dict[Hashable, list[_Entry]]:
        """What the weight files of a folder hold, from their headers. Files that cannot be read are passed over."""
        key = os.fspath(folder.path)
        if key not in self._seen:
            found: dict[Hashable, list[_Entry]] = {}
            for path in _walk(Path(key)):
                try:
                    model = open_base(path, self, self._max_bytes)
                except (SlimtensorsError, OSError):
                    continue
                for tensor in model.tensors.values():
                    found.setdefault(tensor.stored or (tensor.dtype, tensor.shape), []).append(_Entry(path, tensor))
                model.close()
            self._seen[key] = found
        return self._seen[key]


class KnownBases:
    """Bases that the caller has at hand, by identity."""

    def __init__(self, reads: Mapping[bytes, Callable[[int, int], Units]]) -> None:
        self._reads = reads

    def read(self, _index: int, base: Base, start: int, count: int) -> Units:
        """Units [start, start + count) of a base. Raises BaseError."""
        if base.identity not in self._reads:
            raise BaseError(f"{base} is not among the arrays given")
        return self._reads[base.identity](start, count)

    def stored(self, _base: Base) -> None:
        """They are in memory."""

    def settle(self, _base: Base) -> bool:
        """False: there is one of each."""
        return False

    def counted(self, base: Base) -> tuple[Hashable, int] | None:
        """Its bytes, if it is among them, whose identity whoever gave them has checked."""
        return (base.identity, base.nbytes) if base.identity in self._reads else None

    def keeps(self, _nbytes: int) -> bool:
        """False: nothing is decoded."""
        return False

    def close(self) -> None:
        """Nothing was opened."""


def _in_model(model: BaseModel, base: Base, notes: list[str]) -> Iterator[BaseTensor]:
    """A tensor of a base that the caller named: by stated identity, else by name, else by hashing."""
    yield from model.stating.get(base.identity, ())
    name = base.hints.get("tensor", "")
    # A compressed file beside the plain one is of the same model, as a rule, and would have to be decoded.
    plain, namesake = model.plain.get((base.dtype, base.shape), ()), model.tensors.get(name)
    if namesake is not None and [each for each in plain if each.name == name] == [namesake]:
        yield namesake
        return
    for tensor in sorted(plain, key=lambda each: each.name != name):
        if tensor.identity() == base.identity:
            yield tensor
    yield from (each for each in model.namesakes if each.stored == base.identity)
    if namesake is None:
        notes.append(f"{model.label} does not hold it")
    elif not _alike(namesake, base):
        notes.append(f"{model.label} holds another one of that name, {namesake.dtype.name}{list(namesake.shape)}")
    elif namesake.identity() != base.identity:  # else it was tried, and a note says why it does not do
        notes.append(f"{model.label} holds another one of that name, with identity {namesake.identity().hex()}")


def _alike(tensor: BaseTensor, base: Base) -> bool:
    return tensor.dtype == base.dtype and tensor.shape == base.shape


def _unlikely(tensor: BaseTensor, base: Base) -> tuple[bool, bool]:
    return tensor.name != base.hints.get("tensor"), tensor.hints.get("file") != base.hints.get("file")


def _walk(folder: Path) -> Iterator[Path]:
    """Weight files below a folder, in order; links to folders are not followed, so that there are no circles."""
    seen = 0
    for here, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if name.endswith(SUFFIXES):
                seen += 1
                if seen > MAX_SEARCHED_FILES:
                    return
                yield Path(here, name)


def _join(notes: list[str]) -> str:
    return f" ({'; '.join(dict.fromkeys(notes))})" if notes else ""
