"""Python in a process of its own, for what cannot be done to the process that runs the tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import slimtensors

PACKAGES = Path(slimtensors.__file__).parents[1]
TESTS = Path(__file__).parents[1]


def environment(**more: str) -> dict[str, str]:
    """Ours, with the library and these helpers to be found."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (PACKAGES, TESTS))), **more}


def start(script: str, *arguments: object, before: Sequence[str] = (), **more: str) -> subprocess.Popen[str]:
    """Run a script's text, by way of the command `before`. Warnings are errors there too."""
    command = [*before, sys.executable, "-W", "error", "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, env=environment(**more), stdout=subprocess.PIPE, text=True)


def result(process: subprocess.Popen[str], timeout: float = 120) -> Any:
    """What the process printed last, as JSON, once it has ended well."""
    with process:
        try:
            output, _ = process.communicate(timeout=timeout)
        finally:
            process.kill()
    assert process.returncode == 0, f"ended with {process.returncode} after printing {output[-2000:]!r}"
    return json.loads(output.splitlines()[-1])


def run(script: str, *arguments: object, before: Sequence[str] = (), timeout: float = 120, **more: str) -> Any:
    """Start and wait."""
    return result(start(script, *arguments, before=before, **more), timeout)
