"""Section 7: peak memory of compressing and decompressing a 2 GiB file, above an interpreter with the same imports.

Peak is VmHWM of the worker, which belongs to its own address space; ru_maxrss would start from the parent's peak.
Pages of mapped files count.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import resource
import sys
import tempfile
from pathlib import Path

from bench import ours, worker
from bench.data import path_of
from bench.data.files import CACHE
from bench.sections import Settings
from bench.timing import Record

DATASET = "big-2g"


def peak_bytes() -> int:
    """The most memory this process has held."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        found = None
    return 1024 * (int(found[1]) if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def work(
    operation: str, source: str = "", target: str = "", threads: int = 1, modules: list[str] | None = None
) -> Record:
    """Runs in a worker; the operation "imports" does nothing but import what another worker had imported."""
    if operation == "compress":
        ours.compress(Path(source), Path(target), "balanced", threads)
    elif operation == "decompress":
        ours.decompress(Path(source), Path(target), threads)
    for name in modules or []:
        with contextlib.suppress(Exception):  # some exist only once something has run
            importlib.import_module(name)
    return {"peak": peak_bytes(), "modules": sorted(sys.modules)}


def run(_settings: Settings) -> list[Record]:
    reason = ours.missing()
    if reason:
        return [{"codec": "slimtensors", "missing": reason}]
    source = path_of(DATASET)
    records: list[Record] = []
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        packed, back = Path(folder) / "packed.slimtensors", Path(folder) / "back.safetensors"
        for threads in (1, 2):
            for operation, left, right in (("compress", source, packed), ("decompress", packed, back)):
                right.unlink(missing_ok=True)
                seen = worker.run("memory", operation=operation, source=str(left), target=str(right), threads=threads)
                bare = worker.run("memory", operation="imports", modules=seen["modules"])
                records.append(
                    {
                        "codec": "slimtensors balanced",
                        "dataset": DATASET,
                        "operation": operation,
                        "threads": threads,
                        "peak_mib": (seen["peak"] - bare["peak"]) / (1 << 20),
                        "imports_mib": bare["peak"] / (1 << 20),
                    }
                )
    return records
