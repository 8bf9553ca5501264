"""Section 10: decoding files that hold redundancy, one thread, pinned, process CPU time, output fresh.

Ours: the whole file from memory, all its tensors, no digests but those of the base's ranges, which are always checked;
the base is a mapping of arrays. ZipNN: all tensors of the same file, one blob each, plainly (no base), since that is
what the figures asked name. Only files already in bench/data/cache are measured.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench import ours, peers, timing
from bench.data import SafeFile, path_of
from bench.data.files import CACHE
from bench.sections import Settings
from bench.sections.redundancy import Case
from bench.timing import Record

# (file, its base, preset)
FILES = [
    ("minilm-bf16", None, "balanced"),
    ("minilm-bf16", None, "small"),
    ("finetuned-2e-5x160-bf16", "minilm-bf16", "balanced"),
    ("finetuned-1e-4x160-bf16", "minilm-bf16", "balanced"),
    ("language-ft-2e-5-bf16", "language-600-bf16", "balanced"),
    ("merged-r8-1-bf16", "minilm-bf16", "balanced"),
    ("merged-r16-1-bf16", "minilm-bf16", "balanced"),
    ("changed-bf16", "minilm-bf16", "balanced"),
    ("minilm-pruned-each-50", None, "balanced"),
    ("minilm-pruned-each-90", None, "balanced"),
    ("minilm-pruned-2of4", None, "balanced"),
    ("dequantised-int8", None, "balanced"),
    ("dequantised-int4", None, "balanced"),
    ("dequantised-nf4", None, "balanced"),
    ("dequantised-ternary", None, "balanced"),
]


def _bits(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1).view(np.uint8)


def _ours(case: Case, preset: str) -> Callable[[], dict[str, np.ndarray]]:
    base_path = None if case.base is None else path_of(case.base)
    with tempfile.TemporaryDirectory() as folder:
        packed = Path(folder) / "packed.slimtensors"
        ours.compress(case.file.path, packed, preset, 2, base=base_path)
        data = packed.read_bytes()
    base = None if base_path is None else {spec.name: array for spec, array in SafeFile(base_path)}

    def decode() -> dict[str, np.ndarray]:
        return ours.load(data, 1, "none", base)

    found = decode()
    for spec, array in case.file:
        peers.check_same(f"slimtensors {preset}", _bits(found[spec.name]), _bits(array))
    return decode


def _zipnn(case: Case) -> Callable[[], list[object]]:
    blobs = []
    for spec, array in case.file:
        if spec.dtype in peers.FLOATS and array.size:
            blob = peers.ZIPNN.encode(peers.ZIPNN.prepare(array, spec.dtype), spec.dtype, 1)
            peers.check_same("zipnn", peers.ZIPNN.decode(blob, spec.dtype, 1), array)
            blobs.append((blob, spec.dtype))
    return lambda: [peers.ZIPNN.decode(blob, dtype, 1) for blob, dtype in blobs]


def run(settings: Settings) -> list[Record]:
    records: list[Record] = []
    for name, base, preset in FILES:
        case, mine = Case(name, base), f"slimtensors {preset}{', base' * (base is not None)}"
        if not (CACHE / f"{name}.safetensors").exists():
            continue
        missing = ours.missing() or ours.lacks_preset(preset) or peers.missing("zipnn")
        if missing:
            records.append({"dataset": name, "codec": mine, "missing": missing})
            continue
        with timing.pinned(settings.core):
            calls = {mine: _ours(case, preset), "zipnn": _zipnn(case)}
            timed = [
                timing.Case({"codec": codec}, lambda _, call=call: call(), nbytes=case.file.nbytes)
                for codec, call in calls.items()
            ]
            found = timing.interleave(timed, settings.repeats, wall=False)
        # The other's time over ours: with the smallest of each, since whoever else is busy only adds.
        fastest = {record["codec"]: min(record["samples"]) for record in found}
        common: Record = {"dataset": name, "base": base, "beside": mine, "clock": "process CPU"}
        records += [common | record | {"of_zipnn": fastest["zipnn"] / fastest[record["codec"]]} for record in found]
    return records
