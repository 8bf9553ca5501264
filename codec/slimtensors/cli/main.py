"""The command's entry: finds the file of a subcommand, turns errors into one line and an exit code."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import warnings
from contextlib import suppress
from difflib import get_close_matches
from typing import Any

import click

from slimtensors import stopping
from slimtensors._version import __version__
from slimtensors.cli.exits import EXIT_CODES, printable, reported
from slimtensors.container.layout import FORMAT_VERSION

__all__ = ["cli", "main"]

NAMES = [
    "compress", "decompress", "inspect", "verify", "estimate", "deps", "flatten", "rebase", "salvage", "push", "pull",
    "convert", "bench", "warmup", "env", "demo",
]  # fmt: skip


ELSEWHERE = dict.fromkeys(["dir", "info", "list", "ls", "show"], "inspect")  # names that other tools have


class Commands(click.Group):
    """Loads a subcommand's file when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 # click's signature
        """In the order in which a user meets them."""
        return NAMES

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 # click's signature
        if cmd_name not in NAMES:
            return None
        found: click.Command = importlib.import_module(f"slimtensors.cli.{cmd_name}").command
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """With the name that was meant, as click has it for options. Refuses options of one value that have several."""
        close = [ELSEWHERE[args[0]]] if args[0] in ELSEWHERE else get_close_matches(args[0], NAMES, 1)
        if close and args[0] not in NAMES:
            ctx.fail(f"No such command {args[0]!r}. Did you mean {close[0]!r}?")
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None and not ctx.resilient_parsing:
            _refuse_repeated(command, command.context_class(command, parent=ctx, info_name=name), rest)
        return name, command, rest

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with reported():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        with reported(ctx):
            result = super().invoke(ctx)
            stopping.end_if_asked()
            return result


def _refuse_repeated(command: click.Command, ctx: click.Context, args: list[str]) -> None:
    """click takes the last of several without a word, and the first may have been the one that was meant."""
    _, _, given = command.make_parser(ctx).parse_args(list(args))
    for each in given:
        one = isinstance(each, click.Option) and not (each.multiple or each.is_flag or each.count)
        if one and given.count(each) > 1:
            ctx.fail(f"{'/'.join(each.opts)} is given {given.count(each)} times; it takes one value")


@click.group(cls=Commands, epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message=f"slimtensors %(version)s, format version {FORMAT_VERSION}")
def cli() -> None:
    """Store neural-network weights small, and give them back bit for bit."""


def main() -> None:
    """What the installed command calls."""
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError):  # a replaced or closed stream
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr] # a stream put in its place may lack it
    warnings.formatwarning = lambda message, *_args, **_kwargs: f"slimtensors: {printable(str(message))}\n"
    _clean_up_on_signals()
    try:
        cli(prog_name="slimtensors")
    finally:
        _leave_signals()


def _open_closed_streams() -> None:
    """What a parent has closed leads nowhere; a file opened later must not take the number of a standard stream."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # which is what Python makes of it
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115 # no path; for as long as the process runs


def _clean_up_on_signals() -> None:
    """The first interrupt, termination or hang-up lets the command remove temporary files; a third does not wait."""
    seen = 0

    def stop(number: int, _frame: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == 2:
            # Not by way of sys.stderr, which may be in the middle of something.
            with suppress(OSError):  # the terminal may be gone
                os.write(2, b"slimtensors: removing temporary files; once more to leave at once\n")
        elif seen > 2:
            os._exit(128 + number)  # whoever waits for threads would wait on
        else:
            error = Stopped(number)
            stopping.ask(error)
            raise error

    for number in _handled():
        signal.signal(number, stop)
    # What is lost on its way, or printed by C code that cannot hand it on, `stopping` knows.
    unraisable, uncaught = sys.unraisablehook, sys.excepthook
    sys.unraisablehook = lambda lost: None if isinstance(lost.exc_value, Stopped) else unraisable(lost)
    sys.excepthook = lambda kind, *rest: None if kind is Stopped else uncaught(kind, *rest)


def _leave_signals() -> None:
    """The command is done, with nothing to clean up: a first signal ends the process as if it had no handler."""
    done = sys.exc_info()[1]
    with suppress(Stopped):  # `stopping` knows
        if stopping.asked() is None:
            for number in _handled():
                signal.signal(number, signal.SIG_DFL)
    if isinstance(error := stopping.asked(), Stopped) and isinstance(done, SystemExit):
        done.code = 128 + error.args[0]  # whatever came of the command, such as of code in which the signal was lost


def _handled() -> list[int]:
    """The signals that ask for an end."""
    found = [getattr(signal, name, None) for name in ("SIGINT", "SIGTERM", "SIGHUP")]  # Windows has no third one
    # A shell that starts a job in the background has it ignore the interrupt key; nohup, the end of the terminal.
    return [each for each in found if each is not None and signal.getsignal(each) is not signal.SIG_IGN]


class Stopped(KeyboardInterrupt):
    """Stopped by a signal, whose number is the argument."""


if __name__ == "__main__":
    main()
