"""Exit codes, and errors as one line on stderr."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import click

from slimtensors.errors import FormatError, RemoteError, SelfCheckError, SlimtensorsError

__all__ = ["EXIT_CODES", "VERBOSITY", "WRONG_FILE", "naming", "printable", "reported"]

WRONG_FILE, WRONG_USAGE, SYSTEM, FAULT, INTERRUPTED, BROKEN_PIPE = 1, 2, 3, 4, 130, 141

EXIT_CODES = """\b
Exit codes:
  0    done
  1    a file is damaged, or not what it should be, or its base is not found
  2    wrong usage
  3    the system or a server refused: no such file, disk full, no permission, no memory, no network
  4    the self-check failed, or a fault of slimtensors; no result was written
  130  interrupted; nothing half-written is left
"""

VERBOSITY = "slimtensors.verbosity"  # in click's meta, where commands put it

_ADVICE = {
    errno.ENOENT: "check the path",
    errno.ENOSPC: "free some space, or name another place with -o",
    errno.EDQUOT: "free some space, or name another place with -o",
    errno.EACCES: "check the permissions, or name another place with -o",
    errno.EPERM: "check the permissions, or name another place with -o",
    errno.EROFS: "name another place with -o",
}


def printable(text: str) -> str:
    """Control characters and lone surrogates as escapes, so that no name can steer a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@contextmanager
def naming(path: object) -> Iterator[None]:
    """What is wrong with a file is told with its name."""
    try:
        yield
    except FormatError as error:
        if str(path) in str(error):
            raise
        raise type(error)(f"{path}: {error}") from error


@contextmanager
def reported(ctx: click.Context | None = None) -> Iterator[None]:
    """Errors become a line on stderr and an exit code; with -vv the traceback comes too."""
    try:
        yield
    except click.exceptions.Exit:
        raise
    except BrokenPipeError:  # whoever read our output has had enough
        with suppress(OSError, ValueError, AttributeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the last flush then has somewhere to go
        raise click.exceptions.Exit(BROKEN_PIPE) from None
    except BaseException as error:
        if type(error).__name__ == "NoArgsIsHelpError" or isinstance(error, (SystemExit, GeneratorExit)):
            raise
        if ctx is not None and ctx.meta.get(VERBOSITY, 0) >= 2:
            traceback.print_exception(error)
        code, line = _judge(error)
        click.echo(f"slimtensors: {printable(' '.join(line.split()))}", file=sys.stderr)
        raise click.exceptions.Exit(code) from None


def _judge(error: BaseException) -> tuple[int, str]:
    """(exit code, what happened and whose fault it is)."""
    match error:
        case KeyboardInterrupt() | click.Abort():
            number = error.args[0] if error.args and isinstance(error.args[0], int) else INTERRUPTED - 128
            return 128 + number, "interrupted; nothing half-written is left"
        case click.ClickException():
            ctx = getattr(error, "ctx", None)
            hint = f" (see `{ctx.command_path} --help`)" if ctx is not None else ""
            return WRONG_USAGE, f"wrong usage: {error.format_message()}{hint}"
        case SelfCheckError():
            return FAULT, f"self-check failed: {error}"
        case FormatError():
            return WRONG_FILE, f"wrong file: {error}"
        case RemoteError():
            return SYSTEM, str(error)
        case SlimtensorsError():
            return WRONG_USAGE, f"wrong usage: {error}"
        case OSError():
            return SYSTEM, f"the system refused: {_system_error(error)}"
        case MemoryError():
            return SYSTEM, "the system refused: out of memory; use fewer threads (-j 1)"
    words = f"{type(error).__name__}: {error}"
    return FAULT, f"a fault of slimtensors, please report it with the output of -vv: {words}"


def _system_error(error: OSError) -> str:
    if error.errno is None or error.strerror is None:
        return str(error)
    advice = _ADVICE.get(error.errno)
    where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
    return f"{where}{error.strerror}" + (f"; {advice}" if advice else "")
