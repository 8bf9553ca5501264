"""python -m distributed.campaign FOLDER COUNT [SEED], with tests/ and codec/ on PYTHONPATH: ranks killed at random.

Each time four ranks save beside a good checkpoint, or over it, and one to three of them are killed before, after or
within a call to the system drawn at random. Counted: how ranks ended, what loads afterwards (the old state or the new,
bit for bit), and whether a rank that was told that the save succeeded can rely on it. Prints the counts as JSON.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from distributed import crew
from faults import calls

FAULTS = {"before": calls.kill_before, "after": calls.kill_after}


def main(folder: Path, count: int, seed: int) -> dict[str, Any]:
    warnings.simplefilter("ignore")  # of torch, about its own functions
    draw = random.Random(seed)
    os.environ["CREW_FOLDER"] = str(folder)
    torch.set_num_threads(1)
    crew.save({"x": torch.randn(300, 300), "y": torch.randn(300, 300).bfloat16()})  # the kernels
    good = folder / "good"
    for _ in range(2):  # the first time more is imported
        made = [each.value for each in crew.run(lambda _: crew._count(crew.saver(good, 1)), 4)]
    found: Counter[str] = Counter()
    for number in range(count):
        name, fault = draw.choice(list(FAULTS.items()))
        ranks = draw.sample(range(4), draw.choice((1, 1, 1, 2, 3)))
        faults = {rank: (fault, draw.randint(1, made[rank] + 5)) for rank in ranks}
        over = draw.random() < 0.5
        root = folder / f"kill-{number}"
        seen = crew.one_kill(good, root, faults, over=over)
        told = "done" in seen["ended"]
        found["kills"] += seen["ended"].count("killed")
        found["saves"] += 1
        found["saves over the good one"] += over
        found["ranks that raised"] += seen["ended"].count("raised")
        found["ranks stuck"] += seen["ended"].count("stuck")
        found[{1: "old state loads", 2: "new state loads"}.get(seen["loads"], "nothing sound loads")] += 1
        found["told that it was saved, and it is not"] += told and seen["loads"] != 2
        found["longest, seconds"] = max(found["longest, seconds"], int(seen["seconds"]))
        print(name, faults, over, seen, file=sys.stderr, flush=True)
        shutil.rmtree(root)
    return dict(found)


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), int((sys.argv[3:] or ["1"])[0])), indent=1))
