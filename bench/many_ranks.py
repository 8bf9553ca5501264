"""python -m bench.many_ranks [--ranks 512] [--tensors 1000]: what a save costs the coordinator, ranks simulated.

Each rank has a row-sharded part of every tensor, plus ten replicated ones. What the ranks would send is pickled, as
DCP's collectives do, before the clock starts; the coordinator's work is timed in processor time: unpickling the plans,
planning, unpickling the reports, checking, writing and flushing manifest and latest.json. Memory is the peak above what
there was before, without the pickles. Beside it, the same with DCP's DefaultSavePlanner. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import pickle
import re
import tempfile
import time
from array import array
from pathlib import Path
from typing import Any

RUN = "a" * 32
COLUMNS, ROWS = 1024, 2


def _memory(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) >> 10


def local_plan(kind: Any, rank: int, ranks: int, tensors: int) -> Any:
    """What a rank's planner gives, from items put together by hand: no rank has a mesh of its own here."""
    torch = importlib.import_module("torch")
    planner, metadata = (importlib.import_module(f"torch.distributed.checkpoint.{n}") for n in ("planner", "metadata"))
    default = importlib.import_module("torch.distributed.checkpoint.default_planner")
    items, mappings = [], {}
    shape = torch.Size([ROWS * ranks, COLUMNS])
    for i in range(tensors + 10):
        name, whole = f"model.layers.{i // 10}.mlp.{i % 10}.weight", i >= tensors
        offsets = torch.Size([0 if whole else ROWS * rank, 0])
        sizes = shape if whole else torch.Size([ROWS, COLUMNS])
        data = planner.TensorWriteData(
            metadata.ChunkStorageMetadata(offsets, sizes), metadata.TensorProperties(dtype=torch.bfloat16), shape
        )
        kind_of = planner.WriteItemType.TENSOR if whole else planner.WriteItemType.SHARD
        items.append(planner.WriteItem(metadata.MetadataIndex(name, offsets), kind_of, tensor_data=data))
        mappings[name] = ("model", name.removeprefix("model."))
    made = kind()
    plan = planner.SavePlan(items, planner_data=mappings)
    if kind is default.DefaultSavePlanner:
        return made, plan
    parent = default.DefaultSavePlanner.create_local_plan
    default.DefaultSavePlanner.create_local_plan = lambda _: plan
    try:
        return made, made.create_local_plan()
    finally:
        default.DefaultSavePlanner.create_local_plan = parent


def measure(kind: Any, ranks: int, tensors: int) -> dict[str, float]:
    """Seconds and MiB of the coordinator."""
    writer = importlib.import_module("slimtensors.torch.distributed.writer")
    manifest = importlib.import_module("slimtensors.checkpoint.manifest")
    storage = importlib.import_module("torch.distributed.checkpoint.storage")
    index = importlib.import_module("torch.distributed.checkpoint.metadata").MetadataIndex
    planner, own = local_plan(kind, 0, ranks, tensors)
    sent = [pickle.dumps(local_plan(kind, rank, ranks, tensors)[1]) for rank in range(ranks)]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "a"
        place.mkdir()
        reports = []
        for rank in range(ranks):
            name = manifest.file_name(rank, RUN)
            (place / name).write_bytes(b"x")
            names = [f"model.layers.{i // 10}.mlp.{i % 10}.weight" for i in range(tensors + 10 * (rank == 0))]
            numbers = array("q")
            for i in range(len(names)):
                whole = i >= tensors
                numbers.extend((2, 0 if whole else ROWS * rank, 0, ROWS * ranks if whole else ROWS, COLUMNS))
            written = writer._Written(RUN, [], rank, manifest.File(name, 1, "0" * 64), names, numbers, [])
            reports.append(pickle.dumps([storage.WriteResult(index(name), 1, written)]))
        del own
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")
        before, begin = _memory("VmRSS"), time.process_time()
        plans = [pickle.loads(each) for each in sent]  # noqa: S301 # our own
        received = time.process_time()
        _, metadata = planner.create_global_plan(plans)
        planned = time.process_time()
        results = [pickle.loads(each) for each in reports]  # noqa: S301 # our own
        made = writer.StorageWriter(place)
        made.finish(metadata, results)
        done = time.process_time()
        return {
            "receive_plans": received - begin,
            "plan": planned - received,
            "reports_and_commit": done - planned,
            "seconds": done - begin,
            "peak_mib": _memory("VmHWM") - before,
            "manifest_bytes": (place / "manifest.json").stat().st_size,
        }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.many_ranks", description=__doc__)
    parser.add_argument("--ranks", type=int, default=512)
    parser.add_argument("--tensors", type=int, default=1000)
    parser.add_argument("--planner", choices=("slimtensors", "default"), default="slimtensors")
    chosen = parser.parse_args()
    where = {
        "slimtensors": ("slimtensors.torch.distributed", "SavePlanner"),
        "default": ("torch.distributed.checkpoint.default_planner", "DefaultSavePlanner"),
    }[chosen.planner]
    kind = getattr(importlib.import_module(where[0]), where[1])
    found = measure(kind, chosen.ranks, chosen.tensors)
    print(json.dumps({"ranks": chosen.ranks, "tensors": chosen.tensors, "planner": chosen.planner, **found}))


if __name__ == "__main__":
    main()
