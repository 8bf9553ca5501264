"""`@kernel` and `@inlined`: Numba as this package uses it, with a disk cache of its own.

Numba compiles a kernel at its first call, per argument types, and keeps the result on disk. Its own cache would not do:
it lies beside the source, does not notice changes in imported modules or NUMBA_BOUNDSCHECK, and lets every process of a
cold start compile the same kernel. Ours is a folder per user, with a subfolder named by a hash of everything that shapes
the machine code, and one process compiles while the others wait for the result.

The cache holds pickles, so it is used only where nobody else can write. Where there is no such folder, kernels are
compiled in memory, with one warning. Nothing here costs anything after the first call: what `@kernel` returns is Numba's
own dispatcher. NUMBA_DISABLE_JIT=1 makes kernels plain functions.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from slimtensors.kernels import instruction_set

instruction_set.force()  # before Numba is imported: it reads its variables then

import filelock  # noqa: E402
import llvmlite  # noqa: E402
import numba  # noqa: E402
from numba.core.caching import FunctionCache  # noqa: E402
from numba.core.compiler_lock import global_compiler_lock  # noqa: E402

F = TypeVar("F", bound=Callable[..., Any])

LOCK_TIMEOUT = 120.0  # seconds to wait for another process to compile a kernel, before doing so too

_SOURCES = Path(__file__).parent


class KernelCacheWarning(RuntimeWarning):
    """Compiled kernels cannot be kept on disk; each process compiles its own."""


def kernel(function: F) -> F:
    """Compile a function that Python calls, at its first call."""
    dispatcher: Any = numba.njit(nogil=True, error_model="numpy")(function)
    if dispatcher is not function:  # they are the same under NUMBA_DISABLE_JIT
        dispatcher.compile = _compile_once(dispatcher)
    return dispatcher  # type: ignore[no-any-return]


def inlined(function: F) -> F:
    """Compile a function into each kernel that calls it. Python cannot call it."""
    options = {"forceinline": True, "nogil": True, "error_model": "numpy", "no_cpython_wrapper": True}
    return numba.njit(**options)(function)  # type: ignore[no-any-return]


@cache
def cache_folder() -> Path | None:
    """Where this process keeps compiled kernels; None, after a warning, if it compiles them in memory."""
    try:
        root = _root()
        folder = root / _key()
        for each in (root, folder):
            each.mkdir(mode=0o700, parents=True, exist_ok=True)
            _refuse_if_others_can_write(each)
        _refuse_if_unwritable(folder)
    except (OSError, RuntimeError) as error:
        _warn_once(str(error))
        return None
    return folder


def _root() -> Path:
    if chosen := os.environ.get("SLIMTENSORS_CACHE_DIR"):
        return Path(chosen).expanduser().absolute()
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return (Path(local) if local else Path.home() / "AppData" / "Local") / "slimtensors" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "slimtensors"
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(xdg) if Path(xdg).is_absolute() else Path.home() / ".cache") / "slimtensors"


def _key() -> str:
    """A name for everything that shapes the machine code, less the processor, which Numba's own index tells apart."""
    digest = hashlib.sha256()
    for source in sorted(_SOURCES.rglob("*.py")):
        content = source.read_bytes()
        digest.update(f"{source.relative_to(_SOURCES).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    flags = [getattr(numba.config, name, None) for name in ("OPT", "LOOP_VECTORIZE", "SLP_VECTORIZE")]
    digest.update(repr((numba.__version__, llvmlite.__version__, sys.version, [str(flag) for flag in flags])).encode())
    checked = "-boundscheck" if numba.config.BOUNDSCHECK else ""
    return f"kernels-{digest.hexdigest()[:16]}{checked}"


def _refuse_if_others_can_write(folder: Path) -> None:
    if sys.platform == "win32":  # no owner to see here; a profile is private unless someone opened it
        return
    status = folder.stat()
    if status.st_uid != os.geteuid():
        raise PermissionError(f"{folder} belongs to another user")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f"others can write to {folder} (chmod go-w would keep them out)")


def _refuse_if_unwritable(folder: Path) -> None:
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{folder} is not writable")


@cache
def _warn_once(why: str) -> None:
    message = (
        f"compiled kernels are not kept on disk: {why}. Every process compiles them anew, which takes seconds. "
        "Set SLIMTENSORS_CACHE_DIR to a folder that you own and only you can write to."
    )
    warnings.warn(message, KernelCacheWarning, stacklevel=2)


def _compile_once(dispatcher: Any) -> Callable[[Any], Any]:
    compile_or_load = dispatcher.compile
    store: _SharedCache | None = None

    def compile_once(signature: Any) -> Any:
        nonlocal store
        # Numba takes this lock too. Taken first, the file lock is always the inner one, so the two cannot deadlock.
        with global_compiler_lock, ExitStack() as held:
            if store is None and (folder := cache_folder()):
                store = _SharedCache.inside(folder, dispatcher.py_func)
                if store:
                    dispatcher._cache = store
            if store:
                store.held = held
            return compile_or_load(signature)

    return compile_once


class _SharedCache(FunctionCache):  # type: ignore[misc]
    """Numba's cache of one kernel; on a miss, one process at a time looks again, compiles and saves."""

    held: ExitStack

    @classmethod
    def inside(cls, folder: Path, function: Callable[..., Any]) -> _SharedCache | None:
        with _numba_cache_in(folder):
            try:
                found = cls(function)
            except (OSError, RuntimeError) as error:  # a zipped or frozen package has no source files
                return _warn_once(str(error))
        if folder not in Path(found.cache_path).parents:
            return _warn_once(f"Numba cannot write to {folder}")
        found._lock = folder / f"{function.__module__}.{function.__qualname__}.lock"
        return found

    def load_overload(self, signature: Any, target: Any) -> Any:
        found = super().load_overload(signature, target)
        if found is None:
            try:
                self.held.enter_context(filelock.FileLock(self._lock, timeout=LOCK_TIMEOUT))
            except (OSError, NotImplementedError, filelock.Timeout):
                return None
            found = super().load_overload(signature, target)
        return found


@contextmanager
def _numba_cache_in(folder: Path) -> Iterator[None]:
    """Numba chooses the place of a cache when the cache is made; other users of Numba keep theirs."""
    ours = {"CACHE_DIR": str(folder), "CACHE_LOCATOR_CLASSES": ""}
    theirs = {name: getattr(numba.config, name) for name in ours if hasattr(numba.config, name)}
    try:
        for name in theirs:
            setattr(numba.config, name, ours[name])
        yield
    finally:
        for name, value in theirs.items():
            setattr(numba.config, name, value)
