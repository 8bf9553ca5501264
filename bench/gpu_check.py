"""What a GPU makes of files: python -m bench.gpu_check [--out FILE.json]. Exits with 3 where no GPU can decode.

Correctness over presets, dtypes and sizes, differences, codes and quantisers, against the CPU's decoder; then kernels
against the time in which the device copies as many bytes, one of them against its twin in CUDA C++ and nvCOMP's ANS,
where these are installed, and loading against a copy from pinned memory and against our own raw mode (noise, stored as
it is); then offloaded and compressed layers beside the link and Accelerate, where that is installed. A part that fails
does not keep the others from being measured; the file is written after each.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import slimtensors
from bench.gpu_files import SIZES, cases, path_of, prepare, quantised_files, weights
from bench.gpu_offload import WORKLOADS, large_model, offloading
from bench.gpu_peers import TWIN_OF, nvcomp_ans, twin
from bench.gpu_speed import beside_safetensors, link_rates, loading, onto
from bench.machine import describe, stamp
from slimtensors.device.choice import why_not
from slimtensors.switches import DECODE
from slimtensors.torch import load_file, save_file

NO_GPU = 3


def correctness(folder: Path, backend: Any, sizes: Sequence[int] = SIZES) -> list[str]:
    """Tensors that differ from what was saved, which is what the CPU decodes."""
    wrong = []
    for case, (tensors, base, preset) in cases(sizes).items():
        path = path_of(folder, "case", case)
        if not path.exists():
            save_file(tensors, path, preset=preset, base=base)  # type: ignore[arg-type] # a preset
        found = onto(path, backend, base)
        for name, tensor in tensors.items():
            expected = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            if backend.download(found[name]).tobytes() != expected:
                wrong.append(f"{case} {name}")
    return wrong


def quantised(folder: Path, backend: Any, **shape: tuple[int, int]) -> list[str]:
    """Tensors that differ from what the CPU decodes, by the quantisers that have kernels of their own."""
    wrong = []
    for recipe, path, base, tensors in quantised_files(folder, **shape):
        expected, found = load_file(path, base=base), onto(path, backend, None if base is None else tensors)
        for name, tensor in expected.items():
            if backend.download(found[name]).tobytes() != tensor.view(torch.uint8).numpy().tobytes():
                wrong.append(f"{recipe} {name}")
    return wrong


class _Memory:
    """A range of a device's addresses, as torch takes it."""

    def __init__(self, address: int, length: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (length,), "typestr": "|u1", "data": (address, False), "version": 2,
        }  # fmt: skip


def beside_peers(folder: Path, backend: Any, count: int = 1 << 26) -> dict[str, Any]:
    """A kernel of ours beside its twin in CUDA C++, and nvCOMP's ANS on the same weights."""
    path, launches, launch = folder / "one.slimtensors", list[tuple[int, list[Any]]](), backend.launch
    save_file({"w": weights(count, 3).to(torch.bfloat16)}, path, preset="fast", self_check=False)

    def catching(kernel: str, blocks: int, buffers: Sequence[Any]) -> None:
        if kernel == TWIN_OF:
            launches.append((blocks, list(buffers)))
        launch(kernel, blocks, buffers)

    backend.launch = catching
    try:
        found = onto(path, backend)["w"]
    finally:
        del backend.launch
    for _blocks, buffers in launches:  # of one tensor: what lies between its chunks is its own
        if hasattr(buffers[-2], "address"):
            buffers[-2] = torch.as_tensor(_Memory(buffers[-2].address, buffers[-2].length), device="cuda")
    result = {"nvCOMP ANS": nvcomp_ans(torch.as_tensor(found).view(torch.bfloat16))}
    result["CUDA C++ twin"] = twin(launches, lambda blocks, buffers: launch(TWIN_OF, blocks, buffers))
    return result | {"launches": len(launches)}


def main() -> int:
    """Run all; print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument(
        "--only", nargs="+", help="parts: prepare, correctness, quantised, loading, safetensors, peers, offloaded"
    )
    given = parser.parse_args()
    reason = why_not()
    if reason is not None:
        print(f"no GPU can decode here: {reason}")
        return NO_GPU

    from slimtensors.device.torch_cuda import TorchCuda

    os.environ[DECODE] = "cuda"
    backend = TorchCuda(torch.device("cuda"))
    rates = link_rates()
    result: dict[str, Any] = {
        "gpu": torch.cuda.get_device_name(), "machine": describe(), "run": stamp(sys.argv[1:], "bench.gpu_check"),
        "torch": torch.__version__, "numpy": np.__version__,
        "slimtensors": slimtensors.__version__, "GB/s": {name: rate / 1e9 for name, rate in rates.items()},
        "wrong": [], "failed": {}, "seconds": {},
    }  # fmt: skip

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts: dict[str, Callable[[], Any]] = {
            "prepare": lambda: prepare(folder, backend.capability),
            "correctness": lambda: correctness(folder, backend),
            "quantised": lambda: quantised(folder, backend),
            "loading": lambda: loading(folder, backend, rates),
            "safetensors": lambda: beside_safetensors(folder),
            "peers": lambda: beside_peers(folder, backend),
            "offloaded": lambda: offloading(folder, large_model, WORKLOADS, "cuda", rates["pinned copy"]),
        }
        for part, work in parts.items():
            if given.only and part not in given.only:
                continue
            began = time.perf_counter()
            try:
                found = work()
            except Exception as error:  # whatever it is, the other parts are worth having
                traceback.print_exc()
                result["failed"][part] = f"{type(error).__name__}: {error}"
                found = None
            torch.cuda.empty_cache()
            result["seconds"][part] = time.perf_counter() - began
            if isinstance(found, list):
                result["wrong"] += found
            elif isinstance(found, dict):
                for each in (found, *found.values()):
                    result["wrong"] += each.pop("wrong", []) if isinstance(each, dict) else []
                result[part] = found
            print(f"{part}: {result['seconds'][part]:.1f} s, wrong so far: {result['wrong']}", flush=True)
            if given.out is not None:
                given.out.write_text(json.dumps(result, indent=1) + "\n")
    print("\n".join(f"| {key} | {value} |" for key, value in result.items()))
    return 1 if result["wrong"] or result["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
