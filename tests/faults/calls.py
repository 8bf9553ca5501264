"""Calls to the operating system: counted, and one of them made to fail, fall short or be the process's last."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn

# All that slimtensors.container.system calls, and what the standard library might call in its place.
NAMES = (
    "close", "chmod", "fchmod", "fdatasync", "fstat", "fsync", "ftruncate", "link", "lseek", "lstat", "open",
    "posix_fallocate", "pread", "preadv", "read", "readlink", "rename", "replace", "stat", "truncate", "umask",
    "unlink", "write",
)  # fmt: skip

Call = Callable[[], Any]
Fault = Callable[[str, Call, tuple[Any, ...]], Any]

_real = {name: getattr(os, name) for name in NAMES if hasattr(os, name)}


@contextmanager
def watched(fault: Fault | None = None, at: int = 0) -> Iterator[list[str]]:
    """The names of the calls made, in order. The call numbered `at`, counted from 1, is left to `fault`."""
    seen: list[str] = []
    numbers = itertools.count(1)

    def stand_in(name: str, *arguments: Any, **named: Any) -> Any:
        number = next(numbers)
        seen.append(name)
        call = partial(_real[name], *arguments, **named)
        return fault(name, call, arguments) if fault is not None and number == at else call()

    for name in _real:
        setattr(os, name, partial(stand_in, name))
    try:
        yield seen
    finally:
        for name, function in _real.items():
            setattr(os, name, function)


def _die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("SIGKILL was survived")


def kill_before(_name: str, _call: Call, _arguments: tuple[Any, ...]) -> Any:
    _die()


def kill_after(_name: str, call: Call, _arguments: tuple[Any, ...]) -> Any:
    call()
    _die()


def kill_within(name: str, _call: Call, arguments: tuple[Any, ...]) -> Any:
    """Some of the bytes were written."""
    assert name == "write"
    _real["write"](arguments[0], arguments[1][: len(arguments[1]) // 2 + 1])
    _die()


def fall_short(name: str, call: Call, arguments: tuple[Any, ...]) -> Any:
    """One byte is written or read, whatever was asked for: no error."""
    if name == "write":
        return _real["write"](arguments[0], arguments[1][:1])
    if name == "preadv":
        return _real["preadv"](arguments[0], [arguments[1][0][:1]], arguments[2])
    if name in ("pread", "read"):
        return _real[name](arguments[0], 1, *arguments[2:])
    return call()


def fail_with(number: int) -> Fault:
    def fail(_name: str, _call: Call, _arguments: tuple[Any, ...]) -> Any:
        raise OSError(number, os.strerror(number))

    return fail
