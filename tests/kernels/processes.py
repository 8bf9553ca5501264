"""Programs of this folder in processes of their own: Numba is told its target when it is imported, and some may die."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

TIMEOUT = 900  # seconds; the slowest compiles all kernels, 100 s alone


def run(module: str, environment: dict[str, str], *arguments: str) -> dict:
    """What the program printed as JSON; it must end well. Warnings are errors there too."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("NUMBA_", "SLIMTENSORS_ISA"))}
    path = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", module, *arguments],
        env={**inherited, "PYTHONPATH": path, **environment},
        stdout=subprocess.PIPE,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, (module, environment, done.returncode)
    return json.loads(done.stdout)


def run_all(module: str, environments: dict[str, dict[str, str]], *arguments: str) -> dict[str, dict]:
    """The same program in several environments, two at a time."""
    with ThreadPoolExecutor(2) as pool:
        results = pool.map(lambda environment: run(module, environment, *arguments), environments.values())
        return dict(zip(environments, results, strict=True))
