"""One module per section; `run(settings)` gives records, flat dictionaries that report.py and targets.py query."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """Of one run."""

    repeats: int = 7
    mib: int = 128  # of the arrays
    core: int = 0  # that one-thread work is pinned to
