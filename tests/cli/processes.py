"""The command in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

__all__ = ["contents", "run", "start"]


def environment(**variables: str) -> dict[str, str]:
    """This process's variables without those that the command looks at."""
    kept = {n: v for n, v in os.environ.items() if n != "HF_HUB_DISABLE_PROGRESS_BARS" and not n.startswith("TQDM_")}
    return kept | variables


def command(*args: object) -> list[str | bytes]:
    given = [each if isinstance(each, bytes) else str(each) for each in args]
    return [sys.executable, "-m", "slimtensors.cli.main", *given]


def start(*args: object, **variables: str) -> subprocess.Popen[bytes]:
    """The command in a process of its own, in which interrupts and hang-ups count whatever this one does with them."""

    def listen() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup has ignored

    return subprocess.Popen(
        command(*args),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(**variables),
        preexec_fn=listen,
    )


def run(*args: object, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """The command in a process of its own, to its end."""
    return subprocess.run(command(*args), capture_output=True, env=environment(**variables), check=False, timeout=300)


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file below a folder; None for folders."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}
