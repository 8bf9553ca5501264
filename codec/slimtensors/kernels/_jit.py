"""`@kernel`, `@brief`, `@inlined`, `@shared`, `@spliced`: Numba as this package uses it, with a disk cache of its own.

Numba compiles a kernel at its first call, for each set of argument types, and can keep the result on disk. Its own
cache would not do: it lies beside the source, notices neither changes in imported modules nor NUMBA_BOUNDSCHECK, and
lets each of several starting processes compile the same kernel. Ours is a folder per user, with a subfolder named by a
hash of everything that shapes the machine code; one process compiles, and the others wait for its result.

The cache holds pickles, so it is used only where nobody else can write but the superuser: in it, and in the folders
above it, up to this user's home (who can replace that can do anything), else another one could take its place. One that
this user cannot write to either, such as what an image of a container brings, is loaded from if all of it belongs to
the superuser or this user; what is not in it is compiled in memory. So is everything where there is no such folder,
with one warning. After the first call nothing of this is in the way: `@kernel` returns Numba's own
dispatcher. NUMBA_DISABLE_JIT=1 makes kernels plain functions.
"""

from __future__ import annotations

import gc
import hashlib
import os
import stat
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

from slimtensors.errors import KernelCacheWarning
from slimtensors.kernels import instruction_set

if sys.platform != "win32":
    import grp
    import pwd

if sys.byteorder != "little":
    raise ImportError("slimtensors runs on little-endian machines only, and this one is big-endian")
instruction_set.force()  # before Numba is imported: it reads its variables then

# E402 below: instruction_set.force() has to come first.
import filelock  # noqa: E402
import llvmlite  # type: ignore[import-untyped,unused-ignore]  # noqa: E402
import numba  # noqa: E402
from numba.core.caching import CompileResultCacheImpl, FunctionCache  # noqa: E402
from numba.core.compiler_lock import global_compiler_lock  # noqa: E402
from numba.core.runtime.nrt import rtsys  # noqa: E402

F = TypeVar("F", bound=Callable[..., Any])

# Seconds: how long another process may compile a kernel before this one does it, too; how often to look; how long to
# leave the next kernel to whoever compiled the last, which has imported the compiler.
LOCK_TIMEOUT, POLL, PATIENCE = 120.0, 0.02, 0.2

_SOURCES = Path(__file__).parent
_CONFIG: Any = numba.config
# Nobody calls kernels from C; a wrapper for that would be a quarter of the time to compile them.
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}
_given_up: set[str] = set()  # "cache" once warned that there is none, "lock" once a file lock could not be had
_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_UNREADABLE = "cannot be read (chmod -R a+rX, of the folder of the cache, would let all users read it)"
_follows = False  # whether another process compiled what this one lacked last


def kernel(function: F) -> F:
    """Compile a function that Python calls, or another kernel, at its first call. Other threads run meanwhile."""
    return _called_by_python(function, nogil=True)


def brief(function: F) -> F:
    """A kernel of some microseconds: to hand Python's lock to another thread, and wait to have it back, costs more."""
    return _called_by_python(function, nogil=False)


def _called_by_python(function: F, *, nogil: bool) -> F:
    njit: Any = numba.njit
    dispatcher = njit(**_OPTIONS | {"nogil": nogil})(function)
    if dispatcher is not function:  # they are the same under NUMBA_DISABLE_JIT
        dispatcher.compile = _compile_once(dispatcher)
    return cast(F, dispatcher)


def inlined(function: F) -> F:
    """Compile a function into each kernel that calls it. Python cannot call it."""
    njit: Any = numba.njit
    return cast(F, njit(forceinline=True, no_cpython_wrapper=True, **_OPTIONS)(function))


def shared(function: F) -> F:
    """Compile a function once for all kernels that call it, where inlining it would only take time to compile."""
    njit: Any = numba.njit
    return cast(F, njit(no_cpython_wrapper=True, **_OPTIONS)(function))


def spliced(function: F) -> F:
    """Make a function part of each kernel that calls it before types are inferred: for long checks, called once in few
    kernels, which as `shared` ones would be optimised alone and then again in each.
    """
    njit: Any = numba.njit
    return cast(F, njit(inline="always", no_cpython_wrapper=True, **_OPTIONS)(function))


class Settled(NamedTuple):
    """folder: from which kernels are loaded, if there is one; why_not: why none can be kept there, or None if they can;
    advice: what helps then.
    """

    folder: Path | None
    why_not: str | None = None
    advice: str = ""


def cache_folder() -> Path | None:
    """Where this process looks for compiled kernels; None, after a warning, if it compiles all in memory."""
    found = settled()
    if found.folder is None:
        _warn_once(str(found.why_not), found.advice)
    return found.folder


@cache
def settled() -> Settled:
    """Where kernels are, and whether they can be kept there, for this process."""
    if not _SOURCES.is_dir():
        advice = "Of slimtensors installed as files they are kept."
        return Settled(None, f"slimtensors is run from an archive ({_SOURCES})", advice)
    try:
        root = _root()
        if sys.platform != "win32":  # no owners to see there; a profile is private unless someone opened it
            root = root.resolve()  # as what is checked now is used later, whatever links lead elsewhere by then
            _refuse_if_others_can_move(root)  # first, so that nothing is made, and left, where it is refused
        _make_with_parents(root)
        folder = root / _key()
        _make(folder)
        unwritable = None if os.access(folder, os.W_OK | os.X_OK) else f"{folder} is not writable"
        if sys.platform == "win32":
            return Settled(None if unwritable else folder, unwritable, _advice() if unwritable else "")
        foreign = any(each.stat().st_uid != os.geteuid() for each in (root, folder))
        folder = folder.resolve()
        _refuse_if_others_can_move(folder)
        if not os.access(folder, os.R_OK | os.X_OK):
            raise PermissionError(f"{folder} {_UNREADABLE}")
        if unwritable or foreign:
            _refuse_if_others_can_change(folder)
    except (OSError, RuntimeError) as error:
        return Settled(None, str(error), _advice())
    return Settled(folder, unwritable, _advice() if unwritable else "")


def _advice() -> str:
    """With a folder that would do, if there may be one among the temporary ones."""
    such = ""
    if sys.platform != "win32":
        with suppress(OSError):
            place = Path(tempfile.gettempdir()).resolve() / f"slimtensors-{os.geteuid()}"
            _refuse_if_others_can_move(place)
            such = f", such as {place}"
    return (
        f"Set SLIMTENSORS_CACHE_DIR to a folder on a local disk that you own{such}, where nobody else can write, nor "
        "in a folder above it."
    )


def _make_with_parents(root: Path) -> None:
    """As `mkdir` does, but that nobody else can write to what is made, whatever the umask."""
    if not root.parent.exists():
        for above in reversed(root.parents):
            above.mkdir(mode=0o755, exist_ok=True)
    root.mkdir(mode=0o700, exist_ok=True)


def _make(folder: Path) -> None:
    """A folder of kernels of this version, where there is none yet."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        if not os.access(folder.parent, os.X_OK):
            raise PermissionError(f"{folder.parent} {_UNREADABLE}") from error
        if not os.access(folder.parent, os.W_OK):
            raise PermissionError(f"{folder.parent} is not writable, and has no kernels of this version") from error
        raise


def _root() -> Path:
    if chosen := os.environ.get("SLIMTENSORS_CACHE_DIR"):
        return Path(chosen).expanduser().absolute()
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return (Path(local) if local else Path.home() / "AppData" / "Local") / "slimtensors" / "Cache"
    if sys.platform == "darwin":
        return _home() / "Library" / "Caches" / "slimtensors"
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(xdg) if Path(xdg).is_absolute() else _home() / ".cache") / "slimtensors"


def _home() -> Path:
    """What HOME says, if that is not another user's, as it may be where sudo or a container leaves it as it was."""
    home = Path.home()
    if home.exists() and home.stat().st_uid not in (os.geteuid(), 0):
        return _registered_home() or home
    return home


def _registered_home() -> Path | None:
    """That of the user whose rights this process has, whatever HOME says."""
    with suppress(KeyError):
        return Path(pwd.getpwuid(os.geteuid()).pw_dir).resolve()
    return None


def _key() -> str:
    """A name for everything that shapes the machine code, less the processor, which Numba's own index tells apart."""
    digest = hashlib.sha256()
    for source in sorted(_SOURCES.rglob("*.py")):
        content = source.read_bytes()
        digest.update(f"{source.relative_to(_SOURCES).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    flags = [getattr(_CONFIG, name, None) for name in ("OPT", "LOOP_VECTORIZE", "SLP_VECTORIZE")]
    digest.update(repr((numba.__version__, llvmlite.__version__, sys.version, [str(flag) for flag in flags])).encode())
    checked = "-boundscheck" if _CONFIG.BOUNDSCHECK else ""
    return f"kernels-{digest.hexdigest()[:16]}{checked}"


def _refuse_status(place: Path, status: os.stat_result, by_others: int = _BY_OTHERS) -> None:
    """What another user owns or can write to, but for the superuser, who can change everything."""
    if status.st_uid not in (os.geteuid(), 0):
        raise PermissionError(f"{place} belongs to another user")
    if status.st_mode & by_others:
        raise PermissionError(f"others can write to {place} (chmod go-w would keep them out)")


def _refuse_if_others_can_move(folder: Path) -> None:
    """As above, of a folder without links in its path, and of those above it up to this user's home, as far as they are
    there. Above it others may write if they can move only what is theirs (the sticky bit), and a user's own group may.
    """
    home = _registered_home()
    for place in (folder, *folder.parents):
        try:
            status = place.lstat()
        except FileNotFoundError:
            continue
        above = place != folder
        if not (above and status.st_mode & stat.S_ISVTX and status.st_uid in (os.geteuid(), 0)):
            _refuse_status(place, status, stat.S_IWOTH if above and _is_ours_alone(status) else _BY_OTHERS)
        if place == home:
            break


def _is_ours_alone(status: os.stat_result) -> bool:
    """Whether the group that can write there is this user's own, as where each user has one and the umask is 002: it
    has the user's name and lists nobody else. Whose main group it is, too, cannot be asked: directories list no users.
    """
    if not status.st_mode & stat.S_IWGRP or os.geteuid() == 0:  # root's is also that of a container's nameless users
        return False
    with suppress(KeyError):
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(status.st_gid)
        own = (group.gr_gid, group.gr_name) == (user.pw_gid, user.pw_name)
        return own and set(group.gr_mem) <= {user.pw_name}
    return False


def _refuse_if_others_can_change(folder: Path) -> None:
    """As above, of all that is in a folder."""
    for place, folders, files in os.walk(folder, onerror=_raise):
        for name in folders + files:
            path = Path(place, name)
            try:
                status = path.lstat()
            except FileNotFoundError:  # whose owner compiles just now
                continue
            if stat.S_ISLNK(status.st_mode):
                raise PermissionError(f"{path} is a link")
            _refuse_status(path, status)


def _raise(error: OSError) -> None:
    raise error


def _warn_once(why: str, advice: str = "") -> None:
    if "cache" in _given_up:
        return
    _given_up.add("cache")
    message = f"compiled kernels are not kept on disk: {why}. Every process compiles them anew, which takes seconds."
    warnings.warn(f"{message} {advice or _advice()}", KernelCacheWarning, stacklevel=2)


def warned() -> bool:
    """Whether a kernel could not be kept, of which a warning has told."""
    return "cache" in _given_up


def _compile_once(dispatcher: Any) -> Callable[[Any], Any]:
    """What Numba calls for argument types that a kernel has not met yet in this process."""
    compile_or_load = dispatcher.compile
    store: _SharedCache | None = None
    prepared = False

    def compile_once(signature: Any) -> Any:
        nonlocal store, prepared
        # Numba takes this lock too. Taken first here, it is always the outer one of the two, so they cannot deadlock.
        with global_compiler_lock, _no_collection(), ExitStack() as held:
            if not prepared:
                prepared = True
                store = _SharedCache.of(dispatcher.py_func)
                dispatcher._cache = store or dispatcher._cache
            if store:
                store.held = held
            return compile_or_load(signature)

    return compile_once


@contextmanager
def _no_collection() -> Iterator[None]:
    """Compiling makes hundreds of thousands of objects that all live: looking for cycles takes a seventh of it."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class _SharedCache:
    """Numba's cache of one kernel. After a miss, one process compiles and saves, and the others wait for that."""

    held: ExitStack  # ends with the compilation, be it a success or not

    def __init__(self, numbas: FunctionCache, lock: Path) -> None:
        self._numbas: Any = numbas
        self._lock = str(lock)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._numbas, name)

    @classmethod
    def of(cls, function: Callable[..., Any]) -> _SharedCache | None:
        if not (folder := cache_folder()):
            return None
        try:
            make: Any = FunctionCache if settled().why_not is None else _reading_cache()
            with _numba_caches_in(folder):
                numbas = make(function)
        except (OSError, RuntimeError) as error:  # a zipped or frozen package has no source files
            _warn_once(str(error))
            return None
        if folder not in Path(numbas.cache_path).parents:  # Numba has gone elsewhere
            _warn_once(f"Numba cannot use {folder}")
            return None
        if _SOURCES in Path(function.__code__.co_filename).parents:
            # The folder's name says what the source is. Some Numbas take its time, which layers of images round.
            numbas._cache_file._source_stamp = ""
        return cls(numbas, folder / f"{function.__module__}.{function.__qualname__}.lock")

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        found = self._load(sig, target_context)
        if found is None and settled().why_not is not None:
            _warn_once(f"{settled().why_not}, and does not give {Path(self._lock).stem}")
            return None
        return self._awaited(sig, target_context) if found is None else found

    def save_overload(self, sig: Any, data: Any) -> None:
        if settled().why_not is not None:
            return
        try:
            self._numbas.save_overload(sig, data)
        except OSError as error:  # a full disk, for one
            _warn_once(str(error))

    def _load(self, sig: Any, target_context: Any) -> Any:
        try:
            return _loaded(self._numbas, sig, target_context)
        except Exception:  # unpickling damaged files can raise anything
            with suppress(OSError):
                self._numbas.flush()
            return None

    def _awaited(self, sig: Any, target_context: Any) -> Any:
        """What another process compiles meanwhile; None if this one is to do it, with the lock held if there are any.

        Who waits asks for the result, not for the lock: eight processes would hand that round for longer than all of
        them take to load.
        """
        global _follows
        began = time.monotonic()
        found, leave = None, PATIENCE if _follows else 0.0
        while found is None:
            waited = time.monotonic() - began
            if waited >= leave and self._locked(waited):
                found = self._load(sig, target_context)
                break
            time.sleep(POLL)
            found = self._load(sig, target_context)
        _follows = found is not None
        return found

    def _locked(self, waited: float) -> bool:
        """Whether the lock is held now, or not to be had at all."""
        if "lock" in _given_up:
            return True
        try:
            self.held.enter_context(filelock.FileLock(self._lock, timeout=0))
        except filelock.Timeout:
            if waited < LOCK_TIMEOUT:
                return False
            _given_up.add("lock")
        except (OSError, NotImplementedError):  # no locks on this file system
            _given_up.add("lock")
        return True


def _loaded(numbas: Any, sig: Any, target_context: Any) -> Any:
    """What a cache of Numba's holds for these argument types, or None.

    As its `load_overload`, but without importing all that compiling may need, which is a third of a process's first
    load; compiling still does that first.
    """
    load, guard = (getattr(numbas, name, None) for name in ("_load_overload", "_guard_against_spurious_io_errors"))
    if load is None or guard is None:  # another version's inside is another one
        return numbas.load_overload(sig, target_context)
    rtsys.initialize(target_context)  # of all these imports, what machine code calls: reference counts
    with guard():
        return load(sig, target_context)


@cache
def _reading_cache() -> Any:
    """Numba's cache, but for what it does to see whether it can write there."""
    theirs: Any = next((each for each in CompileResultCacheImpl._locator_classes if "User" in each.__name__), None)
    if theirs is None:
        raise RuntimeError("this Numba has no cache of which the folder can be named")

    class Locator(theirs):  # type: ignore[misc] # only known now
        def ensure_cache_path(self) -> None:
            """What is not there is not found."""

    class Implementation(CompileResultCacheImpl):
        _locator_classes = [Locator]  # noqa: RUF012 # as theirs

    class ReadingCache(FunctionCache):
        _impl_class = Implementation

    return ReadingCache


@contextmanager
def _numba_caches_in(folder: Path) -> Iterator[None]:
    """Numba chooses the place of a cache when the cache is made; other users of Numba keep theirs."""
    ours = {"CACHE_DIR": str(folder), "CACHE_LOCATOR_CLASSES": ""}
    theirs = {name: getattr(_CONFIG, name) for name in ours if hasattr(_CONFIG, name)}
    try:
        for name in theirs:
            setattr(_CONFIG, name, ours[name])
        yield
    finally:
        for name, value in theirs.items():
            setattr(_CONFIG, name, value)


if sys.platform != "win32":
    # A process forked while another thread compiles would find the compiler's lock taken for ever: forking waits. What
    # is registered last is called first: filelock, imported above, does the same with a lock that compiling may take.
    os.register_at_fork(
        before=global_compiler_lock.acquire,
        after_in_parent=global_compiler_lock.release,
        after_in_child=global_compiler_lock.release,
    )
