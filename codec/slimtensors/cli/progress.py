"""Progress bars on stderr."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from slimtensors.cli.exits import printable

__all__ = ["HUB_SWITCH", "TQDM_SWITCH", "bar", "wanted"]

HUB_SWITCH = "HF_HUB_DISABLE_PROGRESS_BARS"
TQDM_SWITCH = "TQDM_DISABLE"  # any value but none at all, as tqdm reads it


def wanted(quiet: bool, asked: bool | None) -> bool:
    """Not with -q; else as asked; else as Hugging Face's switch says; else on a terminal."""
    if quiet:
        return False
    if asked is not None:
        return asked
    if os.environ.get(HUB_SWITCH, "").upper() in ("1", "ON", "YES", "TRUE"):
        return False
    return sys.stderr.isatty()


@contextmanager
def bar(
    total: int | None, label: str, *, quiet: bool, asked: bool | None, unit: str = "B", passes: int = 1
) -> Iterator[Callable[[int], object] | None]:
    """What to call with each amount done, from any thread; None if no bar is wanted. total: None where it is not known:
    the amount is shown then, and goes with the work. passes: how many times each amount is worked on; it is shown once.
    """
    if not wanted(quiet, asked):
        yield None
        return
    from tqdm import tqdm  # type: ignore[import-untyped,unused-ignore] # hints are a package of their own

    lock, gone = threading.Lock(), 0
    options: dict[str, Any] = {}  # what is not named here, tqdm's own variables may say
    if asked:
        options["disable"] = False
    narrow = not (getattr(sys.stderr, "encoding", None) or "ascii").lower().startswith("utf")
    if narrow:
        options["ascii"] = True
    with tqdm(
        total=total,
        desc=printable(label),
        unit=unit,
        unit_scale=unit == "B",
        unit_divisor=1000,
        file=sys.stderr,
        leave=total is not None,
        **options,
    ) as shown:

        def advance(done: int) -> None:
            nonlocal gone
            with lock:
                gone += done
                now = gone // passes
                shown.update((now if total is None else min(now, total)) - shown.n)

        yield advance
        advance(passes * (total or 0))  # what is stored once is done once, so the sum may fall short
