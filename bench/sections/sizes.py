"""Section 1: the size of whole files.

A peer that codes files: its file. A compressor of bytes (zstd): the file as one run of bytes. A peer that codes arrays:
the safetensors header, and for every tensor the smaller of its bytes and the tensor's own (see peers.packed_tensors).
Ours: our file. Everything is decoded and compared bit for bit.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from bench import ours, peers
from bench.data import SafeFile, path_of
from bench.sections import Settings
from bench.timing import Record

DATASETS = ("minilm-bf16", "minilm-f16", "minilm-f32", "minilm-e4m3")


def _array_peer(peer: peers.ArrayPeer, file: SafeFile) -> int:
    if peer.name not in peers.WHOLE_FILE:
        return peers.packed_tensors(peer, file)
    data = np.fromfile(file.path, np.uint8)
    blob = peer.encode(data, "U8", 1)
    peers.check_same(peer.name, peer.decode(blob, "U8", 1), data)
    return len(blob)


def same_tensors(left: Path, right: Path) -> bool:
    """Whether two safetensors files hold the same tensors."""
    one, two = SafeFile(left), SafeFile(right)
    specs = {spec.name: spec for spec in two.specs}
    return len(one.specs) == len(two.specs) and all(
        spec == specs.get(spec.name) and np.array_equal(array.view(np.uint8), two.array(spec).view(np.uint8))
        for spec, array in one
    )


def _file_peer(peer: peers.FilePeer, file: SafeFile, folder: Path) -> int:
    packed, back = folder / "packed", folder / "back.safetensors"
    peer.pack(file.path, packed, 1)
    peer.unpack(packed, back, 1)
    same = back.read_bytes() == file.path.read_bytes() if peer.exact_file else same_tensors(file.path, back)
    if not same:
        raise RuntimeError(f"{peer.name} did not give the file back")
    return packed.stat().st_size


def _ours(preset: str, file: SafeFile, folder: Path) -> int:
    packed, back = folder / "packed.slimtensors", folder / "back.safetensors"
    ours.compress(file.path, packed, preset, 2)
    ours.decompress(packed, back, 2)
    if back.read_bytes() != file.path.read_bytes():
        raise RuntimeError(f"slimtensors {preset} did not give the file back")
    return packed.stat().st_size


def _record(dataset: str, file: SafeFile, codec: str, rule: str, size: int) -> Record:
    return {
        "dataset": dataset,
        "codec": codec,
        "rule": rule,
        "original": file.nbytes,
        "bytes": size,
        "percent": 100 * size / file.nbytes,
        "bits_per_weight": 8 * size / file.weights,
    }


def _measure(file: SafeFile, folder: Path) -> Iterator[tuple[str, str, str | None, Callable[[], int]]]:
    """Codec, rule, why it is missing, and what measures it."""
    for preset in (*ours.PRESETS, "small"):
        yield f"slimtensors {preset}", "file", ours.missing(), partial(_ours, preset, file, folder)
    for peer in peers.ARRAY_PEERS:
        rule = "file as bytes" if peer.name in peers.WHOLE_FILE else "tensors + header"
        yield peer.name, rule, peers.missing(peer.package), partial(_array_peer, peer, file)
    for file_peer in peers.FILE_PEERS:
        yield file_peer.name, "file", peers.missing(file_peer.package), partial(_file_peer, file_peer, file, folder)


def run(_settings: Settings) -> list[Record]:
    records: list[Record] = []
    for dataset in DATASETS:
        file = SafeFile(path_of(dataset))
        with tempfile.TemporaryDirectory() as folder:
            for codec, rule, missing, measure in _measure(file, Path(folder)):
                record: Record = {"dataset": dataset, "codec": codec, "missing": missing}
                if not missing:
                    try:
                        record = _record(dataset, file, codec, rule, measure())
                    except Exception as error:  # one that breaks must not cost the others their figures
                        record["missing"] = f"FAILED on {dataset}: {type(error).__name__}: {error}"
                records.append(record)
    return records
