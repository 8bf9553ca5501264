"""Section 10: a model whose weights stay compressed in memory, decoded at each use, beside one that is resident.

The model of section `offload` in plain torch. Times are of a forward pass, in turn in one process; memory is a process
of its own, above what imports, kernels and an empty model take: "of_file" is what is held beyond the largest weight,
over the size of the file.
"""

from __future__ import annotations

import gc
import importlib
import tempfile
from pathlib import Path
from typing import Any

from bench import ours, timing, worker
from bench.data.files import CACHE
from bench.sections import Settings
from bench.sections.memory import peak_bytes
from bench.sections.offload import THREADS, WORDS, WORKLOADS, plain_model
from bench.timing import Case, Record

VERIFY = {"compressed, verify full": "full", "compressed, verify none": "none"}


def _tokens(workload: str) -> Any:
    torch = importlib.import_module("torch")
    sequences, tokens = WORKLOADS[workload]
    return torch.arange(sequences * tokens).reshape(sequences, tokens) % WORDS


def _times(path: str, repeats: int) -> list[Record]:
    torch = importlib.import_module("torch")
    offload, torch_api = (importlib.import_module(f"slimtensors.{name}") for name in ("offload", "torch"))
    legs = {leg: plain_model().to(torch.bfloat16).eval() for leg in ("resident", *VERIFY)}
    torch_api.load_model(legs["resident"], path)
    for leg, verify in VERIFY.items():
        offload.keep_compressed(legs[leg], path, verify=verify, threads=THREADS)
    gc.collect()
    records: list[Record] = []
    for workload in WORKLOADS:
        given = _tokens(workload)
        cases = [Case({"operation": leg}, lambda _, each=each, given=given: each(given)) for leg, each in legs.items()]
        found = timing.interleave(cases, repeats, wall=True)
        for record, each in zip(found, legs.values(), strict=True):
            assert torch.equal(each(given), legs["resident"](given))
            records.append({"workload": workload, "of_resident": record["seconds"] / found[0]["seconds"]} | record)
    return records


def _peak(path: str, workload: str) -> Record:
    torch = importlib.import_module("torch")
    offload, torch_api = (importlib.import_module(f"slimtensors.{name}") for name in ("offload", "torch"))
    with torch.device("meta"):
        model = plain_model().to(torch.bfloat16).eval()
    torch_api.load(torch_api.save({"x": torch.randn(1000, 1000).bfloat16()}))  # the kernels
    torch.nn.functional.linear(*(torch.ones(1000, 1000, dtype=torch.bfloat16) for _ in range(2)))
    before = peak_bytes()
    for module in model.modules():
        if isinstance(module, torch.nn.RMSNorm):
            module.to_empty(device="cpu")
    held = offload.keep_compressed(model, path, threads=THREADS)
    for _ in range(2):
        model(_tokens(workload))
    return {"above": peak_bytes() - before, "largest": held.nbytes}


def work(what: str, path: str, **arguments: Any) -> Any:
    """Runs in a worker."""
    torch = importlib.import_module("torch")
    torch.set_num_threads(THREADS)
    with torch.no_grad():
        return _times(path, **arguments) if what == "times" else _peak(path, **arguments)


def run(settings: Settings) -> list[Record]:
    reason = ours.missing()
    if reason:
        return [{"codec": "slimtensors", "missing": reason}]
    torch = importlib.import_module("torch")
    common: Record = {"codec": "slimtensors balanced", "threads": THREADS, "clock": "wall", "model": "plain torch"}
    records: list[Record] = []
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        path = Path(folder) / "model.slimtensors"
        torch.manual_seed(2)
        importlib.import_module("slimtensors.torch").save_model(plain_model().to(torch.bfloat16), path)
        size = path.stat().st_size
        found = worker.run("compressed_layers", what="times", path=str(path), repeats=settings.repeats)
        records += [common | record for record in found]
        for workload in WORKLOADS:
            seen = worker.run("compressed_layers", what="peak", path=str(path), workload=workload)
            mib = {f"{name}_mib": nbytes / (1 << 20) for name, nbytes in (seen | {"file": size}).items()}
            of_file = {"of_file": (seen["above"] - seen["largest"]) / size}
            records.append(common | {"operation": "peak", "workload": workload} | mib | of_file)
    return records
