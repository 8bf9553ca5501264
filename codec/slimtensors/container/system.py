"""Every call to the operating system, so that one page shows what is assumed of it.

Nothing here needs Linux: where a call is missing (Windows has no `pread`, some systems no `preadv`), the next best
takes its place.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import mmap
import os
import re
import secrets
import shutil
import socket
import stat
import sys
import threading
import time
import weakref
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from slimtensors import stopping

__all__ = [
    "RandomAccessFile", "TemporaryOutput", "advise_huge_pages", "file_identity", "find_read_only", "flush",
    "flush_folder", "huge_pages", "lend", "make_private", "naming_of", "permissions", "remove_abandoned",
    "resolve_destination", "temporary_place", "usable_processors",
]  # fmt: skip

_WINDOWS = os.name == "nt"

_BOOT = Path("/proc/sys/kernel/random/boot_id")  # of Linux: which machine this is, since it was started
_O_BINARY = getattr(os, "O_BINARY", 0)  # Windows would translate line ends
_O_CLOEXEC = getattr(os, "O_CLOEXEC", 0)
_O_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
# Reading a FIFO or a device could block for ever; O_NONBLOCK lets us look at what it is first.
_READ = os.O_RDONLY | _O_BINARY | _O_CLOEXEC | getattr(os, "O_NONBLOCK", 0)

_RWF_NOWAIT = getattr(os, "RWF_NOWAIT", 0)  # Linux: read only what is in memory

# What file systems say that cannot flush so.
_CANNOT = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY, errno.ENODEV)

_MOST_AT_ONCE = 1 << 30  # bytes; macOS refuses 2 GiB and more in one call

_MAPPINGS = "/proc/self/maps"  # Linux: a line for each, such as "7f12a4e00000-7f12a4e21000 rw-p ..."

# Of Linux: how much of each period this container's processes may use, in all; of its two versions of control groups.
_QUOTAS = (["/sys/fs/cgroup/cpu.max"], [f"/sys/fs/cgroup/cpu/cpu.cfs_{name}_us" for name in ("quota", "period")])

_REPLACE_WAITS = (0.05, 0.1, 0.2, 0.4, 0.8)  # seconds, on Windows

_MOST_MAPPINGS = 16384  # at once; Linux gives a process some 65,000, of which others want some
_mappings: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()


class RandomAccessFile:
    """A regular file, open for reading at any position by any number of threads.

    waited: whether what was read last had to be waited for; also where that cannot be known.
    """

    waited = True

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._can_tell = bool(_RWF_NOWAIT)
        self._lock = threading.Lock()
        try:
            self._opened: _Descriptor | None = _Descriptor(os.open(self.path, _READ))
        except PermissionError:  # what Windows says of folders
            if os.path.isdir(self.path):
                raise _folder(self.path) from None
            raise
        try:
            status = os.fstat(self.descriptor)
            if stat.S_ISDIR(status.st_mode):
                raise _folder(self.path)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "not a regular file", self.path)
        except BaseException:
            self.close()
            raise

    @property
    def descriptor(self) -> int:
        """Its number, for who does not let others close the file meanwhile."""
        return self._held().number

    def _held(self) -> _Descriptor:
        """Whose number stays this file's for as long as the caller has it, whoever closes the file meanwhile."""
        if (opened := self._opened) is None:
            raise ValueError(f"{self.path} is closed")
        return opened

    def size(self) -> int:
        """Bytes in the file now."""
        opened = self._held()
        return os.fstat(opened.number).st_size

    def read_into(self, offset: int, target: memoryview) -> int:
        """Fill `target` from `offset`; returns the bytes read, fewer only at the end of the file."""
        opened = self._held()
        try:
            done = self._read_cached(opened.number, offset, target)
            while done < len(target):
                if self._opened is None:
                    raise ValueError(f"{self.path} is closed")
                count = self._read_some(opened.number, offset + done, target[done : done + _MOST_AT_ONCE])
                if count == 0:
                    break
                done += count
        finally:
            del opened  # an error that somebody keeps would keep it
        return done

    def _read_cached(self, descriptor: int, offset: int, target: memoryview) -> int:
        """What there is in the page cache from `offset` on."""
        if not self._can_tell or not hasattr(os, "preadv"):
            return 0
        done = 0
        try:
            done = os.preadv(descriptor, [target[:_MOST_AT_ONCE]], offset, _RWF_NOWAIT)
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise
            self._can_tell = False  # not on this file system
        self.waited = done < len(target)
        return done

    def _read_some(self, descriptor: int, offset: int, target: memoryview) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(descriptor, [target], offset)
        if hasattr(os, "pread"):
            data = os.pread(descriptor, len(target), offset)
        else:
            with self._lock:  # the position belongs to the descriptor, not to the thread
                os.lseek(descriptor, offset, os.SEEK_SET)
                data = os.read(descriptor, len(target))
        target[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Nothing more is read. Reads that have begun come to their end, and then the file is closed."""
        opened, self._opened = self._opened, None
        unread = object()
        if opened is not None and sys.getrefcount(opened) == sys.getrefcount(unread):
            opened.close()  # raises what went wrong, where there is somebody to hear of it


def _folder(path: str) -> IsADirectoryError:
    advice = (
        "a folder, not a file: name its files one by one, or use a command that takes it whole, such as `slimtensors "
        "compress FOLDER`; in Python stream_tensors, load_model and apply_delta do"
    )
    return IsADirectoryError(errno.EISDIR, advice, path)


class _Descriptor:
    """An open file's number, given back when nobody holds this any more: neither a file nor who reads from it. A number
    that was given back may be another file's.
    """

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number

    def close(self) -> None:
        number, self.number = self.number, -1
        if number >= 0:
            os.close(number)

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            self.close()


def advise_huge_pages(memory: memoryview) -> None:
    """Say that all of this writable memory will be used, which need not be touched yet: first touches then cost a
    fifth. Where this cannot be said, nothing happens.
    """
    if sys.platform != "linux" or not hasattr(mmap, "MADV_HUGEPAGE"):
        return
    first = ctypes.c_char.from_buffer(memory)
    begin = -(-ctypes.addressof(first) // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (ctypes.addressof(first) + len(memory)) // mmap.PAGESIZE * mmap.PAGESIZE
    if begin < end:
        with contextlib.suppress(OSError, AttributeError):  # no such function
            ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), mmap.MADV_HUGEPAGE)


def huge_pages(length: int) -> mmap.mmap | None:
    """Fresh memory, all zero, in huge pages as far as whole ones fit; given back when nobody uses it any more.

    None where the system has no such call, or gives no more.
    """
    if sys.platform != "linux" or not hasattr(mmap, "MADV_HUGEPAGE") or len(_mappings) >= _MOST_MAPPINGS:
        return None
    try:
        memory = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.madvise(mmap.MADV_HUGEPAGE)
    except OSError:
        return None
    _mappings.add(memory)
    return memory


def find_read_only(places: Sequence[tuple[int, int]]) -> int | None:
    """The number of the first of these pieces of memory, (address, end), that cannot be written to; None if all can.

    Writing there would end the process by a signal. Where the system does not list what it has mapped, the first and
    the last byte tell for a piece.
    """
    known = _writable_mappings()
    if known is None:
        return next((i for i, (low, high) in enumerate(places) if not all(map(_takes_writes, (low, high - 1)))), None)
    starts, ends = known
    for number, (low, high) in enumerate(places):
        at = bisect_right(starts, low) - 1
        if at < 0 or ends[at] < high:
            return number
    return None


def _writable_mappings() -> tuple[list[int], list[int]] | None:
    """Where memory that can be written to starts and ends, mappings that touch taken for one; None if nobody says."""
    try:
        found = re.findall(rb"^([0-9a-f]+)-([0-9a-f]+) .w", Path(_MAPPINGS).read_bytes(), re.MULTILINE)
    except OSError:
        return None
    starts, ends = list[int](), list[int]()
    for low, high in found:
        if ends and int(low, 16) == ends[-1]:
            ends[-1] = int(high, 16)
        else:
            starts.append(int(low, 16))
            ends.append(int(high, 16))
    return (starts, ends) if starts else None


def _takes_writes(address: int) -> bool:
    """By having the system write to a byte, through a pipe, what is in it: it refuses where we would be ended."""
    byte = (ctypes.c_char * 1).from_address(address)
    outlet, inlet = os.pipe()
    try:
        os.write(inlet, byte)
        with open(outlet, "rb", buffering=0, closefd=False) as reader:
            return reader.readinto(byte) == 1
    except OSError:
        return False
    finally:
        os.close(outlet)
        os.close(inlet)


def resolve_destination(path: str | os.PathLike[str]) -> Path:
    """Where a file is really to be written: a symbolic link is followed, so the link stays and its target is
    replaced. Raises OSError where something other than a regular file is: nobody wants /dev/null replaced.
    """
    destination = Path(os.path.realpath(os.fspath(path)))
    try:
        mode = os.lstat(destination).st_mode
    except FileNotFoundError:
        try:  # what /dev/stdout leads to may have no name
            mode = os.stat(path).st_mode
        except FileNotFoundError:
            return destination
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "cannot write a file where a folder is", str(destination))
    if not stat.S_ISREG(mode):  # a link too, if it leads in circles
        raise OSError(errno.EINVAL, "not a regular file; open it, and give the file object instead", str(destination))
    return destination


def file_identity(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    """What tells a file from all others of this machine, whatever link or path leads to it; None if none does."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def temporary_place(destination: Path) -> Path:
    """A new name beside a file or folder, for what is to take its place."""
    return destination.with_name(f"{_front(destination)}{os.getpid()}-{secrets.token_hex(4)}.tmp")


def remove_abandoned(destination: str | os.PathLike[str]) -> None:
    """Remove what was to take this place and was left by processes that were killed: those of this machine that are no
    more. What cannot be removed stays.
    """
    if not _BOOT.exists():  # then nothing tells machines of one name apart, and asking for a process may end it
        return
    place = Path(os.path.realpath(destination))
    ours = re.compile(re.escape(_front(place)) + r"([1-9]\d{0,8})-[0-9a-f]{8}\.tmp")
    with contextlib.suppress(OSError), os.scandir(place.parent) as entries:
        for entry in entries:
            found = ours.fullmatch(entry.name)
            if found is None or _is_alive(int(found[1])):
                continue
            with contextlib.suppress(OSError):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    os.unlink(entry.path)


def _front(destination: Path) -> str:
    """What temporary names begin with: their place's name, this machine's, and its space of process numbers."""
    # A name has at most 255 bytes, and the destination's may have as many.
    stem = os.fsdecode(os.fsencode(destination.name)[:100].decode("utf-8", "ignore").encode())
    return f".{stem}.{_process_space()}-"


@cache
def _process_space() -> str:
    """Which processes have numbers of their own: those of one container, on one machine, since it was started. Machines
    that share a disk may have one name, and containers of two of them numbers that are alike.
    """
    known: list[object] = [socket.gethostname()]
    with contextlib.suppress(OSError):
        known += [_BOOT.read_text(), os.stat("/proc/self/ns/pid").st_ino]
    return hashlib.sha256(repr(known).encode()).hexdigest()[:16]


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)  # asks
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        pass
    return True


class TemporaryOutput:
    """A new file beside its destination, which takes the destination's place when it is whole.

    Readers of the destination see the old file or the new one, never a part. A file that is replaced gives its
    permissions to the new one, but no set-uid, set-gid or sticky bit; a new file gets what the umask leaves, of the
    mode of the file that it is made from if there is one. The temporary file is readable by its owner only until then.
    Other hard links to a file that is replaced keep the old one.
    """

    def __init__(self, destination: str | os.PathLike[str]) -> None:
        self.destination = resolve_destination(destination)
        self.path = temporary_place(self.destination)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _O_BINARY | _O_CLOEXEC | _O_NOFOLLOW
        try:
            self._descriptor = os.open(self.path, flags, 0o600)
        except FileNotFoundError as error:
            folder = self.destination.parent
            if folder.is_dir():  # as those of /proc
                raise OSError(errno.EROFS, "no new files can be made in this folder", str(folder)) from None
            raise FileNotFoundError(error.errno, "there is no such folder", str(folder)) from None
        self._position = 0

    def write(self, data: bytes | memoryview) -> None:
        """Append."""
        stopping.end_if_asked()
        view = memoryview(data).cast("B")
        while len(view):
            with naming_of(self.destination):
                count = os.write(self._descriptor, view[:_MOST_AT_ONCE])
            view = view[count:]
            self._position += count

    def write_at_start(self, data: bytes) -> None:
        """Overwrite the first bytes, which must have been written before."""
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        end, self._position = self._position, 0
        self.write(data)
        self._position = end
        os.lseek(self._descriptor, end, os.SEEK_SET)

    def commit(self, *, durable: bool = True, like: str | os.PathLike[str] | None = None) -> None:
        """Make the file the destination. An error of fsync is final: the kernel may have dropped the data.

        like: the file that it is made from.
        """
        if durable:
            with naming_of(self.destination):
                flush(self._descriptor)
        self._copy_mode(like)
        self._close()
        stopping.end_if_asked()
        _replace(self.path, self.destination)
        if durable:
            flush_folder(self.destination.parent)

    def discard(self) -> None:
        """Leave nothing behind, if that can be done; the error that led here matters more than one from this."""
        with contextlib.suppress(OSError):
            self._close()
        with contextlib.suppress(OSError):
            os.unlink(self.path)

    def _copy_mode(self, like: str | os.PathLike[str] | None) -> None:
        if _WINDOWS or not hasattr(os, "fchmod"):  # what Windows takes for a mode would keep the file from moving
            return
        try:
            mode = os.stat(self.destination).st_mode & 0o777
        except FileNotFoundError:
            mode = permissions(0o666)
            if like is not None:  # what was private stays private
                try:
                    mode &= os.stat(like).st_mode | stat.S_IWUSR
                except FileNotFoundError:  # it was removed meanwhile
                    mode &= 0o600
        os.fchmod(self._descriptor, mode)

    def _close(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)


@contextlib.contextmanager
def naming_of(destination: Path) -> Iterator[None]:
    """What is refused of a descriptor is told of the file that it is for."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(destination)
        raise


def _replace(path: Path, destination: Path) -> None:
    """Windows refuses it as long as anybody has the destination open; virus scanners do for a moment."""
    for wait in _REPLACE_WAITS if _WINDOWS else ():
        with contextlib.suppress(PermissionError):
            return os.replace(path, destination)
        time.sleep(wait)
    try:
        return os.replace(path, destination)
    except PermissionError as error:
        if not _WINDOWS:
            raise
        why = "it cannot be replaced as long as it is open, in this program or another: close it"
        raise PermissionError(error.errno, why, str(destination)) from None


def make_private(folder: Path) -> None:
    """A new folder that nobody else sees into. On Windows that would last, wherever it is moved."""
    folder.mkdir(mode=0o777 if _WINDOWS else 0o700)


def lend(source: Path, place: Path) -> None:
    """Have a file under another name for a while: by a symbolic link, or where that is not allowed, as on Windows, by a
    second name, or else as a copy.
    """
    for link in (os.symlink, os.link):
        with contextlib.suppress(OSError):
            return link(source, place)
    shutil.copyfile(source, place)
    return None


def usable_processors() -> int:
    """How many this process may use: those it may run on, and no more than its container's share of time keeps busy."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for files in _QUOTAS:
        with contextlib.suppress(OSError, ValueError):
            quota, period = (int(word) for name in files for word in Path(name).read_text().split())
            if quota > 0 and period > 0:
                count = min(count, -(-quota // period))
    return max(1, count)


def flush(descriptor: int) -> None:
    """To the disk itself. On macOS fsync stops at the drive's cache; F_FULLFSYNC does not."""
    if sys.platform == "darwin":
        import fcntl

        try:
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
        else:
            return
    os.fsync(descriptor)


def flush_folder(folder: Path) -> None:
    """Make the rename durable where that can be asked for: Windows cannot open folders and does not need it."""
    if _WINDOWS:
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY | _O_CLOEXEC)
    except PermissionError:  # a folder that may be written to but not read
        return
    try:
        flush(descriptor)
    except OSError as error:
        if error.errno not in (errno.EBADF, *_CANNOT):
            raise
    finally:
        os.close(descriptor)


def permissions(mode: int) -> int:
    """Those of a copy, as `cp` would give them: no set-uid, set-gid or sticky bit, and what the umask leaves."""
    return mode & 0o777 & ~_umask()


def _umask() -> int:
    """The process's umask. Reading it means setting it; Linux tells without."""
    with contextlib.suppress(OSError, ValueError, StopIteration), open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith("Umask:")).split()[1], 8)
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
