"""What a GPU makes of files: python -m bench.gpu_check [--out FILE.json]. Exits with 3 where no GPU can decode.

Correctness over presets, dtypes and sizes, differences, codes and quantisers, against the CPU's decoder; then kernels
against the time in which the device copies as many bytes, one of them against its twin in CUDA C++ and nvCOMP's ANS,
where these are installed, and loading against a copy from pinned memory and against our own raw mode (noise, stored as
it is); then offloaded and compressed layers beside the link and Accelerate, where that is installed. Never run on a GPU
so far.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file as save_plain

import slimtensors
from bench.gpu_offload import offloading
from bench.gpu_peers import TWIN_OF, nvcomp_ans, twin
from bench.sections.offload import WORDS, WORKLOADS, plain_model
from slimtensors.device.choice import VARIABLE, why_not
from slimtensors.device.loading import fill_device
from slimtensors.resolving import open_with
from slimtensors.threads import thread_count
from slimtensors.torch import load_file, save_file
from slimtensors.torch_tensors import as_base

NO_GPU = 3
SIZES = (1, 127, 128, 129, 40_000, 524_288, 1_000_007)
DTYPES = ("float32", "bfloat16", "float16", "float64", "float8_e4m3fn")
PRESETS = ("fast", "balanced", "small")
QUANTISED = (
    ("slim", "balanced"), ("slim", "small"), ("slim-fast", "balanced"), ("nvfp4", "balanced"), ("q4_k", "balanced"),
    ("spqr", "balanced"),
)  # fmt: skip
DIFFERENCES = (("bitdelta", "balanced"), ("slim", "balanced"), ("q4_k", "balanced"))
TIMED_RECIPES = ("slim", "nf4", "q4_k")
TIMED_UNITS = 1 << 28
REPEATS = 20

Tensors = dict[str, torch.Tensor]


def onto(path: Path, backend: Any, base: Tensors | None = None) -> dict[str, Any]:
    """All tensors of a file, as bytes on the device."""
    with open_with(path, as_base(base)) as file:
        tensors = file.header.tensors
        targets = {i: backend.fresh(tensor.nbytes) for i, tensor in enumerate(tensors)}
        fill_device(file, targets, backend, thread_count(None))
        return {tensors[i].name: target for i, target in targets.items()}


def weights(count: int, seed: int) -> torch.Tensor:
    """Rows of different scales, as far as there are rows."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(count, generator=generator) * 0.02
    if count % 512 == 0 and count > 1 << 16:
        w = w.view(-1, 512)
        w = w * torch.exp2(torch.randint(-6, 1, (w.shape[0], 1), generator=generator))
    return w


def merged(w: torch.Tensor, rank: int) -> torch.Tensor:
    """With an adapter added to it, as PEFT does."""
    generator = torch.Generator().manual_seed(rank)
    left, right = (torch.randn(shape, generator=generator) for shape in ((w.shape[0], rank), (rank, w.shape[1])))
    return (w.float() + 3e-3 * (left @ right)).to(w.dtype)


def about_a_mean(w: torch.Tensor) -> torch.Tensor:
    """Weights about a product of low rank, whose signs and sizes it tells of."""
    return (merged(w.sign() * 0, 4) * 100 + torch.randn(w.shape, generator=torch.Generator().manual_seed(2))) * 0.02


def cases(sizes: Sequence[int]) -> dict[str, tuple[Tensors, Tensors | None, str]]:
    """What is saved, its base, and the preset, by a name."""
    found: dict[str, tuple[Tensors, Tensors | None, str]] = {}
    for preset in PRESETS:
        made = {f"{name}.{n}": weights(n, n).to(getattr(torch, name)) for n in sizes for name in DTYPES}
        found[preset] = made, None, preset
    base = {f"{name}.{n}": weights(n, n).to(getattr(torch, name)) for n in sizes for name in DTYPES[:3]}
    tuned = {name: w + (torch.randn(w.shape, generator=torch.Generator().manual_seed(7)) * 1e-4).to(w.dtype)
             for name, w in base.items()}  # fmt: skip
    found["differences"] = tuned, base, "balanced"
    matrices = {name: w for name, w in base.items() if w.ndim == 2}
    found["merged"] = {name: merged(w, 8) for name, w in matrices.items()}, matrices, "balanced"
    generator = torch.Generator().manual_seed(9)
    odd: Tensors = {}
    for n in sizes:
        whole = torch.randint(-40, 40, (n,), generator=generator)
        odd |= {f"int8.{n}": whole.to(torch.int8), f"int64.{n}": whole**5, f"flags.{n}": whole > 0}
        odd |= {f"ternary.{n}": whole.sign().to(torch.bfloat16) * 0.5, f"codes.{n}": (whole % 16).float() * 0.0137}
        w = weights(n, n)
        if w.ndim == 2:
            about = {f"{name}.{n}": about_a_mean(w).to(getattr(torch, name)) for name in DTYPES[:3]}
            found["means"] = about, None, "small"
        odd |= {f"range.{n}": torch.arange(n), f"zeros.{n}": torch.zeros(n), f"pruned.{n}": w * (w > 0)}
    found["others"] = odd, None, "balanced"
    return found


def correctness(folder: Path, backend: Any, sizes: Sequence[int] = SIZES) -> list[str]:
    """Tensors that differ from what was saved, which is what the CPU decodes."""
    wrong = []
    for case, (tensors, base, preset) in cases(sizes).items():
        path = folder / f"{case}.slimtensors"
        save_file(tensors, path, preset=preset, base=base)
        found = onto(path, backend, base)
        for name, tensor in tensors.items():
            expected = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            if backend.download(found[name]).tobytes() != expected:
                wrong.append(f"{case} {name}")
    return wrong


def quantised(folder: Path, backend: Any, shape: tuple[int, int] = (1030, 512)) -> list[str]:
    """Tensors that differ from what the CPU decodes, by the quantisers that have kernels of their own."""
    wrong = []
    w = weights(shape[0] * shape[1], 5).view(shape)
    tensors = {name: w.to(getattr(torch, name)) for name in DTYPES[:3]}
    source, path = folder / "plain.safetensors", folder / "quantised.slimtensors"
    save_plain(tensors, source)
    tuned = folder / "tuned.safetensors"
    save_plain({name: w + (weights(w.numel(), 6).view(shape) / 20).to(w.dtype) for name, w in tensors.items()}, tuned)
    asked = [*((source, None, *each) for each in QUANTISED), *((tuned, source, *each) for each in DIFFERENCES)]
    for given, base, recipe, preset in asked:
        slimtensors.compress(given, path, quantise=recipe, preset=preset, base=base)
        expected, found = load_file(path, base=base), onto(path, backend, None if base is None else tensors)
        for name, tensor in expected.items():
            if backend.download(found[name]).tobytes() != tensor.view(torch.uint8).numpy().tobytes():
                wrong.append(f"{recipe} {preset} {name}")
    return wrong


def timed(backend: Any) -> tuple[Any, dict[str, list[tuple[Any, Any]]]]:
    """A backend that notes when each kernel began and ended."""
    events: dict[str, list[tuple[Any, Any]]] = defaultdict(list)

    class Timed(type(backend)):  # type: ignore[misc] # whatever backend it is
        def launch(self, kernel: str, blocks: int, buffers: Sequence[Any]) -> None:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            super().launch(kernel, blocks, buffers)
            end.record()
            events[kernel].append((begin, end))

    return Timed(backend.device), events


def copy_rate() -> float:
    """Bytes a second, read and written, of a copy within the device."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    found = []
    for _ in range(REPEATS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        target.copy_(source)
        end.record()
        torch.cuda.synchronize()
        found.append(2 * source.numel() / begin.elapsed_time(end) * 1e3)
    return statistics.median(found)


def timed_files(folder: Path) -> dict[str, tuple[Path, Tensors | None]]:
    """Half a gigabyte each: one matrix many times, turned, so that none is a duplicate."""
    found: dict[str, tuple[Path, Tensors | None]] = {}
    w = weights(1 << 22, 1)

    def many(dtype: torch.dtype) -> Tensors:
        one = w.to(dtype)
        return {str(i): one.roll(i, 1) for i in range(TIMED_UNITS // w.numel())}

    for name, preset in [*(("bfloat16", preset) for preset in PRESETS), ("float32", "balanced")]:
        path = folder / f"{name}.{preset}.slimtensors"
        save_file(many(getattr(torch, name)), path, preset=preset, self_check=False)
        found[f"{name}, {preset}"] = path, None
    base = many(torch.bfloat16)
    steps = torch.randn(w.shape, generator=torch.Generator().manual_seed(5)) * 1e-4
    path = folder / "differences.slimtensors"
    save_file({name: each + steps.to(each.dtype) for name, each in base.items()}, path, base=base, self_check=False)
    found["bfloat16, differences"] = path, base
    half = many(torch.bfloat16)
    path = folder / "pruned.slimtensors"
    save_file({name: each * (each > 0) for name, each in half.items()}, path, self_check=False)
    found["bfloat16, half zeros"] = path, None
    matrix = {"w": torch.randn(4096, 4096, generator=torch.Generator().manual_seed(8)).mul_(0.02).bfloat16()}
    path = folder / "merged.slimtensors"
    save_file({"w": merged(matrix["w"], 16)}, path, base=matrix, self_check=False)
    found["bfloat16, merged adapter"] = path, matrix
    path = folder / "means.slimtensors"
    save_file({"w": about_a_mean(w).bfloat16()}, path, preset="small", self_check=False)
    found["bfloat16, small with a mean"] = path, None
    path = folder / "decimals.slimtensors"
    made = {name: (each * 1e3).round() / 1e3 for name, each in many(torch.float32).items()}
    save_file(made, path, self_check=False)
    found["float32, decimals"] = path, None
    plain = folder / "matrix.safetensors"
    save_plain({"w": matrix["w"]}, plain)
    for recipe in TIMED_RECIPES:
        path = folder / f"{recipe}.slimtensors"
        slimtensors.compress(plain, path, quantise=recipe, self_check=False)
        found[f"bfloat16, {recipe}"] = path, None
    noise = torch.randint(0, 1 << 62, (TIMED_UNITS // 4,), generator=torch.Generator().manual_seed(6))
    path = folder / "raw.slimtensors"
    save_file({"noise": noise}, path, self_check=False)
    found["raw"] = path, None
    return found


def seconds(work: Callable[[], object], backend: Any) -> float:
    """How long it takes, to the end of what it asked of the device."""
    began = time.perf_counter()
    work()
    backend.wait(backend.mark())
    return time.perf_counter() - began


def loading(folder: Path, backend: Any) -> dict[str, Any]:
    """For each file: GB/s of decoded bytes, warm, from the page cache; and each kernel's time beside the floor, in
    which the device copies what is stored and what is decoded.
    """
    rate, pinned = copy_rate(), backend.staging(256 << 20)
    copies = [seconds(lambda: backend.upload(pinned), backend) for _ in range(REPEATS)]
    link = pinned.size / statistics.median(copies)
    result: dict[str, Any] = {"device copy GB/s": rate / 1e9, "pinned copy GB/s": link / 1e9}
    for name, (path, base) in timed_files(folder).items():
        decoded = sum(len(each) for each in onto(path, backend, base).values())  # compiles
        stored = path.stat().st_size
        loads = [seconds(lambda path=path, base=base: onto(path, backend, base), backend) for _ in range(5)]
        noting, events = timed(backend)
        onto(path, noting, base)
        torch.cuda.synchronize()
        kernels = {kernel: sum(a.elapsed_time(b) for a, b in pairs) for kernel, pairs in events.items()}
        result[name] = {
            "stored / decoded": stored / decoded,
            "load GB/s": decoded / statistics.median(loads) / 1e9,
            "load / floor of the link": stored / link / statistics.median(loads),
            "kernels ms": kernels,
            "all kernels GB/s": decoded / sum(kernels.values()) / 1e6,
            "floor ms": (stored + decoded) / rate * 1e3,
        }
    return result


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
    out: Path | None = parser.parse_args().out
    reason = why_not()
    if reason is not None:
        print(f"no GPU can decode here: {reason}")
        return NO_GPU

    from slimtensors.device.torch_cuda import TorchCuda

    backend = TorchCuda(torch.device("cuda"))
    result: dict[str, Any] = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "numpy": np.__version__}
    with tempfile.TemporaryDirectory() as name:
        result["wrong"] = correctness(Path(name), backend) + quantised(Path(name), backend)
        result |= loading(Path(name), backend)
        peers = beside_peers(Path(name), backend)
        for each in peers.values():
            result["wrong"] += each.pop("wrong", []) if isinstance(each, dict) else []
        result["beside peers"] = peers
        os.environ[VARIABLE] = "cuda"
        tokens = {
            workload: torch.arange(n * length).reshape(n, length) % WORDS for workload, (n, length) in WORKLOADS.items()
        }
        link = 1e9 * result["pinned copy GB/s"]
        offloaded = offloading(Path(name), lambda: plain_model().to(torch.bfloat16), tokens, "cuda", link)
        result["wrong"] += offloaded.pop("wrong")
        result["offloaded"] = offloaded
    print("\n".join(f"| {key} | {value} |" for key, value in result.items()))
    if out is not None:
        out.write_text(json.dumps(result, indent=1) + "\n")
    return 1 if result["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
