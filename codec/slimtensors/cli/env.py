"""`slimtensors env`."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import click

from slimtensors.cli import options

__all__ = ["command"]

PACKAGES = [
    "numpy",
    "numba",
    "llvmlite",
    "zstandard",
    "safetensors",
    "huggingface-hub",
    "blake3",
    "xxhash",
    "ml_dtypes",
    "torch",
]
VARIABLES = [
    "SLIMTENSORS_ISA", "SLIMTENSORS_NUM_THREADS", "SLIMTENSORS_CACHE_DIR", "SLIMTENSORS_BASE_DIR",
    "SLIMTENSORS_DECODE", "SLIMTENSORS_ALLOW_HTTP", "NUMBA_DISABLE_JIT", "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES",
    "NUMBA_BOUNDSCHECK", "HF_HUB_DISABLE_PROGRESS_BARS",
]  # fmt: skip


@click.command("env", short_help="Show versions, instruction set and settings.")
@options.as_json
@options.verbose
def command(as_json: bool, verbose: int) -> None:
    """Show versions, instruction set, threads and cache folder: what a bug report should hold."""
    del verbose  # has done its work when it was parsed
    from slimtensors.cli.output import print_json, table

    found = _collect()
    if as_json:
        print_json(found)
        return
    rows = []
    for key, value in found.items():
        if isinstance(value, dict):
            rows += [[f"{key} {name}", "-" if inner is None else str(inner)] for name, inner in value.items()]
        else:
            rows.append([key, "-" if value is None else str(value)])
    table(["what", "value"], rows, left=2)


def _collect() -> dict[str, Any]:
    set_variables = {name: os.environ[name] for name in VARIABLES if name in os.environ}  # before we set any ourselves
    from slimtensors._version import __version__
    from slimtensors.container.layout import FORMAT_VERSION
    from slimtensors.kernels import instruction_set
    from slimtensors.switches import allows_http, decoder_asked_for
    from slimtensors.threads import thread_count

    decoder_asked_for(), allows_http()  # what they say is among the variables; nonsense is refused here too
    forced, chosen = instruction_set.forced(), instruction_set.chosen()
    from slimtensors.kernels._jit import cache_folder

    folder = cache_folder()
    return {
        "slimtensors": __version__,
        "format_version": FORMAT_VERSION,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "instruction_set": {"chosen": chosen, "asked_for": forced},
        "threads": thread_count(None),
        "cache_folder": None if folder is None else str(folder),
        "packages": {name: _version(name) for name in PACKAGES},
        "cuda": _cuda(),
        "variables": set_variables,
    }


def _processor() -> str:
    try:
        with Path("/proc/cpuinfo").open() as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cuda() -> dict[str, str | None]:
    """As torch sees it, and whether our kernels can be used."""
    from slimtensors.device.choice import why_not
    from slimtensors.switches import DECODE

    if _version("torch") is None:
        return {"version": None, "device": None, "kernels": why_not()}
    try:
        import torch

        device = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    except Exception as error:  # a broken installation raises anything; that is worth showing
        return {"version": None, "device": f"torch cannot be used: {type(error).__name__}: {error}", "kernels": None}
    reason = why_not()
    usable = f"used unless {DECODE}=cpu: all but Zstandard, packs, casts, planes of some rows, low-rank bases"
    return {"version": torch.version.cuda, "device": device, "kernels": usable if reason is None else reason}
