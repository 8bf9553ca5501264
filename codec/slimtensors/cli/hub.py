"""What `push`, `pull` and `convert` have in common."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from slimtensors.cli.matches import say_matches
from slimtensors.cli.output import say
from slimtensors.cli.progress import HUB_SWITCH, TQDM_SWITCH, wanted

__all__ = ["matches_said", "say_commit", "set_bars"]


def set_bars(quiet: bool, asked: bool | None) -> None:
    """huggingface_hub's progress bars, as for the other commands. To be called before it is imported: it and tqdm read
    their switches then, and let nobody overrule them later.
    """
    os.environ[HUB_SWITCH] = "0" if wanted(quiet, asked) else "1"
    if asked:
        os.environ.pop(TQDM_SWITCH, None)


def matches_said(quiet: bool, verbose: int) -> Callable[[Path, Any], object] | None:
    return None if quiet else lambda source, report: say_matches(source, report, whole=bool(verbose))


def say_commit(done: Any, quiet: bool) -> None:
    """Where the commit, or the pull request, is."""
    if not quiet:
        say(str(done.pr_url or done.commit_url))
