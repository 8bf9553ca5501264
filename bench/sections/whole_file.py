"""Section 5: whole files, wall time, page cache warm. Writing is to the disk of bench/data/cache, fsync included if
the codec does it.

safetensors maps its file and gives out pages that nobody has touched. So its figure adds one pass that reads a byte of
every page ("load_file"), and another adds a copy of every tensor into memory of one's own ("load_file, cloned").
ZipNN's figure is the decoding of its blobs from memory alone: no file, no header, no checksum.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench import ours, peers, timing
from bench.data import SafeFile, path_of
from bench.data.files import CACHE
from bench.sections import Settings
from bench.timing import Case, Record

DATASETS = ("minilm-bf16", "minilm-f32", "big-512m")
THREADS = (1, 2)
PAGE = 4096


def _touch(array: np.ndarray) -> int:
    return int(array.reshape(-1).view(np.uint8)[::PAGE].sum())


def load_safetensors(path: Path) -> int:
    """safetensors.torch.load_file, then one byte of every page."""
    torch = importlib.import_module("torch")
    tensors = importlib.import_module("safetensors.torch").load_file(path)
    return sum(_touch(t.reshape(-1).view(torch.uint8).numpy()) for t in tensors.values() if t.numel())


def clone_safetensors(path: Path) -> int:
    """safetensors.torch.load_file, every tensor then cloned."""
    tensors = importlib.import_module("safetensors.torch").load_file(path)
    return len([tensor.clone() for tensor in tensors.values()])


def _zipnn_blobs(file: SafeFile) -> list[tuple[str, Any]]:
    peer = peers.ZIPNN
    return [
        (spec.dtype, peer.encode(peer.prepare(array.reshape(-1), spec.dtype), spec.dtype, 2))
        for spec, array in file
        if spec.dtype in peer.dtypes
    ]


def _zipnn_decode(blobs: list[tuple[str, Any]], threads: int) -> list[Any]:
    return [peers.ZIPNN.decode(blob, dtype, threads) for dtype, blob in blobs]


def _ours(file: SafeFile, folder: Path) -> Iterator[Case]:
    for preset in ours.PRESETS:
        packed, again, back = (folder / f"{preset}{end}" for end in (".slimtensors", ".2.slimtensors", ".safetensors"))
        ours.compress(file.path, packed, preset, 2)
        codec: Record = {"codec": f"slimtensors {preset}", "file_bytes": packed.stat().st_size}
        for threads in THREADS:
            labels = codec | {"threads": threads}
            for verify in ("none", "stored", "full"):
                yield Case(
                    labels | {"operation": "load_file", "verify": verify},
                    lambda _, threads=threads, verify=verify, packed=packed: ours.load_file(packed, threads, verify),
                )
            for check in (True, False):
                yield Case(
                    labels | {"operation": "compress", "self_check": check},
                    lambda _, threads=threads, preset=preset, check=check, again=again: ours.compress(
                        file.path, again, preset, threads, check
                    ),
                )
            yield Case(
                labels | {"operation": "decompress"},
                lambda _, threads=threads, packed=packed, back=back: ours.decompress(packed, back, threads),
            )


def _others(file: SafeFile) -> Iterator[Case]:
    yield Case({"codec": "read", "operation": "load_file", "threads": 1}, lambda _: np.fromfile(file.path, np.uint8))
    labels: Record = {"codec": "safetensors", "threads": 1, "verify": "none"}
    yield Case(labels | {"operation": "load_file"}, lambda _: load_safetensors(file.path))
    yield Case(labels | {"operation": "load_file, cloned"}, lambda _: clone_safetensors(file.path))
    if peers.missing("zipnn") is None:
        blobs = _zipnn_blobs(file)
        for threads in THREADS:
            labels = {"codec": "zipnn", "operation": "decode alone", "threads": threads, "verify": "none"}
            yield Case(labels, lambda _, threads=threads: _zipnn_decode(blobs, threads))


def _file_peers(file: SafeFile, folder: Path) -> Iterator[Case]:
    for peer in peers.FILE_PEERS:
        if peers.missing(peer.package):
            continue
        packed, back = folder / f"{peer.name}.packed", folder / f"{peer.name}.safetensors"
        for threads in THREADS:
            labels: Record = {"codec": peer.name, "threads": threads}
            yield Case(labels | {"operation": "compress"}, partial(_pack, peer, file.path, packed, threads))
            yield Case(labels | {"operation": "decompress"}, partial(_unpack, peer, packed, back, threads))


def _pack(peer: peers.FilePeer, source: Path, target: Path, threads: int, _: Any) -> None:
    peer.pack(source, target, threads)


def _unpack(peer: peers.FilePeer, source: Path, target: Path, threads: int, _: Any) -> None:
    peer.unpack(source, target, threads)


def run(settings: Settings) -> list[Record]:
    records: list[Record] = []
    for dataset in DATASETS:
        file = SafeFile(path_of(dataset))
        with tempfile.TemporaryDirectory(dir=CACHE) as name:
            folder, reason = Path(name), ours.missing()
            cases = [*_others(file), *([] if reason else _ours(file, folder))]
            slow = [] if dataset.startswith("big") else list(_file_peers(file, folder))  # BigSmall takes minutes there
            for case in [*cases, *slow]:
                case.nbytes = file.nbytes
            found = timing.interleave(cases, settings.repeats, wall=True)
            found += timing.interleave(slow, min(3, settings.repeats), wall=True)
        absent: list[Record] = [{"codec": "slimtensors", "missing": reason}] if reason else []
        absent += [
            {"codec": package, "missing": why}
            for package in ("zipnn", "bigsmall", "z4ai")
            if (why := peers.missing(package))
        ]
        records += [{"dataset": dataset, "clock": "wall"} | record for record in [*found, *absent]]
    return records
