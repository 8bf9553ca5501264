"""Section 3: two threads against one, wall time, not pinned, both in the same process and interleaved."""

from __future__ import annotations

from bench import worker
from bench.sections import Settings
from bench.timing import Record


def run(settings: Settings) -> list[Record]:
    records: list[Record] = []
    for dataset in ("minilm-bf16", "gauss-bf16"):
        records += worker.run(
            "speed",
            dataset=dataset,
            threads=[1, 2],
            wall=True,
            repeats=settings.repeats,
            mib=settings.mib,
            core=None,
            only=["zipnn"],
        )
    return records
