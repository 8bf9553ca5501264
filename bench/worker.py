"""A measurement in a process of its own, so that environment, imports and peak memory are its own.

python -m bench.worker '{"job": "speed", ...}' prints one JSON value as its last line.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from typing import Any

from bench.machine import ROOT

OWN = ("speed", "memory", "streaming", "offload", "compressed_layers", "distributed", "remote", "transformers_load")
JOBS = {name: f"bench.sections.{name}" for name in OWN}


def run(job: str, environment: dict[str, str] | None = None, **arguments: Any) -> Any:
    """Starts a worker and gives back what it printed; its errors pass through."""
    text = json.dumps({"job": job, **arguments})
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "bench.worker", text],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=ROOT,
        env=os.environ | (environment or {}),
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    arguments = json.loads(sys.argv[1])
    module = importlib.import_module(JOBS[arguments.pop("job")])
    print(json.dumps(module.work(**arguments)))


if __name__ == "__main__":
    main()
