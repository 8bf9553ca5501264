"""Clients in processes of their own, not modified: they read where the Hub is when huggingface_hub is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from .server import HubServer
from .store import ALICE

__all__ = ["Client"]


class Client:
    """Someone's machine: a home folder, in which the cache lies, and a token."""

    def __init__(self, hub: HubServer, home: Path) -> None:
        self.hub, self.home = hub, home

    def run(
        self, *command: object, check: bool = True, token: str | None = ALICE, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """A command of this environment to its end. `check`: it must succeed."""
        program, *args = map(str, command)
        done = subprocess.run(
            [str(Path(sys.executable).with_name(program)), *args],
            capture_output=True,
            text=True,
            env=self.hub.environment(self.home, token, **variables),
            check=False,
            timeout=240,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def python(self, script: str, **options: object) -> str:
        """What a script prints."""
        return self.run("python", "-c", script, **options).stdout.strip()  # type: ignore[arg-type]
