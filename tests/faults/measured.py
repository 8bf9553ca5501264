"""Open hostile files in a process that may not have much memory; print what came of each, as JSON.

Run with a limit in MiB, above what the process has when everything is imported; a folder of files; and what to do with
each, "load" or "verify".
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import slimtensors
from slimtensors.numpy import load_file, save_file

STATUS = Path("/proc/self/status")


def status(field: str) -> int:
    """A field of this process's status, in MiB; 0 where there is no such file."""
    if not STATUS.exists():
        return 0
    return int(next(line for line in STATUS.read_text().splitlines() if line.startswith(field)).split()[1]) >> 10


def reset_peak() -> None:
    gc.collect()
    if STATUS.exists():
        Path("/proc/self/clear_refs").write_text("5")


def limit_memory(mebibytes: int) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, ((status("VmSize") + mebibytes) << 20, resource.RLIM_INFINITY))


def measure(work: Callable[[], object]) -> dict[str, Any]:
    """How it ended, the seconds of processor time it took, and the MiB it had at most, above what there was."""
    reset_peak()
    before, start = status("VmRSS"), time.process_time()
    try:
        work()
        ended = "ok"
    except Exception as error:
        kinds = [kind.__name__ for kind in type(error).__mro__]
        ended = "FormatError" if "FormatError" in kinds else repr(error)[:300]
        if "LimitError" in kinds:
            ended = "LimitError"
    return {"ended": ended, "seconds": time.process_time() - start, "mebibytes": status("VmHWM") - before}


def warm_up(folder: Path) -> None:
    """Imports, kernels, threads."""
    path = folder / "warm"
    save_file({"a": np.random.default_rng(1).normal(size=100_000), "b": np.arange(10)}, path)
    load_file(path)
    slimtensors.verify(path)
    path.unlink()


WAYS = {"load": load_file, "verify": slimtensors.verify}


def main(mebibytes: int, folder: Path, ways: list[str]) -> list[dict[str, Any]]:
    files = sorted(folder.iterdir())
    warm_up(folder)
    limit_memory(mebibytes)
    made = []
    for path in files:
        made += [{"file": path.name, "how": way, **measure(partial(WAYS[way], path))} for way in ways]
    return made


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])))
