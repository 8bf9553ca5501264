"""What `push`, `pull` and `convert` have in common."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from slimtensors.cli.matches import say_matches
from slimtensors.cli.output import say
from slimtensors.cli.progress import wanted

__all__ = ["matches_said", "say_commit", "set_bars"]


def set_bars(quiet: bool, asked: bool | None) -> None:
    """huggingface_hub's progress bars, as for the other commands."""
    from huggingface_hub.utils import disable_progress_bars

    if not wanted(quiet, asked):
        disable_progress_bars()


def matches_said(quiet: bool, verbose: int) -> Callable[[Path, Any], object] | None:
    return None if quiet else lambda source, report: say_matches(source, report, whole=bool(verbose))


def say_commit(done: Any, quiet: bool) -> None:
    """Where the commit, or the pull request, is."""
    if not quiet:
        say(str(done.pr_url or done.commit_url))
