"""Section 4: decoding with the code paths for smaller instruction sets, ZipNN beside it in the same process.

The instruction set is a property of a process (SLIMTENSORS_ISA), so each leg is a worker. The CPU stays the same: these
figures say what the other code paths cost here, not what another CPU does.
"""

from __future__ import annotations

import subprocess

from bench import worker
from bench.sections import Settings
from bench.timing import Record

LEGS = ("avx512", "avx2", "portable")


def _leg(leg: str, settings: Settings) -> list[Record]:
    try:
        found: list[Record] = worker.run(
            "speed",
            {"SLIMTENSORS_ISA": leg},
            dataset="minilm-bf16",
            threads=[1],
            wall=False,
            repeats=settings.repeats,
            mib=settings.mib,
            core=settings.core,
            only=["zipnn"],
            encode=False,
        )
    except subprocess.CalledProcessError:  # the processor lacks it; the worker has said so on stderr
        return [{"codec": "slimtensors", "missing": f"no {leg} on this processor"}]
    return found


def run(settings: Settings) -> list[Record]:
    return [record | {"leg": leg} for leg in LEGS for record in _leg(leg, settings)]
