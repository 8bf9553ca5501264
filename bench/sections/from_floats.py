"""Section: MiniLM's encoder matrices quantised from F32 to the formats that others define, beside their own sizes, and
by our own quantiser to the error of some of them.
"""

from __future__ import annotations

import importlib
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from bench import ours
from bench.data.quantised import matrices
from bench.sections import Settings
from bench.timing import Record

# Bits that the format itself takes for a weight, scales of whole rows left out; of bounds, what F32 takes.
FORMATS = {
    "q8_0": 8.5, "q5_0": 5.5, "q4_0": 4.5, "q4_k": 4.5, "nf4": 4.5, "int8": 8, "int4": 4.125, "fp8": 8, "mxfp8": 8.25,
    "mxfp4": 4.25, "nvfp4": 4.5, "bfp6": 6.5, "abs=0.01": 32, "abs=0.001": 32, "rel=0.1": 32, "rel=0.01": 32,
}  # fmt: skip
BY_GGUF_PY = ("q8_0", "q5_0", "q4_0", "mxfp4")
GRADES = ("q8_0", "q4_0", "q4_k", "nf4", "nvfp4", "mxfp4")  # whose errors our own quantiser is asked for
OURS = ("slim", "slim-fast")
BLOCK = 256  # of q4_k, which not all rows are whole numbers of


def run(_settings: Settings) -> list[Record]:
    reason = ours.missing()
    if reason is not None:
        return [{"codec": "slimtensors", "missing": reason}]
    records: list[Record] = []
    with tempfile.TemporaryDirectory() as folder:
        for recipe, format_bits in FORMATS.items():
            tensors = dict(matrices(BLOCK if recipe == "q4_k" else 128))
            found = quantised(tensors, Path(folder), quantise=recipe)
            theirs = {"nmse_gguf_py": _theirs(recipe, tensors)} if recipe in BY_GGUF_PY else {}
            records.append({"recipe": recipe, "format_bits": format_bits, **found, **theirs})
            for own in OURS if recipe in GRADES else ():
                made = quantised(tensors, Path(folder), quantise=own, target_error=found["nmse"])
                records.append({"recipe": own, "error_of": recipe, **made})
    return records


def quantised(tensors: dict[str, Any], folder: Path, **asked: Any) -> Record:
    library = importlib.import_module("slimtensors")
    source, packed = folder / "source.safetensors", folder / "packed.slimtensors"
    save_file(tensors, source)
    weights = sum(array.size for array in tensors.values())
    seconds = []
    for _ in range(2):  # the first compiles
        begin = time.process_time()
        library.compress(source, packed, **asked, threads=1, self_check=False)
        seconds.append(time.process_time() - begin)
    found = library.compare(packed, source)
    if found.lossy != len(tensors):
        raise RuntimeError(f"{asked}: {found.lossy} of {len(tensors)} matrices are quantised")
    return {
        "weights": weights,
        "matrices": found.lossy,
        "bytes": packed.stat().st_size,
        "bits_per_weight": 8 * packed.stat().st_size / weights,
        "nmse": found.nmse,
        "encode_mb_per_s": 4 * weights / min(seconds) / 1e6,
    }


def _theirs(recipe: str, tensors: dict[str, Any]) -> float:
    """The error of the format's own library."""
    gguf = importlib.import_module("gguf")
    kind = gguf.GGMLQuantizationType[recipe.upper()]
    error = power = 0.0
    for array in tensors.values():
        made = gguf.quants.dequantize(gguf.quants.quantize(array, kind), kind)
        error += float(np.square(array.astype(np.float64) - made).sum())
        power += float(np.square(array.astype(np.float64)).sum())
    return error / power
