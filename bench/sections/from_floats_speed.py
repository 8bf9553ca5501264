"""Section: decoding what our own quantiser made of BF16 weights, beside ZipNN's decode of the weights themselves; one
thread, pinned, process CPU time, files in memory, output fresh.

Datasets: one matrix of Gaussian rows; and MiniLM's encoder matrices, of which most have 147456 weights, so that what a
tensor costs whatever its size shows.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from bench import ours, peers, timing
from bench.data import array_of
from bench.data.quantised import matrices
from bench.sections import Settings
from bench.sections.from_floats import OURS
from bench.timing import Record

COLUMNS = 4096


def _datasets(mib: int) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    yield "gauss-bf16", {"w": array_of("gauss-bf16", mib).reshape(-1, COLUMNS)}
    yield "minilm-bf16 matrices", {name: array.astype(ml_dtypes.bfloat16) for name, array in matrices()}


def run(settings: Settings) -> list[Record]:
    missing = ours.missing() or peers.missing("zipnn")
    if missing:
        return [{"codec": "slimtensors", "missing": missing}]
    records: list[Record] = []
    for dataset, tensors in _datasets(min(settings.mib, 64)):
        with tempfile.TemporaryDirectory() as folder, timing.pinned(settings.core):
            source, packed = Path(folder) / "source.safetensors", Path(folder) / "packed"
            save_file(tensors, source)
            calls = {}
            for recipe in OURS:
                ours.compress(source, packed, "balanced", 1, quantise=recipe)
                data = packed.read_bytes()
                calls[recipe] = lambda data=data: ours.load(data, 1, "none")
            blobs = [peers.ZIPNN.encode(peers.ZIPNN.prepare(each, "BF16"), "BF16", 1) for each in tensors.values()]
            calls["zipnn"] = lambda blobs=blobs: [peers.ZIPNN.decode(blob, "BF16", 1) for blob in blobs]
            size = sum(each.nbytes for each in tensors.values())
            timed = [
                timing.Case({"codec": codec}, lambda _, call=call: call(), nbytes=size)  # type: ignore[misc] # mypy cannot infer a default's type here
                for codec, call in calls.items()
            ]
            found = timing.interleave(timed, settings.repeats, wall=False)
        # The other's time over ours: with the smallest of each, since whoever else is busy only adds.
        fastest = {record["codec"]: min(record["samples"]) for record in found}
        common: Record = {"dataset": dataset, "clock": "process CPU"}
        records += [common | record | {"of_zipnn": fastest["zipnn"] / fastest[record["codec"]]} for record in found]
    return records
