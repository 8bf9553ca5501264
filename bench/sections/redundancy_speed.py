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
from bench.data.safefile import write
from bench.sections import Settings
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

# (dataset, of which file, the least and the largest rank of its matrices' means): 0 is classes alone
PARTS = [
    ("minilm-bf16, classes alone", "minilm-bf16", 0, 0),
    ("minilm-bf16, means of rank 1 to 16", "minilm-bf16", 1, 16),
]


def _bits(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1).view(np.uint8)


def _packed(file: SafeFile, base: Path | None, preset: str) -> tuple[bytes, dict[str, int]]:
    """The file as ours, and the ranks of its matrices' means."""
    with tempfile.TemporaryDirectory() as folder:
        packed = Path(folder) / "packed.slimtensors"
        ours.compress(file.path, packed, preset, 2, base=base)
        return packed.read_bytes(), ours.means(packed)


def _ours(file: SafeFile, base_name: str | None, preset: str) -> Callable[[], dict[str, np.ndarray]]:
    base_path = None if base_name is None else path_of(base_name)
    data, _ranks = _packed(file, base_path, preset)
    base = None if base_path is None else {spec.name: array for spec, array in SafeFile(base_path)}

    def decode() -> dict[str, np.ndarray]:
        return ours.load(data, 1, "none", base)

    found = decode()
    for spec, array in file:
        peers.check_same(f"slimtensors {preset}", _bits(found[spec.name]), _bits(array))
    return decode


def _zipnn(file: SafeFile) -> Callable[[], list[object]]:
    blobs = []
    for spec, array in file:
        if spec.dtype in peers.FLOATS and array.size:
            blob = peers.ZIPNN.encode(peers.ZIPNN.prepare(array, spec.dtype), spec.dtype, 1)
            peers.check_same("zipnn", peers.ZIPNN.decode(blob, spec.dtype, 1), array)
            blobs.append((blob, spec.dtype))
    return lambda: [peers.ZIPNN.decode(blob, dtype, 1) for blob, dtype in blobs]


def _part(whole: SafeFile, least: int, most: int, target: Path) -> SafeFile:
    """The matrices that preset small gives classes and means of such ranks, in a file of their own."""
    _data, ranks = _packed(whole, None, "small")
    chosen = {name: rank for name, rank in ranks.items() if least <= rank <= most}
    specs = [spec for spec in whole.specs if spec.name in chosen]
    write(target, specs, (array for spec, array in whole if spec.name in chosen))
    part = SafeFile(target)
    if _packed(part, None, "small")[1] != chosen:
        raise RuntimeError("matrices by themselves are not stored as they are in the whole file")
    return part


def _measure(file: SafeFile, dataset: str, base: str | None, preset: str, settings: Settings) -> list[Record]:
    mine = f"slimtensors {preset}{', base' * (base is not None)}"
    missing = ours.missing() or ours.lacks_preset(preset) or peers.missing("zipnn")
    if missing:
        return [{"dataset": dataset, "codec": mine, "missing": missing}]
    with timing.pinned(settings.core):
        calls = {mine: _ours(file, base, preset), "zipnn": _zipnn(file)}
        timed = [
            timing.Case({"codec": codec}, lambda _, call=call: call(), nbytes=file.nbytes)
            for codec, call in calls.items()
        ]
        found = timing.interleave(timed, settings.repeats, wall=False)
    # The other's time over ours: with the smallest of each, since whoever else is busy only adds.
    fastest = {record["codec"]: min(record["samples"]) for record in found}
    common: Record = {"dataset": dataset, "base": base, "beside": mine, "clock": "process CPU"}
    return [common | record | {"of_zipnn": fastest["zipnn"] / fastest[record["codec"]]} for record in found]


def parts(settings: Settings) -> list[Record]:
    """What classes and means of low rank cost, each by itself."""
    records: list[Record] = []
    for dataset, name, least, most in PARTS:
        whole = CACHE / f"{name}.safetensors"
        if whole.exists() and not ours.missing():
            with tempfile.TemporaryDirectory() as folder:
                part = _part(SafeFile(whole), least, most, Path(folder) / "part.safetensors")
                records += _measure(part, dataset, None, "small", settings)
    return records


def run(settings: Settings) -> list[Record]:
    records: list[Record] = []
    for name, base, preset in FILES:
        if (CACHE / f"{name}.safetensors").exists():
            records += _measure(SafeFile(CACHE / f"{name}.safetensors"), name, base, preset, settings)
    return records + parts(settings)
