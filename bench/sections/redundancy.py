"""Section 9: files that hold redundancy, with their base where they have one.

Only files already in bench/data/cache are measured, since making them takes minutes (`python -m bench.data.<module>`);
files that are not there do not show. Whole files, side information included, without the base; all are decoded and
compared. Array peers: the safetensors header, and for every tensor the smaller of the peer's bytes and its own. A delta
of those is against the base's tensor of the same name, dtype and shape, or else plain. `matrices`, of ours: the bits
per weight of the encoder's matrices alone.
"""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bench import ours, peers
from bench.data import SafeFile, path_of
from bench.data.files import CACHE
from bench.sections import Settings
from bench.sections.sizes import same_tensors
from bench.timing import Record

PRESETS = ("balanced", "small")
STATE_ARRAYS = 4  # bf16 weights, fp32 weights and two moments: the divisor is the number of weights
KINDS = (
    "finetuned-*-bf16", "language-ft-*-bf16", "merged-*-1-bf16", "changed-*", "minilm-pruned-each-[579]0",
    "minilm-pruned-2of4", "dequantised-int[48]", "dequantised-nf4", "dequantised-ternary", "language-adamw",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One file, and the base a delta may use."""

    name: str
    base: str | None = None

    @property
    def file(self) -> SafeFile:
        return SafeFile(CACHE / f"{self.name}.safetensors")

    @property
    def weights(self) -> int:
        return self.file.weights // (STATE_ARRAYS if self.name == "language-adamw" else 1)

    @property
    def effort(self) -> float | None:
        """Learning rate times steps, of a fine-tune."""
        tuned = re.match(r"finetuned-(\d+e-\d+)x(\d+)-|language-ft-(\d+e-\d+)-", self.name)
        if tuned is None:
            return None
        rate, steps, language_rate = tuned.groups()
        return float(language_rate) * 150 if language_rate else float(rate) * int(steps)


class Found(NamedTuple):
    """Of a file of ours."""

    size: int
    matrices: float | None
    differences: float | None


def _base_of(name: str) -> str | None:
    dtype = name.rpartition("-")[2]
    if name == "language-adamw":
        return None
    if name.startswith(("finetuned-", "merged-", "changed-")):
        return f"minilm-{dtype}"
    steps = sorted(int(n) for path in CACHE.glob("language-*-bf16.*") for n in re.findall(r"age-(\d+)-", path.name))
    if name.startswith("language-ft-"):
        return f"language-{steps[-1]}-{dtype}"
    if found := re.match(r"language-(\d+)-", name):
        return f"language-{steps[-1]}-{dtype}" if int(found[1]) != steps[-1] else None
    return None


def cases() -> Iterator[Case]:
    """What lies in the cache."""
    for kind in KINDS:
        for path in sorted(CACHE.glob(f"{kind}.safetensors")):
            yield Case(path.stem, _base_of(path.stem))


Plane = Callable[[np.ndarray, "np.ndarray | None"], int]


def _xor_planes(array: np.ndarray, base: np.ndarray | None) -> int:
    """Byte planes of the difference in bits, each by zstd."""
    zstandard = importlib.import_module("zstandard")
    bits = peers.units(array) if base is None else peers.units(array) ^ peers.units(base)
    size = 0
    for plane in bits.view(np.uint8).reshape(bits.size, -1).T:
        blob = zstandard.ZstdCompressor(level=3).compress(plane.tobytes())
        peers.check_same("xor", zstandard.ZstdDecompressor().decompress(blob), plane)
        size += len(blob)
    return size


def _zipnn_delta(array: np.ndarray, base: np.ndarray | None) -> int:
    """ZipNN's own delta mode, with the dtype's byte order of planes."""
    names = {2: "bfloat16", 4: "float32"}
    delta = {} if base is None else {"delta_compressed_type": "byte"}
    coder = importlib.import_module("zipnn").ZipNN(
        input_format="byte", bytearray_dtype=names[array.dtype.itemsize], threads=1, **delta
    )
    other = {} if base is None else {"delta_second_data": bytes(base.view(np.uint8).data)}
    blob = coder.compress(bytearray(array.view(np.uint8).data), **other)
    peers.check_same("zipnn delta", coder.decompress(blob, **other), array)
    return len(blob)


def _tensors(case: Case, measure: Plane) -> int:
    """The header, and for each tensor the smaller of the codec's bytes and its own."""
    bases = {}
    if case.base is not None:
        file = SafeFile(path_of(case.base))
        bases = {(s.name, s.dtype, s.shape): s for s in file.specs}
    total: int = case.file.header_bytes
    for spec, array in case.file:
        size = array.nbytes
        if spec.dtype in ("BF16", "F32") and array.size:
            match = bases.get((spec.name, spec.dtype, spec.shape))
            size = min(size, measure(array.reshape(-1), file.array(match).reshape(-1) if match else None))
        total += size
    return total


def _patch_from(case: Case, base: Path) -> int:
    """By the program: Python's zstandard has no prefixes, and its dictionaries find none of this."""
    program = [shutil.which("zstd") or "zstd", "-q", "-f", "--long=31", f"--patch-from={base}"]
    with tempfile.TemporaryDirectory() as folder:
        packed, back = Path(folder) / "packed.zst", Path(folder) / "back"
        subprocess.run([*program, "-3", str(case.file.path), "-o", str(packed)], check=True)
        subprocess.run([*program, "-d", str(packed), "-o", str(back)], check=True)
        if back.read_bytes() != case.file.path.read_bytes():
            raise RuntimeError("zstd did not give the file back")
        return packed.stat().st_size


def _file_peer(peer: peers.FilePeer, case: Case) -> int:
    with tempfile.TemporaryDirectory() as folder:
        packed, back = Path(folder) / "packed", Path(folder) / "back.safetensors"
        peer.pack(case.file.path, packed, 1)
        peer.unpack(packed, back, 1)
        if not same_tensors(case.file.path, back):
            raise RuntimeError(f"{peer.name} did not give the file back")
        return packed.stat().st_size


def _ours(case: Case, preset: str, base: Path | None) -> Found:
    """Bytes of the file, bits per weight of the encoder's matrices where the model has such, and how many of the
    weights are stored as differences: the rest is smaller without the base.
    """
    with tempfile.TemporaryDirectory() as folder:
        packed, back = Path(folder) / "packed.slimtensors", Path(folder) / "back.safetensors"
        ours.compress(case.file.path, packed, preset, 2, base=base)
        ours.decompress(packed, back, 2, base=base)
        if back.read_bytes() != case.file.path.read_bytes():
            raise RuntimeError(f"slimtensors {preset} did not give the file back")
        matrices = ours.stored_bits(packed, lambda name, s: "encoder" in name and len(s) == 2)
        return Found(packed.stat().st_size, matrices, ours.share_of_differences(packed))


Measure = Callable[[], "int | Found"]


def _codecs(case: Case) -> Iterator[tuple[str, str | None, Measure]]:
    """Codec, why it is missing, and what measures it; a codec without deltas is measured without the base."""
    for preset in PRESETS:
        lacks = ours.missing() or ours.lacks_preset(preset)
        if case.base is None or preset == "balanced":
            yield f"slimtensors {preset}", lacks, partial(_ours, case, preset, None)
        if case.base is not None:
            base = path_of(case.base)
            yield f"slimtensors {preset}, base", lacks or ours.lacks_base(), partial(_ours, case, preset, base)
    yield "zipnn" + (" delta" * bool(case.base)), peers.missing("zipnn"), partial(_tensors, case, _zipnn_delta)
    planes = "XOR, byte planes, zstd-3" if case.base else "byte planes, zstd-3"
    yield planes, peers.missing("zstandard"), partial(_tensors, case, _xor_planes)
    if case.base is not None:
        lacks = None if shutil.which("zstd") else "there is no program zstd"
        yield "zstd-3 patch-from", lacks, partial(_patch_from, case, path_of(case.base))
    for peer in peers.FILE_PEERS:
        yield peer.name, peers.missing(peer.package), partial(_file_peer, peer, case)


def _record(case: Case, codec: str, measured: int | Found) -> Record:
    size, matrices, differences = measured if isinstance(measured, Found) else Found(measured, None, None)
    return {
        "dataset": case.name,
        "base": case.base,
        "effort": case.effort,
        "codec": codec,
        "original": case.file.nbytes,
        "bytes": size,
        "bits_per_weight": 8 * size / case.weights,
        "matrices": matrices,
        "differences": differences,
    }


def run(_settings: Settings) -> list[Record]:
    records: list[Record] = []
    for case in cases():
        for codec, missing, measure in _codecs(case):
            record: Record = {"dataset": case.name, "codec": codec, "missing": missing}
            if not missing:
                try:
                    record = _record(case, codec, measure())
                except Exception as error:  # one that breaks must not cost the others their figures
                    record["missing"] = f"FAILED on {case.name}: {type(error).__name__}: {error}"
            records.append(record)
    return records
