"""Clients in processes of their own, not modified: they read where the Hub is when huggingface_hub is imported."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from .server import HubServer
from .store import ALICE

__all__ = ["Client", "Outcome"]

# Evaluates line after line and tells what came of it, on a stream that nothing else writes to.
TALK = """if True:
    import json, os, sys
    answers, names = os.fdopen(os.dup(1), "w"), {}
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            code = json.loads(line)
            try:
                came = ["", repr(eval(code, names))]
            except SyntaxError:
                came = ["", repr(exec(code, names))]
        except Exception as error:
            came = [type(error).__name__, str(error)]
        print(json.dumps(came), file=answers, flush=True)
"""


class Outcome(NamedTuple):
    """Of a line: the error's class, or nothing; its words, or what the line came to."""

    error: str
    words: str


class Talk:
    """A process of a client that evaluates one line after another, so that a test can change the Hub in between."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def kill(self) -> None:
        self._process.kill()

    def __call__(self, code: str) -> Outcome:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(code) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        return Outcome(*json.loads(answer)) if answer else Outcome("Killed", "")


class Client:
    """Someone's machine: a home folder, in which the cache lies, and a token."""

    def __init__(self, hub: HubServer, home: Path) -> None:
        self.hub, self.home = hub, home

    def run(
        self,
        *command: object,
        check: bool = True,
        token: str | None = ALICE,
        cwd: Path | None = None,
        **variables: str,
    ) -> subprocess.CompletedProcess[str]:
        """A command of this environment to its end, in a folder. `check`: it must succeed."""
        program, *args = map(str, command)
        done = subprocess.run(
            [str(Path(sys.executable).with_name(program)), *args],
            capture_output=True,
            text=True,
            env=self.hub.environment(self.home, token, **variables),
            cwd=cwd,
            check=False,
            timeout=240,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def python(self, script: str, **options: object) -> str:
        """What a script prints."""
        return self.run("python", "-c", script, **options).stdout.strip()  # type: ignore[arg-type]

    @contextmanager
    def talk(self, log: Path, token: str | None = ALICE, **variables: str) -> Iterator[Talk]:
        """A process for a conversation. log: where its output goes."""
        environment = self.hub.environment(self.home, token, **variables)
        with (
            log.open("w") as errors,
            subprocess.Popen(
                [sys.executable, "-c", TALK],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
            ) as process,
        ):
            try:
                yield Talk(process)
            finally:
                process.kill()
