"""Exit codes, and errors as one line on stderr."""

from __future__ import annotations

import errno
import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import click

from slimtensors import stopping
from slimtensors.errors import BaseError, FormatError, RemoteError, SelfCheckError, SlimtensorsError

__all__ = [
    "EXIT_CODES", "VERBOSITY", "WRONG_FILE", "in_options", "judge", "naming", "printable", "reported", "system_error",
]  # fmt: skip

WRONG_FILE, WRONG_USAGE, SYSTEM, FAULT, INTERRUPTED, BROKEN_PIPE = 1, 2, 3, 4, 130, 141

EXIT_CODES = """\b
Exit codes:
  0    done
  1    a file is damaged, or not what it should be, or its base is not found
  2    wrong usage
  3    the system or a server refused: no such file, disk full, no permission, no memory, no network
  4    the self-check failed, or a fault of slimtensors; no result was written
  130  interrupted; nothing half-written is left
  129  the same, as the terminal went away
  143  the same, as the process was to end
  141  what reads the output went away
"""

VERBOSITY = "slimtensors.verbosity"  # in click's meta, where commands put it

_ADVICE = {
    errno.ENOENT: "check the path",
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EACCES: "check the permissions",
    errno.EPERM: "check the permissions",
    errno.EROFS: "",
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
        # What code makes of a signal that is lost within it, such as an import that fails, is no fault of anybody's.
        code, line = judge(stopping.asked() or error, _command(ctx))
        click.echo(f"slimtensors: {printable(' '.join(line.split()))}", file=sys.stderr)
        raise click.exceptions.Exit(code) from None


def _command(ctx: click.Context | None) -> click.Command | None:
    """The command that was called, of the group's context."""
    if ctx is None or not isinstance(ctx.command, click.Group) or ctx.invoked_subcommand is None:
        return None
    return ctx.command.get_command(ctx, ctx.invoked_subcommand)


def _has(command: click.Command | None, option: str) -> bool:
    return command is not None and any(option in each.opts for each in command.params)


def _elsewhere(command: click.Command | None) -> str:
    """How the command is told to write to another place."""
    if _has(command, "-o"):
        return "name another place with -o"
    return "set TMPDIR and HF_HOME to other places" if command and command.name in ("push", "convert") else ""


def in_options(error: Exception, command: click.Command | None) -> str:
    """What is wrong, and what to do about it in options of this command, where functions name their arguments."""
    words = str(error)
    if _has(command, "--max-bytes"):
        words = words.replace("pass max_bytes", "pass --max-bytes")
    if _has(command, "-o"):
        words = re.sub(r"\bname (it|another (?:file|folder))\b", r"name \1 with -o", words)
    if isinstance(error, BaseError) and _has(command, "--old-base"):  # there --base is another one
        words = re.sub(r"--base(?= hf://| or base=)", "--old-base", words)
    elif isinstance(error, BaseError) and not _has(command, "--base"):
        from slimtensors.reading.tensors import BASE_ADVICE  # which is loaded by now

        words = re.sub(r"--base hf://\S+, or base=\S+, reads it from the hub; or ", "", words)
        words = words.replace(BASE_ADVICE, "name a folder that holds it in SLIMTENSORS_BASE_DIR")
    return words


def judge(error: BaseException, command: click.Command | None) -> tuple[int, str]:
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
        case BaseError():  # the file may be right
            return WRONG_FILE, in_options(error, command)
        case FormatError():
            return WRONG_FILE, f"wrong file: {in_options(error, command)}"
        case RemoteError():
            return SYSTEM, str(error)
        case SlimtensorsError():
            return WRONG_USAGE, f"wrong usage: {in_options(error, command)}"
        case IsADirectoryError():
            return WRONG_USAGE, f"wrong usage: {system_error(error)}"
        case OSError():
            return SYSTEM, f"the system refused: {system_error(error, _elsewhere(command))}"
        case MemoryError():
            return SYSTEM, "the system refused: out of memory; use fewer threads (-j 1)"
    words = f"{type(error).__name__}: {error}"
    return FAULT, f"a fault of slimtensors, please report it with the output of -vv: {words}"


def system_error(error: OSError, elsewhere: str = "") -> str:
    """What the system refused, where, and what to do. elsewhere: see `_elsewhere`."""
    if error.errno is None or error.strerror is None:
        return str(error)
    advice = [_ADVICE[error.errno]] if error.errno in _ADVICE else []
    if advice and error.errno != errno.ENOENT:
        advice.append(elsewhere)
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if name is not None]  # of a copy, both
    where = " to ".join(names) + ": " if names else ""
    said = ", or ".join(filter(None, advice))
    return f"{where}{error.strerror}" + (f"; {said}" if said else "")
