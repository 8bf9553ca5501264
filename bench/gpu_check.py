"""What a GPU makes of files: python -m bench.gpu_check [--out FILE.json]. Exits with 3 where no GPU can decode.

Correctness over presets, dtypes and sizes against the CPU's decoder, then loading against a plain copy from pinned
memory. Not yet here: times of single kernels, nvCOMP, a CUDA C++ twin, offload. Never run on a GPU so far.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from slimtensors.device.choice import why_not
from slimtensors.device.loading import fill_device
from slimtensors.numpy import load_file, save_file
from slimtensors.reading import open_file
from slimtensors.threads import thread_count

NO_GPU = 3
SIZES = (1, 127, 128, 129, 40_000, 524_288, 1_000_007)
KINDS = {"F32": np.float32, "F16": np.float16}
TIMED_UNITS = 1 << 28


def onto(path: Path, backend: Any) -> dict[str, Any]:
    """All tensors of a file, as bytes on the device."""
    with open_file(path) as file:
        tensors = file.header.tensors
        targets = {i: backend.fresh(tensor.nbytes) for i, tensor in enumerate(tensors)}
        fill_device(file, targets, backend, thread_count(None))
        return {tensors[i].name: target for i, target in targets.items()}


def correctness(folder: Path, backend: Any) -> list[str]:
    """Tensors that differ from what the CPU decodes."""
    rng = np.random.default_rng(0)
    wrong = []
    for preset in ("fast", "balanced"):
        arrays = {}
        for n in SIZES:
            w = (rng.standard_normal(n) * 0.02).astype(np.float32)
            arrays |= {f"{name}.{n}": (w * (1 + i)).astype(kind) for i, (name, kind) in enumerate(KINDS.items())}
        path = folder / f"{preset}.slimtensors"
        save_file(arrays, path, preset=preset)
        expected, found = load_file(path), onto(path, backend)
        same = {name: backend.download(found[name]).tobytes() == expected[name].tobytes() for name in expected}
        wrong += [f"{preset} {name}" for name in expected if not same[name]]
    return wrong


def loading(folder: Path, backend: Any) -> dict[str, float]:
    """GB/s of decoded bytes, warm, from the page cache, beside a copy of as many bytes from pinned memory."""
    rng = np.random.default_rng(1)
    w = (rng.standard_normal(1 << 22) * 0.02).astype(np.float16)
    arrays = {str(i): np.roll(w, i) for i in range(TIMED_UNITS // w.size)}
    path = folder / "timed.slimtensors"
    save_file(arrays, path, self_check=False)
    size, pinned = TIMED_UNITS * 2, backend.staging(256 << 20)

    def seconds(work: Any) -> float:
        began = time.perf_counter()
        work()
        backend.wait(backend.mark())
        return time.perf_counter() - began

    onto(path, backend)  # compiles
    loads = [seconds(lambda: onto(path, backend)) for _ in range(5)]
    copies = [seconds(lambda: backend.upload(pinned)) for _ in range(20)]
    return {
        "load GB/s": size / statistics.median(loads) / 1e9,
        "pinned copy GB/s": pinned.size / statistics.median(copies) / 1e9,
        "stored / decoded": path.stat().st_size / size,
    }


def main() -> int:
    """Run all; print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    out: Path | None = parser.parse_args().out
    reason = why_not()
    if reason is not None:
        print(f"no GPU can decode here: {reason}")
        return NO_GPU
    import torch

    from slimtensors.device.torch_cuda import TorchCuda

    backend = TorchCuda(torch.device("cuda"))
    result: dict[str, Any] = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "numpy": np.__version__}
    with tempfile.TemporaryDirectory() as name:
        result["wrong"] = correctness(Path(name), backend)
        result["loading, balanced, F16"] = loading(Path(name), backend)
    print("\n".join(f"| {key} | {value} |" for key, value in result.items()))
    if out is not None:
        out.write_text(json.dumps(result, indent=1) + "\n")
    return 1 if result["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
