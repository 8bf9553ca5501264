"""Section 6: what a user waits for before the first tensor.

import: time inside a fresh interpreter around `import slimtensors`. Everything else: wall time of whole processes,
interpreter included; an interpreter that does nothing is given beside them. A cold kernel cache is an empty directory.
Bytecode is there, as after an installation by pip, whatever the environment says about writing it: without it, Numba's
sources alone take 0.2 s.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import ours
from bench.data import path_of
from bench.data.files import CACHE
from bench.machine import ROOT
from bench.sections import Settings
from bench.timing import Record

IMPORT = "import time; b = time.perf_counter(); import {}; print(time.perf_counter() - b)"
INSPECT = "import sys, slimtensors; slimtensors.inspect(sys.argv[1])"
LOAD = "import sys, slimtensors.numpy as n; n.load_file(sys.argv[1], verify='full')"
PROCESSES = 8
BYTECODE = CACHE / "bytecode"


def _start(code: str, *arguments: str, cache: str | None = None) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(BYTECODE)
    if cache:
        environment["SLIMTENSORS_CACHE_DIR"] = cache
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


def _wall(count: int, code: str, *arguments: str, cache: str | None = None) -> float:
    """Seconds until `count` such processes, started together, have all ended."""
    begin = time.perf_counter()
    running = [_start(code, *arguments, cache=cache) for _ in range(count)]
    failed = [process.args for process in running if process.wait()]
    if failed:
        raise RuntimeError(f"{len(failed)} of {count} processes failed: {failed[0]}")
    return time.perf_counter() - begin


def _import(package: str) -> float:
    return float(_start(IMPORT.format(package)).communicate()[0])


def _record(what: str, samples: list[float], **more: object) -> Record:
    return {
        "codec": "slimtensors",
        "operation": what,
        "seconds": statistics.median(samples),
        "samples": [round(s, 4) for s in samples],
        "clock": "wall",
    } | more


def _cold(count: int, path: str) -> float:
    with tempfile.TemporaryDirectory() as empty:
        return _wall(count, LOAD, path, cache=empty)


def run(settings: Settings) -> list[Record]:
    turns = range(settings.repeats)
    records = [
        _record("interpreter alone", [_wall(1, "pass") for _ in turns]) | {"codec": "python"},
        _record("import", [_import("numpy") for _ in turns]) | {"codec": "numpy"},
        _record("import", [_import("safetensors.numpy") for _ in turns]) | {"codec": "safetensors"},
    ]
    reason = ours.missing()
    if reason:
        return [*records, {"codec": "slimtensors", "missing": reason}]
    dataset = "minilm-bf16"
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        packed = Path(folder) / "model.slimtensors"
        ours.compress(path_of(dataset), packed, "balanced", 2)
        path = str(packed)
        _wall(1, LOAD, path)  # fills the user's own kernel cache
        return [
            *records,
            _record("import", [_import("slimtensors") for _ in turns]),
            _record("inspect, warm kernel cache", [_wall(1, INSPECT, path) for _ in turns], dataset=dataset),
            _record("first load, warm kernel cache", [_wall(1, LOAD, path) for _ in turns], dataset=dataset),
            _record("first load, cold kernel cache", [_cold(1, path) for _ in range(3)], dataset=dataset),
            _record("8 first loads, cold kernel cache", [_cold(PROCESSES, path) for _ in range(3)], dataset=dataset),
        ]
