"""The signal that asked this process to end, for whoever goes on all the same.

What a signal's handler raises is lost where C code called Python (a compiler's cache, the start of an extension module,
`__del__`): the command would go on, and end as if nobody had asked. Only commands handle signals, so in a library's
process nothing is ever asked for here.
"""

from __future__ import annotations

__all__ = ["ask", "asked", "end_if_asked"]

_asked: BaseException | None = None


def ask(error: BaseException) -> None:
    """Remember what the handler raises."""
    global _asked
    _asked = error


def asked() -> BaseException | None:
    """What a handler has raised, if any has."""
    return _asked


def end_if_asked() -> None:
    """Raise it again. Called where files are written and take their names, and where a command ends."""
    if _asked is not None:
        raise _asked
