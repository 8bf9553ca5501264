"""Section: sums. One bit of a fine-tune's difference from its base: its sign, and our own grid; few bits and outliers,
and a grid beside a product of low rank, each beside our own grid at its error.
"""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from bench import ours
from bench.data.files import path_of
from bench.data.quantised import matrices
from bench.data.safefile import SafeFile
from bench.sections import Settings
from bench.sections.from_floats import quantised
from bench.timing import Record

FINE_TUNE = "finetuned-2e-5x160"
SIGNS = {"recipe": "bitdelta"}
OURS = {"recipe": "slim", "target_bpw": 1.0}


def run(_settings: Settings) -> list[Record]:
    reason = ours.missing()
    if reason is not None:
        return [{"codec": "slimtensors", "missing": reason}]
    with tempfile.TemporaryDirectory() as folder:
        found: list[Record] = [
            {"of": FINE_TUNE, "dtype": dtype, **asked, **_of_difference(dtype, Path(folder), **asked)}
            for dtype in ("f32", "bf16")
            for asked in (SIGNS, OURS)
        ]
        return [*found, *(_beside_ours(recipe, Path(folder)) for recipe in ("lqer", "spqr", "int4", "q4_0"))]


def _beside_ours(recipe: str, folder: Path) -> Record:
    """MiniLM's encoder matrices, whole files, from F32."""
    tensors = dict(matrices(128))
    made = quantised(tensors, folder, quantise=recipe)
    own = quantised(tensors, folder, quantise="slim", target_error=made["nmse"])
    return {"recipe": recipe, **made, "slim_bits": own["bits_per_weight"]}


def _of_difference(dtype: str, folder: Path, recipe: str, target_bpw: float | None = None) -> Record:
    """Encoder matrices, whole files: bits of a weight, and the error as a share of the squares of the difference."""
    library, numpy = importlib.import_module("slimtensors"), importlib.import_module("slimtensors.numpy")
    names = [name for name, _ in matrices()]
    base, fine = (
        {spec.name: array for spec, array in SafeFile(path_of(name)) if spec.name in names}
        for name in (f"minilm-{dtype}", f"{FINE_TUNE}-{dtype}")
    )
    paths = [folder / name for name in ("base.safetensors", "fine.safetensors", "packed.slimtensors")]
    for path, tensors in zip(paths, (base, fine), strict=False):
        save_file(tensors, path)
    library.compress(paths[1], paths[2], base=paths[0], quantise=recipe, target_bpw=target_bpw, self_check=False)
    found = numpy.load_file(paths[2], base=paths[0])
    weights = sum(array.size for array in fine.values())
    error = power = 0.0
    for name in names:
        before, after, made = (each[name].astype(np.float64) for each in (base, fine, found))
        error += float(np.square(made - after).sum())
        power += float(np.square(after - before).sum())
    return {"bits_per_weight": 8 * paths[2].stat().st_size / weights, "nmse_of_difference": error / power}

